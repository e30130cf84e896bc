"""Which lever: is the next hour better spent on reading labels again, or on labelling more cases?

A linear head is fitted to the embeddings a run holds, with fewer cases than there are, and with fewer of the
vetted labels than there are. How its accuracy rises along both is what the next hundred readings are worth.
No network is run: a fit is sums over images and one system of equations, so a hundred of them take seconds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.data.overlay import Overlay, apply_overlay, soft_labels
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats, Weights, ratio
from ddeval.metrics.resampling import (
    N_RESAMPLES,
    group_codes,
    group_weights,
    weighed,
)
from ddeval.metrics.shares import stated_interval
from ddeval.score import folder
from ddeval.score.numbers import label_codes
from ddeval.score.predictions import read_embeddings, read_predictions
from ddeval.score.rows import manifest_path, unchanged_manifest
from ddeval.train.dataset import soften
from ddeval.train.linear import SHARES, Head, Training, cleaner_labels, more_cases

N_DRAWS = 5
"""Orders in which cases come; their mean is reported, since one order alone adds its own chance."""
PER = 100
"""Readings that a slope is told for."""
LOWER_BOUND = (
    "a linear head withstands wrong labels that a whole network learns by heart: for one that is fine-tuned, "
    "`labels` is the least that vetting is worth"
)
CURVE = ("lever", "share", "n_cases", "class_name", "value", "ci_low", "ci_high", "n_images", "n_groups")
SLOPES = ("lever", "part", "class_name", "value", "ci_low", "ci_high", "n_images", "n_groups")


class Lever(NamedTuple):
    """What more labels and cleaner labels are worth."""

    curve: pd.DataFrame
    """`CURVE`: closed-set top-1 of all judged images (class_name None) and of each class."""
    slopes: pd.DataFrame
    """`SLOPES`: accuracy gained per 100 readings, in [-1, 1]: lever data, labels, or their difference
    (labels - data); part `so_far`, from the first share to the last, or `next`, at the end of the curve."""
    n_cases: int
    """Of the training split."""
    n_vetted: int
    n_readings: float
    """Behind the vetted cases."""
    notes: tuple[str, ...]


def lever(
    run: Path,
    *,
    overlay: Overlay | None = None,
    reference: Overlay | None = None,
    judged: str = "test",
    readings_a_case: float = 1.0,
    n_draws: int = N_DRAWS,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Lever:
    """Both curves and their slopes, from a run that was scored on every split.

    Parameters
    ----------
    overlay : Overlay, optional
        Vetted labels of train; without them only more data can be judged.
    reference : Overlay, optional
        Vetted labels of the split that judges.
    judged : str
        The split that judges; never train.
    readings_a_case : float
        What labelling a new case costs; a vetted one costs what the overlay says.

    Raises
    ------
    InputError
        For a run without embeddings of both splits, overlays of other splits, or labels outside the classes.
    """
    facts = folder.read_run(run)
    said = read_predictions(run / folder.PREDICTIONS_FILE)
    names, frame = said.class_names, said.frame.reset_index(drop=True)
    path = manifest_path(run, facts)
    manifest = unchanged_manifest(path, facts["inputs"]["manifest"], run=run)
    _check_split(overlay, "train")
    _check_split(reference, judged)
    given = _codes(manifest, frame, names, where=str(path))
    best = apply_overlay(manifest, overlay) if overlay else manifest
    vetted = _codes(best, frame, names, where=str(path))
    truth = _codes(apply_overlay(manifest, reference), frame, names, where=str(path)) if reference else given
    other = said.other
    train = np.flatnonzero(frame["split"].eq("train").to_numpy() & (given >= 0))
    judges = np.flatnonzero(frame["split"].eq(judged).to_numpy() & (truth >= 0) & (truth != other))
    _check_rows(run, facts, len(train), len(judges), judged)

    features = _centred(read_embeddings(run, len(frame)), train)
    data = Training(
        features=features[train],
        case=pd.factorize(frame["case_id"].iloc[train])[0],
        given=np.eye(len(names))[given[train]],
        vetted=_targets(frame.iloc[train], vetted[train], overlay, names, other),
    )

    def hits_of(head: Head) -> Floats:
        scores = features[judges] @ head.weights + head.offsets
        if other is not None:
            scores[:, other] = -np.inf  # the closed set, as the headline
        return np.asarray(scores.argmax(axis=1) == truth[judges], dtype=np.float64)

    n_cases = int(data.case.max()) + 1
    is_read = pd.Index(frame["image_id"].iloc[train]).isin(overlay.frame["image_id"] if overlay else [])
    read = np.unique(data.case[is_read])
    readings = _n_readings(overlay, set(frame["image_id"].iloc[train]))
    rng = np.random.default_rng([seed, 20])
    hits = {"data": more_cases(data, hits_of, n_draws=n_draws, rng=rng)}
    costs = {"data": n_cases * readings_a_case}
    if len(read):
        hits["labels"] = cleaner_labels(data, read, hits_of, n_draws=n_draws, rng=rng)
        costs["labels"] = readings
    curve, slopes = _tables(
        hits, costs, truth[judges], frame["group"].to_numpy()[judges], names,
        np.random.default_rng([seed, 21]), n_resamples,
    )  # fmt: skip
    sizes = {"data": n_cases, "labels": len(read)}
    curve["n_cases"] = (curve["share"] * curve["lever"].map(sizes)).round().astype(int)
    return Lever(
        curve[list(CURVE)],
        slopes[list(SLOPES)],
        n_cases,
        len(read),
        readings,
        _notes(facts, overlay, len(read)),
    )


def _tables(
    hits: dict[str, Floats],
    costs: dict[str, float],
    truth: npt.NDArray[np.int64],
    groups: npt.NDArray[np.object_],
    names: Sequence[str],
    rng: np.random.Generator,
    n_resamples: int,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Curve and slopes of all images and of each class: every number is a mean over judged images."""
    points = [(name, share) for name in hits for share in SHARES[name]]
    slopes = {(name, part): hits[name] @ _contrast(name, part) / costs[name] * PER
              for name in hits for part in ("so_far", "next")}  # fmt: skip
    if len(hits) == 2:
        for part in ("so_far", "next"):
            slopes["labels - data", part] = slopes["labels", part] - slopes["data", part]
    columns = np.column_stack([*hits.values(), *slopes.values()])
    everything: tuple[str | None, npt.NDArray[np.bool_]] = (None, np.ones(len(truth), dtype=bool))
    subsets = [everything, *((name, truth == k) for k, name in enumerate(names) if (truth == k).any())]
    group_of, n_groups = group_codes(groups)

    def means(weights: Weights) -> Floats:
        held = weights.astype(np.float64)
        parts = [ratio(held[:, w] @ columns[w], held[:, w].sum(axis=1, keepdims=True)) for _, w in subsets]
        return np.concatenate(parts, axis=1)

    draws = group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)
    drawn = np.concatenate(list(weighed(means, draws)))
    keys, at = [*points, *slopes], len(points)
    frames = []
    for i, (class_name, inside) in enumerate(subsets):
        value, n_groups = columns[inside].mean(axis=0), len(np.unique(group_of[inside]))
        of_subset = drawn[:, i * len(keys) : (i + 1) * len(keys)]
        shares = stated_interval(value[:at], of_subset[:, :at], share_of=n_groups)[:2]
        others = stated_interval(value[at:], of_subset[:, at:])[:2]
        frame = pd.DataFrame({"lever": [name for name, _ in keys], "key": [key for _, key in keys]})
        frame["class_name"] = class_name
        frame["value"] = value
        frame["ci_low"], frame["ci_high"] = (
            np.concatenate(parts) for parts in zip(shares, others, strict=True)
        )
        frames.append(
            frame.assign(n_images=int(inside.sum()), n_groups=n_groups, is_point=np.arange(len(keys)) < at)
        )
    table = pd.concat(frames, ignore_index=True)
    curve = table[table["is_point"]].rename(columns={"key": "share"}).astype({"share": float})
    rest = table[~table["is_point"]].rename(columns={"key": "part"})
    return curve.reset_index(drop=True), rest.reset_index(drop=True)


