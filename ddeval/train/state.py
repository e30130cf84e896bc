"""State of a training run: what it was begun with, and what it needs to go on after a kill.

`training/run.json` holds the inputs, `training/copies.csv` what was left out as a copy, `training/last.pt`
the weights, optimiser and curve after the last finished epoch, `training/result.json` that there is nothing
left to do, `curve.jsonl` the curve for people and plots. Each file is whole or absent.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from ddeval import __version__
from ddeval.errors import InputError
from ddeval.io import read_json, sweep, value_sha256, write_json, write_text
from ddeval.models.weights import read_weights, write_weights
from ddeval.train.optimiser import WeightAverage

FOLDER, LAST, RUN, RESULT, CURVE = "training", "last.pt", "run.json", "result.json", "curve.jsonl"


@dataclass
class Run:
    """One training run on disk."""

    out: Path
    curve: list[dict[str, Any]] = field(default_factory=list)
    """One line an epoch."""
    best: dict[str, Any] | None = None
    """Epoch (from 1) and validation numbers of the best one."""
    is_writer: bool = True
    """Of several processes one alone writes."""

    @property
    def folder(self) -> Path:
        return self.out / FOLDER

    @property
    def last(self) -> Path:
        return self.folder / LAST


def begun_with(out: Path) -> dict[str, Any] | None:
    """The inputs of the run that `out` holds; None where it holds none."""
    path = out / FOLDER / RUN
    return dict(read_json(path)) if path.is_file() else None


def begin(out: Path, inputs: Mapping[str, Any]) -> Run:
    """The run in folder `out`, begun now or before; an InputError if before was with other inputs."""
    path = out / FOLDER / RUN
    for folder in (out, out / FOLDER):
        sweep(folder)
    if not path.is_file():
        _refuse_foreign(out)
        write_json(path, dict(inputs))
        return Run(out)
    before = begun_with(out)
    if value_sha256(before) != value_sha256(inputs):
        key, old, new = _first_difference(before, dict(inputs))
        raise InputError(
            str(out),
            f"a training run begun with {key} {old!r}",
            expected=f"{new!r} as now",
            todo="Pass another --out, or remove that folder to begin again.",
        )
    return Run(out)


def resume(
    run: Run,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None,
) -> int:
    """Put back what the last finished epoch left; how many epochs are finished."""
    if not run.last.is_file():
        return 0
    held = read_weights(run.last)
    module.load_state_dict(held["module"])
    optimiser.load_state_dict(held["optimiser"])
    scaler.load_state_dict(held["scaler"])
    if average is not None:
        average.load(held["average"], held["average_steps"])
    run.curve, run.best = held["curve"], held["best"]
    _write_curve(run)
    return len(run.curve)


def save(
    run: Run,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    average: WeightAverage | None,
) -> None:
    """Keep everything the next epoch needs, then the curve."""
    held = {
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "scaler": scaler.state_dict(),
        "average": average.state if average else {},
        "average_steps": average.n_steps if average else 0,
        "curve": run.curve,
        "best": run.best,
    }
    write_weights(run.last, held)
    _write_curve(run)


def write_result(out: Path, result: Mapping[str, Any]) -> None:
    """Mark the run as finished, with what is told of it."""
    write_json(out / FOLDER / RESULT, dict(result))


def read_result(out: Path) -> dict[str, Any] | None:
    """What a finished run left to tell; None while it is not finished."""
    path = out / FOLDER / RESULT
    return dict(read_json(path)) if path.is_file() else None


def read_curve(out: Path) -> pd.DataFrame:
    """The curve of a training run, one row an epoch."""
    lines = (out / CURVE).read_text().splitlines()
    return pd.DataFrame([json.loads(line) for line in lines])


def versions() -> dict[str, str]:
    return {"ddeval": __version__} | {name: version(name) for name in ("torch", "transformers")}


def _write_curve(run: Run) -> None:
    if not run.is_writer:
        return
    write_text(run.out / CURVE, "".join(json.dumps(line) + "\n" for line in run.curve))


def _refuse_foreign(out: Path) -> None:
    """A folder with an artefact that this run did not begin is not overwritten."""
    if (out / "config.json").exists() or (out / "best_model.pt").exists():
        raise InputError(
            str(out),
            "an artefact that no training run here began",
            expected="an empty or new folder, or one of this run",
            todo="Pass another --out.",
        )


def _first_difference(before: Any, now: Any, at: str = "") -> tuple[str, Any, Any]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if value_sha256(before.get(key)) != value_sha256(now.get(key)):
                return _first_difference(before.get(key), now.get(key), f"{at}.{key}" if at else key)
    return at, before, now
