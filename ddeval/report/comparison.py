"""Parts of a page that compares checkpoints: the Round-1 table, differences as a forest plot, flips.

Each takes tables of `ddeval.metrics.paired` (values, differences, best) and gives a block.
A difference is always a paired interval; words come from the interval and never from a p-value alone.
"""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval.report import figures
from ddeval.report.cells import number_cell, value_cell
from ddeval.report.components import (
    Card,
    Cell,
    Column,
    DotPlot,
    DotRow,
    Gallery,
    Photo,
    Table,
)
from ddeval.report.evidence import PHOTOS_LEFT_OUT
from ddeval.report.inputs import Number, data_uri
from ddeval.report.measures import measure
from ddeval.report.rounding import Unit, counted, is_undefined, shown, shown_interval, shown_range

ROUND_1 = ("top_1_accuracy", "top_3_accuracy", "auroc_macro", "ece")
MISSED = "malignant_missed"
N_SERIES = 7


def series_of(runs: Sequence[str]) -> dict[str, int]:
    """Colour of each checkpoint, the same in every figure of a page; the eighth shares the first's."""
    return {run: i % N_SERIES + 1 for i, run in enumerate(runs)}


def round_1_table(
    values: pd.DataFrame,
    differences: pd.DataFrame,
    best: pd.DataFrame,
    *,
    baseline: str,
    about: pd.DataFrame | None = None,
    reported: pd.DataFrame | None = None,
    readers: pd.DataFrame | None = None,
) -> Table:
    """Checkpoints side by side: top-1, top-3, difference to the baseline, AUROC, ECE, malignant conditions
    missed, cost, notes; a column of which nothing is known is left out.

    Parameters
    ----------
    values : DataFrame
        `run, metric, subset, value, ci_low, ci_high`, one subset.
    differences : DataFrame
        `run, baseline, metric, subset, difference, ci_low, ci_high`.
    best : DataFrame
        `run, metric, subset, is_in_best_set`.
    about : DataFrame, optional
        `run, n_parameters, latency_p95_ms, notes`; empty cells where unknown.
    reported : DataFrame, optional
        `run, metric, value, notes` of checkpoints whose numbers were typed in: no interval, no test.
    readers : DataFrame, optional
        `reader, kind, metric, value, ci_low, ci_high, n_cases, notes`: of the kind `readers` all of them
        together, each against the consensus of the others; single ones stand in `readers_table`.
    """
    runs = list(dict.fromkeys(values["run"]))
    colours = series_of(runs)
    held = _by(values, "run", "metric")
    gains = _by(differences[differences["baseline"] == baseline], "run", "metric")
    leading = set(best.loc[(best["metric"] == "top_1_accuracy") & best["is_in_best_set"].astype(bool), "run"])
    described = {} if about is None else _by(about, "run")
    numbers = [*ROUND_1, *([MISSED] if (values["metric"] == MISSED).any() else [])]
    rows = []
    for run in runs:
        marks = ["baseline"] if run == baseline else []
        if run in leading:
            marks.append("best" if len(leading) == 1 else "not told from the best")
        row = [Cell(run, sub=", ".join(marks), series=colours[run])]
        row += [_value_cell(held.get((run, name)), name) for name in ROUND_1[:2]]
        row.append(_gain_cell(gains.get((run, "top_1_accuracy"))) if run != baseline else Cell("–"))
        row += [_value_cell(held.get((run, name)), name) for name in numbers[2:]]
        rows.append(row + _cost_cells(described.get((run,), {})))
    rows += [] if reported is None else _reported_rows(reported, numbers)
    rows += [] if readers is None else _reader_rows(readers[readers["kind"] == "readers"], numbers)
    columns = [
        Column("Checkpoint", is_number=False),
        Column("Top-1"),
        Column("Top-3"),
        Column(f"Δ top-1 to {baseline}", help="Paired difference with its interval."),
        *(Column(_ROUND_1_TITLES[name], help=measure(name).meaning) for name in numbers[2:]),
        Column("Parameters", help="Millions."),
        Column("Latency p95, ms", help="Of ddeval bench."),
        Column("Notes", is_number=False),
    ]
    known = [i < 6 or any(row[i].text not in ("", "–") for row in rows) for i in range(len(columns))]
    unknown = [column.title for column, is_known in zip(columns, known, strict=True) if not is_known]
    return Table(
        "round-1-table",
        "The table of the round, with 95 % intervals",
        [column for column, is_known in zip(columns, known, strict=True) if is_known],
        [[cell for cell, is_known in zip(row, known, strict=True) if is_known] for row in rows],
        is_filterable=len(rows) > N_SERIES,
        note=f"Not known of any checkpoint: {', '.join(unknown)}." if unknown else "",
    )


