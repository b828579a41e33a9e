"""Reads the command blocks of the README and of the pages in docs/ for the tests that check them."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
PAGES = (REPO / "README.md", *sorted((REPO / "docs").glob("*.md")))
BLOCK = re.compile(r"(?:<!-- check: (\w+) -->\n)?```sh\n(.*?)```", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One `sh` block and what the comment before it says about checking it (empty if there is none)."""

    check: str
    text: str


def blocks(text: str | None = None) -> list[Block]:
    """All blocks of the README and the pages, or of `text`."""
    pages = [page.read_text() for page in PAGES] if text is None else [text]
    return [Block(check, body) for page in pages for check, body in BLOCK.findall(page)]


def lines(block: Block) -> list[str]:
    """The commands of a block: continued lines joined, comments and empty lines left out."""
    joined = block.text.replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [shlex.join(command) for command in words if command]
