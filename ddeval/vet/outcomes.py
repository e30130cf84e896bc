"""Outcomes: what the readings of a batch say about each case so far, and who still has to speak.

Only blind first readings and adjudications count; practice, repeats and unblinded rounds do not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ddeval.errors import InputError
from ddeval.vet.batches import Batch, read_items
from ddeval.vet.consensus import Answer, Consensus, consensus, put_first
from ddeval.vet.reading import answers, first_readings, reported_cases
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
    is_reported: bool
    """Taken out by a reader or an admin, and not released since: nobody reads or settles it."""
    consensus: Consensus
    """Of the readings so far, also where they are not complete."""
    readers: tuple[str, ...]
    """Codes in the order of reading, the adjudicator last."""
    first_answers: tuple[str, ...]
    """Class or exit that each blind first reading puts first, in that order; no adjudication."""


def case_outcomes(store: Store, batch: Batch, *, class_of: Mapping[str, str]) -> list[CaseOutcome]:
    """The cases of the batch in the order of its queue; a hidden repeat is not a case of its own.

    An InputError names a diagnosis that a reader gave and `class_of` lacks.
    """
    items = read_items(store, batch.name)
    items = items[items["kind"] != "repeat"].drop_duplicates("case_id")
    given = answers(store, batch.name)
    _check_named(given["answer"], class_of, batch=batch.name)
    held = reported_cases(store, batch.name)
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
                is_reported=item["case_id"] in held,
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
    return [o.case_id for o in outcomes if _is_to_settle(o) and adjudicator not in o.readers]


def check_labels(store: Store, batch: Batch, *, class_of: Mapping[str, str]) -> None:
    """Refuse conditions that lack the class of a given label: no reader could ever confirm it."""
    items = read_items(store, batch.name)
    labels = items["given_label"].dropna()
    strange = labels[~labels.isin(set(class_of.values()))].drop_duplicates()
    if len(strange):
        raise InputError(
            f"batch {batch.name}",
            f"labels in the data that are no class of the conditions file: {', '.join(strange[:5])}"
            + (f" and {len(strange) - 5} more" if len(strange) > 5 else ""),
            expected="a class for every label, or every reading would differ from it",
            todo="Name the file that holds them: `conditions:` in ddeval.yaml, or --conditions.",
        )


def batch_status(store: Store, batch: Batch, *, class_of: Mapping[str, str]) -> dict[str, Any]:
    """How far a batch is: counts of cases by state, and of blind first readings by reader."""
    outcomes = case_outcomes(store, batch, class_of=class_of)
    first = first_readings(store, batch.name)
    return {
        "batch": batch.name,
        "split": batch.split,
        "is_open": batch.is_open,
        "n_cases": len(outcomes),
        "n_complete": sum(o.is_complete for o in outcomes),
        "n_to_adjudicate": sum(map(_is_to_settle, outcomes)),
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


def _is_to_settle(outcome: CaseOutcome) -> bool:
    return outcome.is_complete and outcome.consensus.needs_adjudication and not outcome.is_reported


def _check_named(given: pd.Series, class_of: Mapping[str, str], *, batch: str) -> None:
    strange = sorted({name for answer in given for name in answer.diagnoses} - set(class_of))
    if strange:
        raise InputError(
            f"readings of batch {batch}",
            f"diagnosis {strange[0]!r}, which the conditions file lacks ({len(strange)} such)",
            expected="every diagnosis that a reader gave",
            todo="Put it back into the file, or name the file the readers had: --conditions.",
        )
