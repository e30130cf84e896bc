"""The page of a comparison: the gate first, the Round-1 table, and the evidence behind both.

Drawn from the tables `ddeval compare` left in a folder and from each run's own; nothing is computed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.report.cells import facts_table, frame_table
from ddeval.report.comparison import (
    difference_sentence,
    forest,
    round_1_table,
    series_of,
)
from ddeval.report.components import Block, Fact, Page, Section, Text, missing
from ddeval.report.decisions import gate_block
from ddeval.report.evidence import definition_section
from ddeval.report.page import render
from ddeval.report.rounding import shown

FORESTS = ("top_1_accuracy", "top_3_accuracy", "balanced_accuracy", "auroc_macro", "nll", "augrc")
SYNTHETIC_NOTE = (
    "These photographs were drawn by a computer. No number on this page says anything about patients."
)


def write_compare_report(folder: Path, out: Path, *, date: str, photos: bool = False) -> None:
    """Write the page of the comparison in `folder` to `out`; the same tables and date give the same bytes.

    Parameters
    ----------
    folder : Path
        `comparison.json` and the tables beside it.
    """
    if not (folder / "comparison.json").is_file():
        raise InputError(
            str(folder),
            "no comparison.json",
            expected="the tables of a comparison",
            todo="Make them with: ddeval compare RUN RUN.",
        )
    facts: dict[str, Any] = io.read_json(folder / "comparison.json")
    tables = {name: io.read_parquet(folder / f"{name}.parquet")[0] for name in TABLES}
    io.write_text(out, render(_page(facts, tables, date=date, photos=photos)))


TABLES = ("values", "differences", "mcnemar", "best", "flips")


def _page(facts: Mapping[str, Any], tables: Mapping[str, pd.DataFrame], *, date: str, photos: bool) -> Page:
    baseline, is_synthetic = str(facts["baseline"]), bool(facts["is_synthetic"])
    headline = _rows(tables["differences"], "all", "top_1_accuracy")
    photographs = "shown" if photos or is_synthetic else "left out"
    return Page(
        eyebrow=f"Comparison · {date}",
        title=f"{len(facts['runs'])} checkpoints on the same photographs",
        verdict=" ".join(difference_sentence(row) for row in headline.to_dict("records")),
        stamp="SYNTHETIC" if is_synthetic else "",
        stamp_note=SYNTHETIC_NOTE if is_synthetic else "",
        facts=(
            Fact("Photographs", shown(facts["n_images"], "count")),
            Fact(str(facts["group_unit"]).capitalize(), shown(facts["n_groups"], "count")),
            Fact(
                "Labels",
                f"{facts['labels']}" + (" (as given, not vetted)" if facts["labels"] == "v0" else ""),
            ),
            Fact("Baseline", baseline),
            Fact("Date", date),
            Fact("Photographs in this file", photographs if len(tables["flips"]) else "none"),
        ),
        sections=(
            _gate_section(facts["gate"]),
            _round_1_section(tables, baseline),
            _difference_section(tables["differences"], facts["runs"]),
            _mcnemar_section(tables["mcnemar"]),
            _flip_section(tables["flips"]),
            _evidence_section(facts),
            definition_section(),
        ),
        footer="Drawn by ddeval from the tables beside this file. It needs no network and sends nothing.",
    )


def _gate_section(gate: Mapping[str, Any] | None) -> Section:
    if gate is None:
        return missing(
            "gate",
            "Gate",
            "No criteria were given. Write them before the run and pass them with --gate gate.yaml.",
        )
    return Section("gate", "Gate", [gate_block(gate)])


def _round_1_section(tables: Mapping[str, pd.DataFrame], baseline: str) -> Section:
    of_images = {name: table[table["subset"] == "all"] for name, table in tables.items() if "subset" in table}
    table = round_1_table(of_images["values"], of_images["differences"], of_images["best"], baseline=baseline)
    note = Text(
        "A checkpoint that is 'not told from the best' may be the best: the set holds the true best in "
        "95 % of such samples, all pairs taken together.",
        style="note",
    )
    return Section("round-1", "Checkpoints side by side", [table, note], menu="Side by side")


def _difference_section(differences: pd.DataFrame, runs: list[str]) -> Section:
    of_images = differences[differences["subset"] == "all"]
    blocks: list[Block] = [
        forest(of_images, metric, colours=series_of(runs))
        for metric in FORESTS
        if len(_rows(differences, "all", metric))
    ]
    lead = (
        "Differences are taken within each resample of patients, so what the checkpoints share cancels. "
        "Where two separate intervals overlap, the paired one may still leave out 0."
    )
    return Section("differences", "Differences to the baseline", blocks, lead=lead, menu="Differences")


def _mcnemar_section(table: pd.DataFrame) -> Section:
    lead = (
        "Counts images as if each were a patient. With several photographs a patient its p-value is too "
        "small; it is here to be compared with other papers."
    )
    shown_table = frame_table(table, id="mcnemar-table", caption="Right alone, and the exact test")
    return Section("mcnemar", "McNemar's test (counts images)", [shown_table], lead=lead, menu="McNemar")


def _flip_section(table: pd.DataFrame) -> Section:
    if table.empty:
        return missing(
            "flips", "Flips", "No photograph is answered rightly by one checkpoint and wrongly by another."
        )
    named = table.assign(
        who=[
            r if d > 0 else b
            for r, b, d in zip(table["run"], table["baseline"], table["direction"], strict=True)
        ]
    )
    columns = ["who", "run", "image_id", "label", "predicted", "confidence", "baseline_predicted"]
    shown_table = frame_table(
        named[columns], id="flips-table", caption="The surest flips, each way", is_filterable=True
    )
    return Section("flips", "Flips: one right, the other wrong", [shown_table], menu="Flips")


def _evidence_section(facts: Mapping[str, Any]) -> Section:
    blocks: list[Block] = [facts_table(facts["inputs"], id="inputs", caption="What was compared")]
    blocks += [Text(str(note), style="note") for note in facts["notes"]]
    return Section("evidence", "Evidence", blocks)


def _rows(table: pd.DataFrame, subset: str, metric: str) -> pd.DataFrame:
    return table[(table["subset"] == subset) & (table["metric"] == metric)]
