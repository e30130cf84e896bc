"""Pictures: is one photograph another one, cut, re-lit or compressed again?

Perceptual hashes find candidates among all pairs; each candidate is then laid over the other at several
sizes and shifts, and the correlation of their structure decides. Embeddings are compared in
`ddeval.audit.duplicates`.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.signal import fftconvolve

from ddeval.data.hashes import Pairs, near_across, near_pairs, perceptual_hash, pixel_sha256
from ddeval.data.images import decode
from ddeval.errors import ImageError
from ddeval.io import file_sha256

Grey = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float64]

SIDE = 64
"""Pictures are compared at 64 x 64 grey levels."""
MAX_DISTANCE = 12
"""Bits of 64 in which the hashes of candidates may differ; a copy cut by 3 % a side differs in up to 10."""
SAME_PICTURE = 0.93
"""Correlation of structure from which on two candidates are one picture: on the embedded data set copies lie
above .94 and the likest of other pictures at .92."""
MAX_CANDIDATES = 20_000
"""The nearest hashes are compared in full; a set with more candidates is of one picture or of none."""
_CUTS = (0, 1, 2, 3, 4)
"""Pixels by which a picture's width and height are made smaller before it is laid over the other."""
_HOPELESS = 0.8
"""Correlation at two sizes below which no other is tried: copies lie above .88, 90 % of others below .72."""
_EDGE = 3
"""Pixels at the rim that are left out: what the cut took away is not on the other picture."""


class Fingerprint(NamedTuple):
    """What is kept of one image file."""

    file_sha256: str
    pixel_sha256: str
    perceptual_hash: int
    grey: Grey
    """(64, 64)."""


def fingerprint(path: Path) -> Fingerprint | None:
    """Hashes and a small grey picture of an image file; None where it cannot be read."""
    try:
        pixels = decode(path)
        small = Image.fromarray(pixels).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        return Fingerprint(
            file_sha256(path), pixel_sha256(pixels), perceptual_hash(pixels), np.asarray(small)
        )
    except (ImageError, OSError):
        return None


def fingerprints(
    paths: Iterable[Path | None], *, n_threads: int = 2, tick: Callable[[int], None] = lambda n: None
) -> list[Fingerprint | None]:
    """Fingerprint of every path, in order; None where there is no path or no readable image."""

    def one(path: Path | None) -> Fingerprint | None:
        found = None if path is None else fingerprint(path)
        tick(1)
        return found

    with ThreadPoolExecutor(n_threads) as pool:
        return list(pool.map(one, paths))


def same_pictures(prints: list[Fingerprint | None]) -> pd.DataFrame:
    """Pairs of rows that show one picture: `first` < `second`, `kind` and `similarity`, surest first.

    Kinds are `file` (same bytes), `pixels` (same after decoding) and `perceptual` (same structure).
    Of n equal files each later one is paired with the first, so that n copies are n - 1 pairs. Pictures
    without structure (one colour) have no hash to compare and pair only as equal pixels.
    """
    rows = np.array([i for i, p in enumerate(prints) if p is not None], dtype=np.int64)
    held = [p for p in prints if p is not None]
    pairs = [
        _equal([p.file_sha256 for p in held], "file"),
        _equal([p.pixel_sha256 for p in held], "pixels"),
        _alike(held),
    ]
    frame = pd.concat([p for p in pairs if len(p)] or pairs[:1], ignore_index=True)
    frame = frame.drop_duplicates(["first", "second"], keep="first")
    frame["first"], frame["second"] = rows[frame["first"]], rows[frame["second"]]
    return frame.sort_values(
        ["similarity", "first", "second"], ascending=[False, True, True], ignore_index=True
    )


