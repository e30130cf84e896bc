"""Reading: which case a reader sees next, and how an answer becomes an event that cannot be lost or doubled.

The next case is a question to the database, never a counter. Every screen carries a nonce: an answer
is taken once for the nonce it was shown under, by the reader it was shown to. What the readings of a
case say together is `ddeval.vet.consensus`'s business.
"""

import hashlib
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Literal

import pandas as pd
import sqlalchemy as sa

from ddeval.errors import InputError
from ddeval.vet import schema
from ddeval.vet.batches import Batch
from ddeval.vet.consensus import Answer
from ddeval.vet.store import Store, now_utc

DWELL_SECONDS = 0.25
"""A press sooner than this after the case appeared belongs to the case before."""

REPEAT_GAP = 40
"""Cases a reader must have read between a case and its hidden repeat."""

RESERVED_FOR = timedelta(hours=2)
"""A case on somebody's screen is not handed to more readers than it needs; after this it is."""

NOTE_LIMIT = 4000


class Refused(Exception):
    """An answer that was not taken; `code` says why, the message says it to the reader.

    Codes: `closed`, `too_soon`, `not_shown` (this screen was answered or never shown to this reader),
    `nothing_to_undo`, `settled`, `bad_answer`.
    """

    def __init__(self, code: str, message: str) -> None:
        self.code = code
        super().__init__(message)


@dataclass(frozen=True)
class Screen:
    """One case before one reader. It holds no kind, stratum, label or reason: a browser may see all of it."""

    batch: str
    case_id: str
    nonce: str
    shown_utc: str
    is_practice: bool
    draft: dict[str, Any] | None


@dataclass(frozen=True)
class Progress:
    """What a reader has done and what is left for them in a batch.

    Hidden repeats count like any case, or a number that stands still would give them away.
    """

    n_done: int
    n_left: int


def next_case(store: Store, batch: Batch, reader: str) -> Screen | None:
    """The case this reader reads now, or None when nothing is left for them.

    The screen a reader left comes back with its draft. Otherwise practice cases come first, then the
    reader's own seeded order over cases that still need a reading; a hidden repeat comes when at
    least `REPEAT_GAP` cases lie between, never sooner.
    """
    if not batch.is_open:
        return None
    with store.write() as connection:
        open_screen = _screen(connection, batch.name, reader)
        if open_screen is not None:
            return _shown(open_screen)
        choice = _choose(store, connection, batch, reader)
        if choice is None:
            return None
        case_id, reading_no = choice
        return _show(connection, batch, reader, case_id, reading_no=reading_no, revision=0, draft=None)


def upcoming(store: Store, batch: Batch, reader: str, *, n: int) -> list[str]:
    """Cases this reader is likely to see next: for preparing photographs, never for showing anything."""
    with store.read() as connection:
        return _unread(store, connection, batch, reader, _trail(connection, batch.name, reader))[:n]


def case_on_screen(store: Store, nonce: str, reader: str) -> str | None:
    """The case shown under `nonce` to this reader (to read or to adjudicate); None when it is not."""
    query = sa.select(schema.screens.c.case_id).where(
        schema.screens.c.nonce == nonce, schema.screens.c.reader == reader
    )
    with store.read() as connection:
        return connection.execute(query).scalar()


def case_answered(store: Store, nonce: str, reader: str) -> str | None:
    """The case this reader answered under `nonce`, for one that is sent again; None without one."""
    query = sa.select(schema.events.c.case_id).where(
        schema.events.c.nonce == nonce, schema.events.c.actor == reader
    )
    with store.read() as connection:
        return connection.execute(query).scalar()


def save_draft(store: Store, nonce: str, reader: str, draft: dict[str, Any]) -> bool:
    """Keep an unfinished answer with the screen it belongs to; False when that screen is gone."""
    text = json.dumps(draft, ensure_ascii=False)
    with store.write() as connection:
        changed = connection.execute(
            sa.update(schema.screens)
            .where(schema.screens.c.nonce == nonce, schema.screens.c.reader == reader)
            .values(draft=text, draft_utc=now_utc())
        )
        return bool(changed.rowcount)


