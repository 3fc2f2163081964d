"""`lit-share plan`: show which parameters would be tied, before training."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from lit_share.cli._help import Help, examples
from lit_share.text import visible

if TYPE_CHECKING:
    from torch import nn


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "plan",
        help="show which parameters some patterns would tie",
        description="Show what Ties(PATTERN, ..., exclude=[...]) would tie in a model, or say "
        "which name has no counterpart. There is one pattern for each member; * stands for any "
        "text, and for the same text in every pattern. A pattern may end in .T (the transpose), "
        "[:] (each slice is a member) or [...] (the numbers of a parameter are compared). Quote "
        "patterns, because shells expand stars. For modules, checkpoints and state dicts, the plan "
        "says which of three or more members or how many numbers are equal, and if units of "
        "members do not correspond, so that lit-share align would help. Without a pattern, the "
        "names and shapes that patterns can match are listed.",
        epilog=examples(
            "lit-share plan last.ckpt  # what is there to be tied?",
            "lit-share plan last.ckpt 'a.net.*' 'b.net.*' --exclude '*.bias'",
            "lit-share plan my_project:Net 'a.*' 'b.*' --min-ndim 2 --type torch.nn.Linear",
            "lit-share plan weights.pt 'layers.0.*' 'layers.1.*' 'layers.2.*'",
            "lit-share plan my_project.models:build_pair 'encoder.*.weight' 'decoder.*.weight.T'",
            "lit-share plan my_project.models:Pair 'a.*' 'b.*' --json | jq .saved",
        ),
        formatter_class=Help,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a checkpoint, a state dict or a safetensors file; or package.module:name of a "
        "module, or of a class or function that returns one when it is called without arguments "
        "(this runs its code)",
    )
    names = "a pattern of parameter names for each member"
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help=names)
    names = "names that are not tied; may be repeated"
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help=names)
    layers = "layers whose parameters are tied, such as torch.nn.Linear; may be repeated"
    parser.add_argument("--type", action="append", default=[], metavar="CLASS", help=layers)
    ndim = "least number of dimensions of what is tied: 2 leaves out biases and normalisation"
    parser.add_argument("--min-ndim", type=int, default=0, metavar="N", help=ndim)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    given = {"--exclude": options.exclude, "--type": options.type, "--min-ndim": options.min_ndim}
    for option, value in given.items():
        if value and not options.patterns:
            raise ValueError(
                f"{option} goes with patterns, and there is none: write them after SOURCE, "
                "as in 'a.*' 'b.*'"
            )

    from rich.console import Console

    from lit_share.cli._source import module_of
    from lit_share.ties import Ties

    if not options.patterns:
        _list(module_of(options.source), options.json)
        return
    # Wrong patterns are reported before the module is built, which may take long.
    ties = Ties(
        *options.patterns,
        exclude=options.exclude,
        types=options.type,
        min_ndim=options.min_ndim,
    )
    plan = ties.plan(module_of(options.source))
    if options.json:
        totals = {"parameters": plan.parameters, "saved": plan.saved}
        print(json.dumps({**totals, **asdict(plan)}, indent=2))
    elif sys.stdout.isatty():
        Console().print(plan)
    else:
        print(plan)


def _list(module: nn.Module, as_json: bool) -> None:
    """Print each parameter's name and shape, as a line of text, or all as JSON if ``as_json``."""
    from lit_share.ties import parameter_refs

    shapes = {ref.name: list(ref.tensor.shape) for ref in parameter_refs(module)}
    if as_json:
        print(json.dumps({"shapes": shapes}, indent=2))
        return
    width = max(len(visible(name)) for name in shapes)
    for name, shape in shapes.items():
        print(f"{visible(name):{width}}  {'×'.join(map(str, shape)) or 'scalar'}")
