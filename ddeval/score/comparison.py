"""A comparison: several runs joined by image, so that `ddeval.metrics.paired` can be asked about them.

Runs on other images, labels or classes are refused by name, or compared on the stated intersection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import Field

from ddeval.config import Section, parse_config, read_yaml
from ddeval.errors import InputError
from ddeval.metrics.calibration import ece
from ddeval.metrics.gate import Kind, judged, overall
from ddeval.metrics.paired import LOWER_IS_BETTER, Comparison, compare, flips
from ddeval.metrics.readings import closed_set
from ddeval.metrics.resampling import N_RESAMPLES
from ddeval.score import folder
from ddeval.score.numbers import OVERLAYS, Judged, judged_rows

N_FLIPS = 60
"""Flips kept of each pair and direction, the surest first."""


@dataclass(frozen=True)
class Joined:
    """Runs on the same images, in one order of images and of classes."""

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    pred_probs: dict[str, npt.NDArray[np.float64]]
    image_ids: npt.NDArray[np.object_]
    groups: npt.NDArray[np.object_]
    case_ids: npt.NDArray[np.object_]
    class_names: tuple[str, ...]
    other_class: str | None
    version: str
    facts: dict[str, dict[str, Any]]
    """run.json of each."""
    runs: dict[str, Path]
    """Folder of each."""
    judged: dict[str, Judged]
    """What each was judged by, before images that another run lacks were left out."""
    notes: tuple[str, ...]

    @property
    def manifest(self) -> pd.DataFrame:
        """The manifest with the labels of this version, by image_id."""
        return next(iter(self.judged.values())).manifest

    @property
    def manifest_path(self) -> Path:
        return next(iter(self.judged.values())).manifest_path


class Criterion(Section):
    """One line of a gate file."""

    name: str
    metric: str
    kind: Kind
    bound: Annotated[float, Field(allow_inf_nan=False)]
    subset: str = "all"


class Gate(Section):
    """A gate file: criteria written before the run."""

    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1)]


def join(
    runs: Sequence[Path], *, labels: str | None = None, overlays: Path = OVERLAYS, is_common: bool = False
) -> Joined:
    """The runs' predictions on the same labelled images.

    Raises
    ------
    InputError
        Unless all runs have the same class names, images and labels; with `is_common` images that some
        run lacks are left out and counted.
    """
    if len(runs) < 2:
        raise InputError(
            "ddeval compare", f"{len(runs)} run", expected="two or more", todo="Name another run folder."
        )
    names = _names(runs)
    read = [judged_rows(run, labels, overlays=overlays) for run in runs]
    first = read[0]
    classes = first.predictions.class_names
    for name, found in zip(names, read, strict=True):
        ours, theirs = set(classes), set(found.predictions.class_names)
        if ours != theirs or found.predictions.other_class != first.predictions.other_class:
            odd = sorted(ours ^ theirs) or [f"other class {found.predictions.other_class}"]
            raise InputError(
                name,
                f"other classes than {names[0]}: {', '.join(odd[:5])}",
                expected="the same class list",
                todo="Compare runs of one class list; a renamed class is mapped when it is scored.",
            )
    frames = [found.table() for found in read]
    ids = frames[0].index
    for frame in frames[1:]:
        ids = ids.intersection(frame.index)
    notes = []
    for name, frame in zip(names, frames, strict=True):
        n_more = len(frame) - len(ids)
        if n_more and not is_common:
            raise InputError(
                name,
                f"{n_more:,} images that another run has not",
                expected="the same images in every run",
                todo="Score them all on one manifest, or compare what they share with --common.",
            )
        if n_more:
            notes.append(f"{name}: {n_more:,} images that another run has not were left out")
    if ids.empty:
        raise InputError(
            ", ".join(names), "no image in all of them", expected="shared images", todo="Compare other runs."
        )
    ids = ids.sort_values()
    base = frames[0].loc[ids]
    for name, frame in zip(names[1:], frames[1:], strict=True):
        differs = frame.loc[ids, "label"] != base["label"]
        if differs.any():
            raise InputError(
                name,
                f"label {frame.loc[ids, 'label'][differs].iloc[0]!r} of image {ids[differs][0]!r}, in "
                f"{names[0]} {base['label'][differs].iloc[0]!r} ({int(differs.sum()):,} such)",
                expected="the same labels",
                todo="Score both under one label version with --labels.",
            )
    codes = pd.Index(classes).get_indexer(pd.Index(base["label"]))
    return Joined(
        names=tuple(names),
        labels=codes.astype(np.int64),
        pred_probs={name: found.probs_of(ids, classes) for name, found in zip(names, read, strict=True)},
        image_ids=ids.to_numpy(dtype=object),
        groups=base["group"].to_numpy(dtype=object),
        case_ids=base["case_id"].to_numpy(dtype=object),
        class_names=classes,
        other_class=first.predictions.other_class,
        version=first.version,
        facts={name: folder.read_run(run) for name, run in zip(names, runs, strict=True)},
        runs=dict(zip(names, runs, strict=True)),
        judged=dict(zip(names, read, strict=True)),
        notes=tuple(notes),
    )


def _names(runs: Sequence[Path]) -> list[str]:
    """What the runs are called: by checkpoint where that tells them apart, else by folder, else by path."""
    for names in (
        [str(folder.read_run(run)["checkpoint"]["name"]) for run in runs],
        [run.name for run in runs],
    ):
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def compared(
    joined: Joined, *, baseline: str | None, seed: int = 0, n_resamples: int = N_RESAMPLES
) -> Comparison:
    """The paired numbers of joined runs; `baseline` is a run's name, by default the first."""
    base = baseline or joined.names[0]
    if base not in joined.names:
        raise InputError(
            f"--baseline {base}", "no such run", expected=f"one of {', '.join(joined.names)}", todo="Name it."
        )
    found = compare(
        joined.labels,
        joined.pred_probs,
        groups=joined.groups,
        rng=np.random.default_rng(seed),
        baseline=base,
        class_names=joined.class_names,
        other_class=joined.other_class,
        case_ids=joined.case_ids,
        n_resamples=n_resamples,
    )
    return found._replace(values=pd.concat([found.values, _calibration_errors(joined)], ignore_index=True))


