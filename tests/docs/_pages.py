"""The pages, and the code in them."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *sorted(DOCS.glob("howto/*.md"))]

_BLOCK = re.compile(r"^```(\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_COMMANDS = ("python", "lit-share", "pytest", "sphinx-build")


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a language, as they are printed."""
    return [code for found, code in _BLOCK.findall(text(page)) if found == language]


def anchors(page: Path) -> set[str]:
    """The anchors of headings down to the third level, as GitHub and MyST make them."""
    slugs: Counter[str] = Counter()
    found = set()
    for heading in re.findall(r"^#{1,3} +(.+?)\s*$", re.sub(_BLOCK, "", text(page)), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w -]", "", words).replace(" ", "-")
        number = slugs[slug]
        slugs[slug] += 1
        if number:
            slug = f"{slug}-{number}"
        found.add(slug)
    return found


def files(page: Path) -> dict[str, str]:
    """The blocks that are files, by the name that stands before them."""
    return dict(
        re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", text(page), re.DOTALL | re.MULTILINE)
    )


def commands(page: Path) -> list[list[str]]:
    """The words of every command, in blocks and within lines."""
    lines = [
        line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()
    ]
    lines = [part for line in lines for part in line.split("#")[0].split(" && ")]
    outside = re.sub(_BLOCK, "", text(page))
    within = [" ".join(found.split()) for found in re.findall(r"(?<!`)`([^`]+)`(?!`)", outside)]
    lines += [
        line for line in within if line.startswith(tuple(f"{command} " for command in _COMMANDS))
    ]
    return [shlex.split(line) for line in lines if line.strip()]
