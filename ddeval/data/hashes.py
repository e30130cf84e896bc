"""Hashes of images: is this the same file, the same pixels, nearly the same picture?

File hashes (`ddeval.io.file_sha256`) change with one byte of metadata, pixel hashes with one pixel, a
perceptual hash hardly with size, compression or light. Which pairs matter is judged in `ddeval.audit`.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.fft import dctn

from ddeval.data.preprocessing import Pixels

_SIDE = 32
"""The picture is looked at as 32 x 32 grey levels, of which the 8 x 8 lowest frequencies count."""
_CHUNK = 2**22
"""Pairs compared at once, 32 MB."""


class Pairs(NamedTuple):
    """Pairs of rows, first < second, ordered by both."""

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    distance: npt.NDArray[np.int64]


def pixel_sha256(pixels: Pixels) -> str:
    """Hash of decoded pixels and their shape: the same for a photograph whose metadata was stripped."""
    digest = hashlib.sha256(str(pixels.shape).encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits that say which of the 8 x 8 lowest frequencies of the grey picture exceed their median.

    The constant term is left out of the median, and its bit is always 0: it is the mean brightness. A
    picture of one colour has no frequencies and hashes to 0. Not the same after turning or mirroring.

    Parameters
    ----------
    pixels : uint8 array of shape (H, W, 3)

    References
    ----------
    Zauner (2010), Implementation and Benchmarking of Perceptual Image Hash Functions.
    """
    small = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
    low = dctn(np.asarray(small, dtype=np.float64), norm="ortho")[:8, :8].ravel()
    low[np.abs(low) < 1e-6] = 0.0  # rounding of a flat picture is not structure
    bits = low > np.median(low[1:])
    bits[0] = False
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(hashes: npt.NDArray[np.uint64], *, max_distance: int) -> Pairs:
    """All pairs whose hashes differ in at most `max_distance` of 64 bits.

    Every pair is compared: 15,561 hashes are 121 million pairs, about a second.
    """
    n = len(hashes)
    found: list[tuple[npt.NDArray[np.int64], ...]] = []
    step = max(_CHUNK // max(n, 1), 1)
    for start in range(0, n, step):
        stop = min(start + step, n)
        distance = np.bitwise_count(hashes[start:stop, None] ^ hashes[None, start:])
        row, column = np.nonzero(distance <= max_distance)
        upper = column > row
        row, column = row[upper], column[upper]
        found.append((row + start, column + start, distance[row, column].astype(np.int64)))
    if not found:
        empty = np.empty(0, dtype=np.int64)
        return Pairs(empty, empty, empty)
    return Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def near_across(a: npt.NDArray[np.uint64], b: npt.NDArray[np.uint64], *, max_distance: int) -> Pairs:
    """As `near_pairs`, of each row of `a` (`first`) with each of `b` (`second`)."""
    found: list[tuple[npt.NDArray[np.int64], ...]] = []
    step = max(_CHUNK // max(len(b), 1), 1)
    for start in range(0, len(a), step):
        distance = np.bitwise_count(a[start : start + step, None] ^ b[None, :])
        row, column = np.nonzero(distance <= max_distance)
        found.append((row + start, column, distance[row, column].astype(np.int64)))
    if not found:
        empty = np.empty(0, dtype=np.int64)
        return Pairs(empty, empty, empty)
    return Pairs(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
