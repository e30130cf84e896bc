"""Per class: which are recognised, which are named too often, and what is answered instead."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from ddeval.report import figures
from ddeval.report.cells import number_cell, sort_key
from ddeval.report.components import (
    Block,
    Cell,
    Column,
    DotPlot,
    DotRow,
    Heat,
    Listing,
    Section,
    Table,
    Text,
    missing,
)
from ddeval.report.inputs import UNKNOWN, Number, RunTables
from ddeval.report.measures import measure
from ddeval.report.rounding import Unit, counted, is_undefined, rounded, shown, shown_interval, shown_tick

BY_CLASS = (
    "sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "average_precision", "labelled_share",
    "predicted_share", "share_ratio",
)  # fmt: skip
N_PAIRS = 10
MAX_HEAT_CLASSES = 60
"""More make a matrix nobody can read; the pairs are listed all the same."""
HEAT_LEVELS = 20
HEAT_FROM = 0.01
"""Cells under this have no colour: they are many and would drown the others."""
HEAT_TICKS = (0.01, 0.04, 0.1, 0.25, 0.5, 0.75, 1.0)


def class_section(run: RunTables) -> Section:
    """Per class: sensitivity and the bias of the answers as dots, every number in a table."""
    names = run.class_names
    if not names:
        return missing(
            "classes", "Per class", "No numbers per class: no photograph has a label of a target class."
        )
    return Section(
        "classes",
        "Per class",
        (_sensitivity_plot(run, names), _share_plot(run, names), _class_table(run, names)),
    )


def confusion_section(run: RunTables) -> Section:
    """Confusion as heat, and the pairs that are confused most."""
    if run.curve("confusion") is None:
        return missing("confusion", "Confusion", "No confusion table. Make it with: ddeval score RUN.")
    is_small = len(run.class_names) <= MAX_HEAT_CLASSES
    n = shown(len(run.class_names), "count")
    blocks: list[Block] = (
        [confusion_heat(run)] if is_small else [Text(f"{n} classes are too many for a matrix.")]
    )
    pairs = run.curve("confused_pairs")
    if pairs is not None:
        has_gallery = run.curve("gallery") is not None
        items = [
            _pair_item(pair, link="errors-gallery" if has_gallery else "")
            for pair in pairs.head(N_PAIRS).to_dict("records")
        ]
        blocks.append(Listing("pairs", "Most confused pairs, label → answer", items))
    return Section("confusion", "Confusion", blocks)


def _pair_item(pair: Mapping[Hashable, Any], *, link: str) -> Cell:
    words = f"{pair['label']} → {pair['predicted']}"
    share = shown(pair["share_of_label"], "percent")
    return Cell(
        words, sub=f"{counted(pair['n'], 'photographs')}, {share} of the label", link=link, filters=words
    )


def confusion_heat(run: RunTables, *, prefix: str = "", id: str = "") -> Heat:
    """The confusion matrix, each row a label, in percent of the row; `id` tells two of a page apart."""
    confusion = run.curves[f"{prefix}confusion"]
    pairs = run.curve(f"{prefix}confused_pairs")
    shares = {} if pairs is None else dict(
        zip(zip(pairs["label"], pairs["predicted"], strict=True), pairs["share_of_label"], strict=True)
    )  # fmt: skip
    names = list(dict.fromkeys(confusion["label"]))
    counts = dict(
        zip(zip(confusion["label"], confusion["predicted"], strict=True), confusion["n"], strict=True)
    )
    rows = []
    for label in names:
        right = run.number(f"{prefix}sensitivity", class_name=label) or UNKNOWN
        shares[label, label] = right.value
        row = [Cell(label, title=counted(right.n_images, "photographs"))]
        for answer in names:
            n, share = int(counts[label, answer]), shares.get((label, answer), 0.0)
            row.append(_heat_cell(f"{label} answered as {answer}", n, share, right.n_images))
        rows.append(row)
    columns = [Column("", is_number=False), *(Column(name) for name in names)]
    caption = "Confusion: percent of each label’s photographs"
    return Heat(
        f"{id}{prefix}confusion-heat",
        "What was answered instead",
        "A row is a label, a column an answer; the numbers are percent of the row, the diagonal is right. "
        "Under 1 % has no colour. Rest on a cell for its counts.",
        Table(f"{id}{prefix}confusion-table", caption, columns, rows, is_sortable=False),
        scale=[(heat_level(tick) or 0, f"{shown_tick(tick, 'percent')} %") for tick in HEAT_TICKS],
        row_title="labelled",
        column_title="answered",
    )


def heat_level(share: float) -> int | None:
    """Step of the heat scale, by the root of the share, so that rare confusions can be told apart."""
    if is_undefined(share) or share < HEAT_FROM:
        return None
    return round(math.sqrt(min(share, 1.0)) * HEAT_LEVELS)


def _heat_cell(words: str, n: int, share: float, n_of_label: int) -> Cell:
    of_label = f"{words}: {shown(n, 'count')} of {shown(n_of_label, 'count')}"
    if n == 0:
        return Cell("", title=of_label)
    return Cell(
        rounded(share, "percent"), title=f"{of_label} ({shown(share, 'percent')})", level=heat_level(share)
    )


def _sensitivity_plot(run: RunTables, names: Sequence[str]) -> DotPlot:
    balanced = run.number("balanced_accuracy") or UNKNOWN
    reference = None if is_undefined(balanced.value) else balanced.value
    return _dot_plot(
        run, names, "sensitivity", figures.PERCENT_AXIS, reference,
        title="Which classes are recognised",
        how_to_read="Each dot is the share of a class’s photographs that is answered right, in percent; the "
        f"bar is its 95 % interval, long where there are few {run.group_unit}. The line: their mean.",
    )  # fmt: skip


def _share_plot(run: RunTables, names: Sequence[str]) -> DotPlot:
    return _dot_plot(
        run, names, "share_ratio", figures.RATIO_AXIS, 1.0,
        title="Which classes are named too often",
        how_to_read="How often a class is answered, divided by how often it is labelled. Right of the line "
        "the model says it more often than the labels do, left of it less. Each step of the scale "
        "doubles; an arrow: the interval goes on.",
    )  # fmt: skip


def _dot_plot(
    run: RunTables,
    names: Sequence[str],
    metric: str,
    axis: figures.Axis,
    reference: float | None,
    *,
    title: str,
    how_to_read: str,
) -> DotPlot:
    numbers = {name: run.number(metric, class_name=name) or UNKNOWN for name in names}
    unit = measure(metric).unit
    rows = [_dot_row(name, numbers[name], axis, unit, reference) for name in falling(numbers)]
    return DotPlot(metric.replace("_", "-"), title, how_to_read, rows, figures.plot_axis(axis), n_title="n")


def falling(numbers: Mapping[str, Number]) -> list[str]:
    """Names from the largest value down, the undefined last."""
    return sorted(
        numbers, key=lambda name: (is_undefined(numbers[name].value), -(sort_key(numbers[name].value) or 0))
    )


def _dot_row(name: str, number: Number, axis: figures.Axis, unit: Unit, reference: float | None) -> DotRow:
    return DotRow(
        name,
        shown(number.n_images, "count"),
        figures.plot_interval(number.value, number.ci_low, number.ci_high, axis=axis, reference=reference),
        shown(number.value, unit, n=number.n_images),
        sub=interval_words(number, unit),
    )


def interval_words(number: Number, unit: Unit) -> str:
    """The interval; where a value has none, as every resample repeats it or too few have one, that."""
    none = "" if is_undefined(number.value) else "no interval"
    return shown_interval(number.ci_low, number.ci_high, unit) or none


def _class_table(run: RunTables, names: Sequence[str]) -> Table:
    metrics = [m for m in BY_CLASS if any(run.number(m, class_name=name) for name in names)]
    rows = []
    for name in names:
        labelled = run.number("sensitivity", class_name=name) or UNKNOWN
        n_groups = counted(labelled.n_groups, run.group_unit)
        row = [Cell(name), Cell(shown(labelled.n_images, "count"), sub=n_groups, sort=labelled.n_images)]
        rows.append(row + [number_cell(run.number(m, class_name=name), measure(m).unit) for m in metrics])
    columns = [
        Column("Class", is_number=False),
        Column("Photographs"),
        *(Column(measure(m).title, help=measure(m).meaning) for m in metrics),
    ]
    return Table("class-table", "Every number of every class", columns, rows, is_filterable=True)
