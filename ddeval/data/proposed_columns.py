"""Proposed columns: which columns of the manifest might a table's columns be, and which words mean what?

Ids are taken as they are, sex, split, skin type and basis by words that are known, ages as numbers,
diagnoses as the team writes them. A word that is not known is asked about, never guessed at.
"""

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ddeval.data import guesses
from ddeval.data.cells import literal
from ddeval.data.conditions import Conditions
from ddeval.data.draft import Proposal, different_words, distinct
from ddeval.data.fields import clean

MOST_CLASSES = 60
"""More different diagnoses than this are not taken for classes: they are listed, to be grouped."""


def propose_columns(p: Proposal, rows: pd.DataFrame, roles: dict[str, list[str]]) -> None:
    """Ids as they are; sex, split, skin type, basis by their words; age as a number."""
    columns: dict[str, Any] = {}
    for target in ("case_id", "patient_id", "lesion_id"):
        if target in roles:
            columns[target] = _stripped(p, rows, {"column": roles[target][0]}, f"columns.{target}")
    for target in ("sex", "split", "skin_type", "label_basis"):
        if target in roles:
            columns[target] = _coded(p, rows, target, roles[target][0])
    if "age" in roles:
        age = _age(p, rows, roles["age"][0])
        if age:
            columns["age"] = age
        else:
            del roles["age"]  # bands: a question, not a number
    for target in ("body_site", "source"):
        if target in roles:
            unknown = guesses.unknown_words(different_words(rows[roles[target][0]]))
            spec = {"column": roles[target][0]} | ({"unknown": unknown} if unknown else {})
            columns[target] = _stripped(p, rows, spec, f"columns.{target}")
    p.mapping["columns"] = {k: v["column"] if set(v) == {"column"} else v for k, v in columns.items()}


def _coded(p: Proposal, rows: pd.DataFrame, target: str, name: str) -> dict[str, Any]:
    words = different_words(rows[name])
    unknown = guesses.unknown_words(words)
    known = guesses.codes(target, [w for w in distinct(words) if w not in unknown])
    said = {clean(w) for w in known}
    strange = [w for w in distinct(words) if w not in unknown and clean(w) not in said]
    if strange:
        listed = ", ".join(strange[:8]) + (" …" if len(strange) > 8 else "")
        p.edits.append(
            f"columns.{target}.values: what {listed} of {name!r} means is not known; null is unknown"
        )
    return {"column": name, "values": known} | ({"unknown": unknown} if unknown else {})


def _age(p: Proposal, rows: pd.DataFrame, name: str) -> dict[str, Any] | None:
    words = different_words(rows[name])
    unknown = guesses.unknown_words(words)
    guess = guesses.guess([w for w in words if w not in unknown], n_rows=int(rows[name].notna().sum()))
    if guess.kind not in ("number", "single", "constant") or not all(
        word[:1].isdigit() and "-" not in word for word in words if word not in unknown
    ):
        return None
    spec: dict[str, Any] = {"column": name} | ({"unknown": unknown} if unknown else {})
    if guess.units or guess.has_decimal_comma:
        years = {"year", "years", "y", "yr", "yrs", "jahre", "j", "ans", "años"}
        months = {"month", "months", "m", "mo", "monate", "mois", "meses"}
        factors = {u: 1.0 for u in guess.units if u in years} | {
            u: 1 / 12 for u in guess.units if u in months
        }
        spec["number"] = {"unit": "year", "units": {u: round(f, 10) for u, f in factors.items()}}
        if guess.has_decimal_comma:
            spec["number"]["decimal"] = ","
        lost = [unit for unit in guess.units if unit not in factors]
        if lost:
            p.edits.append(
                f"columns.age: {name!r} has the units {', '.join(lost)}; give each as years in `units`"
            )
    return spec


def propose_label(
    p: Proposal,
    rows: pd.DataFrame,
    roles: dict[str, list[str]],
    classes: Sequence[str] | None,
    conditions: Conditions | None,
) -> None:
    """The diagnosis, its form, and the class of each."""
    if "label" not in roles:
        near = [str(n) for n in rows.columns if re.search("diagnos|(^|_)dx(_|$)", guesses.snake(str(n)))]
        like = f", such as {near[0]!r}" if near else ""
        p.edits.append(f"label: no column is called a diagnosis; add  label: {{column: …}}{like}")
        return
    name = roles["label"][0]
    words = different_words(rows[name])
    spec: dict[str, Any] = {"column": name}
    parsed = [literal(word) for word in words]
    for form, type_ in (("weights", dict), ("list", list)):
        if all(isinstance(value, type_) for value in parsed):
            spec["form"] = form
            p.notes.append(f"{name!r} holds {form} of diagnoses; the first or greatest is the label")
            words = list(dict.fromkeys(str(part) for value in parsed for part in value))
    unknown = guesses.unknown_words(words)
    if unknown:
        spec["unknown"] = unknown
    spec = _stripped(p, rows, spec, "label")
    counts = rows[name].str.strip().value_counts() if "form" not in spec else pd.Series(dtype=int)
    ordered = sorted((w.strip() for w in words if w not in unknown), key=lambda w: -int(counts.get(w, 0)))
    ordered = list({clean(w): w for w in reversed(ordered)}.values())[::-1]
    if classes is not None or conditions is not None or len(ordered) > MOST_CLASSES:
        table = {w: _class_of(w, classes, conditions) for w in ordered}
        named = {clean(name) for name in classes or ()}
        n_by_conditions = sum(c is not None and clean(w) not in named for w, c in table.items())
        if n_by_conditions:
            p.notes.append(
                f"label.classes: {n_by_conditions} diagnoses have the class that conditions.yaml gives"
            )
        spec["classes"] = table
        n_lost = sum(value is None for value in table.values())
        if n_lost:
            p.edits.append(
                f"label.classes: {n_lost} of {len(table)} diagnoses have no class (null); write one, or"
                " `otherwise: other` for all of them"
            )
    else:
        p.notes.append(f"the {len(ordered)} diagnoses of {name!r} are taken as classes, as they are")
        twins = len(words) - len(unknown) - len(ordered)
        if twins:
            p.edits.append(
                f"label: {twins} diagnoses of {name!r} differ only in case or spaces; to make them one, add"
                " `classes: {diagnosis: class}`"
            )
    p.mapping["label"] = spec


def _class_of(word: str, classes: Sequence[str] | None, conditions: Conditions | None) -> str | None:
    named = {clean(name): name for name in classes or ()}
    if clean(word) in named:
        return named[clean(word)]
    found = conditions.lookup(pd.Series([word]))["class"].iloc[0] if conditions else None
    return found if found is not None and (classes is None or found in classes) else None


def _stripped(p: Proposal, rows: pd.DataFrame, spec: dict[str, Any], where: str) -> dict[str, Any]:
    cells = rows[spec["column"]].dropna()
    n = int((cells != cells.str.strip()).sum())
    if n:
        p.notes.append(f"{where}: spaces at the ends of {n} cells are taken off (strip)")
        return spec | {"strip": True}
    return spec
