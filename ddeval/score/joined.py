"""Runs joined by image: the same images, labels and classes for all, or a refusal by name.

With `is_common` what the runs do not share is left out instead, image by image and class by class, and
counted in a note: a comparison on the stated intersection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.errors import InputError
from ddeval.metrics.readings import renormalised
from ddeval.score import folder
from ddeval.score.answers import Answers, Labelled
from ddeval.score.deferral import deferred
from ddeval.score.numbers import OVERLAYS, Judged, judged_rows


@dataclass(frozen=True)
class Joined:
    """Runs on the same images, in one order of images and of classes."""

    names: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    pred_probs: dict[str, npt.NDArray[np.float64]]
    rows: pd.DataFrame
    """Of the manifest with the labels of this version, one an image."""
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
    def other(self) -> int | None:
        """Place of `other_class` among the classes."""
        return None if self.other_class is None else self.class_names.index(self.other_class)

    @property
    def image_ids(self) -> npt.NDArray[np.object_]:
        return self.rows["image_id"].to_numpy(dtype=object)

    @property
    def manifest(self) -> pd.DataFrame:
        """The manifest with the labels of this version, by image_id."""
        return next(iter(self.judged.values())).manifest

    @property
    def manifest_path(self) -> Path:
        return next(iter(self.judged.values())).manifest_path

    def answers(self, run: str) -> Answers:
        """One run, for `ddeval.score.clinical`."""
        return Answers(
            self.labels, self.pred_probs[run], self.rows, self.groups, self.class_names, self.other_class
        )

    def fit(self, run: str) -> Labelled | None:
        """The labelled images of the calibration split over the compared classes; None where there is none.

        Of an ensemble those that all its members have, with the mean of their probabilities.
        """
        members = [run] if run in self.judged else run.split("+")
        held = [_fit_over(self.judged[member], self.class_names) for member in members]
        ids = reduce(np.intersect1d, [of.image_ids for of in held])
        if not len(ids):
            return None
        places = [pd.Index(of.image_ids).get_indexer(pd.Index(ids)) for of in held]
        probs = np.mean([of.pred_probs[at] for of, at in zip(held, places, strict=True)], axis=0)
        return Labelled(ids, held[0].labels[places[0]], probs)

    def held_back(self, run: str, rule: Mapping[str, Any]) -> npt.NDArray[np.bool_]:
        """What a deferral rule hands over of a run's compared images, (N,)."""
        predictions = self.judged[run].predictions
        rows = pd.Index(predictions.frame["image_id"]).get_indexer(pd.Index(self.image_ids))
        held: npt.NDArray[np.bool_] = deferred(predictions, rule, where=run)[rows]
        return held

    def with_runs(self, pred_probs: dict[str, npt.NDArray[np.float64]], facts: dict[str, Any]) -> "Joined":
        """With further runs on the same images after those that are there."""
        return replace(
            self,
            names=(*self.names, *pred_probs),
            pred_probs={**self.pred_probs, **pred_probs},
            facts={**self.facts, **facts},
        )


def join(
    runs: Sequence[Path], *, labels: str | None = None, overlays: Path = OVERLAYS, is_common: bool = False
) -> Joined:
    """The runs' predictions on the same labelled images.

    Raises
    ------
    InputError
        Unless all runs have the same class names, images and labels. With `is_common` images that some
        run lacks, that carry another label somewhere, or whose class some run does not know are left
        out and counted, and probabilities are renormalised over the shared classes.
    """
    if len(runs) < 2:
        raise InputError(
            "ddeval compare", f"{len(runs)} run", expected="two or more", todo="Name another run folder."
        )
    places = [run.resolve() for run in runs]
    twice = [str(run) for i, run in enumerate(runs) if places[i] in places[:i]]
    if twice:
        raise InputError(twice[0], "the run twice", expected="each run once", todo="Name another run folder.")
    names = run_names(runs)
    read = [judged_rows(run, labels, overlays=overlays) for run in runs]
    notes: list[str] = []
    classes, other_class = _classes(names, read, is_common=is_common, notes=notes)
    frames = [found.table() for found in read]
    ids = _images(names, frames, classes, is_common=is_common, notes=notes)
    base = frames[0].loc[ids]
    for name, frame in zip(names[1:], frames[1:], strict=True):
        if not _is_same_grouping(base["group"], frame.loc[ids, "group"]):
            notes.append(
                f"{name}: its manifest groups the images otherwise; intervals are over those of {names[0]}"
            )
    codes = pd.Index(classes).get_indexer(pd.Index(base["label"]))
    return Joined(
        names=tuple(names),
        labels=codes.astype(np.int64),
        pred_probs={
            name: _over(found.probs_of(ids, classes)) for name, found in zip(names, read, strict=True)
        },
        rows=read[0].manifest.loc[ids].reset_index(drop=True),
        runs=dict(zip(names, runs, strict=True)),
        judged=dict(zip(names, read, strict=True)),
        groups=base["group"].to_numpy(dtype=object),
        case_ids=base["case_id"].to_numpy(dtype=object),
        class_names=classes,
        other_class=other_class,
        version=read[0].version,
        facts={name: folder.read_run(run) for name, run in zip(names, runs, strict=True)},
        notes=tuple(notes),
    )


