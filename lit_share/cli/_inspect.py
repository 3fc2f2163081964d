"""`lit-share inspect`: what is in a compact file."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from lit_share.cli._help import Help, examples

if TYPE_CHECKING:
    from lit_share.compact_files import Packed


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "inspect",
        help="show how the weights in a compact file are stored",
        description="Check that a compact file is whole, and show how each of its tensors is stored: by itself (own), "
        "as another one (same as ...), by rows of others, or without its zeros (sparse).",
        epilog=examples(
            "lit-share inspect model.safetensors",
            "lit-share inspect model.safetensors --json | jq .totals",
        ),
        formatter_class=Help,
    )
    parser.add_argument(
        "file", metavar="FILE", help="what save_compact or `lit-share compact` wrote"
    )
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from lit_share.compact_files import read

    content = _content(read(options.file))
    if options.json:
        print(json.dumps(content, indent=2))
    else:
        _print(content)


def _content(packed: Packed) -> dict[str, Any]:
    # Nothing is decoded: a file can describe tensors that are much larger than itself.
    nbytes = packed.bytes_by_tensor
    tensors = [
        {
            "name": name,
            "shape": stored.shape,
            "dtype": stored.dtype,
            "stored": str(stored),
            "bytes": nbytes[name],
        }
        for name, stored in packed.manifest.tensors.items()
    ]
    all_stored = packed.manifest.tensors.values()
    plain = sum(stored.nbytes for stored in all_stored)
    totals = {
        "numbers": sum(stored.numel for stored in all_stored),
        "nonzero": sum(stored.nonzero for stored in all_stored),
        "stored_bytes": packed.nbytes,
        "plain_bytes": plain,
        "ratio": plain / max(packed.nbytes, 1),
    }
    ties = [tie.model_dump(exclude_none=True) for tie in packed.manifest.ties]
    return {"tensors": tensors, "ties": ties, "totals": totals}


def _print(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lit_share.text import visible

    # Names come from a file that may be anyone's, and a terminal obeys control characters.
    console = Console()
    if not console.is_terminal:
        console.width = 160  # in a log file, instead of 80
    table = Table("name", "shape", "dtype", "stored")
    table.add_column("bytes", justify="right")
    for tensor in content["tensors"]:
        shape = "×".join(map(str, tensor["shape"])) or "()"
        cells = (tensor["name"], shape, tensor["dtype"], tensor["stored"])
        table.add_row(*(Text(visible(cell)) for cell in cells), f"{tensor['bytes']:,}")
    console.print(table)
    for tie in content["ties"]:
        console.print(Text(f"tie: {visible(' = '.join(tie['names']))}"))
    totals = content["totals"]
    console.print(
        f"{totals['numbers']:,} numbers, {totals['nonzero']:,} non-zero; {totals['stored_bytes']:,} bytes stored of "
        f"{totals['plain_bytes']:,}: ratio {totals['ratio']:.2f}",
        highlight=False,
    )
