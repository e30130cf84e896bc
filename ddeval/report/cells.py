"""Tables of a page from tables on disk: which number stands in which cell, in words.

Every section uses these; none of them changes a number.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ddeval.report.components import Cell, Column, Table
from ddeval.report.inputs import UNKNOWN, Number, RunTables
from ddeval.report.measures import MEASURES, measure
from ddeval.report.rounding import Unit, counted, is_undefined, shown, shown_interval

BIASED_UP = ("ece", "ece_equal_mass", "mce", "classwise_ece", "smooth_ece")
"""These have no interval; `<name>_floor_low`, `_floor_high` are what a perfectly calibrated model shows."""

UNITS: dict[str, Unit] = {
    "coverage": "percent", "risk": "percent", "generalized_risk": "percent", "share": "percent",
    "share_of_label": "percent", "share_of_errors": "percent", "confidence": "percent", "accuracy": "percent",
    "n": "count", "rank": "count", "threshold": "probability", "net_benefit": "signed", "refer_all": "signed",
    "p_value": "p_value", "p_holm": "p_value", "temperature": "probability", "per_1000": "per_1000",
    "prevalence": "percent",
}  # fmt: skip
"""How a column of a curve is written, where it is not a measure; `n_` begins a
count, all else has three decimals."""


TITLES = {
    "run": "Checkpoint", "n_only_run": "Only the checkpoint", "n_only_baseline": "Only the baseline",
    "p_value": "p", "se_paired": "Standard error, paired", "se_unpaired": "Standard error, unpaired",
    "n_images": "Photographs", "n_fit": "Fitted on", "n_test": "Judged on", "image_id": "Image",
    "predicted": "Answer", "baseline_predicted": "Answer of the baseline", "refer_all": "Refer everybody",
    "ci_low": "95 % interval from", "ci_high": "to", "difference_low": "95 % interval from",
    "difference_high": "to", "share_of_label": "Share of the label",
}  # fmt: skip
"""Column names of a table shown as it stands that do not say enough with their first letter made large."""

PLACES = frozenset({"path", "folder", "image_roots", "conditions", "overlays", "abstain"})
"""Facts that say where something lies: a page is passed on, the tree of the machine is not."""


def estimates_table(run: RunTables, names: Sequence[str], *, id: str, caption: str, note: str = "") -> Table:
    """Metrics as rows; value, interval and n by photograph, and by case where any has a number there."""
    has_cases = any(run.number(name, subset="cases") for name in names)
    subsets = ("all", "cases") if has_cases else ("all",)
    rows = []
    for name in names:
        if any(run.number(name, subset=subset) for subset in subsets):
            about = measure(name)
            row = [Cell(about.title, title=about.meaning)]
            for subset in subsets:
                row += _estimate_cells(run, name, subset)
            rows.append(row)
    each = [Column("Value"), Column("95 % interval"), Column("n")]
    return Table(
        id,
        caption,
        [Column("Measure", is_number=False), *each * len(subsets)],
        rows,
        is_sortable=False,
        note=note,
        groups=[("", 1), ("Photographs", 3), *([("Cases", 3)] if has_cases else [])],
    )


def perfect_band(run: RunTables, name: str, *, subset: str = "all") -> str:
    """What a perfectly calibrated model shows at this n, 5 to 95 %; empty where it was not simulated."""
    low, high = (run.number(f"{name}_floor_{end}", subset=subset) or UNKNOWN for end in ("low", "high"))
    return shown_interval(low.value, high.value, measure(name).unit)


def runs_table(
    runs: Sequence[RunTables],
    names: Sequence[str],
    *,
    colours: Mapping[str, int],
    id: str,
    caption: str,
    note: str = "",
    is_folded: bool = False,
) -> Table:
    """Metrics as rows, checkpoints as columns; each value above its interval or its perfect band."""
    rows = []
    for name in names:
        if any(run.number(name) for run in runs):
            about = measure(name)
            rows.append([Cell(about.title, title=about.meaning), *(_run_cell(run, name) for run in runs)])
    columns = [Column("Measure", is_number=False)]
    columns += [Column(run.name, series=colours[run.name]) for run in runs]
    return Table(id, caption, columns, rows, is_sortable=False, note=note, is_folded=is_folded)


def values_table(
    values: pd.DataFrame, names: Sequence[str], *, colours: Mapping[str, int], id: str, caption: str
) -> Table:
    """As `runs_table`, from a table `run, metric, value, ci_low, ci_high`."""
    held = {(row["run"], row["metric"]): row for row in values.to_dict("records")}
    rows = []
    for name in names:
        if any((run, name) in held for run in colours):
            about, row = measure(name), [Cell(measure(name).title, title=measure(name).meaning)]
            for run in colours:
                of = held.get((run, name))
                number = Number(of["value"], of["ci_low"], of["ci_high"], 0, 0) if of else None
                row.append(number_cell(number, about.unit) if number else Cell("–"))
            rows.append(row)
    columns = [Column("Measure", is_number=False)]
    columns += [Column(run, series=series) for run, series in colours.items()]
    return Table(id, caption, columns, rows, is_sortable=False)


def _run_cell(run: RunTables, name: str) -> Cell:
    cell = number_cell(run.number(name), measure(name).unit)
    if name in BIASED_UP and (band := perfect_band(run, name)):
        return replace(cell, sub=f"perfect: {band}")
    return cell


def number_cell(number: Number | None, unit: Unit) -> Cell:
    """A value above its interval."""
    held = number or UNKNOWN
    return value_cell(held.value, unit, n=held.n_images, interval=(held.ci_low, held.ci_high))


def value_cell(
    value: Any, unit: Unit, *, n: int | None = None, interval: tuple[Any, Any] = (None, None)
) -> Cell:
    """A value, sorted by itself, above its interval where it has one; `n` stands where it is undefined."""
    return Cell(shown(value, unit, n=n), sub=shown_interval(*interval, unit), sort=sort_key(value))


def frame_table(
    frame: pd.DataFrame, *, id: str, caption: str, is_folded: bool = False, is_filterable: bool = False
) -> Table:
    """A table as it stands, each column written as the measure of its name is."""
    columns = [Column(_title(name), is_number=pd.api.types.is_numeric_dtype(frame[name])) for name in frame]
    rows = [
        [_plain_cell(value, str(name)) for value, name in zip(row, frame.columns, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    return Table(id, caption, columns, rows, is_folded=is_folded, is_filterable=is_filterable)


def facts_table(facts: Mapping[str, Any], *, id: str, caption: str) -> Table:
    """Nested facts as one row each, named by their path; of a file or folder the last part only."""
    rows = [[Cell(name), Cell(_last_part(name, text))] for name, text in flat(facts)]
    columns = [Column("Name", is_number=False), Column("Value", is_number=False)]
    return Table(id, caption, columns, rows, is_filterable=True, is_folded=True)


def flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    """Leaves of nested facts with their path: `checkpoint.sha256`."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list) and not any(isinstance(v, Mapping) for v in value):
        yield name, ", ".join(str(v) for v in value)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from flat(inner, f"{name}.{i}")
    else:
        yield name, "" if value is None else str(value)


