"""The page of a comparison: decision and harm first, the Round-1 table, and the evidence behind both.

Drawn from the folder `ddeval compare` left and from nothing else; nothing is computed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.report import side_by_side
from ddeval.report.cells import frame_table, values_table
from ddeval.report.comparison import (
    best_sentence,
    difference_sentence,
    flips_gallery,
    forest,
    readers_table,
    round_1_table,
    series_of,
    versions_table,
)
from ddeval.report.components import Block, Folded, Page, Section, Text, missing
from ddeval.report.decisions import (
    DECISIONS,
    decided_table,
    decision_section,
    gate_block,
    gate_sentence,
    harm_section,
)
from ddeval.report.evidence import (
    compared_section,
    definition_section,
    errors_section,
)
from ddeval.report.guidelines import Reported
from ddeval.report.inputs import UNKNOWN, RunTables, read_run_tables
from ddeval.report.page import render
from ddeval.report.rounding import counted, shown
from ddeval.report.subgroups import measured_attributes, subgroup_section, whole_of
from ddeval.report.vetted import vetted_section

FORESTS = ("top_1_accuracy", "top_3_accuracy", "balanced_accuracy", "auroc_macro", "nll", "augrc")
REQUIRED = ("values", "differences", "mcnemar", "best", "flips")


@dataclass(frozen=True)
class ComparisonTables:
    """The folder of a comparison, read once."""

    folder: Path
    facts: Mapping[str, Any]
    """comparison.json."""
    tables: Mapping[str, pd.DataFrame]
    """By file name without the ending."""
    runs: Sequence[RunTables]
    """Each run's own tables, in the order of comparison.json."""

    def images(self, name: str) -> pd.DataFrame:
        """A table's rows by image, not by case."""
        table = self.tables[name]
        return table[table["subset"] == "all"]

    @property
    def baseline(self) -> str:
        return str(self.facts["baseline"])

    @property
    def candidate(self) -> RunTables:
        """The run the page decides about: the one the gate was asked of, else the last named."""
        return next(run for run in self.runs if run.name == self.facts["candidate"])

    @property
    def colours(self) -> dict[str, int]:
        """Of each run and, after these, of each ensemble: it has numbers but no folder of its own."""
        return series_of(list(dict.fromkeys(self.tables["values"]["run"])))

    def gain(self, metric: str) -> dict[Any, Any] | None:
        """The candidate's difference to the baseline."""
        rows = self.images("differences")
        held = rows[(rows["run"] == self.facts["candidate"]) & (rows["metric"] == metric)]
        return held.to_dict("records")[0] if len(held) else None


def write_compare_report(folder: Path, out: Path, *, date: str, photos: bool = False) -> None:
    """Write the page of the comparison in `folder` to `out`; the same tables and date give the same bytes.

    Parameters
    ----------
    folder : Path
        `comparison.json`, the tables beside it and the folders of the runs.
    """
    compared = read_comparison(folder)
    io.write_text(out, render(compare_page(compared, date=date, photos=photos)))


def read_comparison(folder: Path) -> ComparisonTables:
    """The tables of a comparison; an InputError says where there are none."""
    if not (folder / "comparison.json").is_file():
        raise InputError(
            str(folder),
            "no comparison.json",
            expected="the tables of a comparison",
            todo="Make them with: ddeval compare RUN RUN.",
        )
    facts: dict[str, Any] = io.read_json(folder / "comparison.json")
    tables = {path.stem: io.read_parquet(path)[0] for path in sorted(folder.glob("*.parquet"))}
    lacking = [name for name in REQUIRED if name not in tables]
    if lacking:
        raise InputError(
            str(folder), f"no {lacking[0]}.parquet", expected="the tables of a comparison",
            todo="Make them again with: ddeval compare RUN RUN.",
        )  # fmt: skip
    runs = [
        read_run_tables(folder / f"run-{i}", label_version=str(facts["labels"]))
        for i in range(1, len(facts["runs"]) + 1)
    ]
    return ComparisonTables(folder, facts, tables, runs)