def record_reading(
    store: Store,
    batch: Batch,
    reader: str,
    nonce: str,
    answer: Answer,
    *,
    details: dict[str, Any] | None = None,
    role: str = "reader",
) -> dict[str, Any]:
    """Commit one answer and return its event; the same answer sent twice is stored once.

    Parameters
    ----------
    nonce : str
        Of the screen the answer was given on.
    details : dict, optional
        Gradability, note (at most 4,000 characters), marks of single photographs, display settings.

    Raises
    ------
    Refused
        `not_shown`, `too_soon`, `closed` or `bad_answer`; nothing was stored.
    """
    new = answer_json(answer, details or {})
    with store.write() as connection:
        stored = (
            connection.execute(sa.select(schema.events).where(schema.events.c.nonce == nonce))
            .mappings()
            .first()
        )
        if stored is not None:
            if stored["actor"] == reader and stored["new"] == new:
                return dict(stored)  # a retry after a lost acknowledgement
            raise Refused("not_shown", "This case was answered already; the first answer stands.")
        screen = _screen(connection, batch.name, reader, nonce=nonce)
        if screen is None:
            raise Refused("not_shown", "This case is not on your screen any more. Nothing was saved.")
        check_open(connection, batch)
        if _seconds_since(screen["shown_utc"]) < DWELL_SECONDS:
            raise Refused("too_soon", "That press came before the case could be seen. Nothing was saved.")
        event = store.append(
            connection,
            actor=reader,
            role=role,
            batch=batch.name,
            case_id=screen["case_id"],
            reading_no=screen["reading_no"],
            revision=screen["revision"],
            kind="practice" if screen["reading_no"] == 0 else "reading",
            new=new,
            blind_level=_blind_level(connection, screen["case_id"], reader),
            shown_at=screen["shown_utc"],
            nonce=nonce,
        )
        connection.execute(sa.delete(schema.screens).where(schema.screens.c.nonce == nonce))
        return event


def set_aside(
    store: Store, batch: Batch, reader: str, nonce: str, kind: str, *, reason: str
) -> dict[str, Any]:
    """Leave the case on screen: `skip` puts it last, `report` holds it until an admin has looked.

    A practice case is passed by either. A reported case leaves every other screen too.
    """
    if kind not in ("skip", "report"):
        raise ValueError(f"kind must be skip or report, got {kind!r}")
    with store.write() as connection:
        screen = _screen(connection, batch.name, reader, nonce=nonce)
        if screen is None:
            raise Refused("not_shown", "This case is not on your screen any more. Nothing was saved.")
        check_open(connection, batch)
        event = store.append(
            connection,
            actor=reader,
            role="reader",
            batch=batch.name,
            case_id=screen["case_id"],
            reading_no=screen["reading_no"],
            revision=screen["revision"],
            kind=kind,
            reason=reason[:NOTE_LIMIT],
            blind_level="blind",
            shown_at=screen["shown_utc"],
            nonce=nonce,
        )
        if kind == "report":
            _clear_screens(connection, batch.name, screen["case_id"])
        else:
            connection.execute(sa.delete(schema.screens).where(schema.screens.c.nonce == nonce))
        return event


def take_out(store: Store, case_ids: Sequence[str], *, actor: str, reason: str) -> dict[str, int]:
    """Report these cases in every batch that holds them, closed ones too; how many, by batch.

    What a withdrawn patient asks for: from then on the cases are on nobody's screen, and a freeze gives them
    no label. Their readings stay in the trail. A case that is out already is not reported again.
    """
    wanted = set(case_ids)
    taken: dict[str, int] = {}
    with store.write() as connection:
        for row in connection.execute(sa.select(schema.batches.c.name, schema.batches.c.settings)).all():
            items = sa.select(schema.items.c.case_id).where(schema.items.c.batch == row.name)
            held = set(connection.execute(items).scalars())
            held |= set(json.loads(row.settings).get("practice_cases", ()))
            out = sorted((held & wanted) - _reported(connection, row.name))
            for case_id in out:
                _set_aside(store, connection, row.name, case_id, "report", actor=actor, reason=reason)
                _clear_screens(connection, row.name, case_id)
            if out:
                taken[row.name] = len(out)
    return taken


