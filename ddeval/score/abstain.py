"""The deferral rule: when does the service hand a photograph or a case to a person?

Chosen on the calibration split for a target risk, with a bound that holds for a finite number of images,
and written as a file that the serving code reads. Nothing is written into an artefact. The patients of
the calibration split are parted: a quarter fits the temperature, the others choose the threshold, so that
the score does not depend on the answers it is tested on.
"""

import hashlib
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats, Labels, softmax
from ddeval.metrics.deferral import (
    ANSWER_NONE,
    OperatingPoint,
    choose_threshold,
    operating_point,
    score_rules,
)
from ddeval.metrics.readings import case_codes, case_means
from ddeval.metrics.resampling import N_RESAMPLES, bootstrap
from ddeval.metrics.scaling import fit_temperature
from ddeval.metrics.selective import augrc, score_rule_table
from ddeval.score.deferral import FORMAT, decisions, rule_score, tta_of
from ddeval.score.numbers import Judged, calibration_rows, judged_rows
from ddeval.score.predictions import Predictions

Unit = Literal["image", "case"]
N_VECTORS = 50
FIT_SHARE = 0.25
"""Share of the calibration patients that fit the temperature; one number needs few."""


class Rows(NamedTuple):
    """What is decided on: images, or cases by their mean logit."""

    logits: npt.NDArray[np.float64]
    labels: Labels
    groups: npt.NDArray[np.object_]


class Rule(NamedTuple):
    """A deferral rule and what it does."""

    facts: dict[str, Any]
    """The file that the serving code reads."""
    vectors: list[dict[str, Any]]
    """`logits`, `score`, `decision` (answer or defer): what any reader of the file must reproduce."""
    rules: pd.DataFrame
    """Every score rule on the calibration split: `score, augrc, difference` to max_probability with its
    paired interval (`ci_low`, `ci_high`), and what `score_rule_table` says."""
    judged: OperatingPoint
    """What the rule does on the judged split."""


def abstention(
    run: Path,
    *,
    risk: float,
    rule: str = "max_probability",
    unit: Unit = "image",
    confidence_level: float = 0.95,
    labels: str | None = None,
    seed: int = 0,
    n_resamples: int = N_RESAMPLES,
) -> Rule:
    """The rule that answers as many as it can with at most `risk` of the answers wrong.

    An answer is the most probable class; where that is `other`, the image is deferred whatever its score.
    Wrong is any answer but the label, an image of `other` answered with a target included.

    Raises
    ------
    InputError
        Where the run has no labelled calibration split or no logits, or for an unknown score rule.
    """
    found = judged_rows(run, labels)
    predictions, codes = _calibration(found, run)
    other = predictions.other
    known = list(score_rules(np.zeros((1, len(predictions.class_names))), other_class=other))
    if rule not in known:
        raise InputError(
            f"--rule {rule}", "no such score", expected=f"one of {', '.join(known)}", todo="Choose one."
        )
    rows = _rows(predictions, codes, unit)
    is_fit = _quarter(rows.groups, seed)
    temperature = fit_temperature(rows.logits[is_fit], rows.labels[is_fit]) if is_fit.any() else 1.0
    choosing = Rows(rows.logits[~is_fit], rows.labels[~is_fit], rows.groups[~is_fit])
    point = _chosen(choosing, rule, temperature, other, risk, confidence_level)
    judged = _judged(found, unit, rule, temperature, other, point.threshold, confidence_level)
    facts = {
        "format": FORMAT,
        "rule": rule,
        "temperature": temperature,
        "threshold": point.threshold,
        "unit": unit,
        "class_names": list(predictions.class_names),
        "other_class": predictions.other_class,
        "risk": risk,
        "confidence_level": confidence_level,
        "risk_upper": point.risk_upper,
        "coverage": point.coverage,
        "n_answered": point.n_answered,
        "n_wrong": point.n_wrong,
        "n_rows": point.n_images,
        "n_groups": point.n_groups,
        "n_rows_temperature": int(is_fit.sum()),
        "design_effect": point.design_effect,
        "answers_nothing": point.threshold == ANSWER_NONE,
        "calibration_sha256": _calibration_sha256(predictions, codes),
        "labels": found.version,
        "labels_sha256": found.labels_sha256,
        "checkpoint": {name: found.facts["checkpoint"].get(name) for name in ("name", "kind", "sha256")}
        | {"tta": tta_of(found.facts)},
        "seed": seed,
    }
    rng = np.random.default_rng([seed, 8])
    return Rule(
        facts,
        vectors_of(facts, rows.logits),
        _rules(choosing, temperature, other, rng=rng, n_resamples=n_resamples),
        judged,
    )


