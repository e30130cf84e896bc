"""Duplicates: which images are the same file, the same pixels, or nearly the same picture?

Pairs come from hashes (made in `ddeval.data.hashes`) and from embeddings (exact blocked cosine); a pair
across splits or patients is a leak, a pair with two labels has one wrong. Nothing is removed here.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from ddeval.audit.neighbours import unit_rows

KINDS = ("file", "pixels", "perceptual", "embedding")
"""How a pair was found, the surest kind first; a pair found in several ways is listed once, as the first."""
MAX_PAIRS = 5_000_000
"""More pairs than this are no finding but a constant embedding or a threshold far too low."""
_BLOCK = 4096
_ROUNDING = 1e-5
"""Error of a float32 product of unit rows; candidates are measured again in float64."""


def near_duplicates(features: npt.ArrayLike, *, threshold: float) -> pd.DataFrame:
    """Every pair of rows whose cosine similarity is at least `threshold`, exactly: no index, no sampling.

    A row of zeros or with a value that is not finite is in no pair.

    Parameters
    ----------
    features : float array of shape (N, D)
    threshold : float in (-1, 1]
        The lower edge counts.

    Returns
    -------
    DataFrame
        `first` < `second` (rows) and `similarity`, most similar first, then by rows.

    Raises
    ------
    ValueError
        If the threshold is outside (-1, 1], or more than five million pairs reach it.

    Examples
    --------
    >>> near_duplicates(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]), threshold=0.99)
       first  second  similarity
    0      0       1         1.0
    """
    if not -1.0 < threshold <= 1.0:
        raise ValueError(f"threshold must lie in (-1, 1], got {threshold}")
    rows, is_usable = unit_rows(features)
    kept = np.flatnonzero(is_usable)
    rows = rows[kept]
    exact = np.asarray(features)
    found: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]] = []
    n_found = 0
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for other in range(start, len(rows), _BLOCK):
            similar = block @ rows[other : other + _BLOCK].T
            first, second = np.nonzero(similar >= threshold - _ROUNDING)
            if other == start:
                first, second = first[first < second], second[first < second]
            n_found += len(first)
            if n_found > MAX_PAIRS:
                raise ValueError(
                    f"more than {MAX_PAIRS:,} pairs reach a similarity of {threshold}: are the features "
                    "constant? Raise the threshold."
                )
            found.append((kept[start + first], kept[other + second]))
    first = np.concatenate([f for f, _ in found]) if found else np.empty(0, dtype=np.intp)
    second = np.concatenate([s for _, s in found]) if found else np.empty(0, dtype=np.intp)
    pairs = pd.DataFrame({"first": first, "second": second, "similarity": _cosine(exact, first, second)})
    pairs = pairs[pairs["similarity"] >= threshold]
    return pairs.sort_values(
        ["similarity", "first", "second"], ascending=[False, True, True], ignore_index=True
    )


def with_ids(pairs: pd.DataFrame, image_ids: npt.NDArray[np.object_]) -> pd.DataFrame:
    """Pairs of rows (`first`, `second`) as pairs of images (`image_id_a`, `image_id_b`)."""
    named = pairs.drop(columns=["first", "second"])
    named.insert(0, "image_id_a", image_ids[pairs["first"].to_numpy(dtype=np.intp)])
    named.insert(1, "image_id_b", image_ids[pairs["second"].to_numpy(dtype=np.intp)])
    return named


def duplicate_table(pairs: Sequence[pd.DataFrame], manifest: pd.DataFrame) -> pd.DataFrame:
    """Pairs of images with what the manifest says of both: leaks first, then contradictions, then surest.

    Columns `image_id_a, image_id_b, similarity, kind`, `label_a/_b`, `split_a/_b`, `group_a/_b` where the
    manifest has them, and `is_leak` (two splits), `is_across_groups` (two patients, lesions or cases),
    `is_contradictory` (two labels). A pair found in several ways is listed once, by the surest kind; two
    photographs of one case are no finding unless they are the same file or picture.

    Parameters
    ----------
    pairs : frames with `image_id_a, image_id_b, similarity, kind`
    manifest : DataFrame
        MANIFEST with `group`.
    """
    columns = ["image_id_a", "image_id_b", "similarity", "kind"]
    held = [frame for frame in pairs if len(frame)]
    frame = pd.concat(held, ignore_index=True) if held else pd.DataFrame(columns=columns)
    swapped = frame["image_id_a"].astype(str) > frame["image_id_b"].astype(str)
    frame.loc[swapped, ["image_id_a", "image_id_b"]] = frame.loc[
        swapped, ["image_id_b", "image_id_a"]
    ].to_numpy()
    order = frame["kind"].map({kind: place for place, kind in enumerate(KINDS)})
    frame = frame.iloc[np.argsort(order.to_numpy(), kind="stable")].drop_duplicates(columns[:2])
    known = manifest.set_index("image_id")
    for column in ("label", "split", "group", "case_id"):
        for side in "ab":
            values = known[column] if column in known else pd.Series(None, index=known.index, dtype=object)
            frame[f"{column}_{side}"] = values.reindex(frame[f"image_id_{side}"]).to_numpy(dtype=object)
    same_case = _equal(frame, "case_id") & (frame["kind"] == "embedding")
    frame = frame[~same_case].drop(columns=["case_id_a", "case_id_b"])
    frame["is_leak"] = _differ(frame, "split")
    frame["is_across_groups"] = _differ(frame, "group")
    frame["is_contradictory"] = _differ(frame, "label")
    frame["similarity"] = frame["similarity"].astype(np.float64)
    return frame.sort_values(
        ["is_leak", "is_contradictory", "similarity", "image_id_a", "image_id_b"],
        ascending=[False, False, False, True, True],
        ignore_index=True,
    )


def _differ(pairs: pd.DataFrame, column: str) -> npt.NDArray[np.bool_]:
    """Both are known and not the same."""
    a, b = pairs[f"{column}_a"], pairs[f"{column}_b"]
    return (a.notna() & b.notna() & (a != b)).to_numpy(dtype=bool)


def _equal(pairs: pd.DataFrame, column: str) -> npt.NDArray[np.bool_]:
    a, b = pairs[f"{column}_a"], pairs[f"{column}_b"]
    return (a.notna() & b.notna() & (a == b)).to_numpy(dtype=bool)


def _cosine(
    features: npt.NDArray[np.floating], first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]
) -> npt.NDArray[np.float64]:
    """Cosine of pairs of rows in float64; rows that are equal give 1 to the last bit."""
    similarity = np.empty(len(first))
    for start in range(0, len(first), _BLOCK):
        part = slice(start, start + _BLOCK)
        a, b = features[first[part]].astype(np.float64), features[second[part]].astype(np.float64)
        a /= np.abs(a).max(axis=1, keepdims=True)
        b /= np.abs(b).max(axis=1, keepdims=True)
        product = np.einsum("ij,ij->i", a, b)
        product /= np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
        similarity[part] = np.where((a == b).all(axis=1), 1.0, np.clip(product, -1.0, 1.0))
    return similarity
