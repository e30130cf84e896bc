"""Several checkpoints in one section: per class, confusion, calibration, abstaining.

Each is drawn from its own tables, in the same colour everywhere. Where there is room for one only, it is
the candidate: the one the page decides about.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from ddeval.report import figures
from ddeval.report.cells import frame_table, number_cell, runs_table, value_cell
from ddeval.report.classes import MAX_HEAT_CLASSES, N_PAIRS, confusion_heat, falling, interval_words
from ddeval.report.components import (
    Block,
    Cell,
    Column,
    DotPlot,
    DotRow,
    Figure,
    Folded,
    Section,
    Table,
    missing,
)
from ddeval.report.confidence import CALIBRATION, N_TABLE_ROWS, SELECTIVE, sets_table
from ddeval.report.headline import HEADLINE
from ddeval.report.inputs import UNKNOWN, RunTables
from ddeval.report.measures import measure
from ddeval.report.rounding import counted, is_undefined, rounded, shown

BY_CLASS = ("sensitivity", "ppv", "auroc", "share_ratio")
Colours = Mapping[str, int]


def keys_of(runs: Sequence[RunTables], colours: Colours) -> list[tuple[str, str]]:
    """The legend: mark and name of each checkpoint."""
    return [(f"dot s{colours[run.name]}", run.name) for run in runs]


def headline_table(runs: Sequence[RunTables], colours: Colours) -> Table:
    """Every headline number of every checkpoint."""
    caption = "Every headline number, with its 95 % interval"
    return runs_table(runs, HEADLINE, colours=colours, id="headline-runs", caption=caption, is_folded=True)


def class_section(runs: Sequence[RunTables], candidate: RunTables, colours: Colours) -> Section:
    """Sensitivity of each class under each checkpoint as dots, and the bias of the answers."""
    names = candidate.class_names
    if not names:
        supply = "No numbers per class: no photograph has a label of a target class."
        return missing("classes", "Per class", supply)
    plots = [
        _class_plot(
            runs, candidate, colours, "sensitivity", figures.PERCENT_AXIS, None,
            title="Which classes are recognised, by which checkpoint",
            how_to_read="Each dot is the share of a class’s photographs a checkpoint answers right, in "
            f"percent; the bar is its 95 % interval. Sorted by {candidate.name}. Bars that overlap are no "
            "test.",
        ),
        _class_plot(
            runs, candidate, colours, "share_ratio", figures.RATIO_AXIS, 1.0,
            title="Which classes are named too often",
            how_to_read="How often a class is answered, divided by how often it is labelled. Right of the "
            "line the checkpoint says it more often than the labels do. Each step of the scale doubles; an "
            "arrow: the interval goes on.",
        ),
    ]  # fmt: skip
    return Section(
        "classes",
        "Per class",
        [
            replace(plots[0], table=_class_table(runs, names)),
            Folded(plots[1].title, [replace(plots[1], table=_ratio_table(runs, names, colours))]),
        ],
    )


def _class_plot(
    runs: Sequence[RunTables],
    candidate: RunTables,
    colours: Colours,
    metric: str,
    axis: figures.Axis,
    reference: float | None,
    *,
    title: str,
    how_to_read: str,
) -> DotPlot:
    of_candidate = {
        name: candidate.number(metric, class_name=name) or UNKNOWN for name in candidate.class_names
    }
    unit, rows = measure(metric).unit, []
    for name in falling(of_candidate):
        held = [(run.number(metric, class_name=name) or UNKNOWN, colours[run.name]) for run in runs]
        drawing = figures.plot_intervals(
            [(n.value, n.ci_low, n.ci_high, series) for n, series in held], axis=axis, reference=reference
        )
        number = of_candidate[name]
        text = shown(number.value, unit, n=number.n_images)
        sub = interval_words(number, unit)
        rows.append(DotRow(name, shown(number.n_images, "count"), drawing, text, sub=sub))
    id = metric.replace("_", "-")
    return DotPlot(
        id, title, how_to_read, rows, figures.plot_axis(axis),
        value_title=candidate.name, keys=keys_of(runs, colours),
    )  # fmt: skip


def _class_table(runs: Sequence[RunTables], names: Sequence[str]) -> Table:
    """One row a class and checkpoint, so that filtering by either works."""
    rows = []
    for name in names:
        for run in runs:
            labelled = run.number("sensitivity", class_name=name) or UNKNOWN
            row = [
                Cell(name),
                Cell(run.name),
                Cell(shown(labelled.n_images, "count"), sort=labelled.n_images),
            ]
            row += [number_cell(run.number(m, class_name=name), measure(m).unit) for m in BY_CLASS]
            rows.append(row)
    columns = [
        Column("Class", is_number=False),
        Column("Checkpoint", is_number=False),
        Column("Photographs"),
        *(Column(measure(m).title, help=measure(m).meaning) for m in BY_CLASS),
    ]
    caption = "Every class under every checkpoint, as a table"
    return Table("class-table", caption, columns, rows, is_filterable=True, is_folded=True)


def _ratio_table(runs: Sequence[RunTables], names: Sequence[str], colours: Colours) -> Table:
    """How often each class is named for each time it is labelled, a column a checkpoint."""
    about = measure("share_ratio")
    rows = [
        [Cell(name), *(number_cell(run.number("share_ratio", class_name=name), about.unit) for run in runs)]
        for name in names
    ]
    columns = [Column("Class", is_number=False)]
    columns += [Column(run.name, series=colours[run.name]) for run in runs]
    return Table("share-ratio-table", f"{about.title}, as a table", columns, rows, is_folded=True)


def confusion_section(
    runs: Sequence[RunTables], candidate: RunTables, colours: Colours, *, link: str = ""
) -> Section:
    """Confusion of the candidate as heat, of the others behind a line; the worst pairs of all."""
    if candidate.curve("confusion") is None:
        return missing("confusion", "Confusion", "No confusion table. Make it with: ddeval score RUN.")
    blocks: list[Block] = [_pairs_table(runs, candidate, colours, link=link)]
    if len(candidate.class_names) <= MAX_HEAT_CLASSES:
        blocks.insert(0, confusion_heat(candidate, id=f"{candidate.folder.name}-"))
        for run in runs:
            if run is not candidate and run.curve("confusion") is not None:
                heat = confusion_heat(run, id=f"{run.folder.name}-")
                blocks.append(Folded(f"Confusion of {run.name}", [heat]))
    return Section("confusion", f"Confusion of {candidate.name}", blocks, menu="Confusion")


def _pairs_table(runs: Sequence[RunTables], candidate: RunTables, colours: Colours, *, link: str) -> Table:
    pairs = {run.name: _pairs_of(run) for run in runs}
    rows = []
    for label, predicted in list(pairs[candidate.name])[:N_PAIRS]:
        words = f"{label} → {predicted}"
        row = [Cell(words, link=link, filters=words)]
        for run in runs:
            pair = pairs[run.name].get((label, predicted))
            share = shown(pair["share_of_label"], "percent") if pair else ""
            row.append(
                Cell(shown(pair["n"] if pair else 0, "count"), sub=share, sort=pair["n"] if pair else 0)
            )
        rows.append(row)
    columns = [Column("Label → answer", is_number=False)]
    columns += [Column(run.name, series=colours[run.name]) for run in runs]
    caption = (
        f"The {shown(len(rows), 'count')} pairs {candidate.name} confuses most, and their share of the label"
    )
    return Table("pairs", caption, columns, rows)


def _pairs_of(run: RunTables) -> dict[tuple[str, str], dict[Hashable, Any]]:
    """The confused pairs of a run by label and answer, most frequent first."""
    table = run.curve("confused_pairs")
    rows = [] if table is None else table.to_dict("records")
    return {(str(row["label"]), str(row["predicted"])): row for row in rows}


def calibration_section(runs: Sequence[RunTables], colours: Colours) -> Section:
    """The reliability curves in one drawing, the errors of calibration in one table."""
    curves = [(run.curve("reliability"), colours[run.name]) for run in runs]
    held = [(curve, series) for curve, series in curves if curve is not None]
    if not held:
        return missing("calibration", "Calibration", "No reliability table. Make it with: ddeval score RUN.")
    figure = Figure(
        "reliability",
        "Confidence against accuracy",
        "Below the dotted line a checkpoint claims more than it gets right, above it less. A point of few "
        "photographs strays; the table has their number.",
        figures.plot_reliabilities(held, label="Reliability curves; their table is below the drawing."),
        table=_reliability_table(runs),
        keys=[*keys_of(runs, colours), ("dashes", "perfect calibration")],
    )
    note = (
        "The measures of the ECE family have no interval: they are above 0 even for a perfectly calibrated "
        "model. Beside them stands what such a model shows at this n, 5 to 95 %."
    )
    table = runs_table(
        runs,
        CALIBRATION,
        colours=colours,
        id="calibration-table",
        caption="Calibration in numbers",
        note=note,
    )
    return Section("calibration", "Calibration", (figure, table))


def _reliability_table(runs: Sequence[RunTables]) -> Table:
    rows = []
    for run in runs:
        table = run.curve("reliability")
        for bin_ in [] if table is None else table.to_dict("records"):
            n = int(bin_["n"])
            words = f"{rounded(bin_['low'], 'percent')} to {shown(bin_['high'], 'percent')}"
            row = [Cell(run.name), Cell(words, sort=float(bin_["low"])), Cell(shown(n, "count"), sort=n)]
            rows.append(row + [value_cell(bin_[c], "percent", n=n) for c in ("confidence", "accuracy")])
    columns = [Column("Checkpoint", is_number=False), Column("Confidence"), Column("n")]
    columns += [Column("mean confidence"), Column("accuracy")]
    caption = "The curves as a table"
    return Table("reliability-table", caption, columns, rows, is_folded=True, is_filterable=True)


def abstaining_section(
    runs: Sequence[RunTables], colours: Colours, sets: pd.DataFrame | None = None
) -> Section:
    """The risk-coverage curves in one drawing, the working points in one table, the outcomes with `other`."""
    curves = [(run.curve("risk_coverage"), colours[run.name]) for run in runs]
    held = [(curve, series) for curve, series in curves if curve is not None]
    if not held:
        return missing("abstaining", "Abstaining", "No risk–coverage table. Make it with: ddeval score RUN.")
    blocks: list[Block] = [
        Figure(
            "risk-coverage",
            "How often each is wrong when only the surest are answered",
            "Go left to answer fewer photographs, the surest first: a curve says what share of the answers "
            "given is then wrong. Lower is better.",
            figures.plot_risk_coverages(held, label="Risk–coverage curves; working points are in the table."),
            table=_curves_table(runs),
            keys=keys_of(runs, colours),
        ),
        runs_table(runs, SELECTIVE, colours=colours, id="selective-table", caption="Abstaining in numbers"),
    ]
    outcomes = [(run, run.curve("three_outcomes")) for run in runs]
    if any(table is not None for _, table in outcomes):
        blocks.append(_outcome_figure([(run, table) for run, table in outcomes if table is not None]))
    blocks.append(sets_table(sets))
    return Section("abstaining", "Abstaining", blocks)


def _curves_table(runs: Sequence[RunTables]) -> Table:
    """Points of the risk-coverage curves, some of each checkpoint's."""
    held = {run.name: run.curve("risk_coverage") for run in runs}
    points = [
        figures.thinned(curve, N_TABLE_ROWS).assign(run=name)
        for name, curve in held.items()
        if curve is not None
    ]
    table = pd.concat(points, ignore_index=True)
    table = table[["run", *(column for column in table.columns if column != "run")]]
    return frame_table(
        table, id="risk-coverage-table", caption="The curves as a table", is_folded=True, is_filterable=True
    )


