"""The questionnaire: which questions there are, and how a patient's answers become numbers.

A `FeatureSchema` is the list of questions a model was trained with; it travels in the artefact folder,
so the width of the encoding is always the artefact's own. `encode` turns the `q.<field>` columns of a
manifest into one float32 row an image. Columns of a field, in the order of the schema:

=================  =====================================  ==========================================
kind               columns                                an answer is
=================  =====================================  ==========================================
single             one an answer, then unknown (k + 1)    one of the answers
multiple           one an answer, then unknown (k + 1)    answers joined by `;`, or the word for none
location           one an answer, then unknown (k + 1)    as multiple; a site also marks its region
yes_no             yes, unknown (2)                       yes or no; no is both columns at 0
number             scaled value, unknown (2)              `34`, `3 weeks`; the value is 0 when unknown
=================  =====================================  ==========================================

Case and spaces do not matter. An empty cell, or one of the field's own words for it, is unknown. An
answer of any other form is never guessed at: `encode` refuses it and `not_understood` counts it.
Mapping another table's codes to these answers is the work of the column mapping, not of this module.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.data.fields import SEPARATOR, FeatureSchema, Field, clean, read_schema
from ddeval.errors import InputError
from ddeval.tables import ANSWER_PREFIX

__all__ = [
    "FeatureSchema",
    "Field",
    "coverage",
    "encode",
    "missing_columns",
    "not_understood",
    "read_schema",
    "readable",
]

Features = npt.NDArray[np.float32]

YES, NO = ("yes", "y", "true"), ("no", "n", "false")
NUMBER = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([^\d\s].*)?")


def encode(
    answers: pd.DataFrame,
    schema: FeatureSchema,
    *,
    on_unknown: Literal["error", "unknown"] = "error",
    on_missing: Literal["error", "unknown"] = "error",
    where: str = "questionnaire",
) -> Features:
    """The encoded answers, one row an image, every value in [0, 1].

    Rows keep the order of `answers`. Columns of `answers` that the schema does not ask for are left
    alone, so a manifest with the full questionnaire serves a model trained on the trimmed one.

    Parameters
    ----------
    answers : DataFrame of N rows
        Text columns `q.<field>`; other columns are ignored.
    schema : FeatureSchema of width D
    on_unknown : "error" or "unknown"
        What becomes of an answer that is not understood. "unknown" marks it as such; count what that
        took with `not_understood`.
    on_missing : "error" or "unknown"
        What becomes of a field without a column.
    where : str
        File the answers came from, for the message.

    Returns
    -------
    float32 array of shape (N, D)
        Columns are `schema.columns`.

    Raises
    ------
    InputError
        Naming every missing column, or every field with answers not understood and their counts.

    Examples
    --------
    >>> schema = FeatureSchema((Field("itch", "single", answers=("none", "mild")), Field("fever", "yes_no")))
    >>> schema.columns
    ('itch=none', 'itch=mild', 'itch=unknown', 'fever=yes', 'fever=unknown')
    >>> encode(pd.DataFrame({"q.itch": ["Mild", None], "q.fever": ["no", "yes"]}), schema)
    array([[0., 1., 0., 0., 0.],
           [0., 0., 1., 1., 0.]], dtype=float32)
    """
    for name, choice in (("on_unknown", on_unknown), ("on_missing", on_missing)):
        if choice not in ("error", "unknown"):
            raise ValueError(f"{name} must be 'error' or 'unknown', got {choice!r}")
    if on_missing == "error":
        _check_columns(answers, schema, where)
    if on_unknown == "error":
        _check_understood(answers, schema, where)
    blocks = [_encode_field(answers, f)[0] for f in schema.fields]
    return np.concatenate(blocks, axis=1) if blocks else np.zeros((len(answers), 0), np.float32)


def missing_columns(answers: pd.DataFrame, schema: FeatureSchema) -> list[str]:
    """The `q.<field>` columns that the schema asks for and `answers` lacks."""
    wanted = [ANSWER_PREFIX + f.name for f in schema.fields]
    return [name for name in wanted if name not in answers.columns]


def not_understood(answers: pd.DataFrame, schema: FeatureSchema) -> pd.DataFrame:
    """Answers `encode` would refuse: `field`, `answer` as written, `n` rows, most frequent first."""
    rows = [(f.name, answer, n) for f in schema.fields for answer, n in _encode_field(answers, f)[1].items()]
    table = pd.DataFrame(rows, columns=["field", "answer", "n"])
    return table.sort_values("n", ascending=False, kind="stable", ignore_index=True)


def coverage(answers: pd.DataFrame, schema: FeatureSchema) -> pd.DataFrame:
    """What was understood, one row a field.

    `field`, `kind`, `width`, `has_column`, then counts that sum to N: `n_answered`, `n_unknown` (empty, a
    word for unknown, or no column) and `n_not_understood`.
    """
    rows = []
    for f in schema.fields:
        block, refused = _encode_field(answers, f)
        n_refused = sum(refused.values())
        n_unknown = int(np.count_nonzero(block[:, -1])) - n_refused
        has_column = ANSWER_PREFIX + f.name in answers.columns
        n_answered = len(answers) - n_unknown - n_refused
        rows.append((f.name, f.kind, f.width, has_column, n_answered, n_unknown, n_refused))
    names = ["field", "kind", "width", "has_column", "n_answered", "n_unknown", "n_not_understood"]
    return pd.DataFrame(rows, columns=names)


def readable(
    answers: Mapping[str, Any] | pd.Series, schema: FeatureSchema, *, is_blind: bool
) -> list[tuple[str, str]]:
    """Question and answer of one case in plain words, without what is unknown.

    A blind reader is not shown the fields marked `hide_when_blind`.
    """
    return [(f.question or f.name, text) for f, text in _known(answers, schema, is_blind=is_blind)]


def in_brief(
    answers: Mapping[str, Any] | pd.Series, schema: FeatureSchema, *, is_blind: bool
) -> tuple[list[tuple[str, str]], list[str]]:
    """What the patient said as short pairs of subject and answer, and the subjects they said no to.

    A subject is the field's name in words. "No" and "none of these" are gathered, so that what is there
    stands out. Hidden fields as in `readable`.
    """
    said: list[tuple[str, str]] = []
    denied: list[str] = []
    for f, text in _known(answers, schema, is_blind=is_blind):
        row = PARSERS[f.kind](f, text) if f.kind in ("yes_no", "multiple", "location") else None
        subject = f.name.replace("_", " ")
        if row is not None and not row.any():
            denied.append(subject)
        else:
            said.append((subject, text.replace(SEPARATOR, ", ").replace("  ", " ")))
    return said, denied


def _known(
    answers: Mapping[str, Any] | pd.Series, schema: FeatureSchema, *, is_blind: bool
) -> list[tuple[Field, str]]:
    shown = [f for f in schema.fields if not (is_blind and f.hide_when_blind)]
    cells = [(f, answers.get(ANSWER_PREFIX + f.name)) for f in shown]
    held = [(f, _as_text(cell)) for f, cell in cells if not pd.isna(cell)]
    return [(f, text) for f, text in held if not _is_unknown(f, text)]


def _encode_field(answers: pd.DataFrame, f: Field) -> tuple[Features, dict[str, int]]:
    """Columns of one field (N, width), and the answers not understood with their counts.

    Each different answer is parsed once, so the cost is that of the distinct answers, not of the rows.
    """
    name = ANSWER_PREFIX + f.name
    if name not in answers.columns:
        return np.tile(_unknown_row(f), (len(answers), 1)), {}
    codes, distinct = pd.factorize(answers[name].astype(object), use_na_sentinel=True)
    texts = [_as_text(value) for value in distinct]
    parsed = [_unknown_row(f) if _is_unknown(f, text) else PARSERS[f.kind](f, text) for text in texts]
    counts = np.bincount(codes[codes >= 0], minlength=len(texts))
    refused: dict[str, int] = {}
    for text, row, n in zip(texts, parsed, counts, strict=True):
        if row is None:
            refused[text] = refused.get(text, 0) + int(n)
    table = [_unknown_row(f) if row is None else row for row in parsed]
    return np.stack([*table, _unknown_row(f)])[codes], refused  # code -1 (empty) takes the last row


def _parse_single(f: Field, text: str) -> Features | None:
    return _marked(f, [clean(text)])


def _parse_several(f: Field, text: str) -> Features | None:
    """None of these, or one or more answers; none beside an answer contradicts itself."""
    parts = [clean(part) for part in text.split(SEPARATOR) if part.strip()]
    if f.none and parts == [clean(f.none)]:
        return np.zeros(f.width, np.float32)
    regions = {clean(site): clean(region) for site, region in f.within.items()}
    return _marked(f, [*parts, *(regions[part] for part in parts if part in regions)])


def _parse_yes_no(f: Field, text: str) -> Features | None:
    said = clean(text)
    return np.array([said in YES, 0], np.float32) if said in (*YES, *NO) else None


def _parse_number(f: Field, text: str) -> Features | None:
    match = NUMBER.fullmatch(clean(text))
    if match is None:
        return None
    number, unit = float(match[1]), match[2]
    if unit is None and not f.bare_numbers:
        return None
    units = {f.unit: 1.0, **f.units}
    factors = {clean(name) + s: factor for name, factor in units.items() for s in ("", "s")} | {None: 1.0}
    if unit not in factors:
        return None
    value = number * factors[unit]
    if not f.low <= value <= f.high:
        return None
    share = (value - f.low) / (f.high - f.low)
    if f.scale == "log":
        share = float(np.log1p(value - f.low) / np.log1p(f.high - f.low))
    return np.array([share, 0], np.float32)


PARSERS: dict[str, Callable[[Field, str], Features | None]] = {
    "single": _parse_single,
    "multiple": _parse_several,
    "location": _parse_several,
    "yes_no": _parse_yes_no,
    "number": _parse_number,
}


def _marked(f: Field, said: list[str]) -> Features | None:
    place = {clean(answer): i for i, answer in enumerate(f.answers)}
    if not said or any(part not in place for part in said):
        return None
    row = np.zeros(f.width, np.float32)
    row[[place[part] for part in said]] = 1
    return row


def _unknown_row(f: Field) -> Features:
    row = np.zeros(f.width, np.float32)
    row[-1] = 1
    return row


def _is_unknown(f: Field, text: str) -> bool:
    said = clean(text)
    return not said or said in {clean(word) for word in f.unknown}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else str(value)


def _check_columns(answers: pd.DataFrame, schema: FeatureSchema, where: str) -> None:
    missing = missing_columns(answers, schema)
    if missing:
        raise InputError(
            where,
            f"no column {', '.join(missing)} ({len(missing)} of {len(schema.fields)} fields)",
            expected=f"a column for each field of {schema.name}",
            todo="Map them in ddeval.yaml, or add them empty: they are then unknown.",
        )


def _check_understood(answers: pd.DataFrame, schema: FeatureSchema, where: str) -> None:
    refused = not_understood(answers, schema)
    if refused.empty:
        return
    by_field = [
        f"{name} ({', '.join(f'{a!r} ×{n}' for a, n in zip(part['answer'][:5], part['n'][:5], strict=True))}"
        f"{f' and {len(part) - 5} more' if len(part) > 5 else ''})"
        for name, part in refused.groupby("field", sort=False)
    ]
    first = next(f for f in schema.fields if f.name == refused["field"][0])
    raise InputError(
        where,
        f"{int(refused['n'].sum())} answers not understood: {'; '.join(by_field)}",
        expected=f"for {first.name} {_offer(first)}",
        todo="Map them in ddeval.yaml (`ddeval data check` lists them); an empty cell is unknown.",
    )


def _offer(f: Field) -> str:
    """What a field understands, for a message."""
    if f.kind == "yes_no":
        return "yes, no or empty"
    if f.kind == "number":
        unit = f" with a unit ({', '.join(f.units)})" if f.units and not f.bare_numbers else f" in {f.unit}s"
        return f"a number{unit} from {f.low:g} to {f.high:g} {f.unit}s, or empty"
    several = "" if f.kind == "single" else f" (several joined by {SEPARATOR})"
    return f"{', '.join(f.answers)}{several}, or empty"
