"""Proposed answers: which questions might the columns left over be?

A group of boxes is one question, a column of few words another; free text, dates and what was written
about the labelling are none. What only the team knows (the meaning of a code, a unit) is asked.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ddeval.data import guesses
from ddeval.data.draft import Proposal, different_words, distinct
from ddeval.data.fields import clean
from ddeval.data.mapping import TICKED, UNTICKED
from ddeval.data.questionnaire import NO, YES

YES_NO = {
    "yes": ("1", "1.0", "t", "x", "ja", "oui", "si", "sí", *YES),
    "no": ("0", "0.0", "f", "nein", "non", *NO),
}


def propose_answers(p: Proposal, rows: pd.DataFrame, names: Sequence[str], ignored: dict[str, str]) -> None:
    """A question for each column, or for each group of boxes, that looks like one."""
    answers: dict[str, Any] = {}
    for name in names:
        if guesses.LABELLED.search(guesses.snake(name)):
            ignored[name] = "by its name about how the label was made"
    names = [name for name in names if name not in ignored]
    boxes = [name for name in names if _is_box(rows[name]) and not guesses.SEPARATE.match(name)]
    groups = guesses.box_groups(boxes)
    grouped = {name for members in groups.values() for name in members}
    for beginning, members in groups.items():
        key = _new_key(answers, beginning)
        answers[key] = _boxes(p, rows, beginning, members, key)
    for name in names:
        if name not in grouped:
            spec, reason = _question(p, rows, name, f"answers.{_new_key(answers, name)}")
            if spec is None:
                ignored[name] = reason
            else:
                answers[_new_key(answers, name)] = spec
    for key, spec in answers.items():
        if guesses.HIDDEN.search(key):
            spec["hide_when_blind"] = True
            p.notes.append(f"answers.{key} may tell the diagnosis: hidden from blind readers")
    p.mapping["answers"] = answers


def _is_box(cells: pd.Series) -> bool:
    words = different_words(cells)
    unknown = guesses.unknown_words(words)
    words = [w for w in words if w not in unknown]
    return bool(words) and all(guesses.is_box(word) for word in words)


def _boxes(p: Proposal, rows: pd.DataFrame, beginning: str, members: list[str], key: str) -> dict[str, Any]:
    words = list(dict.fromkeys(word for name in members for word in different_words(rows[name])))
    spec: dict[str, Any] = {"kind": "multiple"}
    spec["one_hot"] = {name: guesses.snake(name[len(beginning) :]).replace("_", " ") for name in members}
    unknown = guesses.unknown_words(words)
    ticked = [w for w in words if w not in unknown and clean(w) in (*YES_NO["yes"], *TICKED)]
    unticked = [w for w in words if w not in unknown and clean(w) in (*YES_NO["no"], *UNTICKED)]
    spec |= {"ticked": ticked, "unticked": unticked} | ({"unknown": unknown} if unknown else {})
    if unticked:
        spec["none"] = "none of these"
    p.notes.append(f"answers.{key}: {len(members)} boxes named {beginning}… are one question")
    return spec


def _question(p: Proposal, rows: pd.DataFrame, name: str, where: str) -> tuple[dict[str, Any] | None, str]:
    """The question of one column, or why there is none."""
    words = different_words(rows[name])
    unknown = guesses.unknown_words(words)
    n_rows, has_empty = int(rows[name].notna().sum()), bool(rows[name].isna().any())
    guess = guesses.guess([w for w in words if w not in unknown], n_rows=n_rows, has_empty=has_empty)
    spec: dict[str, Any] = {"kind": guess.kind, "column": name} | ({"unknown": unknown} if unknown else {})
    if guess.kind in ("constant", "free text", "date"):
        reasons = {"constant": "the same in every row", "free text": "free text or ids", "date": "dates"}
        return None, reasons[guess.kind]
    if guess.kind == "yes_no":
        ours = {w: said for w in distinct(guess.words) for said, forms in YES_NO.items() if clean(w) in forms}
        spec["values"] = ours
    elif guess.kind == "number":
        spec |= _measure(p, guess, name, where)
    elif guess.kind == "single":
        spec["answers"] = distinct(guess.words)
        if all(word.lstrip("-").isdigit() for word in guess.words):
            p.edits.append(
                f"{where}: {name!r} holds codes ({', '.join(guess.words)}); say what they mean in `values`"
            )
    else:
        spec |= {"kind": "multiple", "form": guess.kind, "answers": distinct(guess.words)}
        if guess.separator:
            spec["separator"] = guess.separator
        p.notes.append(f"{where}: several answers a cell ({guess.separator or 'a list'})")
        inner = guesses.unknown_words(guess.words)
        if inner:
            spec["unknown"] = list(dict.fromkeys([*unknown, *inner]))
            spec["answers"] = [a for a in spec["answers"] if a not in inner]
    return spec, ""


def _measure(p: Proposal, guess: guesses.Guess, name: str, where: str) -> dict[str, Any]:
    """A number: its unit, the others as multiples to be written, its range."""
    said = guesses.named_unit(name)
    is_said = said is not None and all(guesses.factor(unit, said) is not None for unit in guess.units)
    units = tuple(dict.fromkeys([said, *guess.units])) if said and is_said else guess.units
    unit = units[0] if units else "unit"
    spec: dict[str, Any] = {"unit": unit, "low": min(0.0, guess.low), "high": guess.high}
    if guess.high <= spec["low"]:
        spec["high"] = spec["low"] + 1
    p.notes.append(f"{where}: the range is that of this table; an answer outside is not understood")
    if guess.has_decimal_comma:
        spec["decimal"] = ","
        p.notes.append(f"{where}: a comma is the decimal point")
    if len(units) > 1:
        factors = [guesses.factor(other, unit) for other in units]
        spec["units"] = {u: f for u, f in zip(units, factors, strict=True) if f is not None}
        lost = [u for u, f in zip(units, factors, strict=True) if f is None]
        spec["high"] = guess.high * max(spec["units"].values())
        p.edits.append(f"{where}: {name!r} is in {', '.join(units)}; check `units` (multiples of {unit})")
        if lost:
            p.edits.append(f"{where}: what {', '.join(lost)} is in {unit} is not known; add to `units`")
    if is_said and guess.has_bare_numbers:
        p.notes.append(f"{where}: a number without a unit is in {unit}, by the column's name")
    elif guess.units and guess.has_bare_numbers:
        spec["bare_numbers"] = False
        todo = f"where they are in {unit}, remove `bare_numbers: false`; else make theirs the `unit`"
        p.edits.append(f"{where}: some answers have no unit and are not understood; {todo}")
    if not units:
        todo = "write it instead of `unit`; what is no measure belongs in `columns` or `ignore`"
        p.edits.append(f"{where}: the unit of {name!r} is not known; {todo}")
    return spec


def _new_key(taken: dict[str, Any], name: str) -> str:
    key = base = guesses.snake(name)
    number = 2
    while key in taken:
        key, number = f"{base}_{number}", number + 1
    return key