def _outcome_figure(outcomes: Sequence[tuple[RunTables, pd.DataFrame]]) -> Figure:
    """Right, wrong or deferred by “other”, a bar a checkpoint and kind of photograph."""
    drawn, rows = [], []
    for given, words in (("target", "of a target class"), ("other", "of anything else")):
        for run, table in outcomes:
            of = table[table["given"] == given]
            if of.empty:
                continue
            n_images = int(of["n_images"].iloc[0])
            n = counted(n_images, f"photographs {words}")
            drawn.append(figures.tag("p", f"{run.name}: {n}", class_="sharename"))
            parts = list(zip(of["share"], of["outcome"], of["outcome"], strict=True))
            drawn.append(
                figures.plot_shares(parts, label=f"{run.name}, {words}: shares; the table is below.")
            )
            shares = dict(zip(of["outcome"], of["share"], strict=True))
            cells = [_share_cell(shares.get(name)) for name in ("right", "wrong", "deferred")]
            rows.append([Cell(run.name), Cell(words), Cell(shown(n_images, "count"), sort=n_images), *cells])
    titles = ("Photographs", "Right", "Wrong", "Deferred")
    columns = [Column("Checkpoint", is_number=False), Column("Given", is_number=False), *map(Column, titles)]
    return Figure(
        "outcomes",
        "Right, wrong or deferred by “other”",
        "Answering “other” defers. A photograph of a target class should be answered right, and one of "
        "anything else should be deferred.",
        figures.joined(drawn),
        table=Table("outcomes-table", "The outcomes as a table", columns, rows, is_folded=True),
        keys=[("right", "right"), ("wrong", "wrong"), ("deferred", "deferred")],
    )


def _share_cell(share: float | None) -> Cell:
    return Cell("–") if is_undefined(share) else Cell(shown(share, "percent"), sort=share)
