"""A deferral rule applied: the file that `ddeval abstain` wrote, read again and asked about predictions.

`ddeval.score.abstain` chooses a rule; the serving code of docs/deploy.md decides as `decisions` does.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval import io
from ddeval.errors import InputError
from ddeval.metrics.arrays import Floats
from ddeval.metrics.deferral import score_rules
from ddeval.metrics.readings import case_codes, case_means
from ddeval.score.predictions import Predictions

FORMAT = "ddeval-abstain/1"
RULES = ("max_probability", "margin", "entropy", "energy", "other_probability")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


NEEDED: dict[str, Callable[[Any], bool]] = {
    "rule": lambda value: value in RULES,
    "temperature": lambda value: _is_number(value) and value > 0,
    "threshold": _is_number,
    "risk": _is_number,
    "confidence_level": _is_number,
    "unit": lambda value: value in ("image", "case"),
    "class_names": lambda value: isinstance(value, list),
    "other_class": lambda value: value is None or isinstance(value, str),
    "checkpoint": lambda value: isinstance(value, dict) and "sha256" in value,
}
"""What a rule is applied by, and whether a value of it can be meant."""


def read_rule(path: Path) -> dict[str, Any]:
    """The rule in a file of `ddeval abstain`; an InputError for any other file."""
    facts = io.read_json(path)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise InputError(
            str(path),
            "no deferral rule",
            expected=f"a file of ddeval abstain ({FORMAT})",
            todo="Make it with: ddeval abstain RUN --risk 0.05 --out FILE.",
        )
    for name, is_right in NEEDED.items():
        if name not in facts or not is_right(facts[name]):
            raise InputError(
                str(path),
                f"{name} {facts[name]!r}" if name in facts else f"no {name}",
                expected="a rule as ddeval abstain wrote it",
                todo="Make it again with: ddeval abstain RUN --risk 0.05 --out FILE.",
            )
    return facts


def tta_of(facts: Mapping[str, Any]) -> str:
    """Views that a run's logits are a mean of, from its run.json."""
    return str(facts.get("inputs", {}).get("tta", "none"))


def is_made_for(rule: Mapping[str, Any], facts: Mapping[str, Any]) -> bool:
    """Whether a rule was chosen for the checkpoint of a run, asked in the same way; it binds no other."""
    of = rule["checkpoint"]
    return bool(of["sha256"] == facts["checkpoint"].get("sha256") and of.get("tta", "none") == tta_of(facts))


def rule_for(rules: Sequence[Path], facts: Mapping[str, Any]) -> Path | None:
    """The first file whose rule was made for the checkpoint of a run."""
    return next((path for path in rules if is_made_for(read_rule(path), facts)), None)


def deferred(predictions: Predictions, rule: Mapping[str, Any], *, where: str) -> npt.NDArray[np.bool_]:
    """Whether each image is handed over under a rule, (N,); by the mean logits of its case in a rule by case.

    Raises
    ------
    InputError
        For a rule of other classes, and where the rule needs logits and there are none.
    """
    names = list(rule["class_names"])
    if sorted(names) != sorted(predictions.class_names):
        raise InputError(
            "--abstain",
            f"a rule for the classes of another model ({len(names)} of them)",
            expected=f"the {len(predictions.class_names)} classes of {where}",
            todo="Pass the file made for it.",
        )
    if predictions.link != "softmax" or (predictions.probs is not None and rule["rule"] == "energy"):
        raise InputError(
            "--abstain",
            f"the rule {rule['rule']}, and {where} without softmax logits",
            expected="what the rule is a function of",
            todo="Score a predictions file with --values logits, or choose another --rule.",
        )
    columns = pd.Index(predictions.class_names).get_indexer(pd.Index(names))
    logits = predictions.logits[:, columns].astype(np.float64)
    if rule["unit"] == "image":
        return decisions(logits, rule)[1]
    case_of = case_codes(predictions.frame["case_id"].to_numpy(dtype=object))
    return decisions(case_means(logits, case_of), rule)[1][case_of]


def decisions(logits: npt.NDArray[Any], facts: Mapping[str, Any]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Score of each row of logits (N, K) under a rule's file, and whether it is deferred, (N,) each.

    A row with NaN or +infinity in it has the score NaN and is deferred.
    """
    names, other_class = facts["class_names"], facts["other_class"]
    other = None if other_class is None else names.index(other_class)
    logits = np.asarray(logits, dtype=np.float64)
    score = np.full(len(logits), np.nan)
    has_score = (logits < np.inf).all(axis=1)  # written so that NaN fails too
    score[has_score] = rule_score(logits[has_score], facts["rule"], facts["temperature"], other)
    deferred = ~(score >= facts["threshold"])
    if other is not None:
        deferred |= logits.argmax(axis=1) == other
    return score, deferred


def rule_score(logits: Floats, rule: str, temperature: float, other: int | None) -> Floats:
    """What a rule named as in `score_rules` says of logits (N, K) at a temperature, (N,)."""
    return score_rules(logits / temperature, other_class=other)[rule]
