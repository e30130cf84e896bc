"""Outcomes: what the readings of a batch say about each case so far, and who still has to speak.

Only blind first readings and adjudications count; practice, repeats and unblinded rounds do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ddeval.vet.batches import Batch, read_items
from ddeval.vet.consensus import Answer, Consensus, consensus, put_first
from ddeval.vet.reading import answers, reported_cases
from ddeval.vet.store import Store


@dataclass(frozen=True)
class CaseOutcome:
    """What is known about one case of a batch."""

    case_id: str
    kind: str
    stratum: str
    inclusion_probability: float | None
    given_label: str | None
    label_basis: str
    n_readings: int
    """Blind first readings, the adjudication not counted."""
    is_complete: bool
    """As many readings as the batch asks for."""
    consensus: Consensus
    """Of the readings so far, also where they are not complete."""
    readers: tuple[str, ...]
    """Codes in the order of reading, the adjudicator last."""
    first_answers: tuple[str, ...]
    """Class or exit that each blind first reading puts first, in that order; no adjudication."""


def case_outcomes(store: Store, batch: Batch, *, class_of: Mapping[str, str]) -> list[CaseOutcome]:
    """The cases of the batch in the order of its queue; a hidden repeat is not a case of its own."""
    items = read_items(store, batch.name)
    items = items[items["kind"] != "repeat"].drop_duplicates("case_id")
    given = answers(store, batch.name)
    read: dict[str, list[tuple[str, Answer]]] = {}
    settled: dict[str, tuple[str, Answer]] = {}
    for case_id, actor, kind, reading_no, answer in given[
        ["case_id", "actor", "kind", "reading_no", "answer"]
    ].itertuples(index=False):
        if kind == "adjudication":
            settled[case_id] = (actor, answer)
        elif reading_no == 1:
            read.setdefault(case_id, []).append((actor, answer))

    outcomes = []
    for item in items.astype(object).where(items.notna(), None).to_dict("records"):
        readings = read.get(item["case_id"], [])
        adjudicator, adjudication = settled.get(item["case_id"], (None, None))
        basis = item["label_basis"] or "unknown"
        outcomes.append(
            CaseOutcome(
                **{k: item[k] for k in ("case_id", "kind", "stratum", "inclusion_probability")},
                given_label=item["given_label"],
                label_basis=basis,
                n_readings=len(readings),
                is_complete=len(readings) >= batch.readings_per_case,
                consensus=consensus(
                    [answer for _, answer in readings],
                    given_label=item["given_label"],
                    class_of=class_of,
                    adjudication=adjudication,
                    label_basis=basis,
                ),
                readers=(*(actor for actor, _ in readings), *((adjudicator,) if adjudicator else ())),
                first_answers=tuple(put_first(answer, class_of) for _, answer in readings),
            )
        )
    return outcomes


def open_cases(outcomes: Sequence[CaseOutcome], *, adjudicator: str) -> list[str]:
    """Cases whose readings differ and which this adjudicator did not read."""
    return [
        outcome.case_id
        for outcome in outcomes
        if outcome.is_complete and outcome.consensus.needs_adjudication and adjudicator not in outcome.readers
    ]


def batch_status(store: Store, batch: Batch, *, class_of: Mapping[str, str]) -> dict[str, Any]:
    """How far a batch is: counts of cases by state, and of blind first readings by reader."""
    outcomes = case_outcomes(store, batch, class_of=class_of)
    given = answers(store, batch.name)
    first = given[(given["kind"] == "reading") & (given["reading_no"] == 1)]
    return {
        "batch": batch.name,
        "split": batch.split,
        "is_open": batch.is_open,
        "n_cases": len(outcomes),
        "n_complete": sum(o.is_complete for o in outcomes),
        "n_to_adjudicate": sum(o.is_complete and o.consensus.needs_adjudication for o in outcomes),
        "n_reported": len(reported_cases(store, batch.name)),
        "readings": {str(k): int(n) for k, n in first["actor"].value_counts().sort_index().items()},
    }


def ratings(
    store: Store, batch: Batch, *, name_of: Callable[[Answer], str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Blind first readings as (cases, readers), and hidden repeats as reader, first, second.

    `name_of` turns an answer into the category that is compared, for example the class put first.
    """
    given = answers(store, batch.name)
    given = given[given["kind"] == "reading"].assign(category=lambda f: f["answer"].map(name_of))
    first = given[given["reading_no"] == 1]
    table = first.pivot_table(index="case_id", columns="actor", values="category", aggfunc="first")
    again = given[given["reading_no"] == 2]
    repeats = first.merge(again, on=["case_id", "actor"], suffixes=("_first", "_second"))
    pairs = repeats[["actor", "case_id", "category_first", "category_second"]]
    return table, pairs.set_axis(["reader", "case_id", "first", "second"], axis=1)


def first_class(answer: Answer, class_of: Mapping[str, str]) -> str:
    """The class an answer puts first, or its exit: the category agreement is measured in."""
    names: Sequence[str] = answer.diagnoses
    if answer.confidences:
        names = [names[max(range(len(names)), key=answer.confidences.__getitem__)]]
    return answer.exit or class_of[names[0]]
