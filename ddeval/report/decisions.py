"""Parts of a page that decides: the gate, and what happens to conditions that must not be missed.

Each takes a table of `ddeval.metrics.stakes` or the answer of a gate and gives a block or a section.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import pandas as pd

from ddeval.report import figures
from ddeval.report.cells import frame_table, sort_key, value_cell
from ddeval.report.comparison import difference_unit
from ddeval.report.components import (
    Block,
    Cell,
    Column,
    Criterion,
    Decision,
    Figure,
    Section,
    Table,
    Text,
    missing,
)
from ddeval.report.measures import measure
from ddeval.report.rounding import (
    Unit,
    counted,
    is_undefined,
    ranged,
    shown,
    shown_interval,
    shown_time,
    shown_with_interval,
)

Answer = Literal["pass", "fail", "cannot tell"]

DECISIONS = (
    "malignant_sensitivity_at_specificity_80", "malignant_sensitivity_at_specificity_90",
    "malignant_sensitivity_at_specificity_95", "malignant_missed_per_1000", "urgent_missed_per_1000",
    "expected_cost",
)  # fmt: skip
_HARM = {"right": "right", "deferred": "deferred", "missed": "wrong"}
"""Outcomes of harm and the mark each is drawn with."""
_ASKED = {
    "not_worse": "worse by less than ", "better": "better by more than ", "at_least": "at least ",
    "at_most": "at most ", None: "",
}  # fmt: skip
MOST = 8
"""Rows that stand open on the page; a longer list is folded."""


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
        unit = _gate_unit(c)
        text = shown_with_interval(c["value"], c["ci_low"], c["ci_high"], unit, n=c.get("n_images"))
        if c.get("bound") is not None:
            text += f", asked: {_asked(c, unit)}"
        if c.get("note"):
            text += f" ({ranged(str(c['note']))})"
        n = f"n = {shown(c['n_images'], 'count')}" if c.get("n_images") is not None else ""
        criteria.append(Criterion(str(c["name"]), _answer(c["answer"]), text, n))
    looked = shown_time(str(gate["first_look"]))
    note = f"Criteria written before the run: sha256 {gate['sha256']}, first looked at {looked}."
    return Decision(_answer(gate["answer"]), str(gate["sentence"]), criteria, note=note)


def gate_sentence(gate: Mapping[str, Any]) -> str:
    """What the gate says, in words: how many criteria are met, which are not, and why one cannot be told.

    Of more than two that are not met the names alone: the reasons stand in the table below.
    """
    by_answer: dict[str, list[Mapping[str, Any]]] = {"pass": [], "fail": [], "cannot tell": []}
    for c in gate["criteria"]:
        by_answer[_answer(c["answer"])].append(c)
    n, passed = shown(len(gate["criteria"]), "count"), len(by_answer["pass"])
    if gate["answer"] == "pass":
        return (
            f"The gate is passed: {n} of {n} criteria."
            if len(gate["criteria"]) > 1
            else "The gate is passed."
        )
    open_ones = {answer: of for answer in ("fail", "cannot tell") if (of := by_answer[answer])}
    words = {"fail": "failed", "cannot tell": "cannot tell"}
    if sum(map(len, open_ones.values())) > 2:
        said = [f"{words[a]}: {_names(of)}" for a, of in open_ones.items()]
    else:
        said = [f"{words[answer]}: {_why(c)}" for answer, of in open_ones.items() for c in of]
    opening = "The gate is failed" if gate["answer"] == "fail" else "The gate cannot be answered yet"
    return f"{opening}: {shown(passed, 'count')} of {n} criteria pass; {'; '.join(said)}."


def _names(criteria: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"“{c['name']}”" for c in criteria)


def _why(criterion: Mapping[str, Any]) -> str:
    """A criterion that does not pass, with its interval beside what was asked, or why it has none."""
    unit = _gate_unit(criterion)
    interval = shown_interval(criterion["ci_low"], criterion["ci_high"], unit)
    asked = "" if criterion.get("bound") is None else f", asked {_asked(criterion, unit)}"
    if not interval:
        return f"“{criterion['name']}” has no interval{asked} ({criterion.get('note') or 'too few to say'})"
    sides = " is on both sides of the bound" if criterion["answer"] == "cannot tell" else ""
    return f"“{criterion['name']}” (interval {interval}{sides}{asked})"


def _gate_unit(criterion: Mapping[str, Any]) -> Unit:
    """Of a criterion's number: a difference in points, a gap in the distance of what it is a gap of."""
    if criterion.get("is_difference"):
        return difference_unit(criterion["metric"])
    if criterion.get("of"):
        return "distance" if difference_unit(criterion["of"]) == "points" else "probability"
    return measure(criterion["metric"]).unit


