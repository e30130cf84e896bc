"""Ablation: what is each question of the questionnaire worth? The vision tower is not run again.

The image embeddings of a run are stored; the head is run on them again with the answers to one question
permuted between the cases of the split, or all unknown. What top-1 and top-3 lose is paired by image, with
an interval over patients. Permuting keeps how often each answer is given and breaks what it says; unknown
is what a schema without the question would send to this model, not to one trained without it.
"""

import platform
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from ddeval.data.questionnaire import Features, FeatureSchema, encode
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats, Weights, ratio
from ddeval.metrics.discrimination import label_ranks
from ddeval.metrics.paired import holm
from ddeval.metrics.readings import case_codes, closed_set
from ddeval.metrics.resampling import N_RESAMPLES, group_codes, group_weights, weighed
from ddeval.metrics.shares import paired_interval
from ddeval.models.record import Checkpoint
from ddeval.score.numbers import Judged, judged_rows
from ddeval.score.predictions import read_embeddings
from ddeval.tables import ANSWER_PREFIX

WHOLE = "all questions"
N_PERMUTATIONS = 5
"""Their mean is what is reported: one permutation alone adds its own chance."""
LARGEST_DIFFERENCE = 0.05
"""Of a logit from the run's own, with nothing changed: half precision and another device explain less."""
COLUMNS = (
    "field", "how", "metric", "lost", "ci_low", "ci_high", "p_holm", "n_images", "n_groups",
    "n_answered", "n_columns",
)  # fmt: skip


class Ablation(NamedTuple):
    """What the questions are worth to a run."""

    table: pd.DataFrame
    """`COLUMNS`: a row a question (and `WHOLE`), how its answers were changed (permuted, unknown) and
    metric. `lost` is the accuracy with the answers less that without, in [-1, 1]; sorted by the top-1 that
    permuting costs, `WHOLE` first. Holm's family is the questions, for one way and metric."""
    largest_difference: float
    """Of any logit from the run's, with nothing changed."""
    n_images: int
    version: str
    """Of the labels."""
    overlay: Path | None
    """The file of the labels, where they are not the manifest's."""


def ablate(
    run: Path,
    checkpoint: Checkpoint,
    *,
    labels: str | None = None,
    manifest: Path | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Ablation:
    """Accuracy lost in the closed set with each question permuted and unknown.

    A case keeps one set of answers: all its photographs are given those of the same other case.

    Raises
    ------
    InputError
        Where the checkpoint is not the one of the run, reads no questionnaire or has no head that runs
        alone; where the run holds no embeddings, or its logits are not those of the head on them.
    """
    found = judged_rows(run, labels, manifest=manifest)
    _check_checkpoint(found, checkpoint, run)
    rows = found.answers().rows
    ids = pd.Index(found.all_predictions.frame["image_id"])
    judged = ids.get_indexer(pd.Index(found.predictions.frame["image_id"]))
    embeddings = torch.from_numpy(np.asarray(read_embeddings(run, len(ids))[judged], dtype=np.float32))
    features = checkpoint.features(rows, where=str(found.manifest_path))
    assert features is not None  # checked: the checkpoint reads a questionnaire
    base = _logits(checkpoint, embeddings, features)
    largest = float(np.abs(base - found.predictions.logits).max())
    if not largest <= LARGEST_DIFFERENCE:
        raise InputError(
            str(run),
            f"logits that differ by up to {largest:.3g} from those of the head on its embeddings",
            expected=f"at most {LARGEST_DIFFERENCE}",
            todo="Score it again without --tta.",
        )
    rng = np.random.default_rng([seed, 10])
    at, before = _hits(found, base)
    lost, about = [], []
    for field, how, changed in _changes(checkpoint, rows, features, found, rng):
        hits = [_hits(found, _logits(checkpoint, embeddings, x))[1] for x in changed]
        lost.append(before - np.mean(hits, axis=0))
        about.append((field, how))
    table = _table(
        np.concatenate(lost, axis=1), about, found.predictions.frame["group"].to_numpy()[at],
        np.random.default_rng([seed, 11]), n_resamples,
    )  # fmt: skip
    known = {name: _described(checkpoint, rows, name) for name in dict.fromkeys(f for f, _ in about)}
    table["n_answered"] = [known[name][0] for name in table["field"]]
    table["n_columns"] = [known[name][1] for name in table["field"]]
    return Ablation(_sorted(table)[list(COLUMNS)], largest, len(at), found.version, found.overlay_path)


def machine() -> str:
    """What decides the last digit of a logit: another one may turn an answer that is nearly a tie."""
    return f"torch {torch.__version__}, {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def _check_checkpoint(found: Judged, checkpoint: Checkpoint, run: Path) -> None:
    made_by = found.facts["checkpoint"]
    if checkpoint.sha256 != made_by.get("sha256"):
        raise InputError(
            f"--checkpoint {checkpoint.name}",
            "another checkpoint than the run's",
            expected=f"that of {run}, sha256 {str(made_by.get('sha256'))[:12]}…",
            todo="Pass the artefact that was scored.",
        )
    if checkpoint.schema is None and checkpoint.encode is None:
        raise InputError(
            f"--checkpoint {checkpoint.name}",
            "a model of photographs alone",
            expected="one that reads a questionnaire",
            todo="There is nothing to ablate.",
        )
    if not hasattr(checkpoint.module, "classify"):
        raise InputError(
            f"--checkpoint {checkpoint.name}",
            "a network of another package, in one piece",
            expected="a method classify(embeddings, features)",
            todo="Add it to the network that adapter.yaml names; it runs the head alone.",
        )


@torch.inference_mode()
def _logits(checkpoint: Checkpoint, embeddings: torch.Tensor, features: Features) -> npt.NDArray[np.float32]:
    logits = checkpoint.module.classify(embeddings, torch.from_numpy(features))  # type: ignore[operator]
    return np.asarray(logits.float().numpy(), dtype=np.float32)


def _hits(found: Judged, logits: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.intp], Floats]:
    """Rows of a target class, and whether top-1 and top-3 hold their label in the closed set, (n, 2)."""
    predictions = found.predictions
    probs = replace(predictions, logits=logits).pred_probs()
    at, labels, probs = closed_set(found.labels, probs, predictions.other)
    ranks = label_ranks(labels, probs)
    return at, np.column_stack([ranks < k for k in (1, 3)]).astype(np.float64)


