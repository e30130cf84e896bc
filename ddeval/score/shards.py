"""Parts of a run: one file a finished shard, and the one function that merges them.

A part is written whole or not at all, and its name holds the hash of its content, so that a damaged
part is found and made again. Whatever engine scored the shards, the merge is the same: parts in order,
every image exactly once, the same bytes.
"""

import hashlib
import io as buffers
from dataclasses import replace
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ddeval import io
from ddeval.errors import InputError
from ddeval.score import folder
from ddeval.score.plan import Plan
from ddeval.score.predictions import Predictions, list_column, list_values, write_predictions

PARTS = "parts"
HASH_LENGTH = 16
QUARANTINE_COLUMNS = ("image_id", "image", "split", "code", "reason")


class Part(NamedTuple):
    """The answers for one shard, in order; a row with a code is left out of the merge."""

    logits: npt.NDArray[np.float32]
    """(n, K)"""
    embeddings: npt.NDArray[np.float32]
    """(n, E)"""
    codes: list[str | None]
    """Why an image could not be read; None where it was."""
    reasons: list[str | None]


def write_part(run: Path, plan: Plan, shard: int, part: Part) -> Path:
    """Write one finished shard."""
    ids = [plan.image_ids[i] for i in plan.rows(shard)]
    table = pa.table(
        {
            "image_id": pa.array(ids, pa.string()),
            "logits": list_column(part.logits, pa.float32()),
            "embedding": list_column(part.embeddings, pa.float32()),
            "code": pa.array(part.codes, pa.string()),
            "reason": pa.array(part.reasons, pa.string()),
        }
    ).replace_schema_metadata({"plan": plan.key, "shard": str(shard)})
    buffer = buffers.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    content = buffer.getvalue()
    path = run / PARTS / f"part-{shard:05d}-{_digest(content)}.parquet"
    io.write_bytes(path, content)
    return path


def sweep(run: Path, mine: list[int]) -> None:
    """Remove what a killed process left unfinished of these shards; others' may be in the making."""
    numbers = {f"{shard:05d}" for shard in mine}
    for path in (run / PARTS).glob(f"{io.TMP_PREFIX}*-part-*.parquet"):
        if path.name.rpartition("-part-")[2].partition("-")[0] in numbers:
            path.unlink(missing_ok=True)


def finished(run: Path, plan: Plan) -> tuple[dict[int, Path], list[str]]:
    """The sound part of each finished shard, and a note on each damaged one, which is removed.

    A part counts when its content has the hash in its name and it was made under this plan.
    """
    parts, notes = {}, []
    for path in sorted((run / PARTS).glob("part-*.parquet")):
        shard, _, digest = path.stem.removeprefix("part-").partition("-")
        if _digest(path.read_bytes()) == digest and _key(path) == (plan.key, shard.lstrip("0") or "0"):
            parts[int(shard)] = path
        else:
            io.remove(path)
            notes.append(f"{path.name} is damaged or of another run; its shard is scored again")
    return parts, notes


def merge(run: Path, plan: Plan, rows: pd.DataFrame, template: Predictions) -> None:
    """Predictions, embeddings and quarantine of a run from the parts of all its shards.

    Parameters
    ----------
    rows : DataFrame
        `image_id`, `case_id`, `group`, `split`, `image` of each image of the plan, in its order.
    template : Predictions
        Class names, link, fingerprint and settings; its frame and logits are ignored.

    Raises
    ------
    InputError
        If shards are missing, or no image could be read.
    """
    parts, _ = finished(run, plan)
    missing = sorted(set(range(plan.n_shards)) - set(parts))
    if missing:
        raise InputError(
            str(run),
            f"{len(parts)} of {plan.n_shards} shards (missing: {', '.join(map(str, missing[:10]))})",
            expected="all of them",
            todo="Score the missing ones; the same command goes on from here.",
        )
    tables = [
        pq.read_table(parts[shard], columns=["image_id", "logits", "code", "reason"])
        for shard in sorted(parts)
    ]
    whole = pa.concat_tables(tables).combine_chunks()
    if whole.column("image_id").to_pylist() != list(plan.image_ids):
        raise RuntimeError(f"{run}: the parts do not hold each image of the plan once, in order")
    codes = whole.column("code").to_pandas()
    is_read = codes.isna().to_numpy()
    quarantine = rows.assign(code=codes, reason=whole.column("reason").to_pandas())
    quarantine = quarantine.loc[~is_read, list(QUARANTINE_COLUMNS)]
    if not is_read.any():
        first = quarantine.iloc[0]
        raise InputError(
            f"image of {first['image_id']}",
            f"{first['reason']} ({first['image']}), and none of the {len(rows):,} images can be read",
            expected="images",
            todo="Pass the folder they lie in with --images.",
        )
    logits = list_values(whole, "logits", width=len(template.class_names), where=str(run))[is_read]
    _write_embeddings(run / folder.EMBEDDINGS_FILE, [parts[s] for s in sorted(parts)], is_read)
    io.write_parquet(run / folder.QUARANTINE_FILE, _quarantine_table(quarantine))
    write_predictions(
        run / folder.PREDICTIONS_FILE,
        replace(
            template,
            frame=rows[is_read].reset_index(drop=True),
            logits=logits,
            probs=None,
            fingerprint=plan.fingerprint,
        ),
    )


def remove_parts(run: Path) -> None:
    """Remove the parts of a merged run, and what is left of interrupted merges."""
    for path in (run / PARTS).glob("part-*.parquet"):
        io.remove(path)
    io.sweep(run)


def _write_embeddings(path: Path, parts: list[Path], is_read: npt.NDArray[np.bool_]) -> None:
    """(N, E) float32 in the order of the predictions, one part in memory at a time."""
    width = pq.read_schema(parts[0]).field("embedding").type.list_size
    header = {"descr": "<f4", "fortran_order": False, "shape": (int(is_read.sum()), width)}

    def write(file: IO[bytes]) -> None:
        np.lib.format.write_array_header_1_0(file, header)
        start = 0
        for part in parts:
            table = pq.read_table(part, columns=["embedding"])
            values = list_values(table, "embedding", width=width, where=str(part))
            file.write(
                np.ascontiguousarray(values[is_read[start : start + len(values)]], dtype="<f4").tobytes()
            )
            start += len(values)

    io.write_atomic(path, write)


def _quarantine_table(frame: pd.DataFrame) -> pa.Table:
    texts = {c: [None if pd.isna(v) else str(v) for v in frame[c]] for c in QUARANTINE_COLUMNS}
    return pa.table({name: pa.array(cells, pa.string()) for name, cells in texts.items()})


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH_LENGTH]


def _key(path: Path) -> tuple[str, str]:
    metadata = pq.read_schema(path).metadata or {}
    return metadata.get(b"plan", b"").decode(), metadata.get(b"shard", b"").decode()
