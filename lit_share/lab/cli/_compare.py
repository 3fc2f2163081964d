"""`lit-share compare`: the strategies of finished runs, side by side."""

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
        description="Compare the strategies of the runs below some directories: print a table, and write a page with "
        "charts that needs no network (report.html), the table (results.csv) and the runs behind it (results.json). "
        "Strengths are chosen on validation data, for each seed; what is compared are metrics of test data.",
        epilog=examples(
            "lit-share compare multirun/2026-01-31",
            "lit-share compare multirun/2026-01-31 --metric a/test/acc --baseline hard_tie --out page",
            "lit-share compare runs/monday runs/tuesday --tune ties --out page  # ties by validation data",
            "lit-share compare runs --json | jq .rows",
        ),
        formatter_class=Help,
    )
    parser.add_argument(
        "directories", nargs="+", metavar="DIR", help="where to look for result.json, recursively"
    )
    parser.add_argument(
        "--metric",
        metavar="M",
        help="test metric (default: the objective, with test in place of val)",
    )
    parser.add_argument(
        "--baseline",
        metavar="B",
        default="none",
        help="strategy to compare the others with (default: none)",
    )
    parser.add_argument(
        "--tune",
        metavar="KEY",
        action="extend",
        type=lambda keys: keys.split(","),
        default=[],
        help="choose these keys, with commas between them, on validation data, as strengths are; for example ties; may "
        "be repeated",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where to write (default: DIR, and nothing for several, --metric, --baseline or --tune)",
    )
    parser.add_argument("--svg", metavar="FILE", help="write a picture of the table, too")
    parser.add_argument(
        "--json", action="store_true", help="print results.json in place of the table"
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from lit_share.lab.report import as_json, print_comparison, write_report

    out = _out(options)
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
    files = [] if out is None else write_report(comparison, out)
    if options.json:
        print(as_json(comparison, out or Path()))
    elif files:
        print(f"written: {visible(', '.join(map(str, files)))}")
    else:
        print("no page was written: say where with --out DIR")


def _out(options: argparse.Namespace) -> Path | None:
    """Where to write: not over the page of a sweep what is something else than its comparison."""
    if options.out is not None:
        return Path(options.out)
    is_asked = options.metric is not None or options.baseline != "none" or options.tune
    is_its_own = len(options.directories) == 1 and not is_asked
    return Path(options.directories[0]) if is_its_own else None