def release(store: Store, batch: str, case_id: str, *, actor: str, reason: str) -> dict[str, Any]:
    """An admin puts a reported case back before the readers; a new event, like everything."""
    with store.write() as connection:
        if case_id not in _reported(connection, batch):
            raise InputError(
                f"case {case_id}",
                f"no open report in batch {batch}",
                expected="a reported case",
                todo="`ddeval vet status` counts them.",
            )
        return _set_aside(store, connection, batch, case_id, "release", actor=actor, reason=reason)


def _set_aside(
    store: Store,
    connection: sa.Connection,
    batch: str,
    case_id: str,
    kind: Literal["report", "release"],
    *,
    actor: str,
    reason: str,
) -> dict[str, Any]:
    """The event by which an admin takes a case from the readers of a batch, or gives it back."""
    return store.append(
        connection,
        actor=actor,
        role="admin",
        batch=batch,
        case_id=case_id,
        reading_no=0,
        revision=0,
        kind=kind,
        reason=reason[:NOTE_LIMIT],
        blind_level="none",
        nonce=secrets.token_hex(16),
    )


def undo(store: Store, batch: Batch, reader: str, *, reason: str) -> Screen:
    """Take back the reader's last standing answer: a new event; the answer comes back as a draft.

    After a reveal the blind answer stays in the record and the new one is an unblinded round.

    Raises
    ------
    Refused
        `nothing_to_undo`, `closed`, or `settled` when the case was adjudicated or taken out since.
    """
    with store.write() as connection:
        check_open(connection, batch)
        last = (
            connection.execute(
                sa.text(
                    "SELECT * FROM current_readings WHERE batch = :batch AND actor = :reader "
                    "AND kind = 'reading' ORDER BY seq DESC LIMIT 1"
                ),
                {"batch": batch.name, "reader": reader},
            )
            .mappings()
            .first()
        )
        if last is None:
            raise Refused("nothing_to_undo", "There is no answer of yours to take back.")
        if is_adjudicated(connection, batch.name, last["case_id"]):
            raise Refused("settled", "This case was adjudicated since; the answer stands.")
        if last["case_id"] in _reported(connection, batch.name):
            raise Refused("settled", "This case was taken out since; the answer stands.")
        store.append(
            connection,
            actor=reader,
            role="reader",
            batch=batch.name,
            case_id=last["case_id"],
            reading_no=last["reading_no"],
            revision=last["revision"],
            kind="undo",
            old=last["new"],
            reason=reason[:NOTE_LIMIT],
            blind_level=_blind_level(connection, last["case_id"], reader),
            nonce=f"undo:{last['nonce']}",
        )
        connection.execute(
            sa.delete(schema.screens).where(
                schema.screens.c.batch == batch.name,
                schema.screens.c.reader == reader,
                schema.screens.c.task == "read",
            )
        )
        return _show(
            connection,
            batch,
            reader,
            last["case_id"],
            reading_no=last["reading_no"],
            revision=last["revision"] + 1,
            draft=json.loads(last["new"]),
        )


def progress(store: Store, batch: Batch, reader: str) -> Progress:
    """Cases this reader has read, and cases that still need a reading this reader may give."""
    with store.read() as connection:
        trail = _trail(connection, batch.name, reader)
        left = _unread(store, connection, batch, reader, trail)
        repeats = _repeats_left(store, connection, batch, apart_from=reader)
    if not left:
        since = _cases_since(trail)
        repeats = [case for case in repeats if since.get(case, -1) >= REPEAT_GAP]
    return Progress(sum(row.kind == "reading" for row in trail), len(left) + len(repeats))


def answers(store: Store, batch: str, *, blind_only: bool = True) -> pd.DataFrame:
    """Standing first readings and adjudications: `case_id, actor, kind, reading_no, answer, details, ts_utc`.

    Undone answers are left out; `answer` is an `Answer`. Practice never counts.
    """
    query = "SELECT * FROM current_readings WHERE batch = :batch" + (
        " AND (blind_level = 'blind' OR kind = 'adjudication')" if blind_only else ""
    )
    with store.read() as connection:
        rows = connection.execute(sa.text(query + " ORDER BY seq"), {"batch": batch}).mappings().all()
    parsed = [(row, *read_answer(row["new"])) for row in rows]
    names = ["case_id", "actor", "kind", "reading_no", "seq", "ts_utc", "shown_at", "blind_level"]
    return pd.DataFrame(
        [
            {**{n: row[n] for n in names}, "answer": answer, "details": details}
            for row, answer, details in parsed
        ],
        columns=[*names, "answer", "details"],
    )


