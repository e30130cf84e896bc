"""Data of a training run: which images, with what target and what weight.

Targets are rows of class weights, so that one label and several readers' opinions are the same thing.
Nothing is dropped silently: what is left out is counted in `left_out`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from ddeval.config import TrainConfig
from ddeval.data.images import ImageError, Preprocessing
from ddeval.data.manifest import image_files
from ddeval.data.overlay import Overlay, apply_overlay, soft_labels
from ddeval.data.questionnaire import FeatureSchema, encode
from ddeval.data.splits import leaks
from ddeval.errors import InputError
from ddeval.io import read_csv, read_parquet
from ddeval.score.feed import Source, batches
from ddeval.train.copies import LEARNT_FROM


@dataclass(frozen=True)
class Dataset:
    """The usable images of train and val, in manifest order."""

    frame: pd.DataFrame
    """Their N rows of the manifest, with `group` and the labels that are learnt."""
    image_ids: npt.NDArray[np.object_]
    sources: list[Source]
    targets: npt.NDArray[np.float32]
    """(N, K), each row sums to 1."""
    labels: npt.NDArray[np.int64]
    """(N,) the given class: for val, and for what is drawn how often."""
    weights: npt.NDArray[np.float32]
    """(N,) of each image in the loss."""
    features: npt.NDArray[np.float32] | None
    """(N, D) encoded questionnaire."""
    train_rows: npt.NDArray[np.int64]
    val_rows: npt.NDArray[np.int64]
    class_names: tuple[str, ...]
    other_index: int | None
    left_out: dict[str, int]
    """Why images of train and val are not used -> how many."""
    labels_version: str


def build_dataset(
    manifest: pd.DataFrame,
    train: TrainConfig,
    *,
    image_roots: Sequence[Path],
    class_names: Sequence[str] | None = None,
    other_class: str | None = None,
    schema: FeatureSchema | None = None,
    overlay: Overlay | None = None,
    copies: Collection[str] = (),
    where: str = "manifest",
) -> Dataset:
    """The images of train and val with targets, weights and encoded answers.

    Parameters
    ----------
    manifest : DataFrame
        Of `ddeval.data.manifest.read_manifest`, with a split train and a split val.
    class_names : sequence of str, optional
        In index order; the labels of train, sorted, where None.
    overlay : Overlay, optional
        Vetted labels of train or val. Excluded images leave; with `train.soft_labels`, compatible ones
        learn from every reader's answer.
    copies : collection of str
        Ids of images that show a picture of the judging splits (`ddeval.train.copies`): left out.

    Raises
    ------
    InputError
        For a patient on two sides, an overlay of the test split, labels outside the classes, a class
        without training images, fewer than two classes, or a split without images.
    """
    refuse_leaks(manifest, where=where)
    frame, version = _with_overlay(manifest, overlay)
    frame = frame.reindex(columns=list(dict.fromkeys([*frame.columns, "split", "label"])))
    frame = frame[frame["split"].isin(LEARNT_FROM)].reset_index(drop=True)
    has_label = frame["label"].notna()
    files = image_files(frame, image_roots, where=where)
    has_file = files.notna()
    is_copy = frame["image_id"].isin(copies)
    usable = has_label & has_file & ~is_copy
    left_out = {
        "no label": int((~has_label).sum()),
        "no image": int((has_label & ~has_file).sum()),
        "copy of a test image": int((has_label & has_file & is_copy).sum()),
    }
    frame, files = frame[usable].reset_index(drop=True), files[usable]

    is_train = (frame["split"] == "train").to_numpy()
    _refuse_empty_splits(is_train, where)
    names = _class_names(frame, class_names, where)
    if other_class is not None and other_class not in names:
        raise InputError(
            where, f"no image of other_class {other_class!r}", expected="some", todo="Correct the config."
        )
    index_of = {name: i for i, name in enumerate(names)}
    labels: npt.NDArray[np.int64] = np.array([index_of[label] for label in frame["label"]], np.int64)
    targets = np.eye(len(names), dtype=np.float32)[labels]
    if overlay is not None and train.soft_labels:
        soften(targets, frame, soft_labels(overlay), index_of, index_of.get(other_class or ""))
    _check_classes(labels, is_train, names, other_class, where)
    return Dataset(
        frame=frame,
        image_ids=frame["image_id"].to_numpy(object),
        sources=list(files),
        targets=targets,
        labels=labels,
        weights=_weights(frame, is_train, train, where),
        features=encode(frame, schema, where=where) if schema is not None else None,
        train_rows=np.flatnonzero(is_train),
        val_rows=np.flatnonzero(~is_train),
        class_names=names,
        other_index=index_of[other_class] if other_class is not None else None,
        left_out={reason: n for reason, n in left_out.items() if n},
        labels_version=version,
    )


def refuse_leaks(manifest: pd.DataFrame, *, where: str) -> None:
    """An InputError if a patient, lesion or case stands in two splits: what is learnt would be tested."""
    found = leaks(manifest)
    if len(found):
        first = found.iloc[0]
        raise InputError(
            where,
            f"{first['kind']} {first['id']!r} in {first['splits']} ({len(found)} such)",
            expected="each patient, lesion and case in one split",
            todo="Deal the splits again: ddeval data split.",
        )


def epoch_rows(dataset: Dataset, train: TrainConfig, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Rows of one epoch in the order in which they are learnt from.

    All training images of the target classes, `other_ratio` times as many of `other` (drawn without
    replacement while they last), then, with `class_balance` b > 0, as many again drawn with replacement,
    each with probability proportional to (images of its class) ** -b.
    """
    rows = dataset.train_rows
    if dataset.other_index is not None and train.other_ratio is not None:
        is_other = dataset.labels[rows] == dataset.other_index
        others, rest = rows[is_other], rows[~is_other]
        n = min(len(others), round(train.other_ratio * len(rest)))
        rows = np.concatenate([rest, rng.choice(others, size=n, replace=False)])
    if train.class_balance > 0:
        counts = np.bincount(dataset.labels[rows], minlength=len(dataset.class_names))
        odds = counts[dataset.labels[rows]].astype(float) ** -train.class_balance
        return rng.choice(rows, size=len(rows), replace=True, p=odds / odds.sum())
    return rng.permutation(rows)


