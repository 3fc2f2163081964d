"""`lit-share compact`: convert a checkpoint to a compact file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lit_share.cli._help import Help, examples
from lit_share.text import size, visible


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "compact",
        help="write the weights of a checkpoint to a compact file",
        description="Write the weights of a checkpoint to a safetensors file in which each number "
        "is stored once. Load it with lit_share.load_compact(path, module), which ties parameters "
        "again.",
        epilog=examples(
            "lit-share compact runs/last.ckpt model.safetensors",
            "lit-share compact weights.pt model.safetensors --force --json | jq .output_bytes",
        ),
        formatter_class=Help,
    )
    source = "a Lightning checkpoint, or a state dict saved by torch.save"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=source)
    target = "the file to write, usually *.safetensors"
    parser.add_argument("output", metavar="OUTPUT", help=target)
    parser.add_argument("--force", action="store_true", help="replace OUTPUT if it exists")
    parser.add_argument("--json", action="store_true", help="print the sizes as JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    # Mistakes are reported before torch, which takes seconds, is imported.
    checkpoint, output = Path(options.checkpoint), Path(options.output)
    if output.exists() and checkpoint.exists() and output.samefile(checkpoint):
        raise ValueError(f"{options.output!r} is the checkpoint itself: give another OUTPUT")
    if output.exists() and not options.force:
        raise ValueError(f"{options.output!r} exists: write --force to replace it")

    from lit_share.cli._checkpoint import read_checkpoint
    from lit_share.compact_files import codebooks_among, pack, write

    tensors, ties = read_checkpoint(checkpoint)
    # A state dict has no modules, so codebook layers are recognised by their tensors.
    packed = pack(tensors, ties, codebooks_among(tensors))
    write(packed, output)
    sizes = {
        "checkpoint_bytes": checkpoint.stat().st_size,
        "tensor_bytes": sum(stored.nbytes for stored in packed.manifest.tensors.values()),
        "stored_bytes": packed.nbytes,
        "output_bytes": output.stat().st_size,
        "ties": len(packed.manifest.ties),
    }
    if options.json:
        print(json.dumps(sizes, indent=2))
        return
    before, after = sizes["checkpoint_bytes"], sizes["output_bytes"]
    plain, stored = size(sizes["tensor_bytes"]), size(sizes["stored_bytes"])
    source, target = visible(options.checkpoint), visible(options.output)
    print(f"{source}: {size(before)}")
    print(
        f"{target}: {size(after)}, {after / before:.0%} of it; "
        f"{stored} of numbers, which are {plain} under all names"
    )