def first_readings(store: Store, batch: str) -> pd.DataFrame:
    """The blind first readings among `answers`: no adjudication and no hidden repeat."""
    given = answers(store, batch)
    return given[(given["kind"] == "reading") & (given["reading_no"] == 1)]


def reported_cases(store: Store, batch: str) -> set[str]:
    """Cases a reader reported and no admin has released since."""
    with store.read() as connection:
        return _reported(connection, batch)


def reports(store: Store, batch: str) -> pd.DataFrame:
    """Open reports, oldest first: `case_id, reader, when, reason`."""
    query = (
        sa.select(
            schema.events.c.case_id, schema.events.c.actor, schema.events.c.ts_utc, schema.events.c.reason
        )
        .where(schema.events.c.batch == batch, schema.events.c.kind == "report")
        .order_by(schema.events.c.seq)
    )
    with store.read() as connection:
        rows = connection.execute(query).all()
        held = _reported(connection, batch)
    shown = [
        (r.case_id, r.actor, r.ts_utc[:16].replace("T", " "), r.reason) for r in rows if r.case_id in held
    ]
    return pd.DataFrame(shown, columns=["case_id", "reader", "when", "reason"]).drop_duplicates(
        "case_id", keep="last"
    )


def read_answer(text: str) -> tuple[Answer, dict[str, Any]]:
    """The answer and its details from an event's `new` cell."""
    fields = json.loads(text)
    answer = Answer(
        tuple(fields.pop("diagnoses")),
        tuple(fields.pop("confidences")),
        fields.pop("exit"),
        fields.pop("more_than_one_disease"),
    )
    return answer, fields


def answer_json(answer: Answer, details: dict[str, Any]) -> str:
    note = details.get("note") or ""
    if len(note) > NOTE_LIMIT:
        raise Refused("bad_answer", f"The note has {len(note)} characters; at most {NOTE_LIMIT} are kept.")
    fields = {
        "diagnoses": list(answer.diagnoses),
        "confidences": list(answer.confidences),
        "exit": answer.exit,
        "more_than_one_disease": answer.has_more_than_one_disease,
        **details,
    }
    return json.dumps(fields, sort_keys=True, ensure_ascii=False)


def _choose(store: Store, connection: sa.Connection, batch: Batch, reader: str) -> tuple[str, int] | None:
    """The next case and its reading number (0 practice, 1 first, 2 hidden repeat)."""
    trail = _trail(connection, batch.name, reader)
    practised = {row.case_id for row in trail if row.kind in ("practice", "skip", "report")}
    practised |= _reported(connection, batch.name)  # a photograph that never comes must not stop a reader
    for case_id in batch.settings.get("practice_cases", ()):
        if case_id not in practised:
            return case_id, 0
    unread = _unread(store, connection, batch, reader, trail)
    repeat = _due_repeat(store, connection, batch, reader, trail, is_last_chance=not unread)
    if repeat is not None:
        return repeat, 2
    if not unread:
        return None
    skipped = {row.case_id: row.seq for row in trail if row.kind == "skip"}
    fresh = next((case for case in unread if case not in skipped), None)
    return fresh or min(unread, key=skipped.__getitem__), 1


def _unread(
    store: Store, connection: sa.Connection, batch: Batch, reader: str, trail: Sequence[Any]
) -> list[str]:
    """Cases this reader may still read, in the reader's own order."""
    done = {row.case_id for row in trail if row.kind == "reading" and row.reading_no == 1}
    done |= _reported(connection, batch.name) | _heard(connection, batch.name, reader)
    taken = _taken(connection, batch.name, reader)
    done |= {case for case, n in taken.items() if n >= batch.readings_per_case}
    order = _order(store, batch.name, batch.queue_sha256, batch.seed, reader)
    return [case for case in order if case not in done]