_ROUND_1_TITLES = {"auroc_macro": "AUROC", "ece": "ECE", MISSED: "Malignant missed"}


def versions_table(versions: pd.DataFrame, *, colours: Mapping[str, int]) -> Table:
    """The same checkpoints under each version of the labels, with leave-one-proposer-out beside them.

    Parameters
    ----------
    versions : DataFrame
        `run, labels, metric, value, ci_low, ci_high, n_images, left_out` (accuracy without the label changes
        that this checkpoint alone proposed; NaN where nobody knows who proposed), one row each.
    """
    named = list(dict.fromkeys(versions["labels"]))
    held = _by(versions, "run", "labels", "metric")
    rows = []
    for run in colours:
        for metric in dict.fromkeys(versions["metric"]):
            cells = [Cell(run, series=colours[run]), Cell(measure(metric).title)]
            for labels in named:
                row = held.get((run, labels, metric))
                cells.append(_value_cell(row, metric))
                if labels != "v0":
                    left = None if row is None else row.get("left_out")
                    text = "–" if is_undefined(left) else shown(left, measure(metric).unit)
                    cells.append(Cell(text, sort=None if is_undefined(left) else left))
            rows.append(cells)
    columns = [Column("Checkpoint", is_number=False), Column("Measure", is_number=False)]
    for labels in named:
        columns.append(Column(f"labels {labels}"))
        if labels != "v0":
            columns.append(Column(f"{labels}, own proposals left out"))
    note = (
        "The checkpoint that proposes cases for vetting gains from their correction. “Own proposals left "
        "out” is the same number with the given label wherever it alone proposed the case."
    )
    caption = "The same checkpoints under each version of the labels"
    return Table("versions", caption, columns, rows, note=note)


def readers_table(readers: pd.DataFrame, *, colours: Mapping[str, int]) -> Table:
    """Readers and checkpoints on the same cases, each against panels of the other readers.

    Parameters
    ----------
    readers : DataFrame
        As `round_1_table` takes it, with the rows of the checkpoints.
    """
    rows = []
    for who, held in readers.groupby("reader", sort=False):
        of = _by(held, "metric")
        kind, n = str(held["kind"].iloc[0]), held["n_cases"].iloc[0]
        sub = "each against the others" if kind == "readers" else kind
        name = Cell(str(who), sub=sub, series=colours.get(str(who)))
        values = [_value_cell(of.get((metric,)), metric) for metric in ROUND_1[:2]]
        rows.append([name, *values, Cell(shown(n, "count"), sort=n)])
    titles = ("First answer is theirs", "Among the first three", "Cases")
    columns = [Column("Who", is_number=False), *(Column(title) for title in titles)]
    note = (
        "How often the class that most of the other readers put first is named. A checkpoint answers by "
        "case, all classes allowed, and is held against panels that lack one reader each. The cases were "
        "chosen for vetting, so these numbers are not those of the whole split, and a checkpoint above a "
        "reader is no proof that it is as good."
    )
    caption = "Readers and checkpoints on the cases that two or more readers read"
    return Table("readers-table", caption, columns, rows, note=note, is_folded=True)


def best_sentence(best: pd.DataFrame, metric: str) -> str:
    """Which checkpoints may be the best by a metric, as the max-T set says.

    Parameters
    ----------
    best : DataFrame
        `run, metric, is_in_best_set`, one subset.
    """
    held = best[best["metric"] == metric]
    names = list(held.loc[held["is_in_best_set"].astype(bool), "run"])
    what = f"Of {shown(len(held), 'count')} checkpoints"
    if len(names) == 1:
        return f"{what} {names[0]} is the best."
    if len(names) == len(held):
        return f"{what} none can be told from the best."
    return f"{what} {', '.join(names[:-1])} and {names[-1]} cannot be told from the best."


