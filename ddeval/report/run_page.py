"""The page of one run: each section is a function from its tables to blocks.

Sections that a comparison or an audit shows as well take a `RunTables` and nothing else, so that another
page can put them where it likes.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from ddeval.report import figures
from ddeval.report.components import (
    Block,
    Card,
    Cell,
    Column,
    Definitions,
    DotPlot,
    DotRow,
    Fact,
    Facts,
    Figure,
    Gallery,
    Heat,
    Listing,
    Page,
    Photo,
    Section,
    Table,
    Text,
    Tone,
    missing,
)
from ddeval.report.inputs import UNKNOWN, Number, RunTables
from ddeval.report.measures import MEASURES, measure
from ddeval.report.rounding import (
    Unit,
    is_undefined,
    rounded,
    shown,
    shown_interval,
    shown_range,
    shown_with_interval,
)

HEADLINE = (
    "top_1_accuracy", "top_3_accuracy", "top_5_accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "mcc",
    "cohen_kappa", "auroc_macro", "auroc_weighted", "average_precision_macro",
)  # fmt: skip
OTHER = (
    "open_top_1_accuracy", "open_top_3_accuracy", "open_top_5_accuracy", "other_auroc", "other_sensitivity", "other_ppv",
)  # fmt: skip
CALIBRATION = (
    "calibration_gap", "ece", "ece_equal_mass", "mce", "classwise_ece", "smooth_ece", "brier_score", "nll",
)  # fmt: skip
SELECTIVE = ("coverage_at_risk_5", "coverage_at_risk_10", "aurc", "augrc")
TILES = ("top_1_accuracy", "top_3_accuracy", "balanced_accuracy", "calibration_gap")
BIASED_UP = ("ece", "ece_equal_mass", "mce", "classwise_ece", "smooth_ece")
"""Their ci_low and ci_high are the band of a perfectly calibrated model, not an interval of the value."""
BY_CLASS = (
    "sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "average_precision", "labelled_share", "predicted_share",
)  # fmt: skip
LEVELS = 20
"""Steps of the heat scale above 0."""


def run_page(run: RunTables, *, date: str, photos: bool) -> Page:
    """The whole page; `photos` puts patients' photographs in, synthetic ones are always in."""
    has_photos = photos or run.is_synthetic
    return Page(
        eyebrow=f"Run report · {date}",
        title=str(run.facts.get("run", run.folder.name)),
        verdict=verdict(run),
        stamp="SYNTHETIC" if run.is_synthetic else "",
        stamp_note="These photographs were drawn by a computer. No number on this page says anything about patients."
        if run.is_synthetic
        else "",
        tiles=tuple(_tile(name, run.number(name)) for name in TILES if run.number(name)),
        facts=tuple(measured_facts(run, date=date, has_photos=has_photos)),
        sections=(
            headline_section(run),
            class_section(run),
            confusion_section(run),
            calibration_section(run),
            abstaining_section(run),
            other_section(run),
            subgroup_section(run),
            errors_section(run, has_photos=has_photos),
            evidence_section(run),
            definition_section(),
        ),
        footer=f"Drawn by ddeval from {run.folder.name}/labels-{run.label_version}. "
        "This file needs no network and sends nothing.",
    )


def verdict(run: RunTables) -> str:
    """One sentence from the intervals: what share is answered right, and whether the confidence is true."""
    top_1, top_3, gap = (
        run.number(name) or UNKNOWN for name in ("top_1_accuracy", "top_3_accuracy", "calibration_gap")
    )
    if is_undefined(top_1.value):
        return "Nothing can be said: no photograph with a label of a target class was scored."
    parts = [f"The first answer is the given label for {_between(top_1, 'percent')} of photographs"]
    if not is_undefined(top_3.value):
        parts.append(f"and the label is among the first three answers for {_between(top_3, 'percent')}")
    text = " ".join(parts)
    if not is_undefined(gap.ci_low):
        text += "; " + _confidence_clause(gap)
    return text + "."


