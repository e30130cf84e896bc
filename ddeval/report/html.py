"""Tables to one self-contained HTML file: the door of the report.

A page is a list of sections and each section a function from tables to blocks, so that another page is
another list. Nothing is computed here and nothing is read but tables and the thumbnails a run stored: no
model, no seed, no clock. The same tables, date and flags give the same bytes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io
from ddeval.report import classes, confidence, decisions, evidence, headline, subgroups
from ddeval.report.cells import estimates_table
from ddeval.report.components import Page, Section
from ddeval.report.guidelines import Reported
from ddeval.report.inputs import RunTables, read_run_tables
from ddeval.report.page import render


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
        is_synthetic=run.is_synthetic,
        tiles=tuple(headline.tiles(run)),
        facts=tuple(headline.measured_facts(run, date=date, has_photos=has_photos)),
        sections=(
            decisions.harm_section(
                _named(run, "harm"),
                deferring=_named(run, "harm_deferring"),
                kept=_named(run, "deferring"),
            ),
            headline.headline_section(run),
            classes.class_section(run),
            classes.confusion_section(run),
            confidence.calibration_section(run),
            confidence.abstaining_section(run),
            headline.other_section(run),
            _decision_section(run),
            subgroups.subgroup_section(
                _named(run, "subgroups"),
                _named(run, "subgroup_extremes"),
                _named(run, "subgroup_calibration"),
                candidate=run.name,
                whole=subgroups.whole_of(run),
                deferring=_named(run, "subgroups_deferring"),
            ),
            evidence.errors_section(run, has_photos=has_photos),
            evidence.evidence_section(run, looks=looks, reported=_reported(run, looks, has_photos)),
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


def _decision_section(run: RunTables) -> Section:
    numbers = estimates_table(run, decisions.DECISIONS, id="decision-table", caption="Decisions in numbers")
    return decisions.decision_section(
        _named(run, "net_benefit"), _named(run, "sure_misses"), numbers, colours={run.name: 1}
    )


def _named(run: RunTables, name: str) -> pd.DataFrame | None:
    """A curve of the run with the checkpoint's name in the column `run`, as a comparison has it."""
    table = run.curves.get(name)
    return None if table is None else table.assign(run=run.name)


def _reported(run: RunTables, looks: Sequence[Mapping[str, Any]], has_photos: bool) -> Reported:
    return Reported(
        n_looks=len(looks),
        attributes=subgroups.measured_attributes(run.curve("subgroups")),
        has_net_benefit=run.curve("net_benefit") is not None,
        has_photos=has_photos,
    )
