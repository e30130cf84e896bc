"""The head of a run's page: the verdict, what was measured, the headline table, and the class `other`."""

from collections.abc import Iterable

from ddeval.report import figures
from ddeval.report.cells import estimates_table, frame_table
from ddeval.report.classes import MAX_HEAT_CLASSES, confusion_heat
from ddeval.report.components import Block, Fact, Figure, Folded, Section, Text, missing
from ddeval.report.inputs import UNKNOWN, Number, RunTables
from ddeval.report.measures import measure
from ddeval.report.rounding import NBSP, Unit, is_undefined, shown, shown_interval, shown_range

TILES = ("top_1_accuracy", "top_3_accuracy", "balanced_accuracy", "calibration_gap")
HEADLINE = (
    "top_1_accuracy", "top_3_accuracy", "top_5_accuracy", "balanced_accuracy", "macro_f1", "weighted_f1",
    "mcc", "cohen_kappa", "auroc_macro", "auroc_weighted", "average_precision_macro",
)  # fmt: skip
OPEN_SET = (
    "open_top_1_accuracy", "open_top_3_accuracy", "open_top_5_accuracy", "open_balanced_accuracy",
    "other_auroc", "other_sensitivity", "other_ppv",
)  # fmt: skip


def verdict(run: RunTables) -> str:
    """One sentence from the intervals: what share is answered right, and whether the confidence is true."""
    names = ("top_1_accuracy", "top_3_accuracy", "calibration_gap")
    top_1, top_3, gap = (run.number(name) or UNKNOWN for name in names)
    if is_undefined(top_1.value):
        return "Nothing can be said: no photograph with a label of a target class was scored."
    text = f"The first answer matches the given label for {_between(top_1, 'percent')} of photographs"
    if not is_undefined(top_3.value):
        text += f", and one of the first three does for {_between(top_3, 'percent')}"
    if not is_undefined(gap.ci_low):
        text += f"; {_confidence_clause(gap)}"
    return text + "."


def tiles(run: RunTables) -> Iterable[Fact]:
    """The four numbers that are read first."""
    for name in TILES:
        number = run.number(name)
        if number is not None:
            about = measure(name)
            text = shown(number.value, about.unit, n=number.n_images)
            interval = shown_interval(number.ci_low, number.ci_high, about.unit)
            sub = f"95 % interval {interval.replace(' ', NBSP)}" if interval else ""
            yield Fact(about.title, text, sub=sub, title=about.meaning)


def measured_facts(run: RunTables, *, date: str, has_photos: bool) -> Iterable[Fact]:
    """What was measured: data, n, labels, date."""
    facts, summary = run.facts, run.summary
    manifest = str(facts.get("manifest", {}).get("path", "")).rsplit("/", 1)[-1]
    yield Fact("Data", f"{manifest or 'not given'}, split {', '.join(facts.get('splits', [])) or 'all'}")
    n_images, n_target = summary.get("n_images"), (run.number("top_1_accuracy") or UNKNOWN).n_images
    has_others = n_images is not None and 0 < n_target < n_images
    of_target = f"{shown(n_target, 'count')} of a target class" if has_others else ""
    yield Fact("Photographs", shown(n_images, "count"), sub=of_target)
    yield Fact(
        run.group_unit.capitalize(), shown(summary.get("n_groups"), "count"), title="What an interval draws."
    )
    as_given = " (as given in the manifest, not vetted)" if run.label_version == "v0" else ""
    yield Fact("Labels", f"{run.label_version}{as_given}")
    yield Fact("Date", date)
    yield Fact("Photographs in this file", "shown" if has_photos else "left out")


def headline_section(run: RunTables) -> Section:
    """The headline table: photographs and cases side by side."""
    caption = "Closed set: the answer is one of the target classes"
    blocks: list[Block] = [estimates_table(run, HEADLINE, id="headline-table", caption=caption)]
    excluded = run.summary.get("excluded_classes", [])
    if excluded:
        blocks.append(
            Text(
                f"Without a photograph here, and so in no mean over classes: {', '.join(excluded)}.",
                style="note",
            )
        )
    cases = " A case is one consultation: the mean logit of its photographs." if run.has_cases else ""
    lead = f"Each with its 95 % interval over {run.group_unit}.{cases}"
    return Section("headline", "Headline numbers", blocks, menu="Headline", lead=lead)


def other_section(run: RunTables) -> Section:
    """The class that stands for everything else: open set, and as a detector."""
    title, menu = "The class “other”", "“Other”"
    if run.number("other_auroc") is None:
        return missing(
            "other",
            title,
            "The model has no class for everything else: closed and open set are one.",
            menu=menu,
        )
    blocks: list[Block] = []
    outcomes = run.curve("three_outcomes")
    if outcomes is not None:
        blocks.append(
            Figure(
                "outcomes",
                "Right, wrong or deferred",
                "Answering “other” defers. A photograph of a target class should be answered right, and one "
                "of anything else should be deferred.",
                figures.plot_outcomes(outcomes, label="Shares of the three outcomes; their table is below."),
                table=frame_table(
                    outcomes, id="outcomes-table", caption="The outcomes as a table", is_folded=True
                ),
                keys=[("right", "right"), ("wrong", "wrong"), ("deferred", "deferred")],
            )
        )
    blocks.append(
        estimates_table(run, OPEN_SET, id="other-table", caption="Open set: “other” may be answered too")
    )
    if run.curve("open_confusion") is not None and len(run.class_names) <= MAX_HEAT_CLASSES:
        blocks.append(
            Folded("Confusion with “other” among the answers", [confusion_heat(run, prefix="open_")])
        )
    lead = "Here “other” is one of the answers; it is wrong for a photograph of a target class."
    return Section("other", title, blocks, lead=lead, menu=menu)


def _between(number: Number, unit: Unit) -> str:
    if is_undefined(number.ci_low) or is_undefined(number.ci_high):
        return shown(number.value, unit)
    return shown_range(number.ci_low, number.ci_high, unit)


def _confidence_clause(gap: Number) -> str:
    low, high = sorted((abs(gap.ci_low), abs(gap.ci_high)))
    if gap.ci_low > 0 or gap.ci_high < 0:
        way = "more" if gap.ci_low > 0 else "less"
        return f"the model claims {shown_range(low, high, 'distance')} {way} confidence than it earns"
    return f"its mean confidence is true to within {shown(high, 'distance')}"
