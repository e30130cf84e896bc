"""Feature schemas: which questions a questionnaire asks, and the columns each of them becomes.

A schema is read from `feature_schema.json`, which travels in the artefact folder. This module knows the
questions; `ddeval.data.questionnaire` turns answers into numbers.
"""

import difflib
import re
import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from ddeval.errors import InputError
from ddeval.io import read_json

FieldKind = Literal["single", "multiple", "location", "yes_no", "number"]

SEPARATOR = ";"
"""Between the answers of one cell, for the kinds that allow several."""
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Field:
    """One question, its kind and what may be answered."""

    name: str
    """Answers stand in the manifest column `q.<name>`."""
    kind: FieldKind
    question: str = ""
    """The question in plain words, as the patient reads it; shown in the vetting app and the report."""
    answers: tuple[str, ...] = ()
    """What may be answered (single, multiple, location), in column order."""
    within: Mapping[str, str] = field(default_factory=dict)
    """Location only: the region a site lies in; both are answers, and the site marks both columns."""
    none: str = ""
    """Multiple and location: the word for "none of these", which marks no column ("" where not offered)."""
    unknown: tuple[str, ...] = (UNKNOWN,)
    """Words of this field that mean the answer is not known; an empty cell always does."""
    unit: str = ""
    """Number: the unit of `low` and `high`."""
    units: Mapping[str, float] = field(default_factory=dict)
    """Number: every unit an answer may be in, as multiples of `unit`; a plural -s is allowed."""
    bare_numbers: bool = True
    """Number: whether an answer without a unit is in `unit`; where not, it is not understood."""
    low: float = 0.0
    high: float = 1.0
    """Number: the range in `unit`; the value is scaled to 0 at `low` and 1 at `high`."""
    scale: Literal["linear", "log"] = "linear"
    """Number: log is log(1 + value - low), for durations and sizes."""
    hide_when_blind: bool = False
    """Not shown to a blind reader: the answer may name the diagnosis."""
    removable: bool = False
    """Left out of the trimmed questionnaire."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"a field name is lower-case letters, digits and _, got {self.name!r}")
        if self.kind not in get_args(FieldKind):
            raise ValueError(f"kind must be one of {', '.join(get_args(FieldKind))}, got {self.kind!r}")
        _check_choices(self) if self.kind in ("single", "multiple", "location") else _check_no_choices(self)
        if self.kind == "number":
            _check_number(self)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the encoded columns, such as `body_site=arm` and `body_site=unknown`."""
        values = {"yes_no": ("yes",), "number": (self.unit,)}.get(self.kind, self.answers)
        return tuple(f"{self.name}={value}" for value in (*values, UNKNOWN))

    @property
    def width(self) -> int:
        return len(self.columns)


