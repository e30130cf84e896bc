"""How narrow and how honest is accuracy from 500 vetted images? Prints two tables and writes JSON.

python benchmarks/truth.py [--data shared/data] [--repeats 1000] [--out truth.json]

CIFAR-10N aggregate labels (the truth is known), 15,561 of 50,000 images drawn anew in every repeat. The
readers of the second table are wrong on 8 % of cases (half the time towards the class most like the truth)
and cannot grade 30 %; two read each case, a third where they differ.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.audit.ranking import own
from ddeval.audit.strata import expected_correct, spread, strata_of
from ddeval.metrics.reader_error import consensus_error
from ddeval.metrics.truth import Estimate, design, estimate

N_DRAWN, N_VETTED = 15_561, 500
READER_ERROR, UNGRADABLE = 0.08, 0.30


class Split:
    """Everything a repeat may look at, and the truth that only the readers see."""

    def __init__(self, labels: Any, probs: Any, true_labels: Any, rows: Any, expected: Any) -> None:
        self.labels, self.probs, self.true_labels = labels[rows], probs[rows], true_labels[rows]
        self.predicted = self.probs.argmax(axis=1)
        self.expected = expected[rows]
        self.agreed = self.predicted == self.labels
        self.correct = (self.predicted == self.true_labels).astype(float)


def simple_random(split: Split, rng: np.random.Generator, **_: Any) -> Estimate:
    return vetted(split, np.zeros(N_DRAWN, int), rng)


def prediction_powered(split: Split, rng: np.random.Generator, **_: Any) -> Estimate:
    return vetted(split, np.zeros(N_DRAWN, int), rng, proxy=split.agreed.astype(float))


def prediction_powered_expected(split: Split, rng: np.random.Generator, **_: Any) -> Estimate:
    return vetted(split, np.zeros(N_DRAWN, int), rng, proxy=split.expected)


def four_strata(split: Split, rng: np.random.Generator, **_: Any) -> Estimate:
    """Agreement x lowest fifth of self-confidence, the plain design."""
    confidence = own(split.probs, split.labels)
    return vetted(split, split.agreed * 2 + (confidence < np.quantile(confidence, 0.2)), rng)


def doubt_strata(split: Split, rng: np.random.Generator, **_: Any) -> Estimate:
    """Our strata under the default allocation of `design`."""
    return vetted(split, strata_of(split.expected, split.agreed), rng)


def doubt_strata_neyman(split: Split, rng: np.random.Generator, **_: Any) -> Estimate:
    strata = strata_of(split.expected, split.agreed)
    return vetted(split, strata, rng, spread_of=spread(split.expected))


def doubt_strata_powered(split: Split, rng: np.random.Generator, **_: Any) -> Estimate:
    strata = strata_of(split.expected, split.agreed)
    return vetted(split, strata, rng, spread_of=spread(split.expected), proxy=split.expected)


DESIGNS: dict[str, Callable[..., Estimate]] = {
    "simple random": simple_random,
    "PPI++, proxy = agreement with the label": prediction_powered,
    "PPI++, proxy = expected correctness": prediction_powered_expected,
    "four strata: agreement x low confidence": four_strata,
    "strata of equal doubt": doubt_strata,
    "strata of equal doubt, Neyman": doubt_strata_neyman,
    "strata of equal doubt, Neyman, PPI++": doubt_strata_powered,
}


def vetted(
    split: Split,
    strata: npt.NDArray[Any],
    rng: np.random.Generator,
    *,
    spread_of: npt.NDArray[Any] | None = None,
    proxy: npt.NDArray[Any] | None = None,
) -> Estimate:
    sample = design(strata, N_VETTED, rng=rng, spread=spread_of)
    correct = np.full(N_DRAWN, np.nan)
    correct[sample.index] = split.correct[sample.index]
    return estimate(correct, strata, sample, proxy=proxy)


def read_by_readers(split: Split, rng: np.random.Generator, *, corrected: bool) -> Estimate:
    """Two readers and an adjudicator with planted error vet the designed sample."""
    strata = strata_of(split.expected, split.agreed)
    sample = design(strata, N_VETTED, rng=rng, spread=spread(split.expected))
    truth, like = split.true_labels[sample.index], split.probs[sample.index].copy()
    like[np.arange(len(truth)), truth] = -1
    likeliest, n_classes = like.argmax(axis=1), like.shape[1]

    def read() -> npt.NDArray[Any]:
        wrong = rng.random(len(truth)) < READER_ERROR
        other = (truth + rng.integers(1, n_classes, len(truth))) % n_classes
        mistake = np.where(rng.random(len(truth)) < 0.5, likeliest, other)
        return np.where(wrong, mistake, truth)

    first, second, third = read(), read(), read()
    consensus = np.where(first == second, first, third)
    gradable = rng.random(len(truth)) >= UNGRADABLE
    correct = np.full(N_DRAWN, np.nan)
    verdict = (split.predicted[sample.index] == consensus).astype(float)
    correct[sample.index] = np.where(gradable, verdict, np.nan)
    differ = np.where(gradable, (first != second).astype(float), np.nan)
    error = consensus_error(differ, weights=1 / sample.inclusion_probability)
    return estimate(correct, strata, sample, reader_error=error if corrected else None)


READINGS: dict[str, Callable[..., Estimate]] = {
    "readers taken as right": lambda split, rng: read_by_readers(split, rng, corrected=False),
    "reader error corrected and inside the interval": lambda split, rng: read_by_readers(
        split, rng, corrected=True
    ),
}


def repeated(
    designs: dict[str, Callable[..., Estimate]], data: dict[str, Any], *, repeats: int, seed: int
) -> pd.DataFrame:
    """Bias, coverage and width of each design over many drawn splits."""
    found: dict[str, list[tuple[float, bool, float]]] = {name: [] for name in designs}
    for repeat in range(repeats):
        rng = np.random.default_rng([seed, repeat])
        rows = rng.permutation(len(data["labels"]))[:N_DRAWN]
        split = Split(data["labels"], data["probs"], data["true_labels"], rows, data["expected"])
        truth = split.correct.mean()
        for name, run in designs.items():
            value = run(split, rng=rng)
            inside = value.ci_low <= truth <= value.ci_high
            found[name].append((value.value - truth, inside, value.ci_high - value.ci_low))
    rows_ = [(name, *np.mean(values, axis=0)) for name, values in found.items()]
    return pd.DataFrame(rows_, columns=["design", "bias", "coverage", "width"])


def rare_errors(*, repeats: int, seed: int) -> pd.DataFrame:
    """Coverage where the largest stratum (70 % of rows) holds 0.5 % errors; the others 50, 20 and 5 %."""
    rng = np.random.default_rng(seed)
    strata = np.where(rng.random(N_DRAWN) < 0.7, 0, rng.integers(1, 4, N_DRAWN))
    correct = (rng.random(N_DRAWN) >= np.array([0.005, 0.5, 0.2, 0.05])[strata]).astype(float)
    found = []
    for repeat in range(repeats):
        sample = design(strata, N_VETTED, rng=np.random.default_rng([seed, repeat]))
        value = estimate(correct, strata, sample)
        inside = value.ci_low <= correct.mean() <= value.ci_high
        found.append((value.value - correct.mean(), inside, value.ci_high - value.ci_low))
    row = ("largest stratum with 0.5 % errors", *np.mean(found, axis=0))
    return pd.DataFrame([row], columns=["design", "bias", "coverage", "width"])


def load(data: Path, model: str = "resnet18") -> dict[str, Any]:
    file = np.load(data / "label_errors" / "cifar-10n-aggregate_cross_validated.npz")
    labels, probs = file["given_labels"].astype(np.int64), file[f"pred_probs_{model}"].astype(np.float64)
    return {
        "labels": labels,
        "probs": probs,
        "true_labels": file["true_labels"].astype(np.int64),
        # of all 50,000 once instead of each 15,561 anew: a minute instead of an hour, the same chances
        "expected": expected_correct(labels, probs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--repeats", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    data = load(args.data)
    tables = {
        "designs": pd.concat(
            [
                repeated(DESIGNS, data, repeats=args.repeats, seed=args.seed),
                rare_errors(repeats=args.repeats, seed=args.seed),
            ],
            ignore_index=True,
        ),
        "readers": repeated(READINGS, data, repeats=args.repeats, seed=args.seed),
    }
    for name, table in tables.items():
        print(f"\n{name}: {args.repeats} repeats, {N_VETTED} of {N_DRAWN} vetted")
        print(table.to_string(index=False, float_format=lambda v: f"{v:.4f}"))
    if args.out:
        args.out.write_text(json.dumps({k: v.to_dict("records") for k, v in tables.items()}, indent=1))


if __name__ == "__main__":
    main()
