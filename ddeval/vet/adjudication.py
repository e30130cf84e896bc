"""Adjudication: a third reader settles a case whose readings differ, without knowing whose is whose.

The readings come as letters in a seeded order. Nothing says which equals the label in the data or
the model's answer. Two adjudicators at the same instant: one is taken, the other is told.
"""

import hashlib
import json
import secrets
from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ddeval.vet import schema
from ddeval.vet.batches import Batch
from ddeval.vet.consensus import Answer
from ddeval.vet.outcomes import case_outcomes, open_cases
from ddeval.vet.reading import Refused, answer_json, check_open, first_readings, is_adjudicated
from ddeval.vet.store import Store, now_utc


@dataclass(frozen=True)
class Hearing:
    """One case before an adjudicator, with the readings under letters."""

    case_id: str
    nonce: str
    readings: tuple[tuple[str, Answer, dict[str, Any]], ...]
    """Letter, answer and details (gradability, note) of each reading."""
    n_left: int
    """Cases that wait for this adjudicator, this one included."""


def next_hearing(
    store: Store,
    batch: Batch,
    adjudicator: str,
    *,
    class_of: Mapping[str, str],
    at_hand: Container[str] | None = None,
) -> Hearing | None:
    """The next case this adjudicator may settle, or None. A reader of a case never adjudicates it.

    Where `at_hand` is given, a case that is not in it (its patient withdrew) is passed over.
    """
    waiting = open_cases(case_outcomes(store, batch, class_of=class_of), adjudicator=adjudicator)
    waiting = [case for case in waiting if at_hand is None or case in at_hand]
    if not waiting or not batch.is_open:
        return None
    with store.write() as connection:
        own = (
            schema.screens.c.batch == batch.name,
            schema.screens.c.reader == adjudicator,
            schema.screens.c.task == "adjudicate",
        )
        screen = connection.execute(sa.select(schema.screens).where(*own)).first()
        if screen is not None and screen.case_id in waiting:
            case_id, nonce = screen.case_id, screen.nonce
        else:
            case_id, nonce = waiting[0], secrets.token_hex(16)
            connection.execute(sa.delete(schema.screens).where(*own))
            connection.execute(
                sa.insert(schema.screens).values(
                    batch=batch.name,
                    reader=adjudicator,
                    task="adjudicate",
                    case_id=case_id,
                    reading_no=0,
                    revision=0,
                    nonce=nonce,
                    shown_utc=now_utc(),
                )
            )
            store.append(  # whoever has seen the readings of a case never reads it blind afterwards
                connection,
                actor=adjudicator,
                role="adjudicator",
                batch=batch.name,
                case_id=case_id,
                reading_no=0,
                revision=0,
                kind="hearing",
                blind_level="adjudication",
                nonce=f"hearing:{nonce}",
            )
    return Hearing(case_id, nonce, _lettered(store, batch, case_id), len(waiting))


def record_adjudication(
    store: Store,
    batch: Batch,
    adjudicator: str,
    nonce: str,
    answer: Answer,
    *,
    details: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Commit the last word on a case and return its event.

    Raises
    ------
    Refused
        `not_shown` if the case was settled by somebody else meanwhile or is not on this screen,
        `closed` after the batch was closed.
    """
    with store.write() as connection:
        screen = connection.execute(
            sa.select(schema.screens).where(
                schema.screens.c.nonce == nonce,
                schema.screens.c.reader == adjudicator,
                schema.screens.c.task == "adjudicate",
            )
        ).first()
        if screen is None:
            raise Refused("not_shown", "This case is not on your screen any more. Nothing was saved.")
        check_open(connection, batch)
        connection.execute(sa.delete(schema.screens).where(schema.screens.c.nonce == nonce))
        if not is_adjudicated(connection, batch.name, screen.case_id):
            return store.append(
                connection,
                actor=adjudicator,
                role="adjudicator",
                batch=batch.name,
                case_id=screen.case_id,
                reading_no=0,
                revision=0,
                kind="adjudication",
                old=json.dumps(_readings_heard(store, batch, screen.case_id)),
                new=answer_json(answer, details or {}),
                blind_level="adjudication",
                shown_at=screen.shown_utc,
                nonce=nonce,
            )
    raise Refused("not_shown", "Another adjudicator settled this case a moment ago. Nothing was saved.")


def _lettered(store: Store, batch: Batch, case_id: str) -> tuple[tuple[str, Answer, dict[str, Any]], ...]:
    heard = _heard(store, batch, case_id)
    order = sorted(
        heard, key=lambda row: hashlib.sha256(f"{batch.seed}|{case_id}|{row.actor}".encode()).digest()
    )
    return tuple((chr(ord("A") + i), row.answer, dict(row.details)) for i, row in enumerate(order))


def _readings_heard(store: Store, batch: Batch, case_id: str) -> list[int]:
    """Sequence numbers of the readings the adjudicator saw: the trail says what was decided upon."""
    return [int(row.seq) for row in _heard(store, batch, case_id)]


def _heard(store: Store, batch: Batch, case_id: str) -> list[Any]:
    given = first_readings(store, batch.name)
    return list(given[given["case_id"] == case_id].itertuples())