def class_shares(dataset: Dataset, train: TrainConfig) -> npt.NDArray[np.float64]:
    """Expected share of each class in an epoch (K,), positive and summing to 1: the prior that is learnt."""
    counts = np.bincount(dataset.labels[dataset.train_rows], minlength=len(dataset.class_names)).astype(float)
    if dataset.other_index is not None and train.other_ratio is not None:
        rest = counts.sum() - counts[dataset.other_index]
        counts[dataset.other_index] = min(counts[dataset.other_index], round(train.other_ratio * rest))
    held = np.maximum(counts, 1e-3)  # `other` with ratio 0 is never seen; its share must stay positive
    odds = held ** (1 - train.class_balance)
    shares: npt.NDArray[np.float64] = odds / odds.sum()
    return shares


class Images:
    """Pixels of a dataset: decoded once and kept when they fit, else decoded again as they are needed."""

    def __init__(
        self,
        sources: Sequence[Source],
        preprocessing: Preprocessing,
        *,
        cache_bytes: float,
        workers: int = 0,
        tick: Callable[[int], None] = lambda n: None,
    ) -> None:
        self.sources, self.preprocessing, self.workers = sources, preprocessing, workers
        self.failures: dict[int, ImageError] = {}
        """Row -> why it could not be read, for every image met so far."""
        shape = (len(sources), 3, preprocessing.size, preprocessing.size)
        self.cache: Tensor | None = None
        if np.prod(shape, dtype=float) <= cache_bytes:
            self.cache = torch.empty(shape, dtype=torch.uint8)
            for rows, pixels, _ in self._decoded(np.arange(len(sources)), 256):
                self.cache[torch.from_numpy(rows)] = pixels
                tick(len(rows))

    def batches(
        self, rows: npt.NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, npt.NDArray[np.bool_]]]:
        """In the order of `rows`: rows (B,), uint8 pixels (B, 3, S, S), and which could be read (B,)."""
        if self.cache is None:
            yield from self._decoded(rows, batch_size)
            return
        for start in range(0, len(rows), batch_size):
            part = rows[start : start + batch_size]
            readable = np.array([row not in self.failures for row in part], dtype=bool)
            yield part, self.cache[torch.from_numpy(part)], readable

    def _decoded(
        self, rows: npt.NDArray[np.int64], batch_size: int
    ) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, npt.NDArray[np.bool_]]]:
        slices = [range(i, min(i + batch_size, len(rows))) for i in range(0, len(rows), batch_size)]
        feed = batches(
            [self.sources[row] for row in rows],
            slices,
            preprocessing=self.preprocessing,
            batch_size=batch_size,
            workers=self.workers,
        )
        for batch in feed:
            part = rows[batch.rows.start : batch.rows.stop]
            self.failures |= {int(rows[i]): error for i, error in batch.failures.items()}
            yield part, batch.pixels[: len(part)], np.array([i not in batch.failures for i in batch.rows])


def _with_overlay(manifest: pd.DataFrame, overlay: Overlay | None) -> tuple[pd.DataFrame, str]:
    if overlay is None:
        return manifest, "v0"
    if overlay.split not in LEARNT_FROM:
        raise InputError(
            f"overlay {overlay.split}-{overlay.version}",
            f"vetted labels of the {overlay.split} split",
            expected="labels of train or val",
            todo="Labels of a judging split only judge. To give the split up for good: ddeval data retire.",
        )
    return apply_overlay(manifest, overlay), f"{overlay.split}-{overlay.version}"


