"""Batches: a queue opened for reading, and closed when no more verdicts are taken.

A batch keeps what it was drawn from (queue and manifest hashes, seed), so that an estimate made
from its readings can be rebuilt. Which case a reader sees next is `ddeval.vet.reading`'s business.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import sqlalchemy as sa

from ddeval import io, tables
from ddeval.errors import InputError
from ddeval.vet import schema
from ddeval.vet.store import Store, now_utc


@dataclass(frozen=True)
class Batch:
    """One batch as it stands in the store."""

    name: str
    split: str
    seed: int
    readings_per_case: int
    manifest_sha256: str
    queue_sha256: str
    settings: dict[str, Any]
    """`practice_cases` (ids read first, not counted), `readers` (codes it is assigned to), and more."""
    opened_utc: str
    closed_utc: str | None

    @property
    def is_open(self) -> bool:
        return self.closed_utc is None

    def is_assigned_to(self, reader: str) -> bool:
        """Whether this reader may read it: all may where nobody is named."""
        return reader in self.settings.get("readers", (reader,))


def open_batch(
    store: Store,
    queue: pd.DataFrame,
    *,
    name: str,
    split: str,
    seed: int,
    manifest_sha256: str,
    readings_per_case: int = 2,
    settings: dict[str, Any] | None = None,
    pairs: pd.DataFrame | None = None,
) -> Batch:
    """Put a queue (QUEUE, one row a case or a hidden repeat) before the readers.

    `given_label`, `label_basis`, `rank` and `predicted_label` columns travel into the store, where only
    the derived verdict and the dashboard use them. `pairs` (`image_id_a, image_id_b, similarity, kind`) are
    photographs that may be one (`ddeval.vet.pairs`). Opening the same queue under the same name again
    changes nothing.

    Raises
    ------
    InputError
        If the name is taken by another queue, a repeat has no original, or the queue breaks its table.
    """
    tables.check(queue, tables.QUEUE, where=f"queue of batch {name}")
    repeats = queue[queue["kind"] == "repeat"]
    orphans = repeats[~repeats["case_id"].isin(queue.loc[queue["kind"] != "repeat", "case_id"])]
    if len(orphans):
        raise InputError(
            f"queue of batch {name}",
            f"a hidden repeat of case {orphans['case_id'].iloc[0]!r}, which the queue does not hold "
            f"({len(orphans)} such)",
            expected="every repeat beside its original",
            todo="Make the queue again with `ddeval audit`.",
        )
    queue_sha256 = io.value_sha256(_records(queue))
    with store.write() as connection:
        known = connection.execute(sa.select(schema.batches).where(schema.batches.c.name == name)).first()
        if known is None:
            connection.execute(
                sa.insert(schema.batches).values(
                    name=name,
                    split=split,
                    seed=seed,
                    readings_per_case=readings_per_case,
                    manifest_sha256=manifest_sha256,
                    queue_sha256=queue_sha256,
                    settings=json.dumps(settings or {}, sort_keys=True),
                    opened_utc=now_utc(),
                )
            )
            connection.execute(sa.insert(schema.items), _items(queue, name))
            if pairs is not None and len(pairs):
                connection.execute(sa.insert(schema.pairs), _pairs(pairs, name))
        elif known.queue_sha256 != queue_sha256:
            raise InputError(
                f"batch {name}",
                "another queue opened under this name",
                expected="a new name for a new queue",
                todo=f"Use `ddeval vet open --name {name}-2`.",
            )
    return read_batch(store, name)


def practice_cases(
    manifest: pd.DataFrame, queue: pd.DataFrame, *, n: int, rng: np.random.Generator
) -> list[str]:
    """Ids of `n` cases to practise on, none of the queue; of the training split where there are enough.

    Fewer where the manifest has no more. Practice shows the reader the screen, and never counts.
    """
    cases = manifest.drop_duplicates("case_id")
    free = cases[~cases["case_id"].isin(queue["case_id"])]
    order = rng.permutation(len(free))
    is_train = (free["split"] == "train").to_numpy()[order]
    chosen = np.concatenate([order[is_train], order[~is_train]])[:n]
    return [str(case) for case in free["case_id"].to_numpy()[chosen]]


def close_batch(store: Store, name: str, *, actor: str) -> Batch:
    """Take no more readings. The closing is an event in the trail; closing twice changes nothing."""
    with store.write() as connection:
        batch = _batch(connection, name)
        if batch.is_open:
            store.append(
                connection,
                actor=actor,
                role="admin",
                batch=name,
                case_id="",
                reading_no=0,
                revision=0,
                kind="close",
                blind_level="none",
                nonce=f"close:{name}",
            )
            connection.execute(
                sa.update(schema.batches).where(schema.batches.c.name == name).values(closed_utc=now_utc())
            )
            connection.execute(sa.delete(schema.screens).where(schema.screens.c.batch == name))
    return read_batch(store, name)


def read_batch(store: Store, name: str) -> Batch:
    """The batch of that name; an InputError lists those there are."""
    with store.read() as connection:
        return _batch(connection, name)


def read_batches(store: Store) -> list[Batch]:
    """All batches, the newest first."""
    with store.read() as connection:
        rows = connection.execute(sa.select(schema.batches).order_by(schema.batches.c.opened_utc.desc()))
        return [_from_row(row) for row in rows]


def read_items(store: Store, name: str) -> pd.DataFrame:
    """The queue of a batch as it was opened, repeats included: for estimates, never for a reader's page."""
    with store.read() as connection:
        query = sa.select(schema.items).where(schema.items.c.batch == name).order_by(schema.items.c.item)
        return pd.read_sql_query(query, connection)


def _batch(connection: sa.Connection, name: str) -> Batch:
    row = connection.execute(sa.select(schema.batches).where(schema.batches.c.name == name)).first()
    if row is None:
        names = connection.execute(sa.select(schema.batches.c.name)).scalars().all()
        raise InputError(
            f"batch {name}",
            "no such batch",
            expected=f"one of {', '.join(names)}" if names else "an open batch (there is none)",
            todo="`ddeval vet status` lists them, `ddeval vet open QUEUE` opens one.",
        )
    return _from_row(row)


def _from_row(row: Any) -> Batch:
    fields = dict(row._mapping)
    return Batch(**{**fields, "settings": json.loads(fields["settings"])})


def _items(queue: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    """Rows of the items table; a reason or label column the queue lacks is empty."""
    frame = queue.reindex(
        columns=[
            "case_id",
            "kind",
            "stratum",
            "inclusion_probability",
            "given_label",
            "label_basis",
            "reason",
            "rank",
            "predicted_label",
        ]
    )
    frame = frame.astype(object).where(frame.notna(), None)
    frame.insert(0, "item", np.arange(1, len(frame) + 1))
    frame.insert(0, "batch", name)
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]


def _pairs(pairs: pd.DataFrame, name: str) -> list[dict[str, Any]]:
    frame = pairs[["image_id_a", "image_id_b", "similarity", "kind"]].astype(object)
    frame = frame.where(frame.notna(), None)
    return [
        {"batch": name, "pair": place, **{str(k): v for k, v in row.items()}}
        for place, row in enumerate(frame.to_dict("records"), start=1)
    ]


def _records(queue: pd.DataFrame) -> list[dict[str, Any]]:
    left_out = (
        "batch",
        "item",
        "rank",
        "predicted_label",
    )  # what a queue is does not depend on who ranked it
    return [{k: v for k, v in row.items() if k not in left_out} for row in _items(queue, "")]
