"""`lit-share align`: permute the units of checkpoints that were trained apart."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_share.cli._help import Help, examples
from lit_share.text import visible

if TYPE_CHECKING:
    from lit_share.alignment import AlignReport


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "align",
        help="permute the units of models that were trained apart, so that they correspond",
        description="Permute the hidden units of the second and further checkpoints so that they "
        "correspond to those of the first, or those of the submodules of one checkpoint with "
        "--ties. No output of a model changes; the permuted checkpoints can be tied or averaged. "
        "States of optimizers are left out, as they belong to the old order.",
        epilog=examples(
            "lit-share align a.ckpt b.ckpt --model my_project:Net --inputs 16x784 "
            "--output b_aligned.ckpt",
            "lit-share align a.ckpt b.ckpt c.ckpt --model my_project:Lit --submodule net "
            "--inputs inputs.pt --by activations --output b2.ckpt c2.ckpt",
            "lit-share align pair.ckpt --model my_project:Pair --ties 'a.*' 'b.*' "
            "--inputs my_project:example --output aligned.ckpt --json | jq .moved",
        ),
        formatter_class=Help,
    )
    names = "Lightning checkpoints or state dicts; the first keeps its order"
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT", help=names)
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="package.module:name of the module, or of a class or function that returns one when "
        "it is called without arguments (this runs its code)",
    )
    parser.add_argument(
        "--inputs",
        metavar="INPUTS",
        help="what the aligned modules are called with: a shape such as 16x784, for random "
        "numbers; a tensor, tuple or dict saved by torch.save; or package.module:name of one, or "
        "of a function that returns one; by default the module's example_input_array",
    )
    names = "with one checkpoint: a pattern for each submodule"
    parser.add_argument("--ties", nargs="+", default=[], metavar="PATTERN", help=names)
    names = "names that are not compared; may be repeated"
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN", help=names)
    name = "with several checkpoints: the submodule that is aligned; by default the whole model"
    parser.add_argument("--submodule", metavar="NAME", default="", help=name)
    names = "a file for each checkpoint that is permuted: all but the first, or the only one"
    parser.add_argument("--output", nargs="+", required=True, metavar="OUTPUT", help=names)
    how = "what units are matched by"
    parser.add_argument("--by", choices=("weights", "activations"), default="weights", help=how)
    order = "the order that units are brought into"
    parser.add_argument("--reference", choices=("first", "mean"), default="first", help=order)
    seed = "of the order in which layers are matched, and of random inputs"
    parser.add_argument("--seed", type=int, default=0, help=seed)
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    # Mistakes are reported before torch, which takes seconds, is imported.
    _check_choices(options)
    _check_outputs(options.checkpoints, options.output, options.force)

    from lit_share.alignment import align
    from lit_share.cli._members import Members

    # Standard output is for the report, which may be JSON.
    with redirect_stdout(sys.stderr):
        members = Members.load(options.checkpoints, options.model)
        report = align(
            members.module,
            members.ties(options.ties, options.exclude, options.submodule),
            members.inputs(options.inputs, options.submodule, options.by, options.seed),
            by=options.by,
            reference=options.reference,
            seed=options.seed,
        )
    if not report.axes:
        raise ValueError(f"{report}; nothing was written")
    left_out = members.save(options.output)
    _print(report, options.output, left_out, options.json)


def _check_choices(options: argparse.Namespace) -> None:
    several = len(options.checkpoints) > 1
    if several and options.ties:
        raise ValueError(
            "--ties are the submodules of one checkpoint, and there are several: write --submodule "
            "if not the whole model is aligned"
        )
    if not several and not options.ties:
        raise ValueError(
            "one checkpoint has nothing to be aligned with: give another, or its submodules, as "
            "in --ties 'a.*' 'b.*'"
        )
    if not several and options.submodule:
        raise ValueError("--submodule goes with several checkpoints: write it into --ties")
    if options.exclude and not options.ties:
        raise ValueError("--exclude goes with --ties, and there are none")


def _check_outputs(checkpoints: Sequence[str], outputs: Sequence[str], force: bool) -> None:
    wanted = max(len(checkpoints) - 1, 1)
    if len(outputs) != wanted:
        raise ValueError(
            f"--output names {len(outputs)} files, but {wanted} are written: one for each "
            "checkpoint that is permuted, which are all but the first, or the only one"
        )
    if len({Path(output).absolute() for output in outputs}) < len(outputs):
        raise ValueError("--output names a file twice")
    for output in map(Path, outputs):
        for checkpoint in map(Path, checkpoints):
            if output.exists() and checkpoint.exists() and output.samefile(checkpoint):
                raise ValueError(f"{str(output)!r} is a checkpoint itself: give another --output")
        if output.exists() and not force:
            raise ValueError(f"{str(output)!r} exists: write --force to replace it")
        if not output.parent.is_dir():
            raise ValueError(f"cannot write {str(output)!r}: {str(output.parent)!r} is no folder")


def _print(
    report: AlignReport, outputs: Sequence[str], left_out: Sequence[str], as_json: bool
) -> None:
    if as_json:
        content: dict[str, Any] = {
            "members": report.members,
            "by": report.by,
            "moved": report.moved,
            "before": report.before,
            "after": report.after,
            "axes": [vars(axis) for axis in report.axes],
            "distances": dict(report.distances),
            "pinned": dict(report.pinned),
            "unused": report.unused,
            "outputs": outputs,
            "left_out": left_out,
        }
        print(json.dumps(content, indent=2))
        return
    from rich.console import Console

    console = Console()
    # Log files are not limited to Rich's 80 columns.
    if not console.is_terminal:
        console.width = 160
    console.print(report)
    for output in outputs:
        print(f"wrote {visible(output)}")
    if left_out:
        print(f"left out, as it belongs to the old order: {', '.join(map(visible, left_out))}")
