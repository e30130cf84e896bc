"""Confidence: is it true, and what is left when the model answers only where it is sure enough?"""

from collections.abc import Iterable

import pandas as pd

from ddeval.report import figures
from ddeval.report.cells import estimates_table, frame_table, perfect_band, value_cell
from ddeval.report.components import Block, Cell, Column, Fact, Figure, Section, Table, Text, missing
from ddeval.report.inputs import UNKNOWN, RunTables
from ddeval.report.rounding import (
    is_undefined,
    rounded,
    shown,
    shown_tick,
    shown_with_interval,
)

CALIBRATION = (
    "calibration_gap", "ece", "ece_equal_mass", "mce", "classwise_ece", "smooth_ece", "brier_score",
    "brier_score_calibration", "brier_score_refinement", "nll", "nll_calibration", "nll_refinement",
)  # fmt: skip
SELECTIVE = ("coverage_at_risk_5", "coverage_at_risk_10", "augrc", "aurc", "eaurc", "failure_auroc")
MOST_SETS = 8
"""Rows of prediction sets that stand open on the page."""
N_TABLE_ROWS = 40
"""Rows of a curve that are printed; all of them stand in the run folder."""


def calibration_section(run: RunTables) -> Section:
    """The reliability curve, before and after temperature scaling, and the calibrators."""
    before, after = run.curve("reliability"), run.curve("reliability_after")
    if before is None:
        return missing("calibration", "Calibration", "No reliability table. Make it with: ddeval score RUN.")
    keys = [("dot s1", "as the model answers"), ("dashes", "perfect calibration")]
    if after is not None:
        keys.insert(1, ("open s2", "after temperature scaling"))
    blocks: list[Block] = [
        Figure(
            "reliability",
            "Confidence against accuracy",
            "Below the dotted line the model claims more than it gets right, above it less. The bars say how "
            "many photographs stand behind each point.",
            figures.plot_reliability(
                before, after, label="Reliability curve; its table is below the drawing."
            ),
            table=_reliability_table(before, after),
            keys=keys,
            facts=tuple(_calibration_facts(run)),
        ),
        estimates_table(
            run,
            CALIBRATION,
            id="calibration-table",
            caption="Calibration in numbers",
            note="The measures of the ECE family have no interval: they are above 0 even for a "
            "perfectly calibrated model. Beside them stands, where it was simulated, what "
            "such a model shows at this n, 5 to 95 %.",
        ),
    ]
    calibrators = run.curve("calibrators")
    if calibrators is not None:
        if "note" in calibrators and not calibrators["note"].fillna("").any():
            calibrators = calibrators.drop(columns="note")
        caption = "Recalibration methods, judged on the split scored here"
        blocks.append(frame_table(calibrators, id="calibrators", caption=caption))
    return Section("calibration", "Calibration", blocks)


def abstaining_section(run: RunTables) -> Section:
    """Risk against coverage, with the working points that are asked for most."""
    curve = run.curve("risk_coverage")
    if curve is None:
        return missing("abstaining", "Abstaining", "No risk–coverage table. Make it with: ddeval score RUN.")
    marks, facts = [], []
    for risk, name in ((0.05, "coverage_at_risk_5"), (0.10, "coverage_at_risk_10")):
        number = run.number(name) or UNKNOWN
        words = f"{shown_tick(risk, 'percent')} %"
        answered = shown_with_interval(*number[:3], "percent", n=number.n_images)
        facts.append(Fact(f"Answered, with at most {words} wrong", answered))
        if not is_undefined(number.value):
            marks.append((number.value, risk, words))
    return Section(
        "abstaining",
        "Abstaining",
        (
            Figure(
                "risk-coverage",
                "How often it is wrong when only the surest are answered",
                "Go left to answer fewer photographs, the surest first: the curve says what share of the "
                "answers given is then wrong.",
                figures.plot_risk_coverage(
                    curve, marks, label="Risk–coverage curve; its table is below the drawing."
                ),
                table=frame_table(
                    figures.thinned(curve, N_TABLE_ROWS),
                    id="risk-coverage-table",
                    caption="The curve as a table",
                    is_folded=True,
                ),
                facts=facts,
            ),
            estimates_table(run, SELECTIVE, id="selective-table", caption="Abstaining in numbers"),
            sets_table(None if (sets := run.curve("conformal")) is None else sets.assign(run=run.name)),
        ),
    )


