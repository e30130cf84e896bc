"""Findings: everything an audit says about one split, from labels, probabilities and embeddings.

Composes the ranking, the class tables, what looks unlike the rest and the queue. Arrays and frames in,
frames out: runs are read and files written by `ddeval.cli.auditing`; pairs of pictures come from
`ddeval.audit.duplicates` and `ddeval.audit.pictures`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.audit.confident import FILTERS, class_health, class_overlap, label_issue_mask, temperature_scaled
from ddeval.audit.issues import absent_class_table, issues_table
from ddeval.audit.queue import Mix, Queue, case_table, make_queue
from ddeval.audit.ranking import own, pooled
from ddeval.audit.strata import posterior
from ddeval.metrics.arrays import Labels, Probs, top_class

MAX_FILTER_ROWS = 100_000
"""More rows than this are not put through cleanlab's filters: they take minutes and decide nothing."""
N_OUTLIERS = 200


class Findings(NamedTuple):
    """The tables of one audit."""

    issues: pd.DataFrame
    """ISSUES, most suspicious label first (`ddeval.audit.issues.issues_table`)."""
    off_topic: pd.DataFrame
    """`image_id, why, score, given_label`: images of a class that is never given, then those least like any
    other (with embeddings)."""
    health: pd.DataFrame
    """A row a class (`class_health`)."""
    overlap: pd.DataFrame
    """A row a pair of classes that the labels mix up (`class_overlap`)."""
    n_flagged: dict[str, int]
    """Images that each of cleanlab's filters flags; {} where there are too many rows."""
    temperature: float
    """Of the pooled probabilities against the given labels; the filters and class tables are after it."""
    cases: pd.DataFrame
    """What the queue was drawn from (`case_table`)."""
    queue: Queue


def findings(
    rows: pd.DataFrame,
    labels: Labels,
    members: Mapping[str, Probs],
    *,
    class_names: Sequence[str],
    features: npt.ArrayLike | None = None,
    n_queue: int,
    mix: Mix,
    rng: np.random.Generator,
    earlier: Sequence[pd.DataFrame] = (),
) -> Findings:
    """Audit the labels of N images.

    Parameters
    ----------
    rows : DataFrame of N rows
        `image_id`, `case_id` and, where known, `label_basis`.
    labels : int array of shape (N,)
    members : mapping of name to float array of shape (N, K)
        Probabilities of each checkpoint; not of one trained on these labels.
    features : float array of shape (N, D), optional
        Embeddings; a row with NaN has none.
    n_queue, mix, rng, earlier
        As in `ddeval.audit.queue.make_queue`.
    """
    names = tuple(class_names)
    pooled_probs = pooled(labels, list(members.values()))
    issues = issues_table(
        rows["image_id"].to_numpy(),
        labels,
        list(members.values()),
        class_names=names,
        features=features,
    )
    by_image = issues.set_index("image_id").loc[rows["image_id"]]
    scaled, temperature = temperature_scaled(labels, pooled_probs)
    n_flagged: dict[str, int] = {
        name: int(label_issue_mask(labels, scaled, filter_by=name).sum())
        for name in (FILTERS if len(labels) <= MAX_FILTER_ROWS else ())
    }
    quality = by_image["label_quality"].to_numpy()
    chances, predicted = posterior(labels, pooled_probs), top_class(labels, pooled_probs)
    images = pd.DataFrame(
        {
            "case_id": rows["case_id"].to_numpy(dtype=object),
            "label_quality": quality,
            "label_error": 1.0 - own(chances, labels),
            "expected_correct": own(chances, predicted),
            "is_agreed": predicted == labels,
            "given_label": by_image["given_label"].to_numpy(),
            "reason": by_image["reason"].to_numpy(),
            "label_basis": rows["label_basis"].to_numpy() if "label_basis" in rows else None,
        }
    )
    images["proposers"] = _proposers(images["case_id"], labels, members, n_top=round(n_queue * mix.ranked))
    cases = case_table(images)
    return Findings(
        issues=issues,
        off_topic=_off_topic(rows, labels, pooled_probs, by_image, names),
        health=class_health(labels, scaled, class_names=names, quality=quality),
        overlap=class_overlap(labels, scaled, class_names=names),
        n_flagged=n_flagged,
        temperature=temperature,
        cases=cases,
        queue=make_queue(cases, n_cases=n_queue, mix=mix, rng=rng, earlier=earlier),
    )


def _proposers(
    case_ids: pd.Series, labels: Labels, members: Mapping[str, Probs], *, n_top: int
) -> npt.NDArray[np.object_]:
    """Checkpoints that alone would have put the image's case among the first `n_top`, joined by commas.

    What a model nominated itself says nothing fair about that model where labels are corrected one by one
    (`ddeval.score.vetted`).
    """
    said = np.full(len(labels), "", dtype=object)
    for name, probs in members.items():
        doubt = pd.Series(own(probs, labels)).groupby(case_ids.to_numpy(), sort=False).min()
        first = doubt.sort_values(kind="stable").index[:n_top]
        is_first = case_ids.isin(first).to_numpy()
        said[is_first] = np.where(said[is_first] == "", name, said[is_first] + f", {name}")
    return said


def _off_topic(
    rows: pd.DataFrame, labels: Labels, probs: Probs, by_image: pd.DataFrame, names: tuple[str, ...]
) -> pd.DataFrame:
    absent = absent_class_table(rows["image_id"].to_numpy(), labels, probs, class_names=names)
    parts = [
        pd.DataFrame(
            {
                "image_id": absent["image_id"],
                "why": "likely " + absent["absent_class"].astype(str) + ", which no label says",
                "score": absent["probability"],
                "given_label": absent["given_label"],
            }
        )
    ]
    if "outlier_score" in by_image:
        far = by_image["outlier_score"].dropna().sort_values(ascending=False, kind="stable")[:N_OUTLIERS]
        parts.append(
            pd.DataFrame(
                {
                    "image_id": far.index,
                    "why": "unlike every other image",
                    "score": far.to_numpy(),
                    "given_label": by_image["given_label"].loc[far.index].to_numpy(),
                }
            )
        )
    held = [part for part in parts if len(part)]
    return pd.concat(held, ignore_index=True) if held else parts[0]
