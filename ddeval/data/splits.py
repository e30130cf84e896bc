"""Splits: which images may be learnt from, and is any patient on both sides?

`split_by_group` deals whole patients (lesions, cases) into splits; `leaks` finds what stands in two.
"""

import hashlib
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from ddeval.tables import SPLITS, group_of

UNITS = ("patient_id", "lesion_id", "case_id")


def leaks(frame: pd.DataFrame) -> pd.DataFrame:
    """Every patient, lesion or case that stands in more than one split, one row each.

    Columns: `kind` (patient, lesion, case), `id`, `splits` (such as "test, train"), `n_images`. Rows
    without a split count for none; without the columns nothing leaks.
    """
    found = []
    for column in UNITS:
        if column in frame.columns and "split" in frame.columns:
            held = frame.loc[frame[column].notna() & frame["split"].notna(), [column, "split"]]
            n_splits = held.groupby(column)["split"].transform("nunique")
            for key, splits in held.loc[n_splits > 1].groupby(column)["split"]:
                names = ", ".join(sorted(splits.unique()))
                found.append((column.removesuffix("_id"), key, names, len(splits)))
    return pd.DataFrame(found, columns=["kind", "id", "splits", "n_images"])


def units(frame: pd.DataFrame) -> npt.NDArray[np.int64]:
    """The number of the indivisible unit of each row: images linked by any patient, lesion, case or file.

    Coarser than `group` only where ids are incomplete: a lesion whose patient is known in one row and
    not in another is one unit, and so are two cases that share a photograph.
    """
    n = len(frame)
    rows, nodes, offset = [], [], n
    for column in (*UNITS, "image"):
        if column in frame.columns:
            codes, names = pd.factorize(frame[column])
            held = np.flatnonzero(codes >= 0)
            rows.append(held)
            nodes.append(codes[held] + offset)
            offset += len(names)
    if not rows:
        return np.arange(n)
    row, node = np.concatenate(rows), np.concatenate(nodes)
    graph = coo_array((np.ones(len(row)), (row, node)), shape=(offset, offset))
    return np.asarray(connected_components(graph, directed=False)[1][:n], dtype=np.int64)


def split_by_group(
    frame: pd.DataFrame,
    fractions: Mapping[str, float],
    *,
    rng: np.random.Generator,
) -> pd.Series:
    """A split for each row; no patient, lesion or case in two, and each class shared out alike.

    Units are dealt in an order given by a hash of their ids and of one draw from `rng`, so that the
    order of the rows does not matter. Each goes to the split that is furthest below its share of the
    images of the unit's commonest class; between equals, of all images.

    Parameters
    ----------
    frame : DataFrame
        A manifest.
    fractions : mapping
        Share of images by split, summing to 1, such as {"train": 0.7, "val": 0.1, "test": 0.2}.

    Raises
    ------
    ValueError
        Unknown splits, or fractions that are not positive or do not sum to 1.

    Returns
    -------
    Series of str, the index of `frame`.
    """
    names = list(fractions)
    share = np.array([fractions[name] for name in names], dtype=float)
    if not set(names) <= set(SPLITS) or not (share > 0).all() or abs(share.sum() - 1) > 1e-9:
        raise ValueError(f"fractions must be positive, sum to 1 and name {SPLITS}; got {dict(fractions)}")
    table = pd.DataFrame({"unit": units(frame), "image_id": frame["image_id"].to_numpy()})
    table["group"] = group_of(frame).to_numpy()
    table["stratum"] = frame["label"].fillna("").to_numpy() if "label" in frame.columns else ""

    salt = int(rng.integers(2**63))
    dealt = table.groupby("unit").agg(name=("group", "min"), size=("unit", "size"))
    dealt["stratum"] = _commonest(table)
    dealt["order"] = [hashlib.sha256(f"{salt}:{name}".encode()).digest() for name in dealt["name"]]
    have: dict[str, npt.NDArray[np.float64]] = {}
    total = np.zeros(len(names))
    chosen = {}
    for unit in dealt.sort_values("order").itertuples():
        count = have.setdefault(str(unit.stratum), np.zeros(len(names)))
        below = share * (count.sum() + unit.size) - count
        overall = share * (total.sum() + unit.size) - total
        best = max(range(len(names)), key=lambda i: (round(below[i], 9), round(overall[i], 9), -i))
        count[best] += unit.size
        total[best] += unit.size
        chosen[unit.Index] = names[best]
    return pd.Series([chosen[unit] for unit in table["unit"]], index=frame.index, name="split", dtype=object)


def _commonest(table: pd.DataFrame) -> pd.Series:
    """The most frequent stratum of each unit, the first in the alphabet among equals."""
    counts = table.groupby(["unit", "stratum"]).size().rename("n").reset_index()
    counts = counts.sort_values(["unit", "n", "stratum"], ascending=[True, False, True])
    return counts.drop_duplicates("unit").set_index("unit")["stratum"]
