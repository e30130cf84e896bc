"""Reproduction: does this run show the numbers that its makers wrote beside the checkpoint?

`claims` reads their metrics.json, whatever they called things, `reproduction` compares it with what was found
here. Where they differ, other readings of the same predictions are tried (all images and `other` allowed, by
case), and `ddeval.score.trials` puts some images through other preprocessing. Nothing is written here.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

WORDS = (
    ("top_1_accuracy", r"top_?1(_?acc(uracy)?)?|acc(uracy)?_?(at_?)?1|acc(uracy)?|rank_?1"),
    ("top_3_accuracy", r"top_?3(_?acc(uracy)?)?|acc(uracy)?_?(at_?)?3"),
    ("top_5_accuracy", r"top_?5(_?acc(uracy)?)?|acc(uracy)?_?(at_?)?5"),
    ("balanced_accuracy", r"balanced_?acc(uracy)?|bacc|bal_?acc|macro_?recall|recall_?macro"),
    ("macro_f1", r"macro_?f1|f1_?macro"),
    ("weighted_f1", r"weighted_?f1|f1_?weighted"),
    ("auroc_macro", r"(macro_?)?(roc_?)?au(ro)?c(_?(roc|macro|ovr))*"),
    ("mcc", r"mcc|matthews"),
    ("cohen_kappa", r"(cohen_?)?kappa"),
    ("ece", r"ece(_?15)?"),
)
"""Our name of a metric and the names others give it, without the name of a split."""
SPLITS = {"val": r"val(id(ation)?)?|dev", "test": r"test|eval|hold_?out", "train": r"train(ing)?"}
FILLERS = {
    "best", "final", "metrics", "metric", "results", "result", "score", "closed", "set", "value", "mean",
    "overall",
}  # fmt: skip
SLACK = 0.001
"""Beside rounding: another number format or decoder moves a photograph in a thousand over an edge."""


class Claim(NamedTuple):
    """A number of metrics.json that has a name here."""

    key: str
    """As it stands there, parts joined by a dot."""
    metric: str
    value: float
    """As a share of 1, also where percent were written."""
    digits: int
    """Decimals of `value` that were written, at least 2."""
    split: str | None
    """As its key or a key `split` beside it says."""


@dataclass(frozen=True)
class Compared:
    """A claim beside what was found here."""

    key: str
    metric: str
    reported: float
    found: float | None
    """The same metric of this run; None where it has none."""
    split: str | None
    is_comparable: bool
    """Whether it is of the split that was scored, as far as is said."""
    is_reproduced: bool
    reading: str | None
    """Another reading of the same predictions that gives the number."""


@dataclass(frozen=True)
class Reproduction:
    """Every claim, and why those that were not reproduced may differ."""

    claims: tuple[Compared, ...]
    causes: tuple[str, ...]
    """A sentence each, likeliest first."""

    @property
    def missed(self) -> list[Compared]:
        """Claims of the scored split that this run does not show."""
        return [c for c in self.claims if c.is_comparable and not c.is_reproduced]

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"claims": [asdict(c) for c in self.claims], "causes": list(self.causes)}


def claims(reported: Mapping[str, Any]) -> list[Claim]:
    """The numbers of a metrics.json that have a name here: `test_top1: 73.6`, `{"val": {"acc@1": 0.71}}`, …

    A value over 1 is percent. Of one metric and split the first is taken.
    """
    found: dict[tuple[str, str | None], Claim] = {}
    for path, value in _numbers(reported):
        split, metric = _named(path)
        if metric is None:
            continue
        split = split or _stated_split(reported, path)
        scale = 100 if abs(value) > 1 else 1
        digits = len(str(value).partition(".")[2].rstrip("0")) + (2 if scale == 100 else 0)
        claim = Claim(".".join(path), metric, round(value / scale, 12), max(digits, 2), split)
        if 0 <= claim.value <= 1:
            found.setdefault((metric, split), claim)
    return list(found.values())


def reproduction(
    reported: Mapping[str, Any], result: Mapping[str, Any], *, causes: Sequence[str] = ()
) -> Reproduction | None:
    """Claims of a metrics.json beside the result of `evaluate`; None where it claims nothing known here.

    A claim counts as reproduced within rounding and the larger of `SLACK` and one image.

    Parameters
    ----------
    reported : mapping
        metrics.json.
    result : mapping
        What `ddeval score --json` prints: `metrics`, `cases`, `splits`, `n_images`.
    causes : list of str
        What trials with the model found, if there were any.
    """
    held = claims(reported)
    if not held:
        return None
    splits, n_images = list(result.get("splits", [])), int(result.get("n_images") or 0)
    compared = []
    for claim in held:
        tolerance = 0.5 * 10**-claim.digits + max(SLACK, 1 / n_images if n_images else 0)
        found = _value(result.get("metrics"), claim.metric)
        is_same = found is not None and abs(found - claim.value) <= tolerance
        others = {
            "all images, with `other` among the answers": _value(
                result.get("metrics"), f"open_{claim.metric}"
            ),
            "one answer a case": _value(result.get("cases"), claim.metric),
        }
        near = [name for name, v in others.items() if v is not None and abs(v - claim.value) <= tolerance]
        is_comparable = claim.split is None or not splits or claim.split in splits
        compared.append(
            Compared(
                claim.key, claim.metric, claim.value, found, claim.split, is_comparable, is_same,
                near[0] if near and not is_same and is_comparable else None,
            )
        )  # fmt: skip
    missed = [c for c in compared if c.is_comparable and not c.is_reproduced]
    return Reproduction(tuple(compared), tuple(_causes(missed, splits, causes)))


def _causes(missed: Sequence[Compared], splits: Sequence[str], tried: Sequence[str]) -> Iterator[str]:
    if not missed:
        return
    readings = dict.fromkeys(c.reading for c in missed if c.reading)
    for reading in readings:
        n = sum(c.reading == reading for c in missed)
        yield f"{n} of {len(missed)} numbers are those of another reading of the same answers: {reading}"
    if all(c.reading for c in missed):
        return
    yield from tried
    if any(c.split is None for c in missed):
        scored = splits[0] if splits else "all images"
        yield f"metrics.json does not say of which split its numbers are (scored here: {scored}; try another)"
    if not tried:
        yield "image_norm, resize, or the order of classes: compare with `ddeval inspect`"


def _numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _numbers(inner, (*path, str(key)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, float(value)


def _named(path: Sequence[str]) -> tuple[str | None, str | None]:
    """Split and metric that a key names, each None where it names none that is known."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", "_".join(path))
    words = [word for word in re.split(r"[^a-z0-9]+", text.lower()) if word]
    split = None
    for name, pattern in SPLITS.items():
        if any(re.fullmatch(pattern, word) for word in words):
            split = name
            words = [word for word in words if not re.fullmatch(pattern, word)]
    left = "_".join(word for word in words if word not in FILLERS)
    return split, next((metric for metric, pattern in WORDS if re.fullmatch(pattern, left)), None)


def _stated_split(reported: Mapping[str, Any], path: Sequence[str]) -> str | None:
    """The split that a key `split` beside the number, or above it, states."""
    found, held = None, [reported]
    for key in path[:-1]:
        held.append(held[-1][key])
    for level in held:
        stated = level.get("split")
        if isinstance(stated, str):
            matches = [name for name, pattern in SPLITS.items() if re.fullmatch(pattern, stated.lower())]
            found = matches[0] if matches else stated
    return found


def _value(held: Any, metric: str) -> float | None:
    cell = held.get(metric) if isinstance(held, Mapping) else None
    value = cell.get("value") if isinstance(cell, Mapping) else cell
    return float(value) if isinstance(value, int | float) and value == value else None  # NaN is none