def _due_repeat(
    store: Store,
    connection: sa.Connection,
    batch: Batch,
    reader: str,
    trail: Sequence[Any],
    *,
    is_last_chance: bool,
) -> str | None:
    """A hidden repeat whose original lies at least `REPEAT_GAP` of this reader's cases back.

    The gap is drawn per case between one and two times `REPEAT_GAP`, so that repeats cannot be
    foreseen; when nothing else is left, the smallest gap that is allowed will do.
    """
    since = _cases_since(trail)
    for case in _repeats_left(store, connection, batch):
        gap = REPEAT_GAP
        if not is_last_chance:
            gap += int(_mix(batch.seed, reader, case)[:4], 16) % REPEAT_GAP
        if since.get(case, -1) >= gap:
            return case
    return None


def _cases_since(trail: Sequence[Any]) -> dict[str, int]:
    """How many first readings this reader gave after that of each case."""
    read = [row.case_id for row in trail if row.kind == "reading" and row.reading_no == 1]
    return {case: len(read) - 1 - place for place, case in enumerate(read)}


def _repeats_left(
    store: Store, connection: sa.Connection, batch: Batch, *, apart_from: str = ""
) -> list[str]:
    """Hidden repeats nobody has read or has on screen; the one on the screen of `apart_from` still counts."""
    repeated = sa.select(schema.events.c.case_id).where(
        schema.events.c.batch == batch.name,
        schema.events.c.kind == "reading",
        schema.events.c.reading_no == 2,
    )
    on_screen = sa.select(schema.screens.c.case_id).where(
        schema.screens.c.batch == batch.name,
        schema.screens.c.reading_no == 2,
        schema.screens.c.reader != apart_from,
    )
    done = set(connection.execute(repeated.union(on_screen)).scalars()) | _reported(connection, batch.name)
    return [case for case in _repeats(store, batch.name, batch.queue_sha256) if case not in done]


@lru_cache(maxsize=256)
def _repeats(store: Store, batch: str, queue_sha256: str) -> tuple[str, ...]:
    """The hidden repeats of a batch in the order of its queue, which never changes."""
    query = sa.select(schema.items.c.case_id).where(
        schema.items.c.batch == batch, schema.items.c.kind == "repeat"
    )
    with store.read() as connection:
        return tuple(connection.execute(query.order_by(schema.items.c.item)).scalars())


@lru_cache(maxsize=256)
def _order(store: Store, batch: str, queue_sha256: str, seed: int, reader: str) -> tuple[str, ...]:
    """The cases of a batch in this reader's order; a queue never changes, so neither does the order."""
    query = sa.select(schema.items.c.case_id).where(
        schema.items.c.batch == batch, schema.items.c.kind != "repeat"
    )
    with store.read() as connection:
        cases = set(connection.execute(query).scalars())
    return tuple(sorted(cases, key=lambda case: _mix(seed, reader, case)))


def _mix(seed: int, reader: str, case: str) -> str:
    return hashlib.sha256(f"{seed}|{reader}|{case}".encode()).hexdigest()


def _trail(connection: sa.Connection, batch: str, reader: str) -> Sequence[Any]:
    """The reader's standing first answers, repeats, practice, skips and reports, oldest first."""
    return connection.execute(
        sa.text(
            "SELECT seq, case_id, kind, reading_no FROM current_readings "
            "WHERE batch = :batch AND actor = :reader AND kind = 'reading' "
            "UNION ALL SELECT seq, case_id, kind, reading_no FROM events "
            "WHERE batch = :batch AND actor = :reader AND kind IN ('practice', 'skip', 'report') "
            "ORDER BY seq"
        ),
        {"batch": batch, "reader": reader},
    ).all()


def _taken(connection: sa.Connection, batch: str, reader: str) -> dict[str, int]:
    """Readings each case has from others, those on their screens now included."""
    since = (datetime.now(UTC) - RESERVED_FOR).isoformat(timespec="microseconds")
    rows = connection.execute(
        sa.text(
            "SELECT case_id, count(*) FROM ("
            "SELECT case_id FROM current_readings WHERE batch = :batch AND kind = 'reading' "
            "AND reading_no = 1 AND blind_level = 'blind' AND actor <> :reader "
            "UNION ALL SELECT case_id FROM screens WHERE batch = :batch AND reading_no = 1 "
            "AND task = 'read' AND reader <> :reader AND shown_utc > :since) AS readings GROUP BY case_id"
        ),
        {"batch": batch, "reader": reader, "since": since},
    ).all()
    return {row[0]: row[1] for row in rows}


