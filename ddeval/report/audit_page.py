"""The page of an audit: which labels to doubt, what is there twice, and how readers agreed.

Drawn from the folder `ddeval audit` left and from nothing else. It shows suspicions, worst first: what is
wrong, readers decide (`ddeval vet`), and how much is wrong, `ddeval truth` estimates.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.report import figures
from ddeval.report.components import (
    Block,
    Cell,
    Column,
    Definitions,
    DotPlot,
    DotRow,
    Fact,
    Page,
    Section,
    Table,
    Text,
    missing,
)
from ddeval.report.doubts import (
    doubtful_section,
    duplicates_section,
    health_section,
    off_topic_section,
    overlap_section,
)
from ddeval.report.measures import DOUBTS
from ddeval.report.page import render
from ddeval.report.rounding import shown, shown_interval

AUDIT_FILE = "audit.json"
N_CARDS = 60
"""Doubtful labels, pairs and odd photographs that a page shows; all of them are in the tables."""
READERS_FILE = "readers.parquet"
KINDS = {
    "ranked": "the most doubtful",
    "random": "drawn at random, for the estimate",
    "repeat": "hidden repeats",
}


@dataclass(frozen=True)
class AuditTables:
    """The folder of an audit, read once."""

    folder: Path
    facts: Mapping[str, Any]
    """audit.json."""
    issues: pd.DataFrame
    """The first `N_CARDS`, with `thumbnail` where there is one."""
    n_issues: int
    duplicates: pd.DataFrame
    off_topic: pd.DataFrame
    """With `thumbnail` of the first `N_CARDS`, as `duplicates` with two."""
    health: pd.DataFrame
    overlap: pd.DataFrame
    readers: pd.DataFrame | None
    """`who, agrees, ci_low, ci_high, n`, the model last; None before a batch is closed."""


def write_audit_report(folder: Path, out: Path, *, date: str, photos: bool = False) -> None:
    """Write the page of the audit in `folder` to `out`; the same tables, date and flags give the same bytes.

    Parameters
    ----------
    folder : Path
        `audit.json` and the tables beside it.
    photos : bool
        Put patients' photographs in; synthetic ones are always in.
    """
    io.write_text(out, render(audit_page(read_audit(folder), date=date, photos=photos)))


def read_audit(folder: Path) -> AuditTables:
    """The tables of an audit; an InputError says where there are none."""
    tables = {}
    for name in ("issues", "duplicates", "off_topic", "health", "overlap"):
        lacking = next((p for p in (AUDIT_FILE, f"{name}.parquet") if not (folder / p).is_file()), None)
        if lacking:
            raise InputError(
                str(folder), f"no {lacking}", expected="an audit folder",
                todo="Make one with: ddeval audit RUN.",
            )  # fmt: skip
        tables[name] = io.read_parquet(folder / f"{name}.parquet")[0]
    issues, readers = tables.pop("issues"), folder / READERS_FILE
    return AuditTables(
        folder=folder,
        facts=io.read_json(folder / AUDIT_FILE),
        issues=issues.head(N_CARDS),
        n_issues=len(issues),
        readers=io.read_parquet(readers)[0] if readers.is_file() else None,
        **tables,
    )


def audit_page(audit: AuditTables, *, date: str, photos: bool) -> Page:
    """The page, in the order it is worked through."""
    facts, is_synthetic = audit.facts, bool(audit.facts["is_synthetic"])
    has_photos = photos or is_synthetic
    return Page(
        eyebrow=f"Audit · {date}",
        title=f"Labels of {facts['split']}, doubted by {' + '.join(facts['checkpoints'])}",
        verdict=_verdict(facts),
        is_synthetic=is_synthetic,
        tiles=tuple(_tiles(facts)),
        facts=(
            Fact("Photographs", shown(facts["n_images"], "count")),
            Fact("Cases", shown(facts["n_cases"], "count")),
            Fact("Without a label", shown(facts["n_unlabelled"], "count")),
            Fact("Labels", str(facts["labels"])),
            Fact("Date", date),
            Fact("Photographs in this file", "shown" if has_photos else "left out"),
        ),
        sections=(
            _how_section(facts),
            health_section(audit.health),
            doubtful_section(audit.issues, folder=audit.folder, has_photos=has_photos, n_all=audit.n_issues),
            overlap_section(audit.overlap, audit.health, issues=audit.issues),
            duplicates_section(
                audit.duplicates, facts["duplicates"], folder=audit.folder, has_photos=has_photos,
                n_cards=N_CARDS,
            ),
            off_topic_section(audit.off_topic, folder=audit.folder, has_photos=has_photos, n_cards=N_CARDS),
            readers_section(audit.readers),
            _queue_section(facts),
            _definition_section(),
        ),
        footer=f"Drawn by ddeval from the tables in {audit.folder.name}/. This file needs no network and "
        "sends nothing.",
        provenance={"page": "audit", "audit": audit.folder.name, "date": date, "photos": photos},
    )  # fmt: skip


def _verdict(facts: Mapping[str, Any]) -> str:
    n, found = facts["n_images"], facts["duplicates"]
    share = shown(facts["n_disagreeing"] / n if n else None, "percent")
    said = (
        f"The model names another class for {shown(facts['n_disagreeing'], 'count')} of {shown(n, 'count')} "
        f"labels ({share}) and guesses that about {shown(facts['errors_expected'], 'count')} are wrong; "
        "which ones, and how many, readers say."
    )
    if found["n_leak"]:
        said += f" Pairs of alike photographs across splits: {shown(found['n_leak'], 'count')}."
    if found["n_contradictory"]:
        said += f" Pairs with two labels: {shown(found['n_contradictory'], 'count')}."
    return said


def _tiles(facts: Mapping[str, Any]) -> Iterable[Fact]:
    found = facts["duplicates"]
    for name, sub in (
        ("n_disagreeing", f"of {shown(facts['n_images'], 'count')} labels"),
        ("errors_expected", "the model’s guess"),
    ):
        yield Fact(
            DOUBTS[name].title, shown(facts[name], "count"), sub=sub, title=DOUBTS[name].meaning
        )  # fmt: skip
    yield Fact("Duplicate pairs", shown(found["n_pairs"], "count"), sub="of the whole manifest")
    yield Fact("Leaks", shown(found["n_leak"], "count"), sub="pairs across splits")


def _how_section(facts: Mapping[str, Any]) -> Section:
    judged = (
        f"Each photograph was judged by a fit to the other folds, of {shown(facts['n_folds'], 'count')}."
        if facts.get("n_folds")
        else "The checkpoints must not have been trained on these labels: one that was believes wrong ones."
    )
    items = (
        (
            "It is a list",
            "Everything is sorted, worst first, and cut nowhere: look from the top until little is found.",
        ),
        ("Who judged", judged),
        (
            "What a model cannot tell",
            "One that errs in one way everywhere doubts right labels there. Look how well a class is "
            "recognised before it is called badly labelled.",
        ),
        (
            "What happens next",
            "No label is changed because of this page. Two blind readings and, where they differ, a third "
            "settle it; the queue is drawn so that an estimate of accuracy follows.",
        ),
    )
    lead = "Everything here is a suspicion."
    return Section("how", "How to read this page", [Definitions(items)], lead=lead, menu="How to read")


def readers_section(readers: pd.DataFrame | None) -> Section:
    """Each reader against the other readers of the same cases, and the model against all of them.

    Parameters
    ----------
    readers : DataFrame
        `who, agrees, ci_low, ci_high, n`, one row a reader and one of the model.
    """
    title = "Readers, and the model beside them"
    if readers is None or readers.empty:
        supply = (
            "No readings yet. Once the batch is closed: ddeval audit page AUDIT --batch NAME draws them in."
        )
        return missing("readers", title, supply, menu="Readers")
    rows = []
    for row in readers[readers["n"] > 0].to_dict("records"):
        values = (row["agrees"], row["ci_low"], row["ci_high"])
        series = 2 if row["who"] == "the model" else 1
        rows.append(
            DotRow(
                str(row["who"]),
                shown(row["n"], "count"),
                figures.plot_interval(*values, axis=figures.PERCENT_AXIS, series=series),
                shown(row["agrees"], "percent", n=int(row["n"])),
                sub=shown_interval(row["ci_low"], row["ci_high"], "percent"),
            )
        )
    has_model = "the model" in {row.name for row in rows}
    plot = DotPlot(
        "readers-plot",
        "How often each agrees with the other readers",
        "Each dot is the share of the other readers of a case who name the same first class, mean over "
        "cases; the bar is its 95 % interval over cases. Readers read blind. A model no lower than the "
        "readers is no proof that it is as good: the queue holds the cases it is most unsure of.",
        rows,
        figures.plot_axis(figures.PERCENT_AXIS),
        n_title="cases",
        value_title="agreement",
        keys=[("dot s1", "a reader"), ("dot s2", "the model")] if has_model else (),
    )
    blocks: list[Block] = [plot]
    if not has_model:
        blocks.append(
            Text(
                "The batch was opened without the model’s answers: ddeval vet open AUDIT keeps them.",
                style="note",
            )
        )
    return Section("readers", title, blocks, menu="Readers")


def _queue_section(facts: Mapping[str, Any]) -> Section:
    queue: Mapping[str, int] = facts["queue"]
    rows = [[Cell(kind), Cell(KINDS.get(kind, "")), Cell(shown(n, "count"))] for kind, n in queue.items()]
    columns = [Column("Kind", is_number=False), Column("What they are", is_number=False), Column("Cases")]
    blocks: list[Block] = [Table("queue-table", "The queue for readers", columns, rows, is_sortable=False)]
    flagged: Mapping[str, int] = facts["n_flagged"]
    blocks.append(_flagged_table(flagged) if flagged else Text("Too many rows for cleanlab’s filters."))
    lead = (
        f"{facts['rule']} Which of these a case is, a reader is never told. Each case keeps the probability "
        f"with which it was drawn; seed {shown(facts['seed'], 'count')} draws the same queue again."
    )
    return Section("queue", "What comes before readers", blocks, lead=lead, menu="Queue")


def _definition_section() -> Section:
    items = [(about.title, about.meaning) for about in DOUBTS.values()]
    lead = "With conventions and sources: docs/metrics.md."
    return Section("definitions", "Definitions", [Definitions(items)], lead=lead)


def _flagged_table(flagged: Mapping[str, int]) -> Table:
    rows: Sequence[Sequence[Cell]] = [
        [Cell(name.replace("_", " ")), Cell(shown(n, "count"), sort=float(n))] for name, n in flagged.items()
    ]
    columns = [Column("cleanlab’s filter", is_number=False), Column("Labels flagged")]
    note = "For comparison with other tools. How many are flagged says little of how many are wrong."
    return Table("flagged", "What cleanlab’s filters flag", columns, rows, is_folded=True, note=note)