def compare_page(compared: ComparisonTables, *, date: str, photos: bool) -> Page:
    """The page, in the order it is read in a meeting."""
    facts, tables, runs = compared.facts, compared.tables, compared.runs
    candidate, colours, is_synthetic = compared.candidate, compared.colours, bool(facts["is_synthetic"])
    has_photos = photos or is_synthetic
    attributes = measured_attributes(tables.get("subgroups"))
    numbers = values_table(
        compared.images("values"), DECISIONS, colours=colours, id="decision-table",
        caption="Decisions in numbers, with 95 % intervals",
    )  # fmt: skip
    reported = Reported(
        n_looks=len(facts.get("looks", [])), attributes=attributes, has_net_benefit="net_benefit" in tables,
        n_readers=_n_readers(tables.get("readers")), has_photos=has_photos,
    )  # fmt: skip
    return Page(
        eyebrow=_measured(compared, date=date, has_photos=has_photos),
        title=f"{candidate.name} against {compared.baseline}",
        verdict=_verdict(compared),
        is_synthetic=is_synthetic,
        facts=(),
        sections=(
            *vetted_section(tables.get("loop"), tables.get("loop_queues"), colours=colours),
            _decision_section(compared),
            _round_1_section(compared),
            harm_section(
                tables.get("harm"),
                deferring=tables.get("harm_deferring"),
                kept=tables.get("deferring"),
                drawn=_decided(compared),
            ),
            _difference_section(compared),
            side_by_side.class_section(runs, candidate, colours),
            side_by_side.confusion_section(runs, candidate, colours, link="errors-gallery"),
            side_by_side.calibration_section(runs, colours),
            side_by_side.abstaining_section(runs, colours, tables.get("conformal")),
            decision_section(tables.get("net_benefit"), tables.get("sure_misses"), numbers, colours=colours),
            subgroup_section(
                tables.get("subgroups"),
                tables.get("subgroup_extremes"),
                tables.get("subgroup_calibration"),
                candidate=candidate.name,
                whole=whole_of(candidate),
                deferring=tables.get("subgroups_deferring"),
                series=colours[candidate.name],
            ),
            _flip_section(compared, has_photos=has_photos),
            errors_section(candidate, has_photos=has_photos, title=f"Confident errors of {candidate.name}"),
            compared_section(runs, candidate, facts, reported),
            definition_section(),
        ),
        footer=f"Drawn by ddeval from the tables in {compared.folder.name}/, of which comparison.json is the "
        "JSON twin. This file needs no network and sends nothing.",
        provenance={"page": "comparison", "comparison": compared.folder.name, "date": date, "photos": photos},
    )


def _n_readers(readers: pd.DataFrame | None) -> int:
    return 0 if readers is None else readers.loc[readers["kind"] == "reader", "reader"].nunique()


def _decided(compared: ComparisonTables) -> Sequence[str]:
    """The checkpoints the decision is between, baseline first."""
    return (compared.baseline, compared.candidate.name)


def _verdict(compared: ComparisonTables) -> str:
    """The candidate against the baseline, then who cannot be told from the best: both from intervals."""
    gain, gate = compared.gain("top_1_accuracy"), compared.facts["gate"]
    said = [gate_sentence(gate)] if gate else []
    said += [difference_sentence(gain)] if gain else []
    if len(compared.runs) > 2:
        said.append(best_sentence(compared.images("best"), "top_1_accuracy"))
    return " ".join(said)


def _measured(compared: ComparisonTables, *, date: str, has_photos: bool) -> str:
    """What was measured, in one line."""
    facts = compared.facts
    manifest = str(compared.candidate.facts.get("manifest", {}).get("path", "")).rsplit("/", 1)[-1]
    as_given = " (as given, not vetted)" if facts["labels"] == "v0" else ""
    said = [
        "Comparison",
        date,
        f"{manifest or 'manifest not given'}, split {', '.join(facts.get('splits', [])) or 'all'}",
        _counts(compared),
        f"labels {facts['labels']}{as_given}",
        f"photographs {'shown' if has_photos else 'left out of this file'}",
    ]
    return " · ".join(said)


def _counts(compared: ComparisonTables) -> str:
    """Photographs, of a target class where not all are, and patients."""
    facts = compared.facts
    n_target = (compared.candidate.number("top_1_accuracy") or UNKNOWN).n_images
    of_target = f" ({shown(n_target, 'count')} of a target class)" if 0 < n_target < facts["n_images"] else ""
    photographs, groups = facts["n_images"], counted(facts["n_groups"], facts["group_unit"])
    return f"{counted(photographs, 'photographs')}{of_target}, {groups}"