def _changes(
    checkpoint: Checkpoint, rows: pd.DataFrame, features: Features, found: Judged, rng: np.random.Generator
) -> Iterator[tuple[str, str, list[Features]]]:
    """Each question and way with the encoded answers that come of it."""
    names = _fields(checkpoint, rows)
    case_of = case_codes(found.predictions.frame["case_id"].to_numpy(dtype=object))
    first = np.unique(case_of, return_index=True)[1]
    takes = [first[rng.permutation(len(first))][case_of] for _ in range(N_PERMUTATIONS)]
    for label, wanted in {WHOLE: names, **{name: [name] for name in names}}.items():
        yield label, "permuted", [_with(checkpoint, rows, features, wanted, take) for take in takes]
        yield label, "unknown", [_with(checkpoint, rows, features, wanted, None)]


def _with(
    checkpoint: Checkpoint,
    rows: pd.DataFrame,
    features: Features,
    names: list[str],
    take: npt.NDArray[np.intp] | None,
) -> Features:
    """The encoded answers with these questions answered as in the rows `take`, or unknown where None."""
    columns = [ANSWER_PREFIX + name for name in names]
    if checkpoint.encode is not None or checkpoint.schema is None:
        changed = rows.copy()
        for column in columns:
            changed[column] = None if take is None else rows[column].to_numpy(dtype=object)[take]
        encoded = checkpoint.features(changed)
        return features if encoded is None else encoded
    result, start = features.copy(), 0
    for field in checkpoint.schema.fields:
        block = slice(start, start + field.width)
        if field.name in names:
            unknown = encode(pd.DataFrame({ANSWER_PREFIX + field.name: [None]}), FeatureSchema((field,)))
            result[:, block] = unknown if take is None else features[take, block]
        start += field.width
    return result


def _fields(checkpoint: Checkpoint, rows: pd.DataFrame) -> list[str]:
    if checkpoint.schema is not None and checkpoint.encode is None:
        return [field.name for field in checkpoint.schema.fields]
    return [str(c).removeprefix(ANSWER_PREFIX) for c in rows.columns if str(c).startswith(ANSWER_PREFIX)]


def _described(checkpoint: Checkpoint, rows: pd.DataFrame, name: str) -> tuple[int, int]:
    """Images with an answer to the question, and its encoded columns (0 where the encoder is the user's)."""
    names = _fields(checkpoint, rows) if name == WHOLE else [name]
    answered = rows[[ANSWER_PREFIX + n for n in names]].notna().any(axis=1)
    fields = checkpoint.schema.fields if checkpoint.schema is not None and checkpoint.encode is None else ()
    return int(answered.sum()), sum(field.width for field in fields if field.name in names)


def _table(
    lost: Floats,
    about: list[tuple[str, str]],
    groups: npt.NDArray[Any],
    rng: np.random.Generator,
    n_resamples: int,
) -> pd.DataFrame:
    """Means of (N, 2 M) losses, top-1 and top-3 of each change, with intervals and Holm over questions."""
    keys = [(*key, metric) for key in about for metric in ("top_1_accuracy", "top_3_accuracy")]
    table = pd.DataFrame(keys, columns=["field", "how", "metric"])
    if not len(groups):
        return table.assign(lost=np.nan, ci_low=np.nan, ci_high=np.nan, p_holm=np.nan, n_images=0, n_groups=0)
    group_of, n_groups = group_codes(groups)

    def means(weights: Weights) -> Floats:
        return ratio(weights.astype(np.float64) @ lost, weights.sum(axis=1, keepdims=True))

    draws = group_weights(group_of, n_groups, rng=rng, n_resamples=n_resamples)
    drawn = np.concatenate(list(weighed(means, draws)))
    value = lost.mean(axis=0)  # no draw differs: no interval and no p-value
    told = [paired_interval(v, of, n_groups=n_groups) for v, of in zip(value, drawn.T, strict=True)]
    low, high, p_values = np.array(told).T
    table = table.assign(lost=value, ci_low=low, ci_high=high, p_holm=np.nan)
    for _, family in table[table["field"] != WHOLE].groupby(["how", "metric"]):
        table.loc[family.index, "p_holm"] = holm(p_values[family.index])
    return table.assign(n_images=len(groups), n_groups=n_groups)


def _sorted(table: pd.DataFrame) -> pd.DataFrame:
    costs = table[(table["how"] == "permuted") & (table["metric"] == "top_1_accuracy")].set_index("field")[
        "lost"
    ]
    order = table.assign(
        is_part=table["field"] != WHOLE, cost=-table["field"].map(costs), place=np.arange(len(table))
    )
    kept = order.sort_values(["is_part", "cost", "field", "place"]).index
    return table.loc[kept].reset_index(drop=True)
