"""`lit-share compare`: the strategies of finished runs, side by side."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "compare",
        help="compare the strategies of finished runs, as a table and a page",
        description="Compare the strategies of the runs below some directories: print a table, and write a page with "
        "charts that needs no network (report.html), the table (results.csv) and the runs behind it (results.json). "
        "Strengths are chosen on validation data, for each seed; what is compared are metrics of test data.",
        epilog="example: lit-share compare multirun/2026-01-31 --metric a/test/acc --baseline hard_tie",
    )
    parser.add_argument("directories", nargs="+", metavar="DIR", help="where to look for result.json, recursively")
    parser.add_argument("--metric", metavar="M", help="test metric (default: the objective, with test in place of val)")
    parser.add_argument(
        "--baseline", metavar="B", default="none", help="strategy to compare the others with (default: none)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="where to write (default: DIR, or the directory that several have in common)"
    )
    parser.add_argument("--svg", metavar="FILE", help="write a picture of the table, too")
    parser.add_argument("--json", action="store_true", help="print results.json in place of the table")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from lit_share.report import print_comparison, write_report

    out = _out(options.out, options.directories)
    if options.out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"{str(out)!r} is not a directory: give another --out")
    comparison = print_comparison(
        options.directories, options.metric, options.baseline, options.svg, quiet=options.json
    )
    files = write_report(comparison, out)
    if options.json:
        json.dump(json.loads(files[-1].read_text(encoding="utf-8")), sys.stdout, indent=2)
        print()
        return
    print(f"written: {', '.join(map(str, files))}")


def _out(out: str | None, directories: list[str]) -> Path:
    if out is not None:
        return Path(out)
    if len(directories) == 1:
        return Path(directories[0])
    return Path(os.path.commonpath([Path(directory).resolve() for directory in directories]))
