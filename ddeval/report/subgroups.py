"""Subgroups: for whom does it work less well? A plot an attribute; groups too small to be shown are named."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd

from ddeval.report import figures
from ddeval.report.cells import value_cell
from ddeval.report.comparison import difference_unit
from ddeval.report.components import (
    Block,
    Cell,
    Column,
    DotPlot,
    DotRow,
    Folded,
    Section,
    Table,
    Text,
    missing,
)
from ddeval.report.inputs import Number, RunTables
from ddeval.report.measures import measure
from ddeval.report.rounding import Unit, counted, is_undefined, ranged, shown, shown_interval

PLOTTED = ("top_1_accuracy", "malignant_right")
"""Metrics drawn; all stand in the table."""
SUPPLY = "Not measured. Supply skin_type, sex, age, body_site or source in the manifest."
PROXY = (
    "Skin type from the photograph (ITA) is a proxy that light and camera move; it is not skin type as a "
    "person states it. Ranges of skin type stay ranges."
)


def subgroup_section(
    table: pd.DataFrame | None,
    extremes: pd.DataFrame | None,
    calibration: pd.DataFrame | None,
    *,
    candidate: str,
    whole: Mapping[str, float],
    deferring: pd.DataFrame | None = None,
    series: int = 1,
) -> Section:
    """The candidate's accuracy by subgroup, drawn; every number of every checkpoint, in tables.

    Parameters
    ----------
    table : DataFrame
        `run, attribute, group, metric, value, ci_low, ci_high, n_images, n_groups, gap, gap_low, gap_high,
        p_holm, standardised_gap, standardised_low, standardised_high, note` of `ddeval.metrics.subgroups`.
    extremes : DataFrame
        `run, attribute, metric, kind, group, value, ci_low, ci_high, n_candidates`.
    calibration : DataFrame
        `run, attribute, group, n_images, n_groups, ece, floor_low, floor_high, p_value, note`.
    whole : mapping of metric to value
        Over all, drawn as a line.
    deferring : DataFrame
        As `table`, under the deferral rule.
    """
    if table is None or table.empty:
        return missing("subgroups", "Subgroups", SUPPLY)
    of_candidate = table[table["run"] == candidate]
    blocks: list[Block] = []
    if extremes is not None and len(extremes):
        blocks.append(_extreme_table(extremes[extremes["run"] == candidate]))
    attributes = list(dict.fromkeys(of_candidate["attribute"]))
    if any("ITA" in name for name in attributes):
        blocks.append(Text(PROXY, style="note"))
    for i, attribute in enumerate(attributes):
        plots: list[Block] = []
        for metric in PLOTTED:
            rows = of_candidate[(of_candidate["attribute"] == attribute) & (of_candidate["metric"] == metric)]
            if rows["value"].notna().any():
                plots.append(_plot(rows, metric, attribute, i, whole=whole.get(metric), series=series))
        if len(plots) > 1:
            plots[1:] = [Folded(f"Malignant photographs by {attribute}", plots[1:])]
        blocks += plots or [Text(f"By {attribute}: {_hidden(of_candidate, attribute)}", style="note")]
    blocks.append(_gap_table(table))
    if deferring is not None and len(deferring):
        caption = "Who is handed over under the deferral rule, as a table"
        blocks.append(_gap_table(deferring, id="subgroup-deferring", caption=caption))
    if calibration is not None and calibration["ece"].notna().any():
        blocks.append(_calibration_table(calibration))
    lead = (
        f"{candidate}, on the photographs of each group. Groups differ in their mix of conditions: a gap is "
        "a reason to look, not yet an unfairness; the gap within conditions stands beside it."
    )
    return Section("subgroups", "Subgroups", blocks, lead=lead)


def _plot(
    rows: pd.DataFrame, metric: str, attribute: str, i: int, *, whole: float | None, series: int
) -> DotPlot:
    about, drawn = measure(metric), []
    for row in rows[rows["value"].notna()].to_dict("records"):
        number = Number(*(row[name] for name in Number._fields))
        drawing = figures.plot_interval(
            *number[:3], axis=figures.PERCENT_AXIS, reference=whole, series=series
        )
        text = shown(number.value, about.unit, n=number.n_images)
        sub = shown_interval(number.ci_low, number.ci_high, about.unit)
        drawn.append(
            DotRow(ranged(str(row["group"])), shown(number.n_groups, "count"), drawing, text, sub=sub)
        )
    hidden = _hidden(rows, attribute)
    return DotPlot(
        f"subgroup-{i}-{metric.replace('_', '-')}",
        f"{about.title} by {attribute}",
        "Each dot is a group with its 95 % interval; the line is the value over all."
        + (f" {hidden}" if hidden else ""),
        drawn,
        figures.plot_axis(figures.PERCENT_AXIS),
        n_title="patients",
    )


def _hidden(rows: pd.DataFrame, attribute: str) -> str:
    """Groups that are not shown, with their patients."""
    held = rows[(rows["attribute"] == attribute) & rows["value"].isna()].drop_duplicates("group")
    if held.empty:
        return ""
    named = [
        f"{ranged(str(g))} ({shown(n, 'count')})"
        for g, n in zip(held["group"], held["n_groups"], strict=True)
    ]
    return f"Too few patients to be shown: {', '.join(named)}."


def _extreme_table(extremes: pd.DataFrame) -> Table:
    """The worst group and the largest gap of each attribute, for the metrics that are drawn."""
    rows = []
    for row in extremes[extremes["metric"].isin(PLOTTED)].to_dict("records"):
        if is_undefined(row["value"]) or row["n_candidates"] < 2:  # the lowest of one group is no finding
            continue
        about = measure(row["metric"])
        unit = about.unit if row["kind"] == "worst" else "distance"
        rows.append(
            [
                Cell(
                    str(row["attribute"]),
                    sub=f"{about.title}, {'lowest' if row['kind'] == 'worst' else 'largest gap to the rest'}",
                ),
                Cell(ranged(str(row["group"]))),
                value_cell(row["value"], unit, interval=(row["ci_low"], row["ci_high"])),
                Cell(shown(row["n_candidates"], "count"), sort=row["n_candidates"]),
            ]
        )  # fmt: skip
    columns = [Column(t, is_number=False) for t in ("Attribute", "Group")]
    columns += [Column("Value"), Column("Groups shown")]
    return Table(
        "subgroup-extremes", "Who is served worst", columns, rows,
        note="Intervals are widened for having been picked among the groups shown.",
    )  # fmt: skip


def _gap_table(
    table: pd.DataFrame,
    *,
    id: str = "subgroup-table",
    caption: str = "Every group, measure and checkpoint, as a table",
) -> Table:
    """Every metric in every group that is shown, of every checkpoint."""
    rows = []
    for row in table[table["value"].notna()].to_dict("records"):
        unit, gap_unit = measure(row["metric"]).unit, difference_unit(row["metric"])
        rows.append(
            [
                Cell(f"{row['attribute']}: {ranged(str(row['group']))}"),
                Cell(str(row["run"])),
                Cell(measure(row["metric"]).title),
                value_cell(row["value"], unit, interval=(row["ci_low"], row["ci_high"])),
                Cell(shown(row["n_images"], "count"), sub=counted(row["n_groups"], "patients"),
                     sort=row["n_images"]),
                _gap_cell(row, "gap", "gap_low", "gap_high", gap_unit),
                value_cell(row["p_holm"], "p_value"),
                _gap_cell(row, "standardised_gap", "standardised_low", "standardised_high", gap_unit),
            ]
        )  # fmt: skip
    columns = [Column(t, is_number=False) for t in ("Group", "Checkpoint", "Measure")]
    columns += [
        Column("Value"),
        Column("Photographs"),
        Column("Gap to the rest", help="Within the same resamples."),
        Column("p, Holm", help="Over the groups of the attribute."),
        Column("Gap within conditions", help="Case mix standardised."),
    ]
    return Table(id, caption, columns, rows, is_folded=True, is_filterable=True)


def _gap_cell(row: Mapping[Hashable, Any], value: str, low: str, high: str, unit: Unit) -> Cell:
    if is_undefined(row[value]):
        return Cell("–")
    return value_cell(row[value], unit, interval=(row[low], row[high]))


def _calibration_table(calibration: pd.DataFrame) -> Table:
    rows = []
    for row in calibration[calibration["ece"].notna()].to_dict("records"):
        band = shown_interval(row["floor_low"], row["floor_high"], "probability")
        rows.append(
            [
                Cell(f"{row['attribute']}: {ranged(str(row['group']))}"),
                Cell(str(row["run"])),
                Cell(shown(row["n_images"], "count"), sort=row["n_images"]),
                Cell(shown(row["ece"], "probability"), sub=f"perfect: {band}", sort=row["ece"]),
                Cell(shown(row["p_value"], "p_value"), sort=row["p_value"]),
            ]
        )
    columns = [Column(t, is_number=False) for t in ("Group", "Checkpoint")]
    columns += [Column("Photographs"), Column("ECE"), Column("p, were it perfect")]
    caption = "Calibration of each group, beside that of a perfect model of its size"
    return Table("subgroup-calibration", caption, columns, rows, is_folded=True, is_filterable=True)


def measured_attributes(table: pd.DataFrame | None) -> Sequence[str]:
    """Attributes of which a group is shown."""
    return [] if table is None else list(dict.fromkeys(table.loc[table["value"].notna(), "attribute"]))


def whole_of(run: RunTables) -> dict[str, float]:
    """The values over all images that the plots of subgroups are read against."""
    numbers = {metric: run.number(metric) for metric in PLOTTED}
    return {metric: number.value for metric, number in numbers.items() if number is not None}
