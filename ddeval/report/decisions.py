"""Parts of a page that decides: the gate, what happens to conditions that must not be missed, subgroups.

Each takes a table of `ddeval.metrics.decisions`, of the subgroups or the answer of a gate and gives a block.
"""

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import pandas as pd

from ddeval.report import figures
from ddeval.report.cells import frame_table, sort_key
from ddeval.report.comparison import difference_unit
from ddeval.report.components import Cell, Column, Criterion, Decision, DotPlot, DotRow, Figure, Table
from ddeval.report.inputs import Number
from ddeval.report.measures import measure
from ddeval.report.rounding import is_undefined, shown, shown_interval, shown_with_interval

Answer = Literal["pass", "fail", "cannot tell"]

_HARM = {"right": "right", "deferred": "deferred", "missed": "wrong"}
"""Outcomes of harm and the mark each is drawn with."""


def gate_block(gate: Mapping[str, Any]) -> Decision:
    """The gate's answer and each criterion with its interval and n.

    Parameters
    ----------
    gate : mapping
        `answer` (pass, fail, cannot tell), `sentence`, `sha256`, `first_look`, and `criteria`: each `name`,
        `answer`, `metric`, `value`, `ci_low`, `ci_high`, `bound`, `n_images`, `n_groups`.
    """
    criteria = []
    for c in gate["criteria"]:
        unit = difference_unit(c["metric"]) if c.get("is_difference") else measure(c["metric"]).unit
        text = shown_with_interval(c["value"], c["ci_low"], c["ci_high"], unit, n=c.get("n_images"))
        if c.get("bound") is not None:
            text += f", asked: {shown(c['bound'], unit)}"
        n = f"n = {shown(c['n_images'], 'count')}" if c.get("n_images") is not None else ""
        criteria.append(Criterion(str(c["name"]), _answer(c["answer"]), text, n))
    note = f"Criteria written before the run: sha256 {gate['sha256']}, first looked at {gate['first_look']}."
    return Decision(_answer(gate["answer"]), str(gate["sentence"]), criteria, note=note)


def harm_figure(harm: pd.DataFrame) -> Figure:
    """Right, deferred or missed, for each group of conditions and each run, with counts and interval.

    Parameters
    ----------
    harm : DataFrame
        `group` (malignant, urgent), `run`, `outcome` (right, deferred, missed), `n_images`, `share`,
        `per_1000` and, where there are intervals, `ci_low`, `ci_high`.
    """
    drawn, rows = [], []
    for (group, run), held in harm.groupby(["group", "run"], sort=False):
        n = shown(int(held["n_images"].sum()), "count")
        outcomes = {str(row["outcome"]): row for row in held.to_dict("records")}
        parts = [(outcomes[name]["share"], mark, name) for name, mark in _HARM.items() if name in outcomes]
        drawn.append(figures.tag("p", f"{group}, {run}: {n} photographs", class_="sharename"))
        drawn.append(figures.plot_shares(parts, label=f"{group}, {run}: outcomes; the table is below."))
        missed = outcomes.get("missed", {})
        rows.append(
            [
                Cell(f"{group}, {run}"),
                Cell(n, sort=int(held["n_images"].sum())),
                *(_harm_cell(outcomes.get(name)) for name in _HARM),
                Cell(shown(missed.get("per_1000"), "per_1000"), sort=missed.get("per_1000")),
            ]
        )
    columns = [
        Column("Group, checkpoint", is_number=False),
        *(Column(title) for title in ("Photographs", "Right", "Deferred", "Missed", "Missed per 1,000")),
    ]
    return Figure(
        "harm",
        "What happens to the conditions that must not be missed",
        "Each bar is all photographs of the group. Missed: answered with a condition of a less urgent group.",
        figures.joined(drawn),
        table=Table("harm-table", "Right, deferred or missed", columns, rows),
        keys=[("right", "right"), ("deferred", "deferred"), ("wrong", "missed")],
    )