def measured_facts(run: RunTables, *, date: str, has_photos: bool) -> Iterable[Fact]:
    """What was measured: the facts at the head of the page."""
    facts = run.facts
    top_1 = run.number("top_1_accuracy") or UNKNOWN
    yield Fact("Split", ", ".join(facts.get("splits", [])) or "not given")
    yield Fact("Photographs", shown(facts.get("n_images", top_1.n_images), "count"))
    yield Fact(
        "Patients", shown(facts.get("n_groups", top_1.n_groups), "count"), title="The unit of every interval."
    )
    as_given = " (as given in the manifest, not vetted)" if run.label_version == "v0" else ""
    yield Fact("Labels", f"{run.label_version}{as_given}")
    yield Fact("Date", date)
    yield Fact("Photographs in this file", "shown" if has_photos else "left out")


def headline_section(run: RunTables) -> Section:
    """The headline table: photographs and cases side by side."""
    return Section(
        "headline",
        "Headline numbers",
        (
            estimates_table(
                run,
                HEADLINE,
                id="headline-table",
                caption="Closed set: the answer is one of the target classes",
            ),
        ),
        menu="Headline",
        lead="Each with its 95 % interval over patients. A case is one consultation: the mean logit of its photographs.",
    )


def estimates_table(run: RunTables, names: Sequence[str], *, id: str, caption: str, note: str = "") -> Table:
    """Metrics as rows; value, interval and n of photographs, and of cases where there are any."""
    has_cases = bool((run.metrics["subset"] == "cases").any())
    subsets = ("all", "cases") if has_cases else ("all",)
    rows = []
    for name in names:
        numbers = [run.number(name, subset=subset) for subset in subsets]
        if any(numbers):
            about = measure(name)
            row = [Cell(about.title, title=about.meaning)]
            for number in numbers:
                row += _estimate_cells(name, number)
            rows.append(row)
    each = [Column("value"), Column("95 % interval"), Column("n")]
    groups = [("", 1), ("Photographs", 3), *([("Cases", 3)] if has_cases else [])]
    return Table(
        id, caption, [Column("Measure", is_number=False), *each * len(subsets)], rows, is_sortable=False, note=note,
        groups=groups,
    )  # fmt: skip


def class_section(run: RunTables) -> Section:
    """Per class: sensitivity as dots, and every other number in a table."""
    names = class_names(run)
    if not names:
        return missing("classes", "Per class", "No numbers per class: the labels hold no target class.")
    return Section(
        "classes",
        "Per class",
        (_sensitivity_plot(run, names), _class_table(run, names)),
    )


def class_names(run: RunTables) -> list[str]:
    """Classes that have numbers of their own, in the order of the table."""
    held = run.metrics["class_name"].dropna()
    return list(dict.fromkeys(held.astype(str)))


def confusion_section(run: RunTables) -> Section:
    """Confusion as heat, and the pairs that are confused most."""
    confusion = run.curve("confusion")
    if confusion is None:
        return missing(
            "confusion", "Confusion", "No confusion table: score the run again with this version of ddeval."
        )
    blocks: list[Block] = [_confusion_heat(confusion)]
    pairs = run.curve("most_confused")
    if pairs is not None:
        blocks.append(
            Listing(
                "pairs",
                "Most confused pairs",
                [
                    Cell(
                        f"{pair.label} → {pair.predicted}",
                        sub=f"{shown(pair.n, 'count')} photographs, {shown(pair.share, 'percent')} of the label",
                        link="errors-gallery" if run.curve("gallery") is not None else "",
                        filters=f"{pair.label} → {pair.predicted}",
                    )
                    for pair in pairs.itertuples()
                ],
            )
        )
    return Section(
        "confusion",
        "Confusion",
        blocks,
        lead="What was answered when each class was labelled. Every row sums to 100 %.",
    )