def _contrast(name: str, part: str) -> Floats:
    """What to multiply the accuracies along a lever with to get their slope per whole lever.

    `so_far` is last less first over the shares between. `next` is the slope at the end: of a line over the
    upper half where labels get cleaner (each verdict is worth about the same), of a logarithm over all but
    the first two shares where cases are added (each is worth less than the one before).
    """
    shares = np.array(SHARES[name])
    contrast = np.zeros(len(shares))
    if part == "so_far":
        contrast[[0, -1]] = np.array([-1, 1]) / (shares[-1] - shares[0])
        return contrast
    upper = slice(len(shares) // 2, None) if name == "labels" else slice(2, None)
    x = shares[upper] if name == "labels" else np.log(shares[upper])
    x = x - x.mean()
    contrast[upper] = x / (x**2).sum()
    return contrast


def _codes(
    manifest: pd.DataFrame, frame: pd.DataFrame, names: Sequence[str], *, where: str
) -> npt.NDArray[np.int64]:
    """Class of each image of the run, -1 where it has none."""
    rows = manifest.set_index("image_id").loc[frame["image_id"]]
    codes, is_labelled = label_codes(rows, names, where=where)
    return np.where(is_labelled, codes, -1)


def _targets(
    rows: pd.DataFrame,
    codes: npt.NDArray[np.int64],
    overlay: Overlay | None,
    names: Sequence[str],
    other: int | None,
) -> Floats:
    targets = np.eye(len(names), dtype=np.float32)[codes] * (codes >= 0)[:, None]
    if overlay is not None:
        held = targets.sum(axis=1) > 0
        soften(targets, rows, soft_labels(overlay), {name: i for i, name in enumerate(names)}, other)
        targets *= held[:, None]
    return targets.astype(np.float64)


def _centred(features: npt.NDArray[np.float32], train: npt.NDArray[np.intp]) -> Floats:
    """In float64 about the mean of the training images, so that sums of squares keep their digits."""
    wide = features.astype(np.float64)
    return np.asarray(wide - wide[train].mean(axis=0))


def _n_readings(overlay: Overlay | None, image_ids: set[str]) -> float:
    """How many readers answered for the vetted cases among these images, a case once."""
    if overlay is None:
        return 0.0
    rows = overlay.frame[overlay.frame["image_id"].isin(image_ids)].drop_duplicates("case_id")
    return float(sum(max(len(readers), 1) for readers in rows["readers"]))


def _check_split(overlay: Overlay | None, split: str) -> None:
    if overlay is not None and overlay.split != split:
        raise InputError(
            f"overlay {overlay.split}-{overlay.version}",
            f"vetted labels of {overlay.split}",
            expected=f"those of {split}",
            todo="Labels of train are learnt from, those of the judging split only judge.",
        )


def _check_rows(run: Path, facts: Mapping[str, Any], n_train: int, n_judged: int, judged: str) -> None:
    for split, n in (("train", n_train), (judged, n_judged)):
        if not n:
            raise InputError(
                str(run),
                f"no labelled image of split {split}",
                expected=f"embeddings of train and {judged}",
                todo="Score every split into one run: ddeval score CHECKPOINT --split all.",
            )


def _notes(facts: Mapping[str, Any], overlay: Overlay | None, n_read: int) -> tuple[str, ...]:
    notes = [LOWER_BOUND] if n_read else []
    if not n_read:
        notes.append(
            "no vetted labels of train: what cleaner labels are worth needs --labels"
            if overlay is None
            else "no case of the overlay is among the training images of the run"
        )
    if _has_learnt(facts):
        notes.append(
            "the backbone learnt from these training labels: its embeddings repeat them, and both slopes are "
            "too small; take a frozen backbone (medsiglip_frozen)"
        )
    return tuple(notes)


def _has_learnt(facts: Mapping[str, Any]) -> bool:
    """Whether the run's checkpoint says that its backbone was trained on this manifest."""
    made_from = (facts["checkpoint"].get("settings") or {}).get("provenance") or {}
    recipe = (made_from.get("config") or {}).get("train") or {}
    is_frozen = recipe.get("frozen_epochs", 0) >= recipe.get("epochs", 1)
    return made_from.get("manifest_sha256") == facts["inputs"]["manifest"] and not is_frozen
