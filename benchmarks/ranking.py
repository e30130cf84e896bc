"""Which ranking finds wrong labels first? Average precision on real and synthetic noise; prints a table.

    python benchmarks/ranking.py [--data shared/data] [--out ranking.json]

Cases: CIFAR-10N aggregate (crowd noise, true labels known), the hand-checked set (2,831 images, 13 % errors),
CIFAR-10 with synthetic noise, HAM10000 models with planted noise, and the vetted images of the CIFAR-10 and
MNIST test sets (`ap_all`: the others count as right). Signals beside ours: self-confidence, cleanlab's margin
and weighted entropy, the ratio of the given class to the best other one, and for two models the mean and the
product of their probabilities.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import average_precision_score

from ddeval.audit import label_quality
from ddeval.audit.confident import FILTERS, label_issue_mask, label_quality_scores
from ddeval.audit.ranking import own

Array = np.ndarray[Any, Any]


class Case(NamedTuple):
    """Labels, one or two models' probabilities, and which labels are wrong (NaN: not known)."""

    name: str
    labels: Array
    probs: list[Array]
    is_wrong: Array


def cases(data: Path) -> Iterator[Case]:
    folder = data / "label_errors"
    crowd = np.load(folder / "cifar-10n-aggregate_cross_validated.npz")
    checked = np.load(folder / "hand_checked_cross_validated.npz")
    synthetic = np.load(folder / "cifar-10_cross_validated.npz")
    for name, file, wrong in (
        ("CIFAR-10N aggregate", crowd, crowd["given_labels"] != crowd["true_labels"]),
        ("hand-checked", checked, checked["is_error"]),
        ("CIFAR-10, synthetic noise", synthetic, synthetic["given_labels"] != synthetic["true_labels"]),
    ):
        labels = file["given_labels"].astype(np.int64)
        models = [key for key in ("pred_probs_resnet18", "pred_probs_efficientnet_b1") if key in file]
        probs = [_rows(file[key]) for key in models]
        for model, one in zip(("ResNet-18", "EfficientNet"), probs, strict=False):
            yield Case(f"{name}, {model}", labels, [one], wrong.astype(float))
        if len(probs) > 1:
            yield Case(f"{name}, both", labels, probs, wrong.astype(float))
    yield from planted(data)
    for name, stem in (("CIFAR-10 test", "cifar10"), ("MNIST test", "mnist")):
        yield vetted(folder, name, stem)


def planted(data: Path) -> Iterator[Case]:
    """Three published HAM10000 models and 15 % of labels moved, evenly or towards what the model confuses."""
    diagnosis = pd.read_csv(data / "ham10000" / "metadata.csv").set_index("image_id")["dx"]
    names = ["mel", "nv", "bcc", "akiec", "bkl", "df", "vasc"]
    files = sorted((data / "ham10000_predictions").glob("predictions_*.csv"))
    for number, path in enumerate(files, start=1):
        rng = np.random.default_rng(number)
        table = pd.read_csv(path)
        truth = diagnosis.reindex(table["image"].str.removesuffix(".jpg")).map(names.index).to_numpy()
        probs = _rows(table[[name.upper() for name in names]].to_numpy(np.float64))
        is_wrong = rng.random(len(truth)) < 0.15
        for kind in ("even", "confusable"):
            weights = np.ones_like(probs) if kind == "even" else probs + 1e-9
            weights[np.arange(len(truth)), truth] = 0.0
            weights /= weights.sum(axis=1, keepdims=True)
            moved = (rng.random(len(truth))[:, None] > weights.cumsum(axis=1)).sum(axis=1)
            labels = np.where(is_wrong, np.minimum(moved, len(names) - 1), truth)
            yield Case(
                f"HAM10000 model {number}, {kind} noise", labels, [probs], (labels != truth).astype(float)
            )