def sets_table(sets: pd.DataFrame | None) -> Block:
    """How often the lists of conformal prediction hold the label, and how long they are; or what to supply.

    Parameters
    ----------
    sets : DataFrame
        `ddeval.score.sets.prediction_sets` with a column `run`.
    """
    if sets is None or sets.empty:
        return Text("Prediction sets: not made. Make them with: ddeval score RUN.", style="missing")
    rows = []
    for row in sets.to_dict("records"):
        n = int(row["n_images"])
        rows.append(
            [
                Cell(str(row["run"]), sub=str(row["note"])),
                Cell(str(row["method"]), sub=str(row["basis"])),
                Cell(str(row["images"])),
                value_cell(row["coverage"], "percent", n=n, interval=(row["ci_low"], row["ci_high"])),
                value_cell(row["mean_size"], "length", n=n),
                *(value_cell(row[name], "percent", n=n) for name in ("share_single", "share_empty")),
                Cell(shown(n, "count"), sort=n),
            ]
        )
    words = ["Checkpoint", "Lists", "Photographs"]
    numbers = ["Hold the label", "Mean length", "One condition", "Empty", "n"]
    columns = [*(Column(name, is_number=False) for name in words), *map(Column, numbers)]
    asked = f"{shown_tick(sets['asked'].iloc[0], 'percent')} %"
    return Table(
        "sets-table",
        f"Lists of conditions that hold the label of {asked} of photographs",
        columns,
        rows,
        note="Conformal prediction: LAC lists are short, APS lists grow where a photograph is hard. "
        f"{asked} is promised of all photographs together, not of a risk group. An empty list defers.",
        is_folded=len(rows) > MOST_SETS,
    )


def _reliability_table(before: pd.DataFrame, after: pd.DataFrame | None) -> Table:
    columns = [
        Column("Confidence", is_number=False),
        Column("n"),
        Column("Mean confidence"),
        Column("Accuracy"),
    ]
    held = [before]
    if after is not None:
        columns += [Column("n, scaled"), Column("Mean confidence, scaled"), Column("Accuracy, scaled")]
        held.append(after)
    rows = []
    for i, (low, high) in enumerate(zip(before["low"], before["high"], strict=True)):
        row = [Cell(f"{rounded(low, 'percent')} to {shown(high, 'percent')}")]
        for table in held:
            bin_ = table.iloc[i]
            n = int(bin_["n"])
            row.append(Cell(shown(n, "count"), sort=n))
            row += [value_cell(bin_[c], "percent", n=n) for c in ("confidence", "accuracy")]
        rows.append(row)
    return Table(
        "reliability-table", "The curve as a table", columns, rows, is_folded=True, is_sortable=False
    )


def _calibration_facts(run: RunTables) -> Iterable[Fact]:
    gap, ece, smooth, p_value = (
        run.number(name) for name in ("calibration_gap", "ece", "smooth_ece", "ece_p_value")
    )
    if gap:
        yield Fact("Confidence − accuracy", shown_with_interval(gap.value, gap.ci_low, gap.ci_high, "points"))
    if ece:
        band = perfect_band(run, "ece")
        yield Fact(
            "ECE",
            shown(ece.value, "probability", n=ece.n_images),
            sub=f"a perfect model at this n: {band}" if band else "",
        )
    if p_value:
        yield Fact("p, were it perfectly calibrated", shown(p_value.value, "p_value"))
    fitted = run.summary.get("recalibration") or {}
    temperatures = [float(t) for t in fitted.get("temperatures", [])]
    if temperatures:
        least, most = shown(min(temperatures), "probability"), shown(max(temperatures), "probability")
        text = least if least == most else f"{least} to {most}"
        yield Fact(
            "Temperature",
            text,
            sub=str(fitted.get("basis", "")),
            title="Above 1 the model is over-confident.",
        )
    if smooth:
        yield Fact("Smooth ECE", shown(smooth.value, "probability", n=smooth.n_images))