def forest(
    differences: pd.DataFrame,
    metric: str,
    *,
    margin: float | None = None,
    colours: Mapping[str, int] | None = None,
) -> DotPlot:
    """Differences of one metric to the baseline, one row a run, on an axis with 0 in its middle.

    Parameters
    ----------
    differences : DataFrame
        `run, baseline, metric, difference, ci_low, ci_high, p_holm, minimum_detectable, n_images`, one
        subset.
    margin : float, optional
        The largest loss allowed beforehand, as a positive number; drawn as a dashed line.
    """
    rows = differences[differences["metric"] == metric].to_dict("records")
    unit, (baseline,) = difference_unit(metric), {row["baseline"] for row in rows} or {""}
    axis = figures.Axis.around_zero(
        [float(row[end]) for row in rows for end in ("difference", "ci_low", "ci_high")], unit=unit
    )
    better = measure(metric).better
    line = None if margin is None else (margin if better == "low" else -margin)
    keys = [] if line is None else [("dashes margin", f"margin allowed beforehand, {shown(line, unit)}")]
    return DotPlot(
        f"forest-{metric.replace('_', '-')}",
        f"{measure(metric).title}: difference to {baseline}",
        f"Each dot is a checkpoint less {baseline} on the same photographs, the bar its 95 % interval. A bar "
        "that touches the line at 0 is no difference shown.",
        [
            DotRow(
                str(row["run"]),
                shown(row.get("p_holm"), "p_value"),
                figures.plot_interval(
                    row["difference"], row["ci_low"], row["ci_high"], axis=axis, reference=0.0, margin=line,
                    series=(colours or {}).get(str(row["run"]), 1),
                ),
                shown(row["difference"], unit),
                sub=shown_interval(row["ci_low"], row["ci_high"], unit)
                or f"no interval (n = {shown(row['n_images'], 'count')})",
            )
            for row in rows
        ],
        figures.plot_axis(axis),
        n_title="p, Holm",
        table=_difference_table(rows, metric),
        keys=keys,
    )  # fmt: skip


def difference_sentence(row: Mapping[Hashable, Any]) -> str:
    """What a paired interval allows to say: by how much at least and at most, or how much is ruled out.

    >>> row = {"run": "B", "baseline": "A", "metric": "top_1_accuracy", "difference": 0.001}
    >>> difference_sentence(row | {"ci_low": -0.012, "ci_high": 0.009})
    'B and A: no difference in top-1 accuracy larger than 1.2\\xa0points either way.'
    """
    about, low, high = measure(row["metric"]), row["ci_low"], row["ci_high"]
    name = about.title[0].lower() + about.title[1:] if about.title[1:2].islower() else about.title
    size: Unit = "distance" if difference_unit(row["metric"]) == "points" else "probability"
    if is_undefined(row["difference"]):
        of = f" (n = {shown(row['n_images'], 'count')})" if "n_images" in row else ""
        return f"{row['run']} and {row['baseline']}: {name} could not be compared{of}."
    if is_undefined(low) or is_undefined(high):  # nothing says how far it could be off
        same = shown(abs(row["difference"]), size)
        return (
            f"{row['run']} and {row['baseline']}: {name} differs by {same} in every resample "
            f"(n = {shown(row['n_images'], 'count')}): not to be told."
        )
    if low <= 0 <= high:
        bound = shown(max(-low, high), size)
        return f"{row['run']} and {row['baseline']}: no difference in {name} larger than {bound} either way."
    least, most = sorted((abs(low), abs(high)))
    way = "higher" if low > 0 else "lower"
    verdict = {"high": " (better)", "low": " (worse)"}.get(about.better, "")
    if low <= 0:
        verdict = {"high": " (worse)", "low": " (better)"}.get(about.better, "")
    return f"{row['run']}: {name} {shown_range(least, most, size)} {way} than {row['baseline']}{verdict}."


def difference_unit(metric: str) -> Unit:
    """Points where the metric is a percentage, else its own scale with a sign."""
    return "points" if measure(metric).unit in ("percent", "points") else "signed"


def flips_gallery(
    flips: pd.DataFrame,
    *,
    right: str,
    wrong: str,
    run: str,
    baseline: str,
    folder: Path,
    has_photos: bool,
    id: str = "flips-gallery",
) -> Gallery:
    """Photographs that `right`, one of `run` and `baseline`, has right and `wrong`, the other, wrong.

    Parameters
    ----------
    flips : DataFrame
        `image_id, label, predicted, confidence, baseline_predicted, baseline_confidence, thumbnail`.
    folder : Path
        Where `thumbnail` is looked for.
    """
    cards = []
    for row in flips.to_dict("records"):
        label, ours, theirs = (str(row[name]) for name in ("label", "predicted", "baseline_predicted"))
        alt = f"{row['image_id']}: labelled {label}; {run} says {ours}, {baseline} says {theirs}"
        photo = Photo(str(row["image_id"]), alt, data_uri(folder, row.get("thumbnail")) if has_photos else "")
        lines = (
            ("labelled", label),
            (run, f"{ours}, {shown(row['confidence'], 'percent')}"),
            (baseline, f"{theirs}, {shown(row['baseline_confidence'], 'percent')}"),
            ("image", str(row["image_id"])),
        )
        cards.append(Card((photo,), lines, filters=f"{label} {ours} {theirs} {row['image_id']}"))
    n = shown(len(cards), "count")
    return Gallery(
        id,
        f"{right} right, {wrong} wrong",
        "What the change of checkpoint buys, the surest first."
        if right == run
        else "What the change of checkpoint costs, the surest first.",
        cards,
        note=f"The {n} surest." if cards else "None.",
        left_out="" if has_photos else PHOTOS_LEFT_OUT,
    )