def run_names(runs: Sequence[Path]) -> list[str]:
    """What the runs are called: by checkpoint where that tells them apart, else by folder, else by path."""
    for names in (
        [str(folder.read_run(run)["checkpoint"]["name"]) for run in runs],
        [run.name for run in runs],
    ):
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def _classes(
    names: Sequence[str], read: Sequence[Judged], *, is_common: bool, notes: list[str]
) -> tuple[tuple[str, ...], str | None]:
    """The classes of the comparison in the first run's order, and which of them is `other`."""
    first = read[0].predictions
    others = {found.predictions.other_class for found in read}
    shared = reduce(set.__and__, (set(found.predictions.class_names) for found in read))
    for name, found in zip(names, read, strict=True):
        odd = sorted(set(found.predictions.class_names) - shared)
        if (odd or len(others) > 1) and not is_common:
            said = ", ".join(odd[:5]) or f"other class {found.predictions.other_class}"
            raise InputError(
                name,
                f"classes that another run has not: {said}",
                expected="the same class list",
                todo="Compare runs of one class list, or what they share with --common.",
            )
        if odd:
            notes.append(f"{name}: classes that another run has not, left out: {', '.join(odd)}")
    classes = tuple(name for name in first.class_names if name in shared)
    other_class = first.other_class if len(others) == 1 else None
    if len(others) > 1:  # one run's `other` is no class like another run's
        classes = tuple(name for name in classes if name not in others)
    if len(classes) < 2:
        raise InputError(
            ", ".join(names),
            f"{len(classes)} shared by all of them",
            expected="two or more shared classes",
            todo="Compare other runs.",
        )
    return classes, other_class


def _images(
    names: Sequence[str],
    frames: Sequence[pd.DataFrame],
    classes: Sequence[str],
    *,
    is_common: bool,
    notes: list[str],
) -> pd.Index:
    """The images of the comparison, sorted."""
    ids = reduce(pd.Index.intersection, (frame.index for frame in frames))
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
    ids = ids.sort_values()
    label = frames[0].loc[ids, "label"]
    for name, frame in zip(names[1:], frames[1:], strict=True):
        differs = frame.loc[ids, "label"] != label
        if differs.any() and not is_common:
            raise InputError(
                name,
                f"label {frame.loc[ids, 'label'][differs].iloc[0]!r} of image {ids[differs][0]!r}, in "
                f"{names[0]} {label[differs].iloc[0]!r} ({int(differs.sum()):,} such)",
                expected="the same labels",
                todo="Score both under one label version with --labels, or leave these out with --common.",
            )
        if differs.any():
            notes.append(f"{name}: {int(differs.sum()):,} images with another label were left out")
            ids, label = ids[~differs], label[~differs]
    is_known = label.isin(classes).to_numpy()
    if not is_known.all():
        notes.append(
            f"{int((~is_known).sum()):,} images of a class that some run does not know were left out"
        )
        ids = ids[is_known]
    if ids.empty:
        raise InputError(
            ", ".join(names), "no image in all of them", expected="shared images", todo="Compare other runs."
        )
    return ids


def _is_same_grouping(ours: pd.Series, theirs: pd.Series) -> bool:
    """Whether two manifests part the same images into the same groups, whatever these are called."""
    pairs = pd.DataFrame({"ours": ours.to_numpy(), "theirs": theirs.to_numpy()}).drop_duplicates()
    return bool(pairs["ours"].is_unique and pairs["theirs"].is_unique)


def _fit_over(found: Judged, classes: tuple[str, ...]) -> Labelled:
    """A run's calibration split over these classes: images of other ones are left out."""
    fit = found.fit()
    if fit is None:
        return Labelled(np.empty(0, dtype=object), np.empty(0, dtype=np.int64), np.empty((0, len(classes))))
    names = np.array(found.predictions.class_names, dtype=object)
    codes = pd.Index(classes).get_indexer(pd.Index(names[fit.labels]))
    columns = pd.Index(names).get_indexer(pd.Index(classes))
    is_known = codes >= 0
    probs = _over(fit.pred_probs[is_known][:, columns])
    return Labelled(fit.image_ids[is_known], codes[is_known].astype(np.int64), probs)


def _over(probs: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows that sum to 1 again; those that do are left as they are."""
    return probs if np.allclose(probs.sum(axis=1), 1.0, atol=1e-3) else renormalised(probs)