def _last_part(name: str, text: str) -> str:
    is_place = bool(PLACES.intersection(name.split(".")))
    return ", ".join(part.rstrip("/").rsplit("/", 1)[-1] for part in text.split(", ")) if is_place else text


def sort_key(value: float) -> float | None:
    """What a cell is sorted by; None where it is undefined, which sorts last."""
    return None if is_undefined(value) else float(value)


def _estimate_cells(run: RunTables, name: str, subset: str) -> list[Cell]:
    about, number = measure(name), run.number(name, subset=subset)
    if number is None:
        return [Cell("–"), Cell(""), Cell("")]
    interval = shown_interval(number.ci_low, number.ci_high, about.unit)
    if name in BIASED_UP and (band := perfect_band(run, name, subset=subset)):
        interval = f"perfect: {band}"
    return [
        value_cell(number.value, about.unit, n=number.n_images),
        Cell(interval),
        Cell(
            shown(number.n_images, "count"),
            sort=number.n_images,
            title=f"of {counted(number.n_groups, run.group_unit)}",
        ),
    ]


def _title(name: object) -> str:
    text = str(name)
    if text in MEASURES:
        return MEASURES[text].title
    words = text.replace("_", " ")
    return TITLES.get(text, words[:1].upper() + words[1:])


def _plain_cell(value: Any, name: str) -> Cell:
    if value is None or isinstance(value, str):
        return Cell(value or "")
    if isinstance(value, bool | np.bool_):
        return Cell("yes" if value else "no")
    unit: Unit = "count" if name.startswith("n_") else UNITS.get(name, "probability")
    if name in MEASURES:
        unit = MEASURES[name].unit
    return value_cell(float(value), unit)
