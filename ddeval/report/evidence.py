"""Evidence: the cases behind the numbers, the checks of the data, and what everything was made from."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ddeval.report.cells import facts_table, frame_table, value_cell
from ddeval.report.components import (
    Block,
    Card,
    Cell,
    Column,
    Definitions,
    Fact,
    Facts,
    Gallery,
    Photo,
    Section,
    Table,
    Text,
    Tone,
    missing,
)
from ddeval.report.guidelines import NOTHING_MORE, Reported, guideline_table
from ddeval.report.inputs import RunTables
from ddeval.report.measures import MEASURES
from ddeval.report.rounding import shown, shown_time

PHOTOS_LEFT_OUT = (
    "Patients’ photographs are left out of this file. Add --photos to the command to put them in."
)
NO_LOOKS = Text("Looks at this split: none recorded.", style="missing")
ERRORS = "errors-gallery"
"""Where a confused pair leads."""
QUARANTINE_SHOWN = ("image_id", "split", "code", "reason")
"""Not where the file lies: its name may be a patient's."""
ANSWERS: dict[str, tuple[str, Tone]] = {
    "passed": ("✓ passed", "good"),
    "failed": ("✕ failed", "bad"),
    "not_applicable": ("not applicable", "plain"),
}


def errors_section(run: RunTables, *, has_photos: bool, title: str = "Confident errors") -> Section:
    """The errors the model was surest of."""
    table = run.curve("gallery")
    if table is None:
        return missing("errors", title, "None: every photograph was answered as it is labelled.")
    block: Block = _errors_gallery(run, table) if has_photos else _errors_table(table)
    blocks: list[Block] = [block] if has_photos else [Text(PHOTOS_LEFT_OUT, style="note"), block]
    return Section("errors", title, blocks, menu="Confident errors")


def _errors_gallery(run: RunTables, table: pd.DataFrame) -> Gallery:
    cards = []
    for row in table.to_dict("records"):
        label, predicted, image_id = (str(row[name]) for name in ("label", "predicted", "image_id"))
        alt = f"{image_id}: labelled {label}, answered {predicted}"
        lines = (
            ("labelled", label),
            ("answered", predicted),
            ("confidence", shown(row["confidence"], "percent")),
            ("image", image_id),
        )
        photo = Photo(image_id, alt, run.photo(row["thumbnail"]))
        cards.append(Card((photo,), lines, filters=f"{label} → {predicted} {image_id}"))
    return Gallery(
        ERRORS,
        "Where the model was surest and the label says otherwise",
        "Surest first. Some are errors of the model and some of the label: both are found by looking here.",
        cards,
        note=f"The {shown(len(cards), 'count')} surest errors.",
    )


def _errors_table(table: pd.DataFrame) -> Table:
    rows = [
        [
            Cell(str(row["image_id"])),
            Cell(f"{row['label']} → {row['predicted']}"),
            value_cell(row["confidence"], "percent"),
        ]
        for row in table.to_dict("records")
    ]
    columns = [
        Column("Image", is_number=False),
        Column("Label → answer", is_number=False),
        Column("Confidence"),
    ]
    caption = "Where the model was surest and the label says otherwise"
    return Table(ERRORS, caption, columns, rows, is_filterable=True)


def evidence_section(
    run: RunTables, *, looks: Sequence[Mapping[str, Any]], reported: Reported = NOTHING_MORE
) -> Section:
    """What the numbers rest on: checks, what was left out, inputs, looks at the test split."""
    facts, summary = run.facts, run.summary
    checkpoint, manifest = facts.get("checkpoint", {}), facts.get("manifest", {})
    blocks: list[Block] = [
        Facts(
            "What the numbers were made from",
            [
                Fact("Checkpoint", str(checkpoint.get("sha256") or "not hashed"), is_code=True),
                Fact("Manifest", str(manifest.get("sha256") or "not hashed"), is_code=True),
                Fact("Run folder", run.folder.name, is_code=True),
                Fact("Not scored", shown(summary.get("n_quarantined"), "count")),
                Fact("Without a label", shown(summary.get("n_unlabelled"), "count")),
                *(Fact("Note", str(note)) for note in summary.get("notes", [])),
            ],
        )
    ]
    blocks.insert(0, guideline_table(run, reported))
    blocks.append(checks_block(run))
    blocks += _quarantine(run)
    blocks.append(looks_table(looks) if looks else NO_LOOKS)
    blocks.append(facts_table(facts, id="inputs", caption="Every input, setting and version (run.json)"))
    return Section("evidence", "Evidence", blocks)


def compared_section(
    runs: Sequence[RunTables], candidate: RunTables, facts: Mapping[str, Any], reported: Reported
) -> Section:
    """What a comparison rests on: guidelines, checks, what was left out, inputs, looks at the test split."""
    blocks: list[Block] = [guideline_table(candidate, reported), checks_block(candidate)]
    blocks += _quarantine(candidate)
    looks = facts.get("looks", [])
    blocks.append(looks_table(looks) if looks else NO_LOOKS)
    blocks += [Text(str(note), style="note") for note in facts["notes"]]
    blocks.append(
        facts_table(facts["inputs"], id="inputs", caption="What was compared: hashes, device, versions")
    )
    return Section("evidence", "Evidence", blocks)


def definition_section() -> Section:
    """Every measure in a line."""
    items = [(about.title, about.meaning) for about in MEASURES.values()]
    lead = (
        "With conventions and sources: docs/metrics.md. Open set: over all photographs, “other” among them."
    )
    return Section("definitions", "Definitions", (Definitions(items),), lead=lead)


def checks_block(run: RunTables) -> Block:
    """The data checks, or how to run them."""
    if run.checks:
        return checks_table(run.checks)
    return Text("Data checks: not run. Run them with: ddeval data check MANIFEST.", style="missing")


def _quarantine(run: RunTables) -> list[Block]:
    if not len(run.quarantine):
        return []
    caption = "Quarantine: rows of the manifest that could not be scored"
    columns = [name for name in QUARANTINE_SHOWN if name in run.quarantine.columns]
    return [frame_table(run.quarantine[columns], id="quarantine", caption=caption)]


def checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    """Data checks by code; one that does not apply is not called passed."""
    rows = []
    for check in checks:
        answer, tone = ANSWERS.get(check["status"], (str(check["status"]), "plain"))
        rows.append(
            [
                Cell(str(check["title"]), sub=str(check["code"])),
                Cell(answer, tone=tone),
                Cell(str(check.get("message") or "")),
            ]
        )
    columns = [Column(title, is_number=False) for title in ("What would be wrong", "Answer", "Found")]
    return Table("checks", "Data checks", columns, rows)


def looks_table(looks: Sequence[Mapping[str, Any]]) -> Table:
    """The ledger: each time numbers of this split were made."""
    rows = [
        [Cell(shown_time(str(look.get(name, "")))) for name in ("time", "run", "labels")]
        for look in sorted(looks, key=lambda look: str(look.get("time", "")))
    ]
    columns = [Column(title, is_number=False) for title in ("Time", "Run", "Labels")]
    n = shown(len(looks), "count")
    caption = f"Looks at this split: {n}. What is looked at often is slowly fitted to"
    return Table("looks", caption, columns, rows, is_folded=True, is_filterable=True)
