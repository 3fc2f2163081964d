"""`python -m lit_share.report DIR [DIR ...]` prints the comparison of finished runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from lit_share.report._print import print_comparison


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison that the command line asks for.

    Args:
        arguments: The command line without the program's name; by default what the program was started with.

    Raises:
        SystemExit: With code 2, if there is nothing to compare.
    """
    parser = argparse.ArgumentParser(prog="python -m lit_share.report", description="Compare the strategies of runs.")
    parser.add_argument("directories", nargs="+", metavar="DIR", help="where to look for result.json, recursively")
    parser.add_argument("--metric", help="test metric to compare (default: the objective, with test in place of val)")
    parser.add_argument("--baseline", default="none", help="strategy to compare the others with (default: none)")
    parser.add_argument("--svg", metavar="FILE", help="write a picture of the table, too")
    options = parser.parse_args(arguments)
    try:
        print_comparison(options.directories, options.metric, options.baseline, options.svg)
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
