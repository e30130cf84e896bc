"""Trials: would other preprocessing give the numbers that a checkpoint's makers report?

Some labelled images go through the model again, prepared in the ways in which packages differ most often:
the other mean and standard deviation, the other way of resizing. Cheap or not at all: the number of images
follows from how long the first batch takes.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from ddeval.data.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from ddeval.score import folder
from ddeval.score.engine import answers
from ddeval.score.numbers import judged_rows
from ddeval.score.plan import Plan
from ddeval.score.reproduction import Reproduction, reproduction
from ddeval.score.run import Job

MOST_IMAGES, FEWEST_IMAGES = 256, 32
SECONDS = 20.0
"""For all trials together."""
P_VALUE = 0.01


class Trial(NamedTuple):
    """The same images under the checkpoint's preprocessing and another."""

    change: str
    n_images: int
    n_right: int
    n_right_before: int
    p_value: float
    """Exact McNemar test of the two."""

    @property
    def sentence(self) -> str:
        return (
            f"with {self.change}, {self.n_right} of {self.n_images} images are right and not "
            f"{self.n_right_before} (p {self.p_value:.1g}): the likely cause"
        )


def reproduced(
    run: Path, result: Mapping[str, Any], *, job: Job | None = None, workers: int = 0
) -> Reproduction | None:
    """Whether a run shows the numbers of its checkpoint's metrics.json, kept in `run.json`; None without any.

    Vetted labels are meant to change numbers, so under them nothing is compared. With the `job` that was
    executed in this process, a top-1 accuracy that no reading gives is looked for with `trials`.
    """
    reported = folder.read_run(run)["checkpoint"].get("reported") or {}
    found = reproduction(reported, result) if result["labels"] == "v0" else None
    if found is None:
        return None
    lost = [c for c in found.missed if c.metric == "top_1_accuracy" and c.reading is None]
    if lost and job is not None:
        tried = trials(job, run, reported=lost[0].reported, workers=workers)
        found = reproduction(reported, result, causes=[trial.sentence for trial in tried[:2]])
    if found is not None:
        folder.update_run(run, reproduction=found.to_dict())
    return found


def trials(job: Job, run: Path, *, reported: float, workers: int = 0) -> list[Trial]:
    """Changes of preprocessing after which the top-1 accuracy comes closer to `reported`, best first.

    A change counts where the same images are right significantly more (or less) often, in the direction of
    `reported`. [] where nothing helps, or where a trial would take too long here.

    Parameters
    ----------
    job : Job
        The run as it was executed in this process: its checkpoint, images and device.
    reported : float
        The top-1 accuracy that its makers wrote, as a share of 1.
    """
    judged = judged_rows(run)
    names = judged.predictions.class_names
    is_target = np.ones(len(judged.labels), bool)
    if job.checkpoint.other_class is not None:
        is_target = judged.labels != names.index(job.checkpoint.other_class)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(is_target))[:MOST_IMAGES]
    position = {image_id: i for i, image_id in enumerate(job.plan.image_ids)}
    rows = [position[i] for i in judged.predictions.frame["image_id"].to_numpy()[chosen]]
    changes = alternatives(job.checkpoint.preprocessing)
    n = _affordable(job, rows, len(changes), workers)
    if n < FEWEST_IMAGES:
        return []
    rows, labels = rows[:n], judged.labels[chosen[:n]]
    before = is_right(logits_of(job, rows, job.checkpoint.preprocessing, workers), labels, job)
    found = []
    for change, other in changes.items():
        now = is_right(logits_of(job, rows, other, workers), labels, job)
        gained, lost = int((now & ~before).sum()), int((before & ~now).sum())
        p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        towards = np.sign(now.mean() - before.mean()) == np.sign(reported - before.mean())
        if p_value < P_VALUE and towards:
            found.append(Trial(change, n, int(now.sum()), int(before.sum()), p_value))
    return sorted(found, key=lambda t: abs(t.n_right / t.n_images - reported))


def alternatives(p: Preprocessing) -> dict[str, Preprocessing]:
    """What packages do otherwise, in words."""
    is_half = p.mean == HALF
    norm: dict[str, Any] = (
        {"mean": IMAGENET_MEAN, "std": IMAGENET_STD} if is_half else {"mean": HALF, "std": HALF}
    )
    norm_name = f"image_norm {'imagenet' if is_half else 'siglip'} (mean and std)"
    if p.resize == "squash":
        cut: dict[str, Any] = {"resize": "shortest_edge", "edge": int(p.size / 0.875)}
        cut_name = "the middle cut out (resize shortest_edge)"
    else:
        cut, cut_name = {"resize": "squash", "edge": p.size}, "the whole image squashed (resize squash)"
    return {
        norm_name: replace(p, **norm),
        cut_name: replace(p, **cut),
        f"{norm_name} and {cut_name}": replace(p, **norm, **cut),
        "pixels of 0 to 255 (rescale 1)": replace(p, rescale=1.0),
    }


def _affordable(job: Job, rows: Sequence[int], n_changes: int, workers: int) -> int:
    """How many images can be tried in `SECONDS`, by the time of one batch; the first only warms up."""
    batch = rows[: job.plan.batch_size]
    logits_of(job, batch, job.checkpoint.preprocessing, workers)
    began = time.monotonic()
    logits_of(job, batch, job.checkpoint.preprocessing, workers)
    rate = len(batch) / max(time.monotonic() - began, 1e-6)
    return min(len(rows), int(rate * SECONDS / (n_changes + 1)))


def logits_of(job: Job, rows: Sequence[int], p: Preprocessing, workers: int) -> npt.NDArray[np.float32]:
    """(n, K) of these rows of the job, in their order."""
    plan = Plan(
        tuple(job.plan.image_ids[row] for row in rows), job.plan.inputs, job.plan.machine,
        batch_size=job.plan.batch_size, shard_size=max(len(rows), 1),
    )  # fmt: skip
    features = None if job.features is None else job.features[list(rows)]
    sources, checkpoint = [job.sources[row] for row in rows], replace(job.checkpoint, preprocessing=p)
    parts = answers(checkpoint, plan, [0], job.on, sources, features, workers, lambda n: None)
    return next(iter(parts))[1].logits


def is_right(
    logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], job: Job
) -> npt.NDArray[np.bool_]:
    """Whether the greatest logit among the target classes is the label's."""
    values, rows = logits.astype(np.float64), np.arange(len(labels))
    if job.checkpoint.other_class is not None:
        values[:, job.checkpoint.class_names.index(job.checkpoint.other_class)] = -np.inf
    own = values[rows, labels]
    values[rows, labels] = -np.inf
    is_right: npt.NDArray[np.bool_] = own > values.max(axis=1)
    return is_right
