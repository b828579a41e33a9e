"""Configurations of MMSegmentation by their words: dicts, values and truths in Python's text or JSON's, never run.

    inner = first(text, "decode_head")
    said = numbers(inner, "pool_scales")

A name is that of a key or of a variable; what is within a dict lies between its brackets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Values = tuple[float, ...]
TRUTHS: dict[str | None, bool] = {"True": True, "False": False}
NUMBER = r"-?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?"
DICT = re.compile(r"(?:\b(\w+)['\"]?\s*[=:]\s*)?(?:\bdict\(|\{)")
TOKEN = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|[()\[\]{}]")
STEP = {"([{": 1, ")]}": -1}


def dicts(text: str) -> Iterator[tuple[str | None, str]]:
    """Name, None where it has none, and inside of every dict, those within others too."""
    for found in DICT.finditer(text):
        yield found[1], _inside(text, found.end())


def _inside(text: str, start: int) -> str:
    """Up to the bracket that closes the one before `start`."""
    depth = 1
    for token in TOKEN.finditer(text, start):
        depth += _step(token)
        if depth == 0:
            return text[start : token.start()]
    return text[start:]


def _step(token: re.Match[str]) -> int:
    return next((step for brackets, step in STEP.items() if token[0] in brackets), 0)


def every(text: str, name: str) -> list[str]:
    return [inside for called, inside in dicts(text) if called == name]


def own(text: str, name: str) -> list[str]:
    """As `every`, without those that lie in another bracket."""
    return [
        _inside(text, found.end())
        for found in DICT.finditer(text)
        if found[1] == name and not sum(map(_step, TOKEN.finditer(text, 0, found.start())))
    ]


def first(text: str, name: str) -> str | None:
    """One that lies in no other bracket before those that do."""
    return next(iter(own(text, name) or every(text, name)), None)


def of_type(text: str, name: str) -> list[str]:
    """Inside of the dicts of this type, such as a pipeline's steps."""
    kind = re.compile(rf"\btype['\"]?\s*[=:]\s*['\"](?:\w+\.)*{name}['\"]")
    return [inside for _, inside in dicts(text) if kind.search(inside) and kind.search(shallow(inside))]


def shallow(text: str) -> str:
    """Without what lies in brackets."""
    kept, depth, last = "", 0, 0
    for token in TOKEN.finditer(text):
        if (step := _step(token)) and depth == 0:
            kept += text[last : token.end()]
        depth += step
        if step and depth == 0:
            last = token.start()
    return kept + text[last:] if depth == 0 else kept


def word(text: str, name: str) -> str | None:
    found = re.search(rf"\b{name}['\"]?\s*[=:]\s*['\"]?([\w.]+)", text)
    return found[1] if found else None


def truth(text: str, name: str, left_out: bool | None) -> bool | None:
    """None for what is neither True nor False."""
    said = word(text, name)
    return left_out if said is None else TRUTHS.get(said)


def is_said(text: str, name: str) -> bool:
    return re.search(rf"\b{name}['\"]?\s*[=:]\s*(?!None\b)\S", text) is not None


def number(text: str, name: str) -> float | None:
    found = re.search(rf"\b{name}['\"]?\s*[=:]\s*({NUMBER})", text)
    return float(found[1]) if found else None


def numbers(text: str, name: str) -> Values | None:
    """Of the first list or tuple of this name."""
    found = re.search(rf"\b{name}['\"]?\s*[=:]\s*[(\[]([-+\d.,e\s]*)[)\]]", text)
    said = re.findall(NUMBER, found[1]) if found else None
    return tuple(float(one) for one in said) if said else None


def plain(values: Values) -> str:
    return ", ".join(f"{value:g}" for value in values)