def _class_names(frame: pd.DataFrame, given: Sequence[str] | None, where: str) -> tuple[str, ...]:
    if given is None:
        learnt = sorted(frame.loc[frame["split"] == "train", "label"].unique())
        unseen = frame.loc[~frame["label"].isin(learnt), "label"].unique()
        if len(unseen):
            raise InputError(
                where,
                f"val images of {unseen[0]!r}, of which train has none ({len(unseen)} such classes)",
                expected="classes that can be learnt",
                todo="Deal the splits again, or take the class out of val.",
            )
        return tuple(learnt)
    strange = frame.loc[~frame["label"].isin(given), "label"].value_counts()
    if len(strange):
        shown = ", ".join(f"{name!r} ×{n}" for name, n in strange.head(5).items())
        raise InputError(
            where,
            f"{len(strange)} labels outside the classes of the config: {shown}",
            expected=f"one of {len(given)} classes",
            todo="Map them in ddeval.yaml; nothing becomes `other` by itself.",
        )
    return tuple(given)


def _refuse_empty_splits(is_train: npt.NDArray[np.bool_], where: str) -> None:
    for split, rows in (("train", is_train), ("val", ~is_train)):
        if not rows.any():
            raise InputError(
                where,
                f"no image with a label in split {split}",
                expected="images to learn from (train) and to choose the best epoch by (val)",
                todo="Deal splits: ddeval data split.",
            )


def _check_classes(
    labels: npt.NDArray[np.int64],
    is_train: npt.NDArray[np.bool_],
    names: tuple[str, ...],
    other_class: str | None,
    where: str,
) -> None:
    empty = [name for i, name in enumerate(names) if not (labels[is_train] == i).any()]
    if empty:
        raise InputError(
            where,
            f"no training image of {empty[0]!r} ({len(empty)} such classes)",
            expected="at least one of each class",
            todo="Take the class out of `classes:`, or deal the splits again.",
        )
    targets = [name for name in names if name != other_class]
    if len(targets) < 2:
        raise InputError(
            where, f"only the class {targets}", expected="at least two classes", todo="Check the labels."
        )
    if not np.isin(labels[~is_train], [names.index(name) for name in targets]).any():
        raise InputError(
            where, "no val image of a target class", expected="some", todo="Deal the splits again."
        )


def soften(
    targets: npt.NDArray[np.float32],
    frame: pd.DataFrame,
    opinions: Mapping[str, Mapping[str, float]],
    index_of: Mapping[str, int],
    other_index: int | None,
) -> None:
    """Replace the rows that readers answered by the weights of their answers.

    A diagnosis outside the classes counts for `other`; where there is no such class it counts for
    nothing, and a row left with no weight keeps its label.
    """
    for row, image_id in enumerate(frame["image_id"]):
        weights = np.zeros(targets.shape[1], np.float32)
        for label, weight in opinions.get(image_id, {}).items():
            index = index_of.get(label, other_index)
            if index is not None:
                weights[index] += weight
        if weights.sum() > 0:
            targets[row] = weights / weights.sum()


def _weights(
    frame: pd.DataFrame, is_train: npt.NDArray[np.bool_], train: TrainConfig, where: str
) -> npt.NDArray[np.float32]:
    """Weight of each image in the loss; 1 without a column, and for val, which has no loss.

    An InputError for a training image without a weight: an audit of train tells those of train alone.
    """
    column = train.weight_column
    if column is None:
        return np.ones(len(frame), np.float32)
    if train.weight_table is not None:
        where = train.weight_table
        table = _read_weight_table(Path(where), column)
        cells = frame["image_id"].map(table)
    elif column in frame.columns:
        cells = frame[column]
    else:
        raise InputError(
            where, f"no column {column!r}", expected="the weight_column of the config",
            todo="Add the column, or name the file that has it as weight_table.",
        )  # fmt: skip
    weights: npt.NDArray[np.float32] = np.where(is_train, pd.to_numeric(cells, errors="coerce"), 1.0)
    weights = weights.astype(np.float32)
    wrong = ~(weights >= 0) | ~np.isfinite(weights)  # NaN is wrong too
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        image_id = frame["image_id"].iloc[row]
        raise InputError(
            where,
            f"{column} {cells.iloc[row]!r} of image {image_id!r} ({int(wrong.sum())} such)",
            expected="a weight of 0 or more for each image of train",
            todo="Correct the column.",
        )
    return weights


def _read_weight_table(path: Path, column: str) -> pd.Series:
    table = read_parquet(path)[0] if path.suffix == ".parquet" else read_csv(path)
    missing = [name for name in ("image_id", column) if name not in table.columns]
    if missing:
        raise InputError(
            str(path), f"no column {missing[0]!r}", expected=f"image_id and {column}", todo="Check the file."
        )
    if table["image_id"].duplicated().any():
        twice = table.loc[table["image_id"].duplicated(), "image_id"].iloc[0]
        raise InputError(str(path), f"image {twice!r} twice", expected="one row an image", todo="Correct it.")
    return table.set_index("image_id")[column]
