"""Proposal: which mapping might fit these tables?

`propose` looks at names and cells and writes a first `mapping.yaml`. What it took for granted stands in
`notes`, what only the team can know (a code without words, a number without a unit) in `edits`. Every
column is used, or ignored with a reason; the mapping it proposes coerces nothing either.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from ddeval.data import guesses
from ddeval.data.cells import literal
from ddeval.data.conditions import Conditions
from ddeval.data.fields import clean
from ddeval.data.importers.layout import SUFFIXES
from ddeval.data.mapped import read_source
from ddeval.data.mapping import TICKED, UNTICKED, TableSpec
from ddeval.data.questionnaire import NO, YES
from ddeval.errors import InputError

MOST_CLASSES = 60
"""More different diagnoses than this are not taken for classes: they are listed, to be grouped."""
YES_NO = {
    "yes": ("1", "1.0", "t", "x", "ja", "oui", "si", "sí", *YES),
    "no": ("0", "0.0", "f", "nein", "non", *NO),
}


@dataclass
class Proposal:
    """A first mapping and what was thought on the way."""

    mapping: dict[str, Any] = field(default_factory=dict)
    """As in the file."""
    notes: list[str] = field(default_factory=list)
    """What was assumed, a line each."""
    edits: list[str] = field(default_factory=list)
    """What must be put right or confirmed, a line each, with the place in the file."""


def propose(
    paths: Sequence[Path],
    *,
    folder: Path,
    classes: Sequence[str] | None = None,
    conditions: Conditions | None = None,
) -> Proposal:
    """A mapping for one table, or for several that share a column of ids.

    Parameters
    ----------
    paths : list of Path
        CSV or Parquet; the first gives the rows.
    folder : Path
        Where the mapping will lie: paths in it are relative to it.
    classes : list of str, optional
        The classes of a model; diagnoses of the same name belong to them.
    conditions : Conditions, optional
        What each diagnosis string means.

    Raises
    ------
    InputError
        A file that is no table, or tables without a common column of ids.
    """
    p = Proposal()
    rows = _tables(p, paths, folder)
    left = [str(name) for name in rows.columns if rows[name].notna().any()]
    if not left:
        raise InputError(str(paths[0]), "only empty cells", expected="a table", todo="Check the export.")
    empty = [str(name) for name in rows.columns if str(name) not in left]
    ignored = {name: "empty" for name in empty}
    joins = {table["join"] for table in p.mapping["tables"] if "join" in table}
    left = _copies(p, rows, left, ignored)
    roles = _roles(rows, left)
    _images(p, rows, roles, left, folder)
    _columns(p, rows, roles)
    _label(p, rows, roles, classes, conditions)
    ignored |= dict.fromkeys(roles.get("label", [])[1:], "another column named for a diagnosis")
    for name in roles.get("other image", []):
        ignored[name] = "another column that names files"
        p.edits.append(f"image: {name!r} names files too; {roles['image'][0]!r} was taken")
    taken = {name for names in roles.values() for name in names} | joins
    _answers(p, rows, [name for name in left if name not in taken], ignored)
    for name in joins - {n for names in roles.values() for n in names}:
        p.notes.append(f"{name!r} only joins the tables")
    p.mapping["ignore"] = list(ignored)
    for reason in dict.fromkeys(ignored.values()):
        names = [name for name in ignored if ignored[name] == reason]
        p.notes.append(f"ignored, {reason}: {', '.join(names)}")
    return p


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


def _tables(p: Proposal, paths: Sequence[Path], folder: Path) -> pd.DataFrame:
    """The rows of all tables, joined, and their entries in the mapping."""
    entries: list[dict[str, str]] = []
    rows = pd.DataFrame()
    for path in paths:
        entry = {"path": Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()}
        try:
            table = read_source(TableSpec(**entry), folder)
        except InputError as error:
            if "that is not utf" not in str(error):
                raise
            entry["encoding"] = "cp1252"
            table = read_source(TableSpec(**entry), folder)
            p.edits.append(f"tables: {path.name} is not UTF-8 and was read as cp1252; is Müller spelt right?")
        if table.empty:
            raise InputError(str(path), "no rows", expected="a table with rows", todo="Check the export.")
        if entries:
            entry["join"] = _key(rows, table, path)
            right = table.rename(
                columns={
                    c: f"{path.stem}.{c}" for c in table.columns if c != entry["join"] and c in rows.columns
                }
            )
            rows = rows.merge(right, on=entry["join"], how="left")
            rows = rows.astype(object).where(rows.notna(), None)
            p.notes.append(f"{path.name} is joined by {entry['join']!r}")
        else:
            rows = table
        entries.append(entry)
    p.mapping["tables"] = entries
    return rows


def _key(rows: pd.DataFrame, table: pd.DataFrame, path: Path) -> str:
    """The column both have, unique in the second, whose values meet most often."""
    shared = {}
    for name in map(str, table.columns):
        if name in rows.columns and not table[name].dropna().duplicated().any() and table[name].notna().any():
            shared[name] = float(rows[name].isin(table[name].dropna()).mean())
    best = max(shared, key=lambda name: shared[name], default="")
    if not best or shared[best] < 0.5:
        raise InputError(
            str(path),
            "no column that joins it to the first table",
            expected="a column of one name in both, unique here",
            todo="Name the joined column alike, or pass the table with one row a photograph first.",
        )
    return best


def _copies(p: Proposal, rows: pd.DataFrame, names: list[str], ignored: dict[str, str]) -> list[str]:
    """The columns without those that stand twice under one name."""
    left = []
    for name in names:
        original = name.rsplit(" (", 1)[0]
        is_copy = name.endswith(")") and original in names and original != name
        if not is_copy:
            left.append(name)
        elif rows[name].equals(rows[original]):
            ignored[name] = f"a copy of {original!r}"
        else:
            ignored[name] = f"a second column named {original!r}, with other content"
            p.edits.append(
                f"ignore: {original!r} stands twice with different content; the second is {name!r}"
            )
    return left


def _roles(rows: pd.DataFrame, names: Iterable[str]) -> dict[str, list[str]]:
    """Column of the manifest -> columns of the table, by name; images also by their content."""
    roles: dict[str, list[str]] = {}
    numbered: list[str] = []
    for name in names:
        if _names_files(rows[name]):
            numbered.append(name)
        else:
            target = guesses.role(name)
            if target == "image":  # called a file, but holds ids
                target = "image_id"
            if target is not None:
                roles.setdefault(target, []).append(name)
    if numbered:
        series = Counter(re.sub(r"\d+", "#", guesses.snake(name)) for name in numbered)
        named = [re.sub(r"\d+", "#", guesses.snake(name)) for name in numbered]
        best = max(
            range(len(numbered)), key=lambda i: (series[named[i]], guesses.role(numbered[i]) == "image", -i)
        )
        roles["image"] = [name for name, kind in zip(numbered, named, strict=True) if kind == named[best]]
        roles["other image"] = [name for name in numbered if name not in roles["image"]]
    for target, found in roles.items():
        if target in guesses.NAMES and target != "image":
            found.sort(key=lambda name: guesses.rank(target, name) if guesses.role(name) == target else 99)
            if target != "label":  # a second diagnosis is no answer of the patient: `_label` ignores it
                del found[1:]
    return roles


def _names_files(cells: pd.Series) -> bool:
    words = cells.dropna()
    return bool(len(words)) and bool(words.str.lower().str.endswith(SUFFIXES).mean() > 0.9)


def _images(
    p: Proposal, rows: pd.DataFrame, roles: dict[str, list[str]], names: Sequence[str], folder: Path
) -> None:
    """Where photographs and their ids stand."""
    ids = roles.get("image_id", [])
    if "image" in roles:
        spec: dict[str, Any] = {"columns": roles["image"]}
        several = [
            s for s in (";", "|", ",") if len(roles["image"]) == 1 and _holds(rows[roles["image"][0]], s)
        ]
        if several:
            spec["separator"] = several[0]
            p.notes.append(f"{roles['image'][0]!r} names several photographs a cell, between {several[0]!r}")
        if ids:
            spec["id"] = ids[0]
        if (len(roles["image"]) > 1 or several) and not ids and "case_id" not in roles:
            p.edits.append(
                "columns: several photographs a row need ids: name the column of the case as case_id"
            )
        p.mapping["image"] = spec
    elif ids:
        pattern = _pattern(rows[ids[0]], folder)
        if pattern:
            p.mapping["image"] = {"columns": [ids[0]], "pattern": pattern, "id": ids[0]}
            p.notes.append(f"photographs were found as {pattern}")
        else:
            p.mapping["image_id"] = ids[0]
            p.edits.append(
                f"image_id: no column names an image file; where {ids[0]!r} is the file's name, replace the"
                f" line by  image: {{columns: [{ids[0]}], pattern: 'photos/{{}}.jpg', id: {ids[0]}}}"
            )
    if ids and rows[ids[0]].duplicated().any():
        n, n_rows = rows[ids[0]].nunique(), len(rows)
        p.edits.append(f"image_id: {ids[0]!r} has {n} values in {n_rows} rows; a manifest has each once")
    if "image" not in roles and not ids:
        unique = [n for n in names if rows[n].notna().all() and rows[n].is_unique]
        chosen = unique[0] if unique else names[0]
        p.mapping["image_id"] = chosen
        roles["image_id"] = [chosen]
        p.edits.append(f"image_id: no column looks like images or their ids; {chosen!r} was taken")


def _holds(cells: pd.Series, separator: str) -> bool:
    parts = [part.strip().lower() for cell in cells.dropna() for part in cell.split(separator)]
    is_several = cells.dropna().str.contains(separator, regex=False).any()
    return bool(is_several) and all(part.endswith(SUFFIXES) for part in parts if part)


def _pattern(ids: pd.Series, folder: Path) -> str | None:
    """Where the first ids lie as files, up to two folders below."""
    first = ids.dropna().iloc[:3].tolist()
    for depth in ("", "*/", "*/*/"):
        for place in sorted(folder.glob(depth)) if depth else [folder]:
            for suffix in SUFFIXES:
                if first and all((place / f"{name}{suffix}").is_file() for name in first):
                    below = place.relative_to(folder).as_posix()
                    return f"{'' if below == '.' else below + '/'}{{}}{suffix}"
    return None


def _columns(p: Proposal, rows: pd.DataFrame, roles: dict[str, list[str]]) -> None:
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
            unknown = guesses.unknown_words(_words(rows[roles[target][0]]))
            spec = {"column": roles[target][0]} | ({"unknown": unknown} if unknown else {})
            columns[target] = _stripped(p, rows, spec, f"columns.{target}")
    p.mapping["columns"] = {k: v["column"] if set(v) == {"column"} else v for k, v in columns.items()}


def _coded(p: Proposal, rows: pd.DataFrame, target: str, name: str) -> dict[str, Any]:
    words = _words(rows[name])
    unknown = guesses.unknown_words(words)
    known = guesses.codes(target, [w for w in _distinct(words) if w not in unknown])
    said = {clean(w) for w in known}
    strange = [w for w in _distinct(words) if w not in unknown and clean(w) not in said]
    if strange:
        listed = ", ".join(strange[:8]) + (" …" if len(strange) > 8 else "")
        p.edits.append(
            f"columns.{target}.values: what {listed} of {name!r} means is not known; null is unknown"
        )
    return {"column": name, "values": known} | ({"unknown": unknown} if unknown else {})


def _age(p: Proposal, rows: pd.DataFrame, name: str) -> dict[str, Any] | None:
    words = _words(rows[name])
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


def _label(
    p: Proposal,
    rows: pd.DataFrame,
    roles: dict[str, list[str]],
    classes: Sequence[str] | None,
    conditions: Conditions | None,
) -> None:
    """The diagnosis, its form, and the class of each."""
    if "label" not in roles:
        near = [str(n) for n in rows.columns if "diagnos" in guesses.snake(str(n))]
        like = f", such as {near[0]!r}" if near else ""
        p.edits.append(f"label: no column is called a diagnosis; add  label: {{column: …}}{like}")
        return
    name = roles["label"][0]
    words = _words(rows[name])
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


def _answers(p: Proposal, rows: pd.DataFrame, names: Sequence[str], ignored: dict[str, str]) -> None:
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
    words = _words(cells)
    unknown = guesses.unknown_words(words)
    words = [w for w in words if w not in unknown]
    return bool(words) and all(guesses.is_box(word) for word in words)


def _boxes(p: Proposal, rows: pd.DataFrame, beginning: str, members: list[str], key: str) -> dict[str, Any]:
    words = list(dict.fromkeys(word for name in members for word in _words(rows[name])))
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
    words = _words(rows[name])
    unknown = guesses.unknown_words(words)
    n_rows, has_empty = int(rows[name].notna().sum()), bool(rows[name].isna().any())
    guess = guesses.guess([w for w in words if w not in unknown], n_rows=n_rows, has_empty=has_empty)
    spec: dict[str, Any] = {"kind": guess.kind, "column": name} | ({"unknown": unknown} if unknown else {})
    if guess.kind in ("constant", "free text", "date"):
        reasons = {"constant": "the same in every row", "free text": "free text or ids", "date": "dates"}
        return None, reasons[guess.kind]
    if guess.kind == "yes_no":
        ours = {
            w: said for w in _distinct(guess.words) for said, forms in YES_NO.items() if clean(w) in forms
        }
        spec["values"] = ours
    elif guess.kind == "number":
        spec |= _measure(p, guess, name, where)
    elif guess.kind == "single":
        spec["answers"] = _distinct(guess.words)
        if all(word.lstrip("-").isdigit() for word in guess.words):
            p.edits.append(
                f"{where}: {name!r} holds codes ({', '.join(guess.words)}); say what they mean in `values`"
            )
    else:
        spec |= {"kind": "multiple", "form": guess.kind, "answers": _distinct(guess.words)}
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
    unit = guess.units[0] if guess.units else "unit"
    spec: dict[str, Any] = {"unit": unit, "low": min(0.0, guess.low), "high": guess.high}
    if guess.high <= spec["low"]:
        spec["high"] = spec["low"] + 1
    p.notes.append(f"{where}: the range is that of this table; an answer outside is not understood")
    if guess.has_decimal_comma:
        spec["decimal"] = ","
        p.notes.append(f"{where}: a comma is the decimal point")
    if len(guess.units) > 1:
        factors = [guesses.factor(other, unit) for other in guess.units]
        spec["units"] = {u: f for u, f in zip(guess.units, factors, strict=True) if f is not None}
        lost = [u for u, f in zip(guess.units, factors, strict=True) if f is None]
        spec["high"] = guess.high * max(spec["units"].values())
        p.edits.append(
            f"{where}: {name!r} is in {', '.join(guess.units)}; check `units` (multiples of {unit})"
        )
        if lost:
            p.edits.append(f"{where}: what {', '.join(lost)} is in {unit} is not known; add to `units`")
    if guess.units and guess.has_bare_numbers:
        spec["bare_numbers"] = False
        todo = f"where they are in {unit}, remove `bare_numbers: false`"
        p.edits.append(f"{where}: some answers have no unit and are not understood; {todo}")
    if not guess.units:
        p.edits.append(f"{where}: the unit of {name!r} is not known; write it instead of `unit`")
    return spec


def _distinct(words: Iterable[str]) -> list[str]:
    """Each answer once, whatever its case."""
    return list({clean(word): word for word in reversed(list(words))}.values())[::-1]


def _words(cells: pd.Series) -> list[str]:
    return [str(word) for word in cells.dropna().unique()]


def _new_key(taken: dict[str, Any], name: str) -> str:
    key = base = guesses.snake(name)
    number = 2
    while key in taken:
        key, number = f"{base}_{number}", number + 1
    return key