def net_benefit_figure(curves: Mapping[str, pd.DataFrame], *, colours: Mapping[str, int]) -> Figure:
    """Net benefit of referring by each checkpoint's probability, beside referring everybody or nobody.

    Parameters
    ----------
    curves : mapping of run to DataFrame
        `threshold`, `net_benefit`, `refer_all`.
    """
    first = next(iter(curves.values()))
    top = max(float(curve["net_benefit"].max()) for curve in curves.values())
    y_axis = figures.Axis.around_zero([0.0 if is_undefined(top) else top], unit="probability")
    all_referred = first[["threshold", "refer_all"]].rename(columns={"refer_all": "net_benefit"})
    within = all_referred[all_referred["net_benefit"] >= y_axis.low]
    keys = [(f"dot s{colours[run]}", run) for run in curves]
    lines = [(curve, colours[run]) for run, curve in curves.items()]
    thresholds = figures.Axis.over(
        0.0, *(float(first["threshold"].max()) * i / 4 for i in (1, 2, 3, 4)), unit="percent"
    )
    table = pd.concat([curve.assign(checkpoint=run) for run, curve in curves.items()])
    return Figure(
        "net-benefit",
        "What referring by the model is worth",
        "Across: the probability from which one refers, the price of a needless referral. Up: malignant "
        "cases referred a case, less the needless ones at that price. Below the dotted line it is better to "
        "refer everybody.",
        figures.plot_lines(
            [(within, 0), *lines], x="threshold", y="net_benefit", x_axis=thresholds, y_axis=y_axis,
            x_title="threshold, %", y_title="net benefit a case", label="Net benefit; its table is below.",
        ),
        table=frame_table(
            table[["checkpoint", *first.columns]], id="net-benefit-table", caption="The curves as a table",
            is_folded=True,
        ),
        keys=[*keys, ("dashes", "refer everybody"), ("line0", "refer nobody: 0")],
    )  # fmt: skip


def subgroup_plot(groups: pd.DataFrame, metric: str, *, whole: float | None = None) -> DotPlot:
    """One metric in every subgroup; a suppressed one keeps its row and says why.

    Parameters
    ----------
    groups : DataFrame
        `attribute` (skin type, sex, …), `group`, `value`, `ci_low`, `ci_high`, `n_images`, `n_groups`, and
        `note`: why the group is not shown, empty where it is.
    whole : float, optional
        The value over all, drawn as a line.
    """
    about = measure(metric)
    rows = []
    for row in groups.to_dict("records"):
        number = Number(
            row["value"], row["ci_low"], row["ci_high"], int(row["n_images"]), int(row["n_groups"])
        )
        rows.append(
            DotRow(
                f"{row['attribute']}: {row['group']}",
                shown(number.n_groups, "count"),
                figures.plot_interval(*number[:3], axis=figures.PERCENT_AXIS, reference=whole),
                shown(number.value, about.unit, n=number.n_images),
                sub=shown_interval(number.ci_low, number.ci_high, about.unit),
                note=str(row.get("note") or ""),
            )
        )
    return DotPlot(
        f"subgroups-{metric.replace('_', '-')}",
        f"{about.title} by subgroup",
        "Each dot is a subgroup with its 95 % interval; the line is the value over all. Groups differ in "
        "their mix of conditions: a gap is a reason to look, not yet an unfairness.",
        rows,
        figures.plot_axis(figures.PERCENT_AXIS),
        n_title="patients",
    )


def _harm_cell(row: Mapping[Hashable, Any] | None) -> Cell:
    if row is None:
        return Cell("–")
    interval = shown_interval(row.get("ci_low"), row.get("ci_high"), "percent")
    text = f"{shown(row['n_images'], 'count')} ({shown(row['share'], 'percent')})"
    return Cell(text, sub=interval, sort=sort_key(row["share"]))


def _answer(answer: str) -> Answer:
    if answer not in ("pass", "fail", "cannot tell"):
        raise ValueError(f"a gate answers pass, fail or cannot tell, got {answer!r}")
    return answer  # type: ignore[return-value]
