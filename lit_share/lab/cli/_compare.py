"""`lit-share compare`: compare the strategies of finished runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lit_share.cli import Help, examples
from lit_share.text import visible


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="compare the strategies of finished runs, as a table and a page",
        description="Compare the strategies of the runs below directories: print a table and an "
        "advice (which strategy to use, what it is worth, and how many more seeds would tell it "
        "from others), and write a page with charts that needs no network (report.html), the table "
        "(results.csv) and the runs behind it (results.json). Strengths are chosen on validation "
        "data, for each seed; strategies are compared by metrics of test data.",
        epilog=examples(
            "lit-share compare multirun/2026-01-31",
            "lit-share compare multirun/2026-01-31 --metric a/test/acc --baseline hard_tie "
            "--out page",
            "lit-share compare runs/monday runs/tuesday --tune ties --out page  # chooses the ties",
            "lit-share compare runs --json | jq .rows",
        ),
        formatter_class=Help,
    )
    where = "directories that are searched for result.json, recursively"
    parser.add_argument("directories", nargs="+", metavar="DIR", help=where)
    metric = "test metric (default: the objective, with test in place of val)"
    parser.add_argument("--metric", metavar="M", help=metric)
    baseline = "strategy to compare the others with (default: none)"
    parser.add_argument("--baseline", metavar="B", default="none", help=baseline)
    parser.add_argument(
        "--tune",
        metavar="KEY",
        action="extend",
        type=lambda keys: keys.split(","),
        default=[],
        help="keys, separated by commas, that are chosen on validation data, as strengths are; "
        "for example ties; may be repeated",
    )
    out = "where to write (default: DIR; nothing for several, --metric, --baseline or --tune)"
    parser.add_argument("--out", metavar="DIR", help=out)
    titled = "title of the page (default: Comparison of strategies, and the folder's name)"
    parser.add_argument("--title", metavar="TEXT", help=titled)
    parser.add_argument("--svg", metavar="FILE", help="write a picture of the table, too")
    as_json = "print results.json in place of the table"
    parser.add_argument("--json", action="store_true", help=as_json)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from lit_share.lab.report import as_json, print_comparison, write_report

    out = _out(options)
    if options.title is not None and out is None:
        raise ValueError("--title is that of a page, and none is written: add --out DIR")
    # This mistake is reported before all results, which may be thousands, are read.
    if options.out is not None and Path(options.out).exists() and not Path(options.out).is_dir():
        raise ValueError(f"{options.out!r} is not a directory: give another --out")
    comparison = print_comparison(
        options.directories,
        options.metric,
        options.baseline,
        options.svg,
        options.json,
        options.tune,
    )
    files = []
    if out is not None:
        files = write_report(comparison, out, options.title)
    # With --json, standard output holds nothing else.
    if options.json:
        print(as_json(comparison, out or Path()))
    elif files:
        print(f"written: {visible(', '.join(map(str, files)))}")
    else:
        print("no page was written: say where with --out DIR")


def _out(options: argparse.Namespace) -> Path | None:
    if options.out is not None:
        return Path(options.out)
    # The page that a sweep wrote is replaced by the same comparison only.
    is_other = options.metric is not None or options.baseline != "none" or options.tune
    if len(options.directories) > 1 or is_other:
        return None
    return Path(options.directories[0])