@dataclass(frozen=True)
class FeatureSchema:
    """The questions of one model, in the order in which their columns stand."""

    fields: tuple[Field, ...]
    name: str = "questionnaire"

    def __post_init__(self) -> None:
        names = [f.name for f in self.fields]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise ValueError(f"the field {twice[0]!r} is there {names.count(twice[0])} times")

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the D encoded columns."""
        return tuple(column for f in self.fields for column in f.columns)

    @property
    def width(self) -> int:
        """D, the number of encoded columns."""
        return len(self.columns)

    def to_dict(self) -> dict[str, Any]:
        """As in the file: `from_dict` gives the same schema back."""
        return {"name": self.name, "fields": [_field_to_dict(f) for f in self.fields]}

    @classmethod
    def from_dict(cls, value: Any, *, where: str = "feature schema") -> "FeatureSchema":
        """The schema in `value`; an InputError that starts with `where` names what does not fit."""
        if not isinstance(value, Mapping) or not isinstance(value.get("fields"), list):
            raise InputError(
                where,
                f"{type(value).__name__} without a list `fields`",
                expected='{"name": ..., "fields": [{"name": ..., "kind": ...}, ...]}',
                todo="A schema of another package is read through adapter.yaml (docs/deploy.md).",
            )
        _check_keys(value, ("name", "fields"), where)
        parts = [_field_from_dict(f, f"{where} field {i + 1}") for i, f in enumerate(value["fields"])]
        try:
            return cls(tuple(parts), str(value.get("name", cls.name)))
        except ValueError as error:
            raise InputError(where, str(error), expected="each field once", todo="Remove one.") from error

    def difference(self, other: "FeatureSchema") -> pd.DataFrame:
        """Fields whose encoded columns differ: `field`, `width`, `other_width` (0 where it is missing)."""
        mine, theirs = ({f.name: f.columns for f in s.fields} for s in (self, other))
        rows = [(n, len(mine.get(n, ())), len(theirs.get(n, ()))) for n in dict.fromkeys([*mine, *theirs])
                if mine.get(n) != theirs.get(n)]  # fmt: skip
        return pd.DataFrame(rows, columns=["field", "width", "other_width"])


def read_schema(path: Path) -> FeatureSchema:
    """The schema in a `feature_schema.json`; an InputError names the field and key that do not fit."""
    return FeatureSchema.from_dict(read_json(path), where=str(path))


def clean(text: str) -> str:
    """Text without what does not matter: case, runs of spaces, how accents are composed."""
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _check_choices(f: Field) -> None:
    if f.unit or f.units:
        raise ValueError(f"{f.name}: a {f.kind} field has no unit")
    words = [*f.answers, *f.unknown, *([f.none] if f.none else [])]
    cleaned = [clean(word) for word in words]
    twice = sorted({word for word in cleaned if cleaned.count(word) > 1})
    if twice:
        raise ValueError(f"{f.name}: {twice[0]!r} is there {cleaned.count(twice[0])} times")
    if not f.answers or any(not word or SEPARATOR in word for word in cleaned):
        raise ValueError(f"{f.name}: answers must be words without {SEPARATOR!r}, at least one")
    if (f.within and f.kind != "location") or (f.none and f.kind == "single"):
        raise ValueError(f"{f.name}: `within` is for location fields, `none` for those with several answers")
    strangers = sorted({*f.within, *f.within.values()} - set(f.answers))
    if strangers:
        raise ValueError(f"{f.name}: `within` names {strangers[0]!r}, which is not one of its answers")


def _check_no_choices(f: Field) -> None:
    if f.answers or f.within or f.none:
        raise ValueError(f"{f.name}: a {f.kind} field has no answers to choose from")
    if f.kind == "yes_no" and (f.unit or f.units):
        raise ValueError(f"{f.name}: a yes_no field has no unit")


def _check_number(f: Field) -> None:
    if not f.unit or any(not np.isfinite(factor) or factor <= 0 for factor in f.units.values()):
        raise ValueError(f"{f.name}: a number needs a `unit`, and `units` as positive multiples of it")
    if f.units and f.units.get(f.unit) != 1:
        raise ValueError(f"{f.name}: `units` must give {f.unit!r} as 1")
    if not (np.isfinite(f.low) and np.isfinite(f.high) and f.low < f.high):
        raise ValueError(f"{f.name}: low must be less than high, got {f.low} and {f.high}")
    if f.scale not in ("linear", "log"):
        raise ValueError(f"{f.name}: scale must be linear or log, got {f.scale!r}")


def _field_to_dict(f: Field) -> dict[str, Any]:
    """Only what differs from the default, so that a file shows what matters."""
    held: dict[str, Any] = {}
    for part in fields(f):
        value = getattr(f, part.name)
        default = part.default_factory() if part.default_factory is not MISSING else part.default
        if value != default:
            held[part.name] = list(value) if isinstance(value, tuple) else value
    return held


def _field_from_dict(value: Any, where: str) -> Field:
    if not isinstance(value, Mapping) or not {"name", "kind"} <= set(value):
        raise InputError(
            where, repr(value)[:80], expected="an object with `name` and `kind`", todo="Correct the file."
        )
    where = f"{where} ({value['name']})"
    _check_keys(value, tuple(part.name for part in fields(Field)), where)
    for key, held in value.items():
        is_wanted, wanted = JSON_TYPES.get(key, (_is_text, "text"))
        if not is_wanted(held):
            raise InputError(f"{where} {key}", repr(held)[:80], expected=wanted, todo="Correct the file.")
    listed: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    try:
        return Field(**listed)
    except ValueError as error:
        raise InputError(
            where, str(error), expected="a field as docs/questionnaire.md says", todo="Correct the file."
        ) from error


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_list(value: Any) -> bool:
    return isinstance(value, list) and all(_is_text(v) for v in value)


JSON_TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "answers": (_is_list, "a list of text"),
    "unknown": (_is_list, "a list of text"),
    "within": (lambda v: isinstance(v, Mapping) and all(map(_is_text, v.values())), "site to region"),
    "units": (lambda v: isinstance(v, Mapping) and all(map(_is_number, v.values())), "unit to number"),
    "low": (_is_number, "a number"),
    "high": (_is_number, "a number"),
    "bare_numbers": (_is_flag, "true or false"),
    "hide_when_blind": (_is_flag, "true or false"),
    "removable": (_is_flag, "true or false"),
}
"""What a key of a field may hold in JSON; every other key is text."""


def _check_keys(value: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    strange = [key for key in value if key not in known]
    if strange:
        near = difflib.get_close_matches(str(strange[0]), known, n=1)
        raise InputError(
            where,
            f"the key {strange[0]!r} ({len(strange)} such)",
            expected=f"one of {', '.join(known)}",
            todo=f"Did you mean {near[0]!r}?" if near else "Remove it.",
        )
