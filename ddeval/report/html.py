"""Tables to one self-contained HTML file: the door of the report.

A page is a list of sections and each section a function from tables to blocks, so that another page is
another list. Nothing is computed here and nothing is read but tables and the thumbnails a run stored: no
model, no seed, no clock. The same tables, date and flags give the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ddeval import io
from ddeval.report import classes, confidence, evidence, headline
from ddeval.report.components import Page
from ddeval.report.inputs import RunTables, read_run_tables
from ddeval.report.page import render

SYNTHETIC_NOTE = (
    "These photographs were drawn by a computer. No number on this page says anything about patients."
)


def write_run_report(
    run_folder: Path,
    out: Path,
    *,
    label_version: str = "v0",
    date: str,
    photos: bool = False,
    looks: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the page of one run to `out`.

    Parameters
    ----------
    run_folder : Path
        A run as `ddeval score` leaves it.
    out : Path
        The HTML file; replaced at once when it is there.
    label_version : str
        Which numbers: `labels-<version>` of the run folder.
    date : str
        Printed at the head of the page as it is given.
    photos : bool
        Put patients' photographs in; synthetic ones are always in. The page says which it is.
    looks : sequence of mappings
        The ledger of looks at the split: `time`, `run`, `labels`.

    Raises
    ------
    InputError
        If the folder is not a run, or holds no numbers under `label_version`.
    """
    run = read_run_tables(run_folder, label_version=label_version)
    io.write_text(out, render(run_page(run, date=date, photos=photos, looks=looks)))


def run_page(run: RunTables, *, date: str, photos: bool, looks: Sequence[Mapping[str, Any]] = ()) -> Page:
    """The page of one run, in the order it is read in a meeting."""
    has_photos = photos or run.is_synthetic
    return Page(
        eyebrow=f"Run report · {date}",
        title=run.name,
        verdict=headline.verdict(run),
        stamp="SYNTHETIC" if run.is_synthetic else "",
        stamp_note=SYNTHETIC_NOTE if run.is_synthetic else "",
        tiles=tuple(headline.tiles(run)),
        facts=tuple(headline.measured_facts(run, date=date, has_photos=has_photos)),
        sections=(
            headline.headline_section(run),
            classes.class_section(run),
            classes.confusion_section(run),
            confidence.calibration_section(run),
            confidence.abstaining_section(run),
            headline.other_section(run),
            headline.subgroup_section(run),
            evidence.errors_section(run, has_photos=has_photos),
            evidence.evidence_section(run, looks=looks),
            evidence.definition_section(),
        ),
        footer=f"Drawn by ddeval from {run.folder.name}/labels-{run.label_version}. "
        "This file needs no network and sends nothing.",
        provenance={
            "page": "run",
            "run": run.folder.name,
            "labels": run.label_version,
            "date": date,
            "photos": photos,
            "n_looks": len(looks),
        },
    )
