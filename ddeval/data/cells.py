"""Cells: what does a cell of somebody's table say, in the words of the manifest?

Each function reads one target of a mapping from the joined rows and gives two things: its text, None
where it is unknown or not understood, and the words not understood with their counts. Every different
word is read once. Nothing is guessed: case and runs of spaces do not matter, anything else does.
"""

import ast
import json
import re
from collections.abc import Callable
from collections.abc import Mapping as Map
from typing import Any

import pandas as pd

from ddeval import tables
from ddeval.data import questionnaire
from ddeval.data.fields import SEPARATOR, FeatureSchema, clean
from ddeval.data.mapping import AnswerSpec, ColumnSpec, LabelSpec, NumberSpec, Words

DECIMAL_COMMA = r"^([+-]?\d+),(\d+)"
NOT_UNDERSTOOD = object()
"""What a cell says that the mapping does not cover."""


def column_cells(
    rows: pd.DataFrame, spec: ColumnSpec, values: Map[str, str | None] | None, unknown: Words
) -> tuple[pd.Series, dict[str, int]]:
    """The cells of a manifest column, None where unknown or not understood, and the latter's counts."""
    if spec.column is None:
        return pd.Series([spec.value] * len(rows), index=rows.index, dtype=object), {}
    given = _stripped(rows[spec.column], spec.strip)
    known = given.where(~_is_word(given, (*unknown, *spec.unknown)), None)
    number = spec.number
    if number is not None:
        return _each(known, lambda text: _number(text, number))
    if values is None:
        return known, {}
    table = {clean(word): value for word, value in values.items()}
    return _each(known, lambda text: table.get(clean(text), NOT_UNDERSTOOD))


def label_cells(
    rows: pd.DataFrame, spec: LabelSpec, unknown: Words
) -> tuple[dict[str, pd.Series], dict[str, int]]:
    """`raw_label`, `label` and, for weights and lists, all of them as JSON in `label_weights`."""
    given = _stripped(rows[spec.column], spec.strip)
    given = given.where(~_is_word(given, (*unknown, *spec.unknown)), None)
    columns: dict[str, pd.Series] = {}
    strange: dict[str, int] = {}
    raw = given
    if spec.form != "text":
        whole, strange = _each(given, lambda text: _weights(text, spec.form))
        columns["label_weights"] = whole
        raw = whole.map(lambda t: max(w := json.loads(t), key=lambda name: w[name]), na_action="ignore")
    label = raw
    if spec.classes is not None:
        table = {clean(name): class_name for name, class_name in spec.classes.items()}
        label = raw.map(lambda name: table.get(clean(name), spec.otherwise), na_action="ignore")
    columns |= {"raw_label": _none(raw), "label": _none(label)}
    return columns, strange


def _weights(text: str, form: str) -> Any:
    """{diagnosis: weight} as JSON; a list weighs its first 1, its second 1/2, its third 1/3."""
    value = literal(text)
    if form == "list" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        value = {name: 1 / rank for rank, name in enumerate(value, start=1)}
    is_weights = isinstance(value, dict) and all(
        isinstance(k, str) and isinstance(v, int | float) for k, v in value.items()
    )
    if not is_weights:
        return NOT_UNDERSTOOD
    return json.dumps(value, ensure_ascii=False) if value else None


def answer_cells(
    rows: pd.DataFrame, name: str, spec: AnswerSpec, unknown: Words
) -> tuple[pd.Series, dict[str, int]]:
    """The answers in the questionnaire's words, None where unknown, and what it would not understand."""
    unknown = (*unknown, *spec.unknown)
    strange: dict[str, int] = {}
    if spec.one_hot:
        text, strange = _boxes(rows, spec, unknown)
    else:
        given = rows[spec.column]
        text = given.where(~_is_word(given, unknown), None)
        if spec.kind == "number":
            text = _with_unit(text, rows, spec, unknown)
        elif spec.form == "text":
            text, _ = _each(text, lambda word: _translated(spec, word, unknown))
        else:
            text, strange = _each(text, lambda cell: _parts(spec, cell, unknown))
    one = FeatureSchema((spec.field(name),))
    refused = questionnaire.not_understood(pd.DataFrame({tables.ANSWER_PREFIX + name: text}), one)
    strange |= dict(zip(refused["answer"], map(int, refused["n"]), strict=True))
    text = _none(text.where(~text.isin(refused["answer"]), None))
    return text, {} if spec.otherwise == "unknown" else strange


