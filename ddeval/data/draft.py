"""Draft: the mapping that is being proposed, and its text.

`ddeval.data.proposal` fills it. What was taken for granted stands in `notes`, what only the team can know
in `edits`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import yaml

from ddeval.data.fields import clean


@dataclass
class Proposal:
    """A first mapping and what was thought on the way."""

    mapping: dict[str, Any] = field(default_factory=dict)
    """As in the file."""
    notes: list[str] = field(default_factory=list)
    """What was assumed, a line each."""
    edits: list[str] = field(default_factory=list)
    """What must be put right or confirmed, a line each, with the place in the file."""


def as_yaml(p: Proposal) -> str:
    """The text of `mapping.yaml`, with what is to be edited as comments."""
    lines = [
        "# How these tables become the manifest. Every word below is text as it stands in the tables.",
        "# Edit, look with `ddeval data check`, then: ddeval data import mapping mapping.yaml",
        *(f"# EDIT {_printable(edit)}" for edit in p.edits),
    ]
    for key, value in p.mapping.items():
        if value not in ({}, [], None):
            lines += ["", *_block(key, value)]
    return "\n".join(lines) + "\n"


def _printable(text: str) -> str:
    """On one line: a line break in a word of the table would end the comment it is quoted in."""
    return "".join(c if c.isprintable() else " " for c in text)


def _block(key: str, value: Any, indent: str = "") -> list[str]:
    """`key: value` in YAML: a dictionary below its key, a list on the line while it is short."""
    head = f"{indent}{_scalar(key)}:"
    if isinstance(value, dict) and value:
        return [head, *(line for k, v in value.items() for line in _block(k, v, indent + "  "))]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        entries = [", ".join(f"{_scalar(k)}: {_scalar(v)}" for k, v in entry.items()) for entry in value]
        return [head, *(f"{indent}  - {{{entry}}}" for entry in entries)]
    if isinstance(value, list):
        words = [_scalar(word) for word in value]
        line = f"{head} [{', '.join(words)}]"
        return [line] if len(line) <= 100 else [head, *(f"{indent}  - {word}" for word in words)]
    return [f"{head} {_scalar(value)}"]


def _scalar(value: Any) -> str:
    """A scalar as YAML writes it inside brackets, quoted where it needs to be."""
    return yaml.safe_dump([value], allow_unicode=True, width=10**9, default_flow_style=True).strip()[1:-1]


def distinct(words: Iterable[str]) -> list[str]:
    """Each answer once, whatever its case."""
    return list({clean(word): word for word in reversed(list(words))}.values())[::-1]


def different_words(cells: pd.Series) -> list[str]:
    return [str(word) for word in cells.dropna().unique()]
