"""Out of fold by whole training runs: what a system says of training images it never saw.

The training split is cut into folds, patients whole; each fold is judged by the system trained on the
others. The answers become one run of the split train, which `ddeval audit RUN --split train --as-given`
takes. Heads on stored embeddings (`ddeval.audit.folds`) cost seconds but find fewer wrong labels: their
backbone has seen every label.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.audit.folds import fold_of
from ddeval.config import Config
from ddeval.data.manifest import read_manifest, write_manifest
from ddeval.data.overlay import Overlay, apply_overlay
from ddeval.data.splits import units
from ddeval.errors import InputError
from ddeval.io import write_parquet
from ddeval.models.checkpoint import load_checkpoint
from ddeval.models.device import DeviceName
from ddeval.score.file_run import execute_file, prepare_file
from ddeval.score.foreign import read_file
from ddeval.score.predictions import read_predictions
from ddeval.score.run import Settings, score
from ddeval.train.loop import train

Mapper = Callable[[Callable[[int], Any], Iterable[int]], Iterable[Any]]
"""`map`, or the `map` of a pool of processes."""


def train_folds(
    config: Config,
    manifest: Path,
    out: Path,
    *,
    n_folds: int,
    overlay: Overlay | None = None,
    image_roots: Sequence[Path] = (),
    device: DeviceName = "auto",
    config_path: Path | None = None,
    mapper: Mapper = map,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Run folder of the split train: each labelled image under a system that saw neither it nor its patient.

    A fold goes on where it was killed, as `ddeval.train.loop.train`; the config's seed deals the folds.

    Parameters
    ----------
    out : Path
        Gets `fold-1` … with their artefacts, the predictions file, and `run`.
    n_folds : int
        From 2 to the number of patients.
    mapper : callable
        Runs the folds: `map` one after the other, `pool.map` side by side.

    Raises
    ------
    InputError
        As `train`; for a split train that cannot be cut into so many folds.
    """
    frame = read_manifest(manifest)
    labelled = apply_overlay(frame, overlay) if overlay is not None else frame
    is_train = (labelled["split"].eq("train") & labelled["label"].notna()).to_numpy()
    fold = np.full(len(frame), -1)
    fold[is_train] = _folds(labelled[is_train], n_folds, config, where=str(manifest))
    names = config.classes or tuple(sorted(labelled.loc[is_train, "label"].unique()))
    fit = partial(
        _fit, config, frame, labelled["label"], fold, out,
        overlay=overlay, image_roots=list(image_roots) or [manifest.parent], device=device,
        config_path=config_path,
    )  # fmt: skip
    parts = []
    for k, (image_ids, class_names, probs) in enumerate(mapper(fit, range(n_folds)), start=1):
        note(f"fold {k} of {n_folds}: {len(image_ids):,} images judged by a system that saw none of them")
        wide = np.zeros((len(probs), len(names)))
        wide[:, pd.Index(names).get_indexer(pd.Index(class_names))] = probs
        parts.append(pd.DataFrame(wide, columns=list(names)).assign(image_id=image_ids))
    path = out / f"{config.name}-out-of-fold.parquet"
    write_parquet(path, pd.concat(parts, ignore_index=True)[["image_id", *names]])
    job = prepare_file(
        read_file(path), manifest, out=out / "run", split="train", other_class=config.other_class,
        image_roots=image_roots, note=note,
    )  # fmt: skip
    return execute_file(job)


def _folds(rows: pd.DataFrame, n_folds: int, config: Config, *, where: str) -> npt.NDArray[np.int64]:
    seed = config.train.seed if config.train else 0
    labels = pd.factorize(rows["label"], sort=True)[0]
    try:
        return fold_of(
            labels, n_folds=n_folds, groups=units(rows), rng=np.random.default_rng([seed, n_folds])
        )
    except ValueError as error:
        raise InputError(
            where, str(error), expected="a split train to cut into folds", todo="Take fewer folds."
        ) from None


def _fit(
    config: Config,
    frame: pd.DataFrame,
    labels: pd.Series,
    fold: npt.NDArray[np.int64],
    out: Path,
    k: int,
    *,
    overlay: Overlay | None,
    image_roots: Sequence[Path],
    device: DeviceName,
    config_path: Path | None,
) -> tuple[npt.NDArray[Any], tuple[str, ...], npt.NDArray[np.float64]]:
    """Ids, class names and probabilities of fold `k` under a system trained on the others.

    A class that the others hold no image of is none of its classes, and its probability 0.
    """
    folder = out / f"fold-{k + 1}"
    learnt = set(labels[(fold >= 0) & (fold != k)])
    kept = (fold >= 0) | (frame["split"].eq("val") & labels.isin(learnt)).to_numpy()
    part = frame.assign(split=np.where(fold == k, "test", frame["split"]))[kept]
    write_manifest(folder / "manifest.csv", part)
    names = tuple(name for name in config.classes or sorted(learnt) if name in learnt)
    own = config.model_copy(update={"classes": names})
    train(
        own, folder / "manifest.csv", folder / "artefact",
        overlay=overlay, image_roots=image_roots, device=device, config_path=config_path,
    )  # fmt: skip
    run = score(
        load_checkpoint(folder / "artefact"), folder / "manifest.csv",
        settings=Settings(device=device), out=folder / "run", image_roots=image_roots,
    )  # fmt: skip
    said = read_predictions(run / "predictions.parquet")
    return said.frame["image_id"].to_numpy(), said.class_names, said.pred_probs()
