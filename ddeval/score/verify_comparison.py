"""Verification of a comparison: every table of its folder, made again from predictions and labels."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.score import comparison_folder
from ddeval.score.comparison_folder import COMPARISON_FILE, Asked, own_facts, run_numbers
from ddeval.score.folder import QUARANTINE_FILE, RUN_FILE
from ddeval.score.verify import (
    Difference,
    Verification,
    frame_differences,
    leaves,
    numbers_differences,
    value_differences,
)

NO_NUMBERS = ("looks", "first_look", "notes")
"""What the ledger says, which grows, and sentences on what was chosen when nothing was asked for."""
ADDED = ("loop", "loop_queues")
"""Tables that `ddeval demo` adds, from a planted truth no run holds: both copies must agree on them."""
SETTINGS = ("seed", "n_resamples", "prevalence", "calibrators")
"""Of a run's own numbers, which may be others than those of the comparison."""


def verify_comparison(folder: Path) -> Verification:
    """Make every number of a comparison again and list those that differ.

    Raises
    ------
    InputError
        If the folder is no comparison, or a run or another input has changed or is gone.
    """
    if not (folder / COMPARISON_FILE).is_file():
        raise InputError(
            str(folder), f"no {COMPARISON_FILE}", expected="the folder of a comparison",
            todo="Make one with: ddeval compare RUN RUN.",
        )  # fmt: skip
    stored = io.read_json(folder / COMPARISON_FILE)
    made = comparison_folder.compared(Asked.of(stored["made_from"]))
    there = {name: pd.DataFrame(stored[name]) for name in ADDED if name in stored}
    tables = made.tables | there
    stale = sorted({path.stem for path in folder.glob("*.parquet")} - set(tables))
    found = [Difference(folder.name, name, "there", "no such table") for name in stale]
    n_cells = 0
    for name, table in tables.items():
        n_cells += table.size
        found += frame_differences(folder, f"{name}.parquet", table, ignored=("thumbnail",))
    twin = made.facts | {name: t.to_dict("records") for name, t in tables.items()}
    computed = json.loads(io.to_json(twin))
    n_cells += sum(1 for _ in leaves(computed))
    found += value_differences(f"{folder.name}/{COMPARISON_FILE}", _settled(stored), _settled(computed))
    for i, name in enumerate(made.joined.runs, start=1):
        copy, version = folder / f"run-{i}", made.joined.version
        target = copy / f"labels-{version}"
        told = io.read_json(target / "metrics.json")["made_from"]
        settings = {key: told[key] for key in SETTINGS if key in told}
        now = run_numbers(made.joined, name, made.facts["made_from"] | settings)
        n, differences = numbers_differences(target, now)
        n_cells += n
        found += [d._replace(file=f"run-{i}/{d.file}") for d in differences]
        found += value_differences(
            f"run-{i}/{RUN_FILE}", io.read_json(copy / RUN_FILE), own_facts(made.joined.facts[name], name)
        )
        if (copy / QUARANTINE_FILE).is_file():
            original = io.read_parquet(made.joined.runs[name] / QUARANTINE_FILE)[0]
            found += frame_differences(copy, QUARANTINE_FILE, original)
    return Verification((made.joined.version,), n_cells, tuple(found))


def _settled(twin: dict[str, Any]) -> dict[str, Any]:
    """A JSON twin without what follows from no prediction."""
    kept = {name: value for name, value in twin.items() if name not in NO_NUMBERS}
    if kept.get("gate"):
        kept["gate"] = {n: v for n, v in kept["gate"].items() if n not in NO_NUMBERS}
    return kept