def _boxes(rows: pd.DataFrame, spec: AnswerSpec, unknown: Words) -> tuple[pd.Series, dict[str, int]]:
    """The ticked boxes of each row; None where every box is empty or unknown."""
    boxes = rows[list(spec.one_hot)]
    words = boxes.map(lambda cell: "" if cell is None else clean(cell))
    empty = words.isin({"", *(clean(w) for w in unknown)} - {clean(w) for w in spec.unticked})
    ticked, unticked = (words.isin({clean(w) for w in said}) for said in (spec.ticked, spec.unticked))
    strange = boxes.to_numpy()[~(empty | ticked | unticked).to_numpy()]
    answers = list(spec.one_hot.values())
    says_none = (unticked.any(axis=1) & (unticked | empty).all(axis=1)).to_numpy()
    texts = []
    for is_ticked, is_none in zip(ticked.to_numpy(), says_none, strict=True):
        said = dict.fromkeys(answer for answer, on in zip(answers, is_ticked, strict=True) if on)
        texts.append(SEPARATOR.join(said) or (spec.none if is_none and spec.none else None))
    counts = pd.Series(strange, dtype=object).value_counts()
    return pd.Series(texts, index=rows.index, dtype=object), {str(k): int(v) for k, v in counts.items()}


def _parts(spec: AnswerSpec, cell: str, unknown: Words) -> Any:
    """The answers of one cell, each translated, joined as the questionnaire writes them."""
    parts: Any = cell.split(spec.separator) if spec.form == "separator" else literal(cell)
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        return NOT_UNDERSTOOD
    said = [_translated(spec, part.strip(), unknown) for part in parts if part.strip()]
    return SEPARATOR.join(dict.fromkeys(part for part in said if part is not None)) or None


def _translated(spec: AnswerSpec, word: str, unknown: Words) -> str | None:
    """An answer by `values`; one that it does not name stays, for the questionnaire to judge."""
    if clean(word) in {clean(w) for w in unknown}:
        return None
    table = {clean(key): value for key, value in spec.values.items()}
    return table.get(clean(word), word)


def _with_unit(text: pd.Series, rows: pd.DataFrame, spec: AnswerSpec, unknown: Words) -> pd.Series:
    """Numbers with a decimal point, and the unit of the row's own column behind them."""
    if spec.decimal == ",":
        text = text.str.replace(DECIMAL_COMMA, r"\1.\2", regex=True)
    if spec.unit_column is None:
        return _none(text)
    unit = rows[spec.unit_column]
    unit = unit.where(~_is_word(unit, unknown), None)
    return _none(text.where(unit.isna(), text + " " + unit.fillna("")))


def _number(text: str, spec: NumberSpec) -> Any:
    """A number in its unit, as text."""
    if spec.decimal == ",":
        text = re.sub(DECIMAL_COMMA, r"\1.\2", text)
    match = questionnaire.NUMBER.fullmatch(clean(text))
    factors = {clean(u): f for u, f in spec.units.items()} | {None: 1.0, clean(spec.unit): 1.0}
    if match is None or match[2] not in factors:
        return NOT_UNDERSTOOD
    return f"{float(match[1]) * factors[match[2]]:.6g}"


def _each(cells: pd.Series, read: Callable[[str], Any]) -> tuple[pd.Series, dict[str, int]]:
    """`read` on each different cell; None where it is NOT_UNDERSTOOD, and how often each such cell stands."""
    table = {cell: read(cell) for cell in cells.dropna().unique()}
    counts = cells[cells.map(lambda c: table.get(c) is NOT_UNDERSTOOD)].value_counts()
    text = cells.map(lambda c: None if c is None or table[c] is NOT_UNDERSTOOD else table[c])
    return _none(text), {str(k): int(v) for k, v in counts.items()}


def literal(text: str) -> Any:
    """A list or dictionary as JSON or Python writes it; None where it is neither."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        pass
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _is_word(cells: pd.Series, words: Words) -> pd.Series:
    said = {clean(word) for word in words}
    return cells.map(lambda cell: cell is not None and clean(cell) in said).astype(bool)


def _stripped(cells: pd.Series, strip: bool) -> pd.Series:
    return _none(cells.map(str.strip, na_action="ignore")) if strip else cells


def _none(cells: pd.Series) -> pd.Series:
    return cells.astype(object).where(cells.notna(), None)