def copies(prints: list[Fingerprint | None], of: list[Fingerprint | None]) -> pd.DataFrame:
    """Rows of `prints` that show a picture of `of`: `row`, `of_row`, `kind`, `similarity`, one line a row.

    Kinds as in `same_pictures`; where a row shows several, the surest is told.
    """
    rows, others = ([i for i, p in enumerate(side) if p is not None] for side in (prints, of))
    held, theirs = ([p for p in side if p is not None] for side in (prints, of))
    found: list[tuple[int, int, str, float]] = []
    for kind, field in (("file", "file_sha256"), ("pixels", "pixel_sha256")):
        first = {getattr(p, field): j for j, p in reversed(list(enumerate(theirs)))}
        at = [(i, first[value]) for i, p in enumerate(held) if (value := getattr(p, field)) in first]
        found += [(i, j, kind, 1.0) for i, j in at]
    hashes, their_hashes = (np.array([p.perceptual_hash for p in s], np.uint64) for s in (held, theirs))
    near = near_across(hashes, their_hashes, max_distance=MAX_DISTANCE)
    has_structure = (hashes[near.first] != 0) & (their_hashes[near.second] != 0)
    near = Pairs(*(part[has_structure] for part in near))
    for k in np.argsort(near.distance, kind="stable")[:MAX_CANDIDATES]:
        i, j = int(near.first[k]), int(near.second[k])
        similarity = same_structure(held[i].grey, theirs[j].grey)
        if similarity >= SAME_PICTURE:
            found.append((i, j, "perceptual", similarity))
    frame = pd.DataFrame(found, columns=["row", "of_row", "kind", "similarity"])
    order = frame["kind"].map({"file": 0, "pixels": 1, "perceptual": 2})
    frame = frame.assign(order=order).sort_values(
        ["row", "order", "similarity", "of_row"], ascending=[True, True, False, True]
    )
    frame = frame.drop_duplicates("row").drop(columns="order").reset_index(drop=True)
    frame["row"] = [rows[i] for i in frame["row"]]
    frame["of_row"] = [others[j] for j in frame["of_row"]]
    return frame


def same_structure(a: Grey, b: Grey) -> float:
    """Highest correlation of the structure of two grey pictures, one laid over the other; 0 to 1.

    Either is made up to 6 % smaller, in width and height apart, and shifted inside the other. 0 where one
    of them has no structure.
    """
    ways = ((_structure(a), b), (_structure(b), a))
    best = _correlation(ways[0][0], b, 0, 0)
    for field, small in ways:
        best = max(best, _correlation(field, small, 2, 2))
    if best < _HOPELESS:
        return best
    for field, small in ways:
        best = max(best, *(_correlation(field, small, w, h) for w in _CUTS for h in _CUTS))
    return best


def _equal(values: list[str], kind: str) -> pd.DataFrame:
    """Each later row of an equal value with the first one."""
    first_of: dict[str, int] = {}
    pairs = [(first_of.setdefault(value, row), row) for row, value in enumerate(values)]
    found = [(first, second, kind, 1.0) for first, second in pairs if first != second]
    return pd.DataFrame(found, columns=["first", "second", "kind", "similarity"])


def _alike(prints: list[Fingerprint]) -> pd.DataFrame:
    hashes = np.array([p.perceptual_hash for p in prints], dtype=np.uint64)
    structured = np.flatnonzero(hashes != 0)
    near = near_pairs(hashes[structured], max_distance=MAX_DISTANCE)
    nearest = np.argsort(near.distance, kind="stable")[:MAX_CANDIDATES]
    found = []
    for first, second in zip(structured[near.first[nearest]], structured[near.second[nearest]], strict=True):
        similarity = same_structure(prints[first].grey, prints[second].grey)
        if similarity >= SAME_PICTURE:
            found.append((int(first), int(second), "perceptual", similarity))
    return pd.DataFrame(found, columns=["first", "second", "kind", "similarity"])


def _structure(grey: npt.NDArray[np.floating | np.uint8]) -> Field:
    """The picture between one and some six pixels: neither noise of compression nor light."""
    values = grey.astype(np.float64)
    structure: Field = gaussian_filter(values, 0.8) - gaussian_filter(values, 3.0)
    return structure


def _correlation(field: Field, small: Grey, cut_width: int, cut_height: int) -> float:
    """Largest normalised correlation over all places where the smaller picture fits in the field."""
    size = (SIDE - cut_width, SIDE - cut_height)
    smaller = np.asarray(Image.fromarray(small).resize(size, Image.Resampling.BICUBIC))
    template = _structure(smaller)[_EDGE:-_EDGE, _EDGE:-_EDGE]
    template = template - template.mean()
    flat = template.size * 1e-3  # power of what is flatter than rounding
    own = float((template**2).sum())
    if own < flat:
        return 0.0
    total, power = _box_sums(field, template.shape), _box_sums(field**2, template.shape)
    power = np.maximum(power - total**2 / template.size, flat)
    product = fftconvolve(field, template[::-1, ::-1], "valid")
    return float((product / np.sqrt(power * own)).max())


def _box_sums(field: Field, shape: tuple[int, ...]) -> Field:
    """Sum of the field under a box of this shape at every place it fits."""
    total = np.pad(field, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    height, width = shape
    sums: Field = (
        total[height:, width:] - total[:-height, width:] - total[height:, :-width] + total[:-height, :-width]
    )
    return sums
