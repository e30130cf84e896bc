"""Reveal: what the data and the model said of the cases a reader has read, after the batch is closed.

Off unless the batch was opened for it. A reveal is an event of each case: whoever has seen its label reads
it unblinded in every later batch, and no such reading feeds agreement, consensus or truth.
"""

import pandas as pd
import sqlalchemy as sa

from ddeval.vet import schema
from ddeval.vet.batches import Batch, read_items
from ddeval.vet.reading import Refused, first_readings
from ddeval.vet.store import Store

AFTER_CLOSE = "after_close"


def may_reveal(batch: Batch) -> bool:
    """Whether the labels of this batch may be shown to its readers now."""
    return not batch.is_open and batch.settings.get("reveal") == AFTER_CLOSE


def reveal(store: Store, batch: Batch, reader: str) -> pd.DataFrame:
    """The cases this reader read, `case_id, answer, given_label, predicted_label, reason`; noted as events.

    Raises
    ------
    Refused
        `closed` if the batch is open still, or was not opened for a reveal.
    """
    if not may_reveal(batch):
        raise Refused("closed", "The labels of this batch are not shown.")
    own = first_readings(store, batch.name)
    own = own[own["actor"] == reader]
    items = read_items(store, batch.name).drop_duplicates("case_id")
    shown = own[["case_id", "answer"]].merge(
        items[["case_id", "given_label", "predicted_label", "reason"]], on="case_id", validate="1:1"
    )
    with store.write() as connection:
        known = set(
            connection.execute(
                sa.select(schema.events.c.case_id).where(
                    schema.events.c.batch == batch.name,
                    schema.events.c.actor == reader,
                    schema.events.c.kind == "reveal",
                )
            ).scalars()
        )
        for case_id in shown["case_id"]:
            if case_id not in known:
                store.append(
                    connection,
                    actor=reader,
                    role="reader",
                    batch=batch.name,
                    case_id=case_id,
                    reading_no=0,
                    revision=0,
                    kind="reveal",
                    blind_level="unblinded",
                    nonce=f"reveal:{batch.name}:{case_id}:{reader}",
                )
    return shown
