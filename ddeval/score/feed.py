"""The feed: files in, batches of pixels out, decoded ahead of the model by a pool of threads.

Every batch has the same shape: an image that cannot be read, and the rows past the last image, hold
zeros, so that no image's logits depend on its neighbours' luck. This module runs no model.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ddeval.data.images import ImageError, Preprocessing, decode, preprocess

AHEAD = 3
"""Batches in the making while the model works on another."""

Source = Path | ImageError
"""Where an image lies, or why it was given up before it was opened."""


class Batch(NamedTuple):
    """One batch for the model."""

    rows: range
    """Positions of its images in the run."""
    pixels: Tensor
    """(batch_size, 3, S, S) uint8; rows past `len(rows)` are padding."""
    failures: dict[int, ImageError]
    """Position in the run -> why the image could not be read."""


def batches(
    sources: Sequence[Source],
    slices: Iterable[range],
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int = 0,
    pin: bool = False,
) -> Generator[Batch]:
    """The images of each slice of `sources`, as one batch a slice, in order.

    Parameters
    ----------
    slices : iterable of range
        Positions in `sources`, each at most `batch_size` long.
    workers : int
        Threads that decode; 0 is one a core.
    pin : bool
        Put the pixels into page-locked memory, from which a GPU copies while it computes.
    """
    shape = (batch_size, 3, preprocessing.size, preprocessing.size)
    pool = ThreadPoolExecutor(max_workers=workers or len(os.sched_getaffinity(0)))
    waiting: deque[tuple[range, Tensor, list[Future[ImageError | None]]]] = deque()

    def begin(rows: range) -> None:
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        pixels[len(rows) :] = 0
        slots = pixels.numpy()
        tasks = [pool.submit(_fill, slots[i], sources[row], preprocessing) for i, row in enumerate(rows)]
        waiting.append((rows, pixels, tasks))

    upcoming = iter(slices)
    try:
        for rows in upcoming:
            begin(rows)
            if len(waiting) > AHEAD:
                yield _finish(*waiting.popleft())
        while waiting:
            yield _finish(*waiting.popleft())
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finish(rows: range, pixels: Tensor, tasks: list[Future[ImageError | None]]) -> Batch:
    results = [task.result() for task in tasks]
    return Batch(rows, pixels, {row: error for row, error in zip(rows, results, strict=True) if error})


def _fill(slot: npt.NDArray[Any], source: Source, preprocessing: Preprocessing) -> ImageError | None:
    """Put the preprocessed image into `slot`; zeros and the error where it cannot be read."""
    try:
        if isinstance(source, ImageError):
            raise source
        np.copyto(slot, preprocess(decode(source), preprocessing))
    except ImageError as error:
        slot[:] = 0
        return error
    return None