def _decision_section(compared: ComparisonTables) -> Section:
    """The gate, and below it what becomes of the conditions that must not be missed."""
    gate, harm = compared.facts["gate"], compared.tables.get("harm")
    supply = "No criteria were given. Write them before the run and pass them with --gate gate.yaml."
    blocks: list[Block] = [Text(supply, style="missing") if gate is None else gate_block(gate)]
    if harm is not None and len(harm):
        blocks.append(decided_table(harm, _decided(compared)))
    return Section("gate", "Decision", blocks, is_missing=len(blocks) == 1 and gate is None)


def _round_1_section(compared: ComparisonTables) -> Section:
    tables = compared.tables
    blocks: list[Block] = [
        round_1_table(
            compared.images("values"), compared.images("differences"), compared.images("best"),
            baseline=compared.baseline, about=tables.get("about"), reported=tables.get("reported"),
            readers=tables.get("readers"),
        )
    ]  # fmt: skip
    if len(compared.runs) > 2:
        note = (
            "A checkpoint “not told from the best” may be the best: the set holds the true best in 95 % of "
            "such samples, all pairs taken together."
        )
        blocks.append(Text(note, style="note"))
    if "readers" in tables:
        blocks.append(readers_table(tables["readers"], colours=compared.colours))
    else:
        supply = "Human readers: not available. Freeze a batch that was read and score the runs under it."
        blocks.append(Text(supply, style="missing"))
    if "versions" in tables:
        blocks.append(versions_table(tables["versions"], colours=compared.colours))
    blocks.append(side_by_side.headline_table(compared.runs, compared.colours))
    return Section("round-1", "Checkpoints side by side", blocks, menu="Side by side")


def _difference_section(compared: ComparisonTables) -> Section:
    differences = compared.images("differences")
    forests: list[Block] = [
        forest(differences, metric, colours=compared.colours, margin=_margin(compared, metric))
        for metric in FORESTS
        if (differences["metric"] == metric).any()
    ]
    mcnemar = frame_table(
        compared.tables["mcnemar"],
        id="mcnemar-table",
        caption="Right alone, and the exact test (counts images)",
    )
    counts = Text(
        "McNemar's test counts images as if each were a patient. With several photographs a patient its "
        "p-value is too small; it is here to be compared with other papers."
    )
    blocks = [*forests[:2], Folded("Other measures", forests[2:])] if len(forests) > 2 else forests
    blocks.append(Folded("McNemar’s test, which counts images", [counts, mcnemar]))
    lead = (
        "Differences are taken within each resample of patients, so what the checkpoints share cancels. "
        "Where two separate intervals overlap, the paired one may still leave out 0."
    )
    return Section("differences", "Differences to the baseline", blocks, lead=lead, menu="Differences")


def _margin(compared: ComparisonTables, metric: str) -> float | None:
    """The largest loss the gate allows, where it asks about this metric over all images."""
    gate = compared.facts["gate"] or {"criteria": []}
    asked = [c for c in gate["criteria"] if c["kind"] == "not_worse" and c["metric"] == metric]
    return next((float(c["bound"]) for c in asked if c.get("subset", "all") == "all"), None)


def _flip_section(compared: ComparisonTables, *, has_photos: bool) -> Section:
    table, candidate, baseline = compared.tables["flips"], compared.candidate.name, compared.baseline
    if table.empty:
        supply = "No photograph is answered rightly by one checkpoint and wrongly by another."
        return missing("flips", "Flips", supply)
    of = table[(table["run"] == candidate) & (table["baseline"] == baseline)]
    blocks: list[Block] = [
        flips_gallery(
            of[of["direction"] == direction], right=right, wrong=wrong, run=candidate, baseline=baseline,
            folder=compared.folder, has_photos=has_photos, id=id,
        )
        for direction, right, wrong, id in (
            (1, candidate, baseline, "gained"),
            (-1, baseline, candidate, "lost"),
        )
    ]  # fmt: skip
    rest = table[table["run"] != candidate]
    if len(rest):
        named = rest.assign(
            right=[
                r if d > 0 else b
                for r, b, d in zip(rest["run"], rest["baseline"], rest["direction"], strict=True)
            ]
        )
        columns = ["run", "right", "label", "predicted", "confidence", "baseline_predicted", "image_id"]
        caption = f"The surest flips of the others against {baseline}"
        blocks.append(
            frame_table(named[columns], id="flips-table", caption=caption, is_filterable=True, is_folded=True)
        )
    return Section("flips", "Flips: one right, the other wrong", blocks, menu="Flips")