def calibration_section(run: RunTables) -> Section:
    """Is a stated confidence true? The curve before and after temperature scaling, and the calibrators."""
    before, after = run.curve("reliability"), run.curve("reliability_after")
    if before is None:
        return missing("calibration", "Calibration", "No reliability table: score the run again.")
    keys = [("dot s1", "as the model answers")]
    if after is not None:
        keys.append(("open s2", "after temperature scaling"))
    blocks: list[Block] = [
        Figure(
            "reliability",
            "Confidence against accuracy",
            "Below the dotted line the model claims more than it gets right, above it less. The bars say how many "
            "photographs stand behind each point.",
            figures.plot_reliability(before, after, label="Reliability curve; its table is below the drawing."),
            table=_reliability_table(before, after),
            keys=[*keys, ("dashes", "perfect calibration")],
            facts=tuple(_calibration_facts(run)),
        ),
        estimates_table(
            run, CALIBRATION, id="calibration-table", caption="Calibration in numbers",
            note="Measures of the ECE family are above 0 even for a perfectly calibrated model. Their band is what such a "
            "model shows at this n (5 to 95 %), not an interval: a value inside its band is no evidence of a fault.",
        ),
    ]  # fmt: skip
    calibrators = run.curve("calibrators")
    if calibrators is not None:
        blocks.append(
            frame_table(
                calibrators, id="calibrators", caption="Recalibration methods, judged on the test split"
            )
        )
    return Section("calibration", "Calibration", blocks)


def abstaining_section(run: RunTables) -> Section:
    """What is left when the model answers only where it is sure enough."""
    curve = run.curve("risk_coverage")
    if curve is None:
        return missing("abstaining", "Abstaining", "No risk–coverage table: score the run again.")
    marks = []
    for risk, name in ((0.05, "coverage_at_risk_5"), (0.10, "coverage_at_risk_10")):
        number = run.number(name)
        if number is not None and not is_undefined(number.value):
            words = f"{shown(risk, 'percent')} wrong: answers {shown(number.value, 'percent')}"
            marks.append((number.value, risk, words))
    blocks: list[Block] = [
        Figure(
            "risk-coverage",
            "How often it is wrong, when only the surest are answered",
            "Go left to answer fewer photographs: the curve says what share of the answers given is then wrong.",
            figures.plot_risk_coverage(
                curve, marks, label="Risk–coverage curve; its table is below the drawing."
            ),
            table=frame_table(
                _thinned(curve, 40), id="risk-coverage-table", caption="The curve as a table", is_folded=True
            ),
        )
    ]
    outcomes = run.curve("outcomes")
    if outcomes is not None:
        blocks.append(_outcomes_figure(outcomes))
    blocks.append(estimates_table(run, SELECTIVE, id="selective-table", caption="Abstaining in numbers"))
    return Section("abstaining", "Abstaining", blocks)


def other_section(run: RunTables) -> Section:
    """The class that stands for everything else: open set, and as a detector."""
    if not any(run.number(name) for name in OTHER):
        return missing(
            "other", "The class “other”", "The model has no class for everything else, so closed and open set are one.",
            menu="“Other”",
        )  # fmt: skip
    return Section(
        "other",
        "The class “other”",
        (estimates_table(run, OTHER, id="other-table", caption="Open set: “other” may be answered too"),),
        lead="Here “other” is one of the answers, and wrong for a photograph of a target class.",
        menu="“Other”",
    )


def subgroup_section(run: RunTables) -> Section:
    """Subgroups are a section of their own once their table is there."""
    return missing(
        "subgroups",
        "Subgroups",
        "Not measured. Supply skin_type, sex, age, body_site or source in the manifest, then: ddeval compare.",
    )


def errors_section(run: RunTables, *, has_photos: bool) -> Section:
    """The confident errors, surest first."""
    table = run.curve("gallery")
    if table is None:
        return missing(
            "errors", "Confident errors", "There are none: no scored photograph was answered wrongly."
        )
    left_out = (
        ""
        if has_photos
        else "Patients’ photographs are left out of this file. Add --photos to the command to put them in."
    )
    cards = [
        Card(
            photos=(
                Photo(
                    str(row.image_id),
                    f"{row.image_id}: labelled {row.label}, answered {row.predicted}",
                    run.photo(str(row.thumbnail)) if has_photos and isinstance(row.thumbnail, str) else "",
                ),
            ),
            lines=(
                ("labelled", str(row.label)),
                ("answered", str(row.predicted)),
                ("confidence", shown(row.confidence, "percent")),
                ("image", str(row.image_id)),
            ),
            filters=f"{row.label} → {row.predicted} {row.image_id}",
        )
        for row in table.itertuples()
    ]
    return Section(
        "errors",
        "Confident errors",
        (
            Gallery(
                "errors-gallery",
                "Where the model was surest and the label says otherwise",
                "Surest first. Some are errors of the model, some of the label: this is where to look for both.",
                cards,
                f"The {shown(len(cards), 'count')} surest errors.",
                left_out,
            ),
        ),
    )