def _asked(criterion: Mapping[str, Any], unit: Unit) -> str:
    """The bound in words, `worse by less than 1.0 points`; without words for the side, the sign tells it."""
    kind = criterion.get("kind")
    if kind not in ("not_worse", "better"):
        return f"{_ASKED[kind]}{shown(criterion['bound'], unit)}"
    margin = shown(criterion["bound"], "distance" if unit == "points" else unit)
    return f"{_ASKED[kind]}{margin.lstrip('+')}"


def harm_section(
    harm: pd.DataFrame | None,
    *,
    deferring: pd.DataFrame | None = None,
    kept: pd.DataFrame | None = None,
    drawn: Sequence[str] = (),
) -> Section:
    """What happens to the conditions that must not be missed, or the line that says what to supply.

    Parameters
    ----------
    deferring, kept : DataFrames
        The same under a deferral rule, and what it answers: `run, has_rule, metric, value, ci_low, ci_high`.
    drawn : run names
        Those that get a bar; all where empty. The table has every run.
    """
    if harm is None or harm.empty:
        return missing(
            "harm",
            "Malignant and urgent conditions",
            "Not measured: no image has a diagnosis that conditions.yaml calls malignant or urgent. Supply "
            "the groups there, and raw_label in the manifest, so that a cancer inside “other” is found too.",
            menu="Harm",
        )
    figure = harm_figure(harm, only=drawn)
    if drawn and set(harm["run"]) <= set(drawn) and figure.table:  # the decision has shown every row of it
        table = replace(figure.table, caption="The outcomes as a table", is_folded=True)
        figure = replace(figure, table=table)
    blocks: list[Block] = [figure]
    if deferring is not None and len(deferring):
        blocks.append(
            harm_figure(
                deferring, only=drawn, id="harm-deferring", title="The same under the deferral rule",
                deferred="answered “other”, or held back by the rule of ddeval abstain",
            )
        )  # fmt: skip
    if kept is not None and len(kept):
        blocks.append(_kept_table(kept))
    return Section("harm", "Malignant and urgent conditions", blocks, menu="Harm")


def decided_table(harm: pd.DataFrame, runs: Sequence[str]) -> Table:
    """Right, deferred or missed in one line a checkpoint and group, of the two that are decided about."""
    of = harm[harm["run"].isin(runs)]
    table = harm_figure(of, id="harm-decided", title="").table
    assert table is not None
    return replace(table, caption="Malignant and urgent conditions: right, deferred or missed", is_flat=True)


def _kept_table(kept: pd.DataFrame) -> Table:
    """What each checkpoint answers under its rule, and how much of that is wrong."""
    rows = []
    for run, held in kept.groupby("run", sort=False):
        of = {row["metric"]: row for row in held.to_dict("records")}
        rule = "its own" if held["has_rule"].all() else "none: only “other” defers"
        cells = [
            value_cell(of[name]["value"], "percent", interval=(of[name]["ci_low"], of[name]["ci_high"]))
            for name in ("answered", "answered_wrong")
        ]
        rows.append([Cell(str(run)), Cell(rule), *cells])
    columns = [Column("Checkpoint", is_number=False), Column("Rule", is_number=False)]
    columns += [Column(measure(name).title) for name in ("answered", "answered_wrong")]
    return Table("kept-table", "All photographs under the deferral rule", columns, rows)


def harm_figure(
    harm: pd.DataFrame,
    *,
    only: Sequence[str] = (),
    id: str = "harm",
    title: str = "What happens to the conditions that must not be missed",
    deferred: str = "answered “other”, so that a person looks",
) -> Figure:
    """Right, deferred or missed, for each group of conditions and each run, with counts and interval.

    Parameters
    ----------
    harm : DataFrame
        `group` (malignant, urgent), `run`, `outcome` (right, deferred, missed), `n_images`, `share`,
        `per_1000` and, where there are, `ci_low`, `ci_high`, `per_1000_low`, `per_1000_high`, `prevalence`,
        `n_groups` (patients of the group).
    """
    drawn, rows = [], []
    for (group, run), held in harm.groupby(["group", "run"], sort=False):
        n_images = int(held["n_images"].sum())
        outcomes = {str(row["outcome"]): row for row in held.to_dict("records")}
        parts = [(outcomes[name]["share"], mark, name) for name, mark in _HARM.items() if name in outcomes]
        if not only or run in only:
            name = f"{group}, {run}: {counted(n_images, 'photographs')}"
            if "missed" in outcomes:  # its part of the bar may be too narrow for words
                name += f", {shown(outcomes['missed']['share'], 'percent')} missed"
            drawn.append(figures.tag("p", name, class_="sharename"))
            drawn.append(figures.plot_shares(parts, label=f"{group}, {run}: outcomes; the table is below."))
        missed = outcomes.get("missed", {})
        of_patients = missed.get("n_groups")
        patients = "" if is_undefined(of_patients) else counted(of_patients, "patients")
        rows.append(
            [
                Cell(str(run), sub=str(group)),
                *(_harm_cell(outcomes.get(name)) for name in _HARM),
                value_cell(
                    missed.get("per_1000"),
                    "per_1000",
                    interval=(missed.get("per_1000_low"), missed.get("per_1000_high")),
                ),
                Cell(shown(n_images, "count"), sub=patients, sort=n_images),
            ]
        )
    columns = [
        Column("Checkpoint", is_number=False),
        *(Column(title) for title in ("Right", "Deferred", "Missed", "Missed per 1,000", "Photographs")),
    ]
    return Figure(
        f"{id}-figure",
        title,
        "Each bar is all photographs of the group. Right: answered with a condition at least as serious. "
        f"Deferred: {deferred}. Missed: answered with something less serious.",
        figures.joined(drawn),
        table=Table(f"{id}-table", "Right, deferred or missed", columns, rows, note=_prevalences(harm)),
        keys=[("right", "right"), ("deferred", "deferred"), ("wrong", "missed")],
    )