def vectors_of(facts: dict[str, Any], logits: npt.NDArray[np.float64]) -> list[dict[str, Any]]:
    """`N_VECTORS` rows of logits with the decision: half near the threshold, half spread over all or made up.

    None lies so near the threshold that two ways of adding up could disagree.
    """
    n_classes = logits.shape[1]
    made_up = np.vstack([12.0 * np.eye(n_classes), np.tile(np.linspace(0.0, 1.0, n_classes), (2, 1))])
    made_up[-1] = made_up[-1][::-1]
    score, _ = decisions(logits, facts)
    spread = np.argsort(score, kind="stable")[np.linspace(0, len(score) - 1, N_VECTORS).astype(int)]
    near = np.argsort(np.abs(score - facts["threshold"]), kind="stable")[: N_VECTORS // 2]
    candidates = np.vstack([logits[near], made_up[: N_VECTORS // 4], made_up[-2:], logits[spread]])
    score, deferred = decisions(candidates, facts)
    is_clear = np.abs(score - facts["threshold"]) > 1e-9
    kept = np.flatnonzero(is_clear)[:N_VECTORS]
    return [
        {
            "logits": candidates[i].tolist(),
            "score": float(score[i]),
            "decision": "defer" if deferred[i] else "answer",
        }
        for i in kept
    ]


def write_rule(rule: Rule, out: Path) -> Path:
    """The rule's file and beside it `<its name>_vectors.json`, whose path; refuses an artefact folder."""
    folder = out.resolve().parent
    for place in (folder, *folder.parents):
        if (place / "config.json").is_file() and (
            (place / "labels.txt").is_file() or list(place.glob("*.pt")) or list(place.glob("*.safetensors"))
        ):
            raise InputError(
                str(out),
                f"a file inside the artefact {place}",
                expected="a place outside: no evaluation writes into an artefact",
                todo="Pass another --out, and deploy the file beside the artefact.",
            )
    vectors = out.with_name(f"{out.stem}_vectors.json")  # of several rules in a folder each keeps its own
    io.write_json(out, rule.facts)
    io.write_json(vectors, {"rule_sha256": io.file_sha256(out), "vectors": rule.vectors})
    return vectors


def _calibration(found: Judged, run: Path) -> tuple[Predictions, Labels]:
    held = calibration_rows(found)
    if held is None or not len(held[1]):
        raise InputError(
            str(run),
            "no labelled image of the split `calibration`",
            expected="a threshold is never chosen on the images it is judged on",
            todo="Make the split with `ddeval data split`, then score again.",
        )
    if held[0].probs is not None or held[0].link != "softmax":
        raise InputError(
            str(run),
            "probabilities in place of logits",
            expected="softmax logits, which the service will have",
            todo="Score a predictions file with --values logits.",
        )
    return held


def _rows(predictions: Predictions, codes: Labels, unit: Unit) -> Rows:
    groups = predictions.frame["group"].to_numpy(dtype=object)
    logits = predictions.logits.astype(np.float64)
    if unit == "image":
        return Rows(logits, codes, groups)
    case_of = case_codes(predictions.frame["case_id"].to_numpy(dtype=object))
    first = np.unique(case_of, return_index=True)[1]
    is_mixed = np.bincount(case_of, weights=codes != codes[first][case_of]) > 0
    means = case_means(logits, case_of)
    return Rows(means[~is_mixed], codes[first][~is_mixed], groups[first][~is_mixed])


def _quarter(groups: npt.NDArray[np.object_], seed: int) -> npt.NDArray[np.bool_]:
    """The patients who fit the temperature, by a hash of their id: adding a patient moves no other."""
    share = {
        group: int(hashlib.sha256(f"{seed} {group}".encode()).hexdigest()[:8], 16) / 16**8
        for group in set(groups)
    }
    return np.array([share[group] < FIT_SHARE for group in groups], dtype=bool)


def _right_and_able(rows: Rows, other: int | None) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Whether the answer is the label (a tie is wrong), and whether there is an answer but `other`."""
    answer = rows.logits.argmax(axis=1)
    is_tied = (rows.logits == rows.logits.max(axis=1, keepdims=True)).sum(axis=1) > 1
    able = np.ones(len(answer), dtype=bool) if other is None else answer != other
    return (answer == rows.labels) & ~is_tied, able


def _chosen(
    rows: Rows, rule: str, temperature: float, other: int | None, risk: float, confidence_level: float
) -> OperatingPoint:
    right, able = _right_and_able(rows, other)
    score = rule_score(rows.logits, rule, temperature, other)
    point = choose_threshold(
        right[able], score[able], risk=risk, confidence_level=confidence_level, groups=rows.groups[able]
    )
    return _of_all(point, len(able))


def _judged(
    found: Judged,
    unit: Unit,
    rule: str,
    temperature: float,
    other: int | None,
    threshold: float,
    confidence_level: float,
) -> OperatingPoint:
    rows = _rows(found.predictions, found.labels, unit)
    right, able = _right_and_able(rows, other)
    score = rule_score(rows.logits, rule, temperature, other)
    point = operating_point(
        right[able], score[able], threshold=threshold, confidence_level=confidence_level,
        groups=rows.groups[able],
    )  # fmt: skip
    return _of_all(point, len(able))


def _of_all(point: OperatingPoint, n_rows: int) -> OperatingPoint:
    """The same with what answers `other` among the rows: they are deferred."""
    return point._replace(coverage=point.n_answered / n_rows if n_rows else np.nan, n_images=n_rows)


def _rules(
    rows: Rows, temperature: float, other: int | None, *, rng: np.random.Generator, n_resamples: int
) -> pd.DataFrame:
    """Score rules by AUGRC over the open set, with the paired difference to the highest probability."""
    probs = softmax(rows.logits / temperature)
    scores = score_rules(rows.logits / temperature, other_class=other)
    table = score_rule_table(rows.labels, probs, scores)
    table[["difference", "ci_low", "ci_high"]] = np.nan
    state = rng.bit_generator.state
    for name, score in scores.items():
        if name == "max_probability" or not len(rows.labels):
            continue
        rng.bit_generator.state = state  # the same patients for every rule

        def gain(
            labels: Labels, probs: Floats, ours: Floats, usual: Floats, *, weights: Floats | None = None
        ) -> float:
            a, b = (augrc(labels, probs, confidence=c, weights=weights) for c in (ours, usual))
            return a - b

        found = bootstrap(
            gain, rows.labels, probs, score, scores["max_probability"], groups=rows.groups, rng=rng,
            n_resamples=n_resamples,
        )  # fmt: skip
        at = table["score"] == name
        table.loc[at, ["difference", "ci_low", "ci_high"]] = found[:3]
    return table


def _calibration_sha256(predictions: Predictions, codes: Labels) -> str:
    names = predictions.class_names
    pairs = [[i, names[k]] for i, k in zip(predictions.frame["image_id"], codes.tolist(), strict=True)]
    return io.value_sha256([predictions.fingerprint, pairs])