def _by(table: pd.DataFrame, *names: str) -> dict[tuple[str, ...], dict[Hashable, Any]]:
    return {tuple(str(row[name]) for name in names): row for row in table.to_dict("records")}


def _value_cell(row: Mapping[Hashable, Any] | None, metric: str) -> Cell:
    if row is None:
        return Cell("–")
    return number_cell(Number(row["value"], row["ci_low"], row["ci_high"], 0, 0), measure(metric).unit)


def _gain_cell(row: Mapping[Hashable, Any] | None) -> Cell:
    if row is None:
        return Cell("–")
    return number_cell(Number(row["difference"], row["ci_low"], row["ci_high"], 0, 0), "points")


def _cost_cells(about: Mapping[Hashable, Any]) -> list[Cell]:
    n_parameters, latency = about.get("n_parameters"), about.get("latency_p95_ms")
    return [
        Cell("–" if is_undefined(n_parameters) else shown(n_parameters, "million"), sort=n_parameters),
        Cell("–" if is_undefined(latency) else shown(latency, "count"), sort=latency),
        Cell(str(about.get("notes") or "")),
    ]


def _reported_rows(reported: pd.DataFrame, numbers: Sequence[str]) -> list[list[Cell]]:
    """Typed-in checkpoints: numbers without an interval, said so."""
    rows = []
    for run, held in reported.groupby("run", sort=False):
        values = dict(zip(held["metric"], held["value"], strict=True))
        of = {m: value_cell(values[m], measure(m).unit) for m in numbers if m in values}
        blank = Cell("–")
        row = [Cell(str(run), sub="reported, not rescored"), *(of.get(m, blank) for m in ROUND_1[:2]), blank]
        notes = "; ".join(dict.fromkeys(str(n) for n in held["notes"] if n))
        rows.append([*row, *(of.get(m, blank) for m in numbers[2:]), blank, blank, Cell(notes)])
    return rows


def _reader_rows(readers: pd.DataFrame, numbers: Sequence[str]) -> list[list[Cell]]:
    """The row of the readers: accuracy against the consensus of the others; no test, no cost."""
    rows = []
    for reader, held in readers.groupby("reader", sort=False):
        of = {str(row["metric"]): row for row in held.to_dict("records")}
        n = counted(held["n_cases"].iloc[0], "cases")
        row = [Cell(str(reader), sub="each against the others")]
        row += [_value_cell(of.get(m), m) for m in numbers[:2]]
        row += [Cell("–")] + [_value_cell(of.get(m), m) for m in numbers[2:]]
        notes = "; ".join([n, *dict.fromkeys(str(x) for x in held["notes"] if x)])
        rows.append([*row, Cell("–"), Cell("–"), Cell(notes)])
    return rows


def _difference_table(rows: Sequence[Mapping[Hashable, Any]], metric: str) -> Table:
    unit = difference_unit(metric)
    cells = [
        [
            Cell(str(row["run"])),
            value_cell(row["difference"], unit),
            Cell(shown_interval(row["ci_low"], row["ci_high"], unit)),
            Cell(shown(row.get("p_value"), "p_value"), sort=row.get("p_value")),
            Cell(shown(row.get("p_holm"), "p_value"), sort=row.get("p_holm")),
            Cell(shown(row.get("minimum_detectable"), "distance" if unit == "points" else "probability")),
            Cell(difference_sentence(row)),
        ]
        for row in rows
    ]
    columns = [
        Column("Checkpoint", is_number=False),
        *(Column(t) for t in ("Difference", "95 % interval", "p", "p, Holm", "Smallest detectable")),
        Column("In words", is_number=False),
    ]
    return Table(f"differences-{metric}", "The differences as a table", columns, cells, is_folded=True)
