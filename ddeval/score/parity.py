"""Parity: what a cheaper way of computing costs in answers, measured on photographs of the run itself.

Another number format or another runtime is asked for by the user, so its price is never assumed: the first
images of the run go through the plain network in float32 too, and the two answers are compared.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from ddeval.errors import InputError
from ddeval.metrics.resampling import bootstrap
from ddeval.models.checkpoint import Checkpoint
from ddeval.score import folder
from ddeval.score.numbers import judged_rows
from ddeval.score.run import Job
from ddeval.score.trials import is_right, logits_of

MOST_IMAGES = 256
"""Compared are the first images that are judged: fewer say little (0 of 32 changed may be 11 %)."""


def is_cheaper(job: Job) -> bool:
    """Whether a run computes in a way that was asked for and is not the exact one.

    That is float8, half precision on a CPU (a GPU chooses it by itself), or an ONNX file.
    """
    is_half = job.on.device.type == "cpu" and job.on.dtype != "fp32"
    return job.checkpoint.kind == "onnx" or job.on.precision == "fp8" or is_half


def parity_with(run: Path, job: Job, reference: Checkpoint, *, workers: int = 0) -> dict[str, Any]:
    """The answers of `run` beside those of `reference` in float32, kept in `run.json` as `parity`.

    Measured once a run; the same number is given afterwards. Decoding, questionnaire and batch are the same
    for both, so what differs is the arithmetic.

    Parameters
    ----------
    job : Job
        The run as it was prepared in this process.
    reference : Checkpoint
        The run's own checkpoint, or the one that its ONNX file was made from (`made_from`).

    Returns
    -------
    dict
        `against` (name of the reference), `way` (what was compared with it), `n_images`, `n_flips` (images
        whose greatest logit is another) and `flips_high` (the exact upper end of their share, by images),
        `largest_logit_difference`, and `top_1_difference` in shares of 1 (this way less float32, closed
        set: `difference`, `ci_low`, `ci_high` over patients, `n_images` of a target label; NaN where there
        is none). Where no answer changed the resamples say nothing, and the interval is that of the flips.
        `seconds` is what this took.
    """
    known = folder.read_run(run).get("parity")
    if known is not None:
        return dict(known)
    judged = judged_rows(run)
    began = time.monotonic()
    n = min(len(judged.labels), MOST_IMAGES)
    frame, labels = judged.predictions.frame.iloc[:n], judged.labels[:n]
    position = {image_id: row for row, image_id in enumerate(job.plan.image_ids)}
    rows = [position[image_id] for image_id in frame["image_id"]]
    exact = job._replace(
        checkpoint=reference, on=job.on._replace(dtype="fp32", kernel="transformers", precision="native")
    )
    plain = logits_of(exact, rows, reference.preprocessing, workers)
    cheap = judged.predictions.logits[:n]
    n_flips = int((plain.argmax(axis=1) != cheap.argmax(axis=1)).sum())
    parity = {
        "against": f"{reference.name} in fp32",
        "way": "onnxruntime" if job.checkpoint.kind == "onnx" else str(job.plan.inputs["dtype"]),
        "n_images": n,
        "n_flips": n_flips,
        "flips_high": _share_high(n_flips, n),
        "largest_logit_difference": float(np.abs(plain - cheap).max()) if n else float("nan"),
        "top_1_difference": _gain(job, labels, plain, cheap, frame["group"].to_numpy()),
        "seconds": round(time.monotonic() - began, 1),
    }
    folder.update_run(run, parity=parity)
    return parity


def made_from(checkpoint: Checkpoint, reference: Checkpoint) -> Checkpoint:
    """`reference`, if it is what the ONNX file `checkpoint` was made from; else an InputError."""
    made: Mapping[str, Any] = checkpoint.settings["made_from"]
    if reference.sha256 != made["sha256"]:
        raise InputError(
            f"{checkpoint.folder} --against {reference.name}",
            f"sha256 {reference.sha256[:12]}…",
            expected=f"{made['name']} of sha256 {made['sha256'][:12]}…, from which it was made",
            todo="Name that one, or export this one.",
        )
    return reference


def _gain(
    job: Job,
    labels: npt.NDArray[np.int64],
    plain: npt.NDArray[np.float32],
    cheap: npt.NDArray[np.float32],
    groups: npt.NDArray[Any],
) -> dict[str, Any]:
    """Top-1 accuracy of `cheap` less that of `plain` on the target-labelled images, with its interval."""
    is_target = np.ones(len(labels), bool)
    if job.checkpoint.other_class is not None:
        is_target = labels != job.checkpoint.class_names.index(job.checkpoint.other_class)
    n_images = int(is_target.sum())
    if not n_images:
        return {"difference": float("nan"), "ci_low": float("nan"), "ci_high": float("nan"), "n_images": 0}
    plain_right, cheap_right = (is_right(logits, labels, job)[is_target] for logits in (plain, cheap))
    gain = cheap_right.astype(np.float64) - plain_right
    if not gain.any():
        high = _share_high(0, n_images)
        return {"difference": 0.0, "ci_low": -high, "ci_high": high, "n_images": n_images}
    found = bootstrap(np.mean, gain, groups=groups[is_target], rng=np.random.default_rng(0))
    interval = {"ci_low": found.ci_low, "ci_high": found.ci_high}
    return {"difference": found.value, **interval, "n_images": n_images}


def _share_high(k: int, n: int) -> float:
    """Upper end of the exact two-sided 95 % interval of k in n; NaN where n is 0."""
    return float(binomtest(k, n).proportion_ci(method="exact").high) if n else float("nan")
