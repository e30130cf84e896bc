"""Predictions: what a checkpoint said about each image, and nothing about what the image is.

A PREDICTIONS table carries no labels: they come from the manifest and an overlay when numbers are
made (`ddeval.score.evaluate`), so that new labels never rerun a model. This module reads and writes
our own Parquet form; `ddeval.score.foreign` reads everybody else's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ddeval import io, tables
from ddeval.errors import InputError
from ddeval.metrics.arrays import PROB_FLOOR, Probs, softmax
from ddeval.score.folder import EMBEDDINGS_FILE

Link = Literal["softmax", "sigmoid"]
ID_COLUMNS = ("image_id", "case_id", "group", "split")


@dataclass(frozen=True)
class Predictions:
    """The answers of one model, in manifest order."""

    frame: pd.DataFrame
    """`image_id`, `case_id`, `group`, `split`; index 0 to N-1."""
    logits: npt.NDArray[np.float32]
    """(N, K), finite. Where probabilities were given: their logarithm, floored at 1e-15."""
    class_names: tuple[str, ...]
    """Name of each column of `logits`."""
    link: Link = "softmax"
    """How logits become probabilities."""
    other_class: str | None = None
    """The class that stands for everything outside the targets; stated, never inferred."""
    probs: npt.NDArray[np.float64] | None = None
    """(N, K) probabilities exactly as given, where a predictions file gave them; else None."""
    fingerprint: str = ""
    """Hash of everything the logits depend on."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """How they were made: dtype, batch size, preprocessing, source file."""

    @property
    def other(self) -> int | None:
        """Column of `other_class`."""
        return None if self.other_class is None else self.class_names.index(self.other_class)

    def pred_probs(self) -> Probs:
        """Probabilities (N, K) in float64; rows sum to 1.

        The given ones where a file gave them, else the softmax of the logits. Sigmoid scores are
        divided by their row sum: the order of the classes in a row stays what the model said.
        """
        if self.link == "softmax":
            return self.probs if self.probs is not None else softmax(self.logits)
        scores = self.probs if self.probs is not None else _sigmoid(self.logits)
        shares: Probs = scores / scores.sum(axis=1, keepdims=True)
        return shares

    def rows(self, where: npt.NDArray[np.bool_]) -> "Predictions":
        """The predictions of the rows where `where` (N,) is true, in the same order."""
        return replace(
            self,
            frame=self.frame[where].reset_index(drop=True),
            logits=self.logits[where],
            probs=None if self.probs is None else self.probs[where],
        )


def floored_log(probs: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Logits that stand for given probabilities: a probability of 0 becomes log 1e-15, not -inf."""
    logs: npt.NDArray[np.float32] = np.log(np.maximum(probs, PROB_FLOOR)).astype(np.float32)
    return logs


def write_predictions(path: Path, predictions: Predictions) -> None:
    """Parquet with a written schema; the same predictions give the same bytes."""
    columns = {name: pa.array(_text(predictions.frame[name]), pa.string()) for name in ID_COLUMNS}
    columns["logits"] = list_column(predictions.logits, pa.float32())
    if predictions.probs is not None:
        columns["pred_probs"] = list_column(predictions.probs, pa.float64())
    metadata = {
        "class_names": list(predictions.class_names),
        "link": predictions.link,
        "other_class": predictions.other_class,
        "fingerprint": predictions.fingerprint,
        "settings": dict(predictions.settings),
    }
    io.write_parquet(path, pa.table(columns), metadata=metadata)


def read_predictions(path: Path) -> Predictions:
    """Predictions that `write_predictions` wrote.

    Raises
    ------
    InputError
        If the file is not one of ours, an id stands twice, a row has another width than the class
        names, or a logit is not finite.
    """
    table, metadata = io.read_table(path)
    missing = [name for name in ("class_names", "link") if name not in metadata]
    if missing or "logits" not in table.column_names:
        raise InputError(
            str(path),
            f"no {', '.join(missing) or 'logits'}",
            expected="a predictions file of ddeval",
            todo=f"Score it as a foreign file: ddeval score {path} --data MANIFEST.",
        )
    names = tuple(metadata["class_names"])
    logits = list_values(table, "logits", width=len(names), where=str(path))
    frame = table.drop_columns([c for c in ("logits", "pred_probs") if c in table.column_names]).to_pandas()
    frame = frame.astype(object).where(frame.notna(), None)
    tables.check(frame.assign(logits=0), tables.PREDICTIONS, where=str(path))
    check_finite(logits, frame["image_id"], where=str(path), what="logit")
    probs = None
    if "pred_probs" in table.column_names:
        probs = list_values(table, "pred_probs", width=len(names), where=str(path)).astype(np.float64)
    return Predictions(
        frame,
        logits.astype(np.float32),
        names,
        metadata["link"],
        metadata.get("other_class"),
        probs,
        metadata.get("fingerprint", ""),
        metadata.get("settings", {}),
    )


def list_values(table: pa.Table, column: str, *, width: int | None, where: str) -> npt.NDArray[Any]:
    """The cells of a list column as one array (N, width); None takes the first row's width.

    An empty cell or a row of another width is an InputError that names the row.
    """
    cells = table.column(column).combine_chunks()
    lengths = np.asarray(pc.list_value_length(cells).fill_null(-1))
    expected = width if width is not None else int(lengths[0]) if len(lengths) else 0
    wrong = np.flatnonzero(lengths != expected)
    if wrong.size:
        found = lengths[wrong[0]]
        raise InputError(
            f"{where} row {wrong[0] + 1}",
            f"{'an empty cell' if found < 0 else f'{found} values'} in {column} ({wrong.size} such rows)",
            expected=f"{expected} values, one a class",
            todo="Write one value a class, in the order of class_names.",
        )
    values: npt.NDArray[Any] = cells.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(cells), expected)


def check_finite(values: npt.NDArray[Any], image_ids: Any, *, where: str, what: str) -> None:
    """An InputError that names the first images with a NaN or an infinity in `values` (N, K)."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if bad.size:
        ids = ", ".join(str(i) for i in np.asarray(image_ids, dtype=object)[bad[:5]])
        raise InputError(
            where,
            f"a {what} that is NaN or infinite for {bad.size} images ({ids}{', …' if bad.size > 5 else ''})",
            expected=f"a finite {what} for each class",
            todo="Look for overflow (fp16) or a broken weight, then predict these again.",
        )


def list_column(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """A column of lists, one a row of `values` (N, K)."""
    flat = pa.array(np.ascontiguousarray(values).reshape(-1), kind)
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def read_embeddings(run: Path, n_rows: int) -> npt.NDArray[np.float32]:
    """Embeddings (N, E) of a run, a row a prediction, left on disk until they are read.

    An InputError where the run has none or not `n_rows`.
    """
    path = run / EMBEDDINGS_FILE
    if not path.is_file():
        raise InputError(
            str(run), f"no {path.name}", expected="the embeddings of its images", todo="Score it again."
        )
    vectors: npt.NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    if len(vectors) != n_rows:
        raise InputError(
            str(path),
            f"{len(vectors):,} rows",
            expected=f"{n_rows:,}, a row a prediction",
            todo="Score the run again.",
        )
    return vectors


def _text(cells: pd.Series) -> list[str | None]:
    return [None if pd.isna(c) else str(c) for c in cells]


def _sigmoid(logits: npt.NDArray[np.floating[Any]]) -> Probs:
    # written with exp of a negative number only, so that no logit overflows
    x = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(x))
    result: Probs = np.where(x >= 0, 1 / (1 + small), small / (1 + small))
    return result