def _prevalences(harm: pd.DataFrame) -> str:
    """At which prevalence the numbers per 1,000 patients stand."""
    if "prevalence" not in harm:
        return ""
    of = dict(zip(harm["group"], harm["prevalence"], strict=True))
    said = ", ".join(f"{group} {shown(share, 'percent')}" for group, share in of.items())
    return f"Per 1,000 patients at a prevalence of {said}. State yours with --prevalence."


def decision_section(
    net_benefit: pd.DataFrame | None,
    sure_misses: pd.DataFrame | None,
    numbers: Table | None,
    *,
    colours: Mapping[str, int],
) -> Section:
    """Net benefit, the decision numbers of each checkpoint, and the malignant images answered surely wrong.

    Parameters
    ----------
    net_benefit : DataFrame
        `run, threshold, net_benefit, refer_all` and, where there are, intervals and `difference`.
    sure_misses : DataFrame
        `run, image_id, diagnosis, label, predicted, confidence`.
    """
    blocks: list[Block] = []
    if net_benefit is not None and len(net_benefit):
        curves = {str(run): held for run, held in net_benefit.groupby("run", sort=False)}
        blocks.append(net_benefit_figure(curves, colours=colours))
    if numbers is not None and numbers.rows:
        blocks.append(numbers)
    if sure_misses is not None:
        blocks.append(_sure_misses(sure_misses))
    if not blocks:
        supply = "Not measured: conditions.yaml gives no image a group. Supply malignant and urgent there."
        return missing("decisions", "Decisions", supply)
    return Section("decisions", "Decisions", blocks)


def _sure_misses(table: pd.DataFrame) -> Block:
    if table.empty:
        return Text("No malignant photograph is answered surely with a benign condition.", style="note")
    columns = ["run", "diagnosis", "label", "predicted", "confidence", "image_id"]
    caption = "Malignant, and answered surely with a benign condition"
    return frame_table(
        table[columns], id="sure-misses", caption=caption, is_filterable=True, is_folded=len(table) > MOST
    )


def net_benefit_figure(curves: Mapping[str, pd.DataFrame], *, colours: Mapping[str, int]) -> Figure:
    """Net benefit of referring by each checkpoint's probability, beside referring everybody or nobody.

    Parameters
    ----------
    curves : mapping of run to DataFrame
        `threshold`, `net_benefit`, `refer_all`.
    """
    first = next(iter(curves.values()))
    ends = [name for name in ("net_benefit", "ci_high") if name in first]
    top = max(float(curve[ends].max().max()) for curve in curves.values())
    y_axis = figures.Axis.around_zero([0.0 if is_undefined(top) else top], unit="probability")
    all_referred = first[["threshold", "refer_all"]].rename(columns={"refer_all": "net_benefit"})
    within = all_referred[all_referred["net_benefit"] >= y_axis.low]
    keys = [(f"dot s{colours[run]}", run) for run in curves]
    lines = [(curve, colours[run]) for run, curve in curves.items()]
    thresholds = figures.Axis.over(
        0.0, *(float(first["threshold"].max()) * i / 5 for i in (1, 2, 3, 4, 5)), unit="percent"
    )
    table = pd.concat([curve.assign(checkpoint=run) for run, curve in curves.items()])
    return Figure(
        "net-benefit",
        "What referring by the model is worth",
        "Across: the probability from which one refers, the price of a needless referral. Up: malignant "
        "photographs referred, less the needless ones at that price, per photograph. Below the dotted line "
        "it is better to refer everybody."
        + (" The bands are 95 % intervals." if "ci_high" in first else ""),
        figures.plot_lines(
            [(within, 0), *lines], x="threshold", y="net_benefit", x_axis=thresholds, y_axis=y_axis,
            x_title="threshold, %", y_title="net benefit per photograph",
            label="Net benefit; its table is below.",
        ),
        table=frame_table(
            table[["checkpoint", *first.columns]], id="net-benefit-table", caption="The curves as a table",
            is_folded=True,
        ),
        keys=[*keys, ("dashes", "refer everybody"), ("line0", "refer nobody: 0")],
    )  # fmt: skip


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