def vetted(folder: Path, name: str, stem: str) -> Case:
    """A test set of which the flagged images were shown to five people; wrong where most did not choose
    the given label."""
    labels = np.load(folder / f"{stem}_test_set_original_labels.npy").astype(np.int64)
    is_wrong = np.full(len(labels), np.nan)
    for row in json.loads((folder / f"{stem}_mturk.json").read_text()):
        votes = row["mturk"]
        is_wrong[int(row["id"])] = float(votes["given"] < 3 if isinstance(votes, dict) else votes)
    return Case(name, labels, [_rows(np.load(folder / f"{stem}_pred_probs.npy"))], is_wrong)


def _rows(probs: Array) -> Array:
    probs = probs.astype(np.float64)
    scaled: Array = probs / probs.sum(axis=1, keepdims=True)
    return scaled


def self_confidence(labels: Array, probs: list[Array]) -> Array:
    return own(probs[0], labels)


def margin(labels: Array, probs: list[Array]) -> Array:
    return label_quality_scores(labels, probs[0])["normalized_margin"].to_numpy()


def weighted_entropy(labels: Array, probs: list[Array]) -> Array:
    return label_quality_scores(labels, probs[0])["confidence_weighted_entropy"].to_numpy()


def ratio(labels: Array, probs: list[Array]) -> Array:
    """Given class over the best other class."""
    others = probs[0].copy()
    others[np.arange(len(labels)), labels] = -1.0
    quality: Array = np.log(np.maximum(own(probs[0], labels), 1e-12)) - np.log(others.max(axis=1))
    return quality


def mean_probability(labels: Array, probs: list[Array]) -> Array:
    return own(np.mean(probs, axis=0), labels)


def product(labels: Array, probs: list[Array]) -> Array:
    total = np.exp(sum(np.log(np.maximum(one, 1e-12)) for one in probs) / len(probs))
    return own(total / total.sum(axis=1, keepdims=True), labels)


def combined(labels: Array, probs: list[Array]) -> Array:
    return label_quality(labels, probs)


SINGLE: dict[str, Callable[[Array, list[Array]], Array]] = {
    "self-confidence": self_confidence,
    "margin": margin,
    "weighted entropy": weighted_entropy,
    "ratio": ratio,
    "label_quality": combined,
}
SEVERAL: dict[str, Callable[[Array, list[Array]], Array]] = {
    "mean probability": mean_probability,
    "product": product,
    "label_quality": combined,
}


def average_precisions(case: Case) -> list[dict[str, Any]]:
    """A row a signal; where not all verdicts are known, over the vetted images and over all."""
    is_known = ~np.isnan(case.is_wrong)
    rows = []
    for name, signal in (SINGLE if len(case.probs) == 1 else SEVERAL).items():
        quality = signal(case.labels, case.probs)
        row: dict[str, Any] = {"case": case.name, "signal": name}
        row["ap"] = average_precision_score(case.is_wrong[is_known], -quality[is_known])
        row["ap_all"] = average_precision_score(np.nan_to_num(case.is_wrong), -quality)
        rows.append(row)
    return rows


def filters(case: Case) -> list[dict[str, Any]]:
    """Images that cleanlab's filters flag, and the wrong labels known to be among them."""
    rows = []
    for name in FILTERS:
        mask = label_issue_mask(case.labels, case.probs[0], filter_by=name)
        rows.append(
            {"filter": name, "flagged": int(mask.sum()), "wrong": int(np.nansum(case.is_wrong[mask]))}
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    found = [row for case in cases(args.data) for row in average_precisions(case)]
    table = pd.DataFrame(found)
    print(table.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
    flagged = filters(vetted(args.data / "label_errors", "CIFAR-10 test", "cifar10"))
    print("\ncleanlab's filters on the CIFAR-10 test set")
    print(pd.DataFrame(flagged).to_string(index=False))
    if args.out:
        args.out.write_text(json.dumps({"ranking": found, "filters": flagged}, indent=1))


if __name__ == "__main__":
    main()