def _reported(connection: sa.Connection, batch: str) -> set[str]:
    """Cases a reader reported: nobody is handed them until an admin has looked (`release`)."""
    rows = connection.execute(
        sa.select(schema.events.c.case_id, schema.events.c.kind)
        .where(schema.events.c.batch == batch, schema.events.c.kind.in_(("report", "release")))
        .order_by(schema.events.c.seq)
    ).all()
    latest = {row.case_id: row.kind for row in rows}
    return {case for case, kind in latest.items() if kind == "report"}


def _heard(connection: sa.Connection, batch: str, reader: str) -> set[str]:
    """Cases whose readings this person has seen as an adjudicator: they are not read blind any more."""
    query = sa.select(schema.events.c.case_id).where(
        schema.events.c.batch == batch, schema.events.c.actor == reader, schema.events.c.kind == "hearing"
    )
    return set(connection.execute(query).scalars())


def _clear_screens(connection: sa.Connection, batch: str, case_id: str) -> None:
    """A case that was taken out is on nobody's screen: its photographs are served to screens alone."""
    connection.execute(
        sa.delete(schema.screens).where(schema.screens.c.batch == batch, schema.screens.c.case_id == case_id)
    )


def _screen(
    connection: sa.Connection, batch: str, reader: str, *, nonce: str | None = None
) -> dict[str, Any] | None:
    query = sa.select(schema.screens).where(
        schema.screens.c.batch == batch,
        schema.screens.c.reader == reader,
        schema.screens.c.task == "read",
    )
    if nonce is not None:
        query = query.where(schema.screens.c.nonce == nonce)
    row = connection.execute(query).mappings().first()
    return dict(row) if row else None


def _show(
    connection: sa.Connection,
    batch: Batch,
    reader: str,
    case_id: str,
    *,
    reading_no: int,
    revision: int,
    draft: dict[str, Any] | None,
) -> Screen:
    row = {
        "batch": batch.name,
        "reader": reader,
        "task": "read",
        "case_id": case_id,
        "reading_no": reading_no,
        "revision": revision,
        "nonce": secrets.token_hex(16),
        "shown_utc": now_utc(),
        "draft": json.dumps(draft, ensure_ascii=False) if draft is not None else None,
    }
    connection.execute(sa.insert(schema.screens).values(**row))
    return _shown(row)


def _shown(row: dict[str, Any]) -> Screen:
    return Screen(
        batch=row["batch"],
        case_id=row["case_id"],
        nonce=row["nonce"],
        shown_utc=row["shown_utc"],
        is_practice=row["reading_no"] == 0,
        draft=json.loads(row["draft"]) if row["draft"] else None,
    )


def check_open(connection: sa.Connection, batch: Batch) -> None:
    """The batch as the database has it now: the caller's copy may be older than its closing."""
    closed = connection.execute(
        sa.select(schema.batches.c.closed_utc).where(schema.batches.c.name == batch.name)
    ).scalar()
    if closed is not None:
        raise Refused("closed", "This batch was closed. Nothing was saved.")


def _blind_level(connection: sa.Connection, case_id: str, reader: str) -> str:
    """A label once revealed is known in every batch from then on."""
    revealed = connection.execute(
        sa.select(schema.events.c.seq)
        .where(
            schema.events.c.case_id == case_id,
            schema.events.c.actor == reader,
            schema.events.c.kind == "reveal",
        )
        .limit(1)
    ).first()
    return "unblinded" if revealed else "blind"


def is_adjudicated(connection: sa.Connection, batch: str, case_id: str) -> bool:
    """Whether somebody has had the last word on a case."""
    row = connection.execute(
        sa.text(
            "SELECT seq FROM current_readings "
            "WHERE batch = :batch AND case_id = :case AND kind = 'adjudication'"
        ),
        {"batch": batch, "case": case_id},
    ).first()
    return row is not None


def _seconds_since(utc: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(utc)).total_seconds()
