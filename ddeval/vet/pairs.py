"""Pairs: are these two photographs one? Two images side by side, one decision.

The pairs come from `ddeval audit`. Whoever decides sees the two photographs and nothing of labels, splits
or how the pair was found. A decision is an event; taking it back is another; the last one stands.
"""

import json
from typing import Any, Literal, NamedTuple, get_args

import pandas as pd
import sqlalchemy as sa

from ddeval.vet import schema
from ddeval.vet.batches import Batch
from ddeval.vet.reading import Refused, check_open
from ddeval.vet.store import Store

Decision = Literal["same_photograph", "same_lesion", "different", "cannot_tell"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)


class Pair(NamedTuple):
    """Two photographs before one person."""

    pair: int
    image_id_a: str
    image_id_b: str
    revision: int
    """Decisions taken on it before, those taken back included."""
    n_left: int
    """Pairs of the batch without a decision, this one included."""


def next_pair(store: Store, batch: Batch) -> Pair | None:
    """The first pair of the batch without a standing decision; None when all are decided."""
    with store.read() as connection:
        rows = connection.execute(
            sa.select(schema.pairs).where(schema.pairs.c.batch == batch.name).order_by(schema.pairs.c.pair)
        ).all()
        said = _said(connection, batch.name)
    left = [row for row in rows if not said.get(row.pair, [{}])[-1].get("decision")]
    if not left or not batch.is_open:
        return None
    first = left[0]
    return Pair(first.pair, first.image_id_a, first.image_id_b, len(said.get(first.pair, [])), len(left))


def decide(store: Store, batch: Batch, reader: str, pair: Pair, decision: Decision) -> dict[str, Any]:
    """Commit one decision and return its event.

    Raises
    ------
    Refused
        `not_shown` if the pair was decided meanwhile, `closed` after the batch was closed, `bad_answer`
        for a word that is no decision.
    """
    if decision not in DECISIONS:
        raise Refused("bad_answer", f"{decision!r} is no decision. Nothing was saved.")
    return _append(store, batch, reader, pair, decision)


def take_back(store: Store, batch: Batch, reader: str) -> Pair:
    """Withdraw this person's last standing decision by a new event; the pair comes back."""
    with store.read() as connection:
        rows = {
            row.pair: row
            for row in connection.execute(sa.select(schema.pairs).where(schema.pairs.c.batch == batch.name))
        }
        said = _said(connection, batch.name)
    mine = [
        (events[-1]["seq"], pair)
        for pair, events in said.items()
        if events[-1]["decision"] and events[-1]["actor"] == reader
    ]
    if not mine:
        raise Refused("nothing_to_undo", "There is no decision of yours to take back.")
    row = rows[max(mine)[1]]
    pair = Pair(row.pair, row.image_id_a, row.image_id_b, len(said[row.pair]), 0)
    _append(store, batch, reader, pair, None)
    return pair._replace(revision=pair.revision + 1)


def decisions(store: Store, batch: str) -> pd.DataFrame:
    """Standing decisions: `image_id_a, image_id_b, decision, reader`, in the order of the pairs."""
    with store.read() as connection:
        said = _said(connection, batch)
    rows = [
        (*events[-1]["image_ids"], events[-1]["decision"], events[-1]["actor"])
        for _, events in sorted(said.items())
        if events[-1]["decision"]
    ]
    return pd.DataFrame(rows, columns=["image_id_a", "image_id_b", "decision", "reader"])


def _append(store: Store, batch: Batch, reader: str, pair: Pair, decision: Decision | None) -> dict[str, Any]:
    fields = {"pair": pair.pair, "image_ids": [pair.image_id_a, pair.image_id_b], "decision": decision}
    with store.write() as connection:
        check_open(connection, batch)
        if len(_said(connection, batch.name).get(pair.pair, [])) != pair.revision:
            raise Refused("not_shown", "This pair was decided a moment ago. Nothing was saved.")
        return store.append(
            connection,
            actor=reader,
            role="adjudicator",
            batch=batch.name,
            case_id="",
            reading_no=0,
            revision=pair.revision,
            kind="pair",
            new=json.dumps(fields, sort_keys=True, ensure_ascii=False),
            blind_level="blind",
            nonce=f"pair:{batch.name}:{pair.pair}:{pair.revision}",
        )


def _said(connection: sa.Connection, batch: str) -> dict[int, list[dict[str, Any]]]:
    """Every decision on every pair, oldest first; a decision taken back has the decision None."""
    events = connection.execute(
        sa.select(schema.events.c.seq, schema.events.c.actor, schema.events.c.new)
        .where(schema.events.c.batch == batch, schema.events.c.kind == "pair")
        .order_by(schema.events.c.seq)
    ).all()
    said: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        fields = json.loads(event.new)
        said.setdefault(fields["pair"], []).append({**fields, "actor": event.actor, "seq": event.seq})
    return said