def _calibration_errors(joined: Joined) -> pd.DataFrame:
    """The ECE of each run over the targets, without an interval (docs/decisions/0002-ece-band.md)."""
    rows = []
    for run, probs in joined.pred_probs.items():
        labels = joined.labels
        if joined.other_class is not None:
            _, labels, probs = closed_set(labels, probs, joined.class_names.index(joined.other_class))
        row = {"run": run, "metric": "ece", "subset": "all", "value": ece(labels, probs)}
        rows.append(row | {"ci_low": np.nan, "ci_high": np.nan, "n_undefined": 0})
    return pd.DataFrame(rows)


def flip_table(joined: Joined, run: str, baseline: str) -> pd.DataFrame:
    """Images one of two runs has right: `image_id, label, direction` (+1 run right), answers, confidences."""
    ours, theirs = joined.pred_probs[run], joined.pred_probs[baseline]
    direction = flips(joined.labels, ours, theirs)
    names = np.array(joined.class_names, dtype=object)
    frame = pd.DataFrame(
        {
            "image_id": joined.image_ids,
            "label": names[joined.labels],
            "direction": direction,
            "predicted": names[ours.argmax(axis=1)],
            "confidence": ours.max(axis=1),
            "baseline_predicted": names[theirs.argmax(axis=1)],
            "baseline_confidence": theirs.max(axis=1),
        }
    )
    frame["run"], frame["baseline"] = run, baseline
    frame = frame[frame["direction"] != 0]
    frame = frame.sort_values(["direction", "confidence", "image_id"], ascending=[False, False, True])
    return frame.groupby("direction", sort=False).head(N_FLIPS).reset_index(drop=True)


def read_gate(path: Path) -> Gate:
    """The criteria in a gate file; an InputError names an unknown key or kind."""
    gate: Gate = parse_config(read_yaml(path), Gate, where=str(path))
    return gate


def gate_answers(
    gate: Gate, comparison: Comparison, *, run: str, baseline: str, where: str
) -> dict[str, Any]:
    """Each criterion's answer for `run` with its number, interval and n, and the answer of the whole gate."""
    held = comparison.values.set_index(["run", "subset", "metric"])
    gains = comparison.differences.set_index(["run", "baseline", "subset", "metric"])
    criteria: list[dict[str, Any]] = []
    for criterion in gate.criteria:
        key = (criterion.subset, criterion.metric)
        is_difference = criterion.kind in ("not_worse", "better")
        table = gains if is_difference else held
        place: Any = (run, baseline, *key) if is_difference else (run, *key)
        if place not in table.index:
            known = sorted(set(comparison.values["metric"]))
            raise InputError(
                f"{where}: {criterion.name}",
                f"the metric {criterion.metric!r} of subset {criterion.subset!r}",
                expected=f"one of {', '.join(known)}",
                todo="Correct the gate file.",
            )
        row: Mapping[Any, Any] = table.loc[place].to_dict()
        answer = judged(
            criterion.kind,
            criterion.bound,
            ci_low=float(row["ci_low"]),
            ci_high=float(row["ci_high"]),
            lower_is_better=criterion.metric.removeprefix("open_") in LOWER_IS_BETTER,
        )
        criteria.append(
            {
                "name": criterion.name,
                "answer": answer,
                "metric": criterion.metric,
                "kind": criterion.kind,
                "is_difference": is_difference,
                "value": float(row["difference" if is_difference else "value"]),
                "ci_low": float(row["ci_low"]),
                "ci_high": float(row["ci_high"]),
                "bound": criterion.bound,
                "n_images": comparison.n_images,
                "n_groups": comparison.n_groups,
            }
        )
    answer = overall(c["answer"] for c in criteria)
    counts = {word: sum(c["answer"] == word for c in criteria) for word in ("pass", "fail", "cannot tell")}
    said = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    return {
        "run": run,
        "baseline": baseline,
        "answer": answer,
        "sentence": f"{run}: {said}.",
        "criteria": criteria,
    }
