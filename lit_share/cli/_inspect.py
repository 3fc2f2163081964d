"""`lit-share inspect`: show the content of a compact file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lit_share.cli._help import Help, examples

if TYPE_CHECKING:
    from lit_share.compact_files import Packed


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommand."""
    parser = commands.add_parser(
        "inspect",
        help="show how the weights in a compact file are stored",
        description="Check a compact file for damage, and show how each of its tensors is stored: "
        "as it is (own), as an earlier tensor (same as ...), by rows of earlier tensors, without "
        "its zeros (sparse), or by an index into its different values (palette).",
        epilog=examples(
            "lit-share inspect model.safetensors",
            "lit-share inspect model.safetensors --json | jq .totals",
        ),
        formatter_class=Help,
    )
    source = "a file that save_compact or `lit-share compact` wrote"
    parser.add_argument("file", metavar="FILE", help=source)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from lit_share.compact_files import read

    content = _content(read(options.file))
    content["totals"]["file_bytes"] = Path(options.file).stat().st_size
    if options.json:
        print(json.dumps(content, indent=2))
    else:
        _print(content)


def _content(packed: Packed) -> dict[str, Any]:
    # Nothing is decoded: a file can describe tensors that are much larger than itself.
    nbytes = packed.bytes_by_tensor
    tensors = []
    for name, stored in packed.manifest.tensors.items():
        record = {"name": name, "shape": stored.shape, "dtype": stored.dtype}
        tensors.append(record | {"stored": str(stored), "bytes": nbytes[name]})
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

    console = Console()
    # Log files are not limited to Rich's 80 columns.
    if not console.is_terminal:
        console.width = 160
    table = Table("name", "shape", "dtype", "stored")
    table.add_column("bytes", justify="right")
    for tensor in content["tensors"]:
        shape = "×".join(map(str, tensor["shape"])) or "()"
        cells = (tensor["name"], shape, tensor["dtype"], tensor["stored"])
        # Names come from a file of anyone, and a terminal obeys control characters.
        table.add_row(*(Text(visible(cell)) for cell in cells), f"{tensor['bytes']:,}")
    console.print(table)
    for tie in content["ties"]:
        console.print(Text(f"tie: {visible(' = '.join(tie['names']))}"))
    totals = content["totals"]
    console.print(
        f"{totals['numbers']:,} numbers, {totals['nonzero']:,} non-zero; "
        f"{totals['stored_bytes']:,} bytes of numbers stored of {totals['plain_bytes']:,}: "
        f"ratio {totals['ratio']:.2f}; file with names and checksums: "
        f"{totals['file_bytes']:,} bytes",
        highlight=False,
    )