def evidence_section(run: RunTables) -> Section:
    """What the numbers rest on: checks of the data, what was left out, inputs and versions."""
    blocks: list[Block] = [checks_table(run.checks)] if run.checks else []
    if run.quarantine.empty:
        blocks.append(Text("Quarantine: empty. Every row of the manifest was scored."))
    else:
        n = shown(len(run.quarantine), "count")
        blocks.append(frame_table(run.quarantine, id="quarantine", caption=f"Quarantine: {n} not scored"))
    blocks.append(facts_table(run.facts, id="inputs", caption="Inputs, settings and versions (run.json)"))
    return Section("evidence", "Evidence", blocks)


def definition_section() -> Section:
    """Every measure in a line."""
    items = [(about.title, about.meaning) for about in MEASURES.values()]
    return Section(
        "definitions",
        "Definitions",
        (Definitions(items),),
        lead="In full, with conventions and sources: docs/metrics.md.",
    )


def checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    """Data checks by code; what does not apply is not called passed."""
    tones: dict[str, Tone] = {"passed": "good", "finding": "bad"}
    signs = {"passed": "✓ passed", "finding": "! finding"}
    rows = [
        [
            Cell(str(check["code"])),
            Cell(str(check["title"])),
            Cell(signs.get(check["status"], str(check["status"])), tone=tones.get(check["status"], "plain")),
            Cell(str(check["message"] or "")),
        ]
        for check in checks
    ]
    columns = [Column(title, is_number=False) for title in ("Check", "Asks for", "Answer", "Found")]
    return Table("checks", "Data checks", columns, rows)


def facts_table(facts: Mapping[str, Any], *, id: str, caption: str) -> Table:
    """Nested facts as one row each, named by their path."""
    rows = [[Cell(name), Cell(text)] for name, text in _flat(facts)]
    columns = [Column("Name", is_number=False), Column("Value", is_number=False)]
    return Table(id, caption, columns, rows, is_filterable=True, is_folded=True)


