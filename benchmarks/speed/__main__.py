"""Print the table: `python -m benchmarks.speed [QUESTION ...] [--device cuda] [--report FILE]`."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import torch
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.speed._clock import Row

QUESTIONS = (
    "penalty_step",
    "trainer_step",
    "learned_strengths",
    "peak_memory",
    "owl_prox",
    "graph_prox",
    "value_prox",
    "row_clusters",
    "layers",
    "growth",
    "start_up",
)
OF_THE_HOST = ("row_clusters", "start_up")  # not measured on a GPU
OF_ANY_THREADS = ("peak_memory", *OF_THE_HOST)  # measured once
HEADS = ("what", "against", "median", "quartiles", "target", "")


def rows_of(question: str, threads: int, device: str) -> list[Row]:
    """Measure the rows of one question in a new process."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "benchmarks.speed",
        "--child",
        question,
        str(threads),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "LIT_SHARE_DEVICE": device}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return [Row(**line) for line in json.loads(done.stdout.splitlines()[-1])]


def child(question: str, threads: int) -> None:
    """Measure, and print the rows as JSON."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    rows = [asdict(row) for row in import_module(f"benchmarks.speed.{question}").measure()]
    print(json.dumps(rows))


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help=", ".join(QUESTIONS))
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--report", type=Path, help="a Markdown file to write")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is none")
    return options


def command_of(options: argparse.Namespace) -> str:
    """Return the command of a report."""
    words = ["python", "-m", "benchmarks.speed", *options.questions]
    if options.threads != [1]:
        words += ["--threads", *map(str, options.threads)]
    if options.device != "cpu":
        words += ["--device", options.device]
    return " ".join([*words, "--report", "FILE"])


def main() -> None:
    """Print the table, and write it down if asked to."""
    if "--child" in sys.argv:
        child(sys.argv[-2], int(sys.argv[-1]))
        return
    options = parse()
    gpu = options.device == "cuda"
    console = Console(width=130)
    lines = [
        "# How fast the library is",
        "",
        f"Made by `{command_of(options)}`.",
        "",
    ]
    machine = torch.cuda.get_device_name() if gpu else platform.machine()
    lines += [f"torch {torch.__version__}, Python {platform.python_version()}, {machine}", ""]
    for i, threads in enumerate(options.threads):
        known = OF_THE_HOST if gpu else OF_ANY_THREADS if i else ()
        for question in options.questions or [
            question for question in QUESTIONS if question not in known
        ]:
            on_host = f"{threads} thread{'s' * (threads > 1)}"
            title = f"{question}, {options.device if gpu else on_host}"
            table = Table(*HEADS, title=title, box=SIMPLE_HEAD, title_justify="left")
            lines += [f"## {title}", "", f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
            for row in rows_of(question, threads, options.device):
                table.add_row(*row.cells())
                lines.append(f"| {' | '.join(row.cells())} |")
            lines.append("")
            console.print(table)
    if options.report is not None:
        options.report.parent.mkdir(parents=True, exist_ok=True)
        options.report.write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
