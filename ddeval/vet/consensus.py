"""Consensus: what several blind readings of one case say together, by a written rule.

One reading never relabels. Two readings that name the same class first decide; readings that differ
go to a third reader. The verdict on the label in the data is derived here, never asked of a reader.
Who read what is the store's business (`ddeval.vet.store`); how well readers agree, `ddeval.vet.agreement`.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Exit = Literal["cannot_tell", "poor_image", "off_topic", "duplicate"]
EXITS: tuple[Exit, ...] = ("cannot_tell", "poor_image", "off_topic", "duplicate")

Verdict = Literal["keep", "compatible", "relabel"]
Rule = Literal["agreed", "adjudicated", "histology", "single", "open"]


@dataclass(frozen=True)
class Answer:
    """One reading of a case: up to three diagnoses, or one exit."""

    diagnoses: tuple[str, ...] = ()
    """Surest first; conditions outside the classes stay by name."""
    confidences: tuple[int, ...] = ()
    """1 (least) to 5 (most sure), one a diagnosis, or none at all: then the order ranks them."""
    exit: Exit | None = None
    has_more_than_one_disease: bool = False

    def __post_init__(self) -> None:
        if bool(self.diagnoses) == (self.exit is not None):
            raise ValueError("an answer holds either diagnoses or an exit, not both and not neither")
        if self.confidences and len(self.confidences) != len(self.diagnoses):
            raise ValueError(f"{len(self.confidences)} confidences for {len(self.diagnoses)} diagnoses")
        if self.exit is not None and self.exit not in EXITS:
            raise ValueError(f"exit must be one of {', '.join(EXITS)}, got {self.exit!r}")

    def __str__(self) -> str:
        """As a person reads it.

        >>> str(Answer(("Eczema", "Tinea"))), str(Answer(exit="cannot_tell"))
        ('Eczema, then Tinea', 'cannot tell')
        """
        return (self.exit or "").replace("_", " ") or ", then ".join(self.diagnoses)


@dataclass(frozen=True)
class Consensus:
    """The common answer of the readings of one case."""

    outcome: Verdict | Exit | Literal["unresolved"]
    """What becomes of the label in the data; `unresolved` keeps it until more is known."""
    rule: Rule
    labels: dict[str, float] = field(default_factory=dict)
    """Classes and their weights, summing to 1, heaviest first; {} for an exit or while unresolved."""
    diagnoses: dict[str, float] = field(default_factory=dict)
    """The same by the readers' own names, before classes are looked up."""

    @property
    def needs_adjudication(self) -> bool:
        return self.rule == "open"


def differential(answer: Answer) -> dict[str, float]:
    """Weight of each diagnosis of one answer: inverse rank, ties averaged, summing to 1.

    First, second and third count 1, 1/2 and 1/3 before they are scaled; where confidences are given
    they rank, and equal ones share the mean of their places: (4, 4, 3) is (3/4, 3/4, 1/3) / (11/6).
    A diagnosis named twice keeps the sum. {} for an exit. This rebuilds SCIN's published weights.

    References
    ----------
    Ward et al. (2024), Creating an Empirical Dermatology Dataset Through Crowdsourcing With Web
    Search Advertisements, JAMA Network Open.

    Examples
    --------
    >>> {name: round(w, 2) for name, w in differential(Answer(("eczema", "tinea", "scabies"))).items()}
    {'eczema': 0.55, 'tinea': 0.27, 'scabies': 0.18}
    """
    surest_first = answer.confidences or tuple(-place for place in range(len(answer.diagnoses)))
    order = sorted(range(len(surest_first)), key=lambda i: -surest_first[i])
    inverse_rank = {i: 1 / (place + 1) for place, i in enumerate(order)}
    weights: dict[str, float] = {}
    for i in order:
        tied = [inverse_rank[j] for j in order if surest_first[j] == surest_first[i]]
        name = answer.diagnoses[i]
        weights[name] = weights.get(name, 0.0) + sum(tied) / len(tied)
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def pooled(differentials: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of several differentials, heaviest first, ties by name; {} for none."""
    sums: Counter[str] = Counter()
    for weights in differentials:
        sums.update(weights)
    mean = {name: weight / len(differentials) for name, weight in sums.items()}
    return dict(sorted(mean.items(), key=lambda item: (-item[1], item[0])))


def consensus(
    answers: Sequence[Answer],
    *,
    given_label: str | None,
    class_of: Mapping[str, str],
    adjudication: Answer | None = None,
    label_basis: str = "unknown",
) -> Consensus:
    """The common answer of the blind readings of one case, and what it does to the given label.

    Histology outranks any photograph reading: the given label stays. Otherwise an adjudication
    decides if there is one; else the class (or exit) that more than half of two or more readers put
    first. A single reading, or readings without a majority, leave the case unresolved.

    Parameters
    ----------
    answers : sequence of Answer
        Blind readings by different readers.
    given_label : str or None
        Class in the data, which no reader saw.
    class_of : mapping of str to str
        Class of every diagnosis a reader may name; a KeyError lists one it lacks.
    adjudication : Answer, optional
        Reading of the third reader.
    label_basis : str
        How the given label was made (manifest column).
    """
    if label_basis == "histology" and given_label is not None:
        return Consensus("keep", "histology", {given_label: 1.0})
    if adjudication is not None:
        return _decided([adjudication], "adjudicated", given_label, class_of)
    if len(answers) < 2:
        return Consensus("unresolved", "single")
    first = Counter(put_first(answer, class_of) for answer in answers)
    name, votes = first.most_common(1)[0]
    if votes * 2 <= len(answers):
        return Consensus("unresolved", "open")
    agreeing = [answer for answer in answers if put_first(answer, class_of) == name]
    return _decided(agreeing, "agreed", given_label, class_of)


def verdict(given_label: str | None, labels: Mapping[str, float]) -> Verdict:
    """What a differential does to the given label: first keeps, among is compatible, absent relabels.

    Classes that share the largest weight all count as first.
    """
    weight = labels.get(given_label or "")
    if weight is None:
        return "relabel"
    return "keep" if weight >= max(labels.values()) - 1e-12 else "compatible"


def put_first(answer: Answer, class_of: Mapping[str, str]) -> str:
    """The class of most weight in an answer, or its exit: what readings must share to agree."""
    return answer.exit or next(iter(_by_class(differential(answer), class_of)))


def _by_class(weights: Mapping[str, float], class_of: Mapping[str, str]) -> dict[str, float]:
    """Weights summed by class; the class of the surest diagnosis first where sums tie."""
    sums: dict[str, float] = {}
    for name, weight in weights.items():
        sums[class_of[name]] = sums.get(class_of[name], 0.0) + weight
    return dict(sorted(sums.items(), key=lambda item: -round(item[1], 12)))


def _decided(
    answers: Sequence[Answer], rule: Rule, given_label: str | None, class_of: Mapping[str, str]
) -> Consensus:
    if answers[0].exit is not None:
        return Consensus(answers[0].exit, rule)
    diagnoses = pooled([differential(answer) for answer in answers])
    labels = pooled([_by_class(differential(answer), class_of) for answer in answers])
    return Consensus(verdict(given_label, labels), rule, labels, diagnoses)