def frame_table(frame: pd.DataFrame, *, id: str, caption: str, is_folded: bool = False) -> Table:
    """Any table as it stands, its numbers written as the measure of that name is."""
    columns = [
        Column(_column_title(name), is_number=pd.api.types.is_numeric_dtype(frame[name]))
        for name in frame.columns
    ]
    rows = [
        [_plain_cell(value, name) for value, name in zip(row, frame.columns, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    return Table(id, caption, columns, rows, is_folded=is_folded)


def _between(number: Number, unit: Unit) -> str:
    if is_undefined(number.ci_low) or is_undefined(number.ci_high):
        return shown(number.value, unit)
    return shown_range(number.ci_low, number.ci_high, unit)


def _confidence_clause(gap: Number) -> str:
    if gap.ci_low > 0:
        return f"it claims {_between(gap, 'points')} more confidence than it earns"
    if gap.ci_high < 0:
        less = Number(-gap.value, -gap.ci_high, -gap.ci_low, gap.n_images, gap.n_groups)
        return f"it claims {_between(less, 'points')} less confidence than it earns"
    most = max(-gap.ci_low, gap.ci_high)
    return f"its mean confidence is true to within {shown(most, 'points').lstrip('+')}"


def _tile(name: str, number: Number | None) -> Fact:
    about, held = measure(name), number or UNKNOWN
    interval = shown_interval(held.ci_low, held.ci_high, about.unit)
    return Fact(
        about.title, shown(held.value, about.unit, n=held.n_images), sub=interval, title=about.meaning
    )


def _estimate_cells(name: str, number: Number | None) -> list[Cell]:
    about = measure(name)
    if number is None:
        return [Cell("–"), Cell(""), Cell("")]
    interval = shown_interval(number.ci_low, number.ci_high, about.unit)
    band = f"band {interval}" if interval and name in BIASED_UP else interval
    return [
        Cell(shown(number.value, about.unit, n=number.n_images), sort=_key(number.value)),
        Cell(band),
        Cell(
            shown(number.n_images, "count"),
            sort=number.n_images,
            title=f"{shown(number.n_images, 'count')} of {shown(number.n_groups, 'count')} patients",
        ),
    ]


def _sensitivity_plot(run: RunTables, names: Sequence[str]) -> DotPlot:
    numbers = {name: run.number("sensitivity", class_name=name) or UNKNOWN for name in names}
    order = sorted(
        names, key=lambda name: (is_undefined(numbers[name].value), -(_key(numbers[name].value) or 0))
    )
    balanced = run.number("balanced_accuracy") or UNKNOWN
    reference = None if is_undefined(balanced.value) else balanced.value
    return DotPlot(
        "sensitivity",
        "Which classes are recognised",
        "Each dot is the share of a class’s photographs that is answered right, the bar its 95 % interval. A long bar "
        "means few patients. The line is the mean over classes.",
        [_dot_row(name, numbers[name], reference) for name in order],
        figures.plot_axis(figures.PERCENT_AXIS),
    )


def _dot_row(name: str, number: Number, reference: float | None) -> DotRow:
    drawing = figures.plot_interval(
        number.value, number.ci_low, number.ci_high, axis=figures.PERCENT_AXIS, reference=reference
    )
    return DotRow(
        name,
        shown(number.n_images, "count"),
        drawing,
        shown(number.value, "percent", n=number.n_images),
        sub=shown_interval(number.ci_low, number.ci_high, "percent"),
    )


def _class_table(run: RunTables, names: Sequence[str]) -> Table:
    shown_names = [m for m in BY_CLASS if any(run.number(m, class_name=name) for name in names)]
    rows = []
    for name in names:
        of_class = run.number("sensitivity", class_name=name) or UNKNOWN
        row = [
            Cell(name),
            Cell(
                shown(of_class.n_images, "count"),
                sub=f"{shown(of_class.n_groups, 'count')} patients",
                sort=of_class.n_images,
            ),
        ]
        for metric in shown_names:
            about, number = measure(metric), run.number(metric, class_name=name)
            held = number or UNKNOWN
            row.append(
                Cell(
                    shown(held.value, about.unit, n=held.n_images),
                    sub=shown_interval(held.ci_low, held.ci_high, about.unit),
                    sort=_key(held.value),
                )
            )
        rows.append(row)
    columns = [
        Column("Class", is_number=False),
        Column("n"),
        *(Column(measure(m).title, help=measure(m).meaning) for m in shown_names),
    ]
    return Table("class-table", "Every number of every class", columns, rows, is_filterable=True)


def _confusion_heat(confusion: pd.DataFrame) -> Heat:
    labels = list(dict.fromkeys(confusion["label"]))
    answers = list(dict.fromkeys(confusion["predicted"]))
    cells = {(row.label, row.predicted): row for row in confusion.itertuples()}
    totals = confusion.groupby("label", sort=False)["n"].sum()
    rows = []
    for label in labels:
        row = [Cell(str(label), title=f"{shown(totals[label], 'count')} photographs")]
        for answer in answers:
            held = cells.get((label, answer))
            row.append(Cell("") if held is None else _heat_cell(held, int(totals[label])))
        rows.append(row)
    columns = [Column("labelled ↓  answered →", is_number=False), *(Column(str(a)) for a in answers)]
    ticks = (0.0025, 0.01, 0.04, 0.1, 0.25, 0.5, 0.75, 1.0)
    return Heat(
        Table(
            "confusion-table",
            "Confusion: share of each label’s photographs",
            columns,
            rows,
            is_sortable=False,
        ),
        scale=[(_level(t), shown(t, "percent")) for t in ticks],
        row_title="labelled",
        column_title="answered",
    )


def _heat_cell(row: Any, total: int) -> Cell:
    if row.n == 0:
        return Cell("", title=f"{row.label} answered as {row.predicted}: 0 of {shown(total, 'count')}")
    title = (
        f"{row.label} answered as {row.predicted}: {shown(row.n, 'count')} of {shown(total, 'count')} "
        f"({shown(row.share, 'percent')})"
    )
    return Cell(rounded(row.share, "percent"), title=title, level=_level(row.share))


def _level(share: float) -> int:
    """Step of the heat scale: the root of the share, so that rare confusions can be told apart."""
    return max(1, round(math.sqrt(share) * LEVELS))


def _reliability_table(before: pd.DataFrame, after: pd.DataFrame | None) -> Table:
    columns = [
        Column("Confidence bin", is_number=False),
        Column("n"),
        Column("mean confidence"),
        Column("accuracy"),
    ]
    held = [before]
    if after is not None:
        columns += [Column("n, scaled"), Column("mean confidence, scaled"), Column("accuracy, scaled")]
        held.append(after)
    rows = []
    for i in range(len(before)):
        row = [
            Cell(
                f"{rounded(before['low'].iloc[i], 'probability')} to {rounded(before['high'].iloc[i], 'probability')}"
            )
        ]
        for table in held:
            n = int(table["n"].iloc[i])
            row.append(Cell(shown(n, "count"), sort=n))
            row += [
                Cell(shown(table[name].iloc[i], "percent", n=n), sort=_key(table[name].iloc[i]))
                for name in ("confidence", "accuracy")
            ]
        rows.append(row)
    return Table("reliability-table", "The curve as a table", columns, rows, is_folded=True)


def _calibration_facts(run: RunTables) -> Iterable[Fact]:
    gap, ece, smooth = (run.number(name) for name in ("calibration_gap", "ece", "smooth_ece"))
    if gap:
        text = shown_with_interval(gap.value, gap.ci_low, gap.ci_high, "points")
        yield Fact("Confidence − accuracy", text)
    if ece:
        band = shown_interval(ece.ci_low, ece.ci_high, "probability")
        yield Fact(
            "ECE", shown(ece.value, "probability"), sub=f"a perfect model at this n: {band}" if band else ""
        )
    if smooth:
        yield Fact("Smooth ECE", shown(smooth.value, "probability"))


def _outcomes_figure(outcomes: pd.DataFrame) -> Figure:
    first = outcomes.iloc[0]
    return Figure(
        "outcomes",
        "Right, wrong, deferred",
        "Every photograph ends in one of three ways.",
        figures.plot_shares(
            [
                (first["right"], "right", "right"),
                (first["wrong"], "wrong", "wrong"),
                (first["deferred"], "deferred", "deferred"),
            ],
            label="Shares of the three outcomes; the table is below.",
        ),
        table=frame_table(
            outcomes, id="outcomes-table", caption="The three outcomes as a table", is_folded=True
        ),
        keys=[("right", "answered right"), ("wrong", "answered wrong"), ("deferred", "deferred")],
    )


def _thinned(frame: pd.DataFrame, n_rows: int) -> pd.DataFrame:
    return frame.iloc[:: max(1, -(-len(frame) // n_rows))]


def _column_title(name: str) -> str:
    return MEASURES[name].title if name in MEASURES else name.replace("_", " ")


def _plain_cell(value: Any, name: str) -> Cell:
    if isinstance(value, str):
        return Cell(value)
    if value is None:
        return Cell("")
    if name in ("n", "rank") or name.startswith("n_"):
        return Cell(shown(value, "count"), sort=_key(value))
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    unit: Unit = MEASURES[name].unit if name in MEASURES else _UNITS.get(name, "probability")
    return Cell(shown(float(value), unit), sort=_key(float(value)))


_UNITS: dict[str, Unit] = {
    "coverage": "percent", "risk": "percent", "share": "percent", "confidence": "percent", "accuracy": "percent",
    "right": "percent", "wrong": "percent", "deferred": "percent",
}  # fmt: skip


def _flat(value: Any, name: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(str(v) for v in value)
    else:
        yield name, "" if value is None else str(value)


def _key(value: float) -> float | None:
    """What a cell is sorted by; None where it is undefined, which sorts last."""
    return None if is_undefined(value) else float(value)
