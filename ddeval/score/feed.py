"""The feed: files in, batches of pixels out, decoded ahead of the model by threads or processes.

Every batch has the same shape: an image that cannot be read, and the rows past the last image, hold
zeros, so that no image's logits depend on its neighbours' luck. Batches lie in a ring of buffers that
are used again. This module runs no model.
"""

import os
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ddeval import io
from ddeval.data.images import ImageError, Preprocessing
from ddeval.score.card import Card, decode_on
from ddeval.score.decoder import Source, Workers, fill

AHEAD = 3
"""Batches in the making while the model works on another."""
HELD = 2
"""Batches whose pixels stay as they are after the next has been asked for."""
PROCESSES_PAY = 512
"""Images from which on starting processes costs less than they save."""

__all__ = ["Batch", "Source", "batches"]


class Batch(NamedTuple):
    """One batch for the model."""

    rows: range
    """Positions of its images in the run."""
    pixels: Tensor
    """(batch_size, 3, S, S) uint8; rows past `len(rows)` are padding. On the host, or on the card."""
    failures: dict[int, ImageError]
    """Position in the run -> why the image could not be read."""


class Crew(Protocol):
    """Who decodes: `buffers` (n, B, 3, S, S) on the host, a way to have one place filled, and the result."""

    buffers: Tensor

    def submit(self, buffer: int, place: int, row: int) -> Future[ImageError | None]: ...

    def pixels(self, buffer: int) -> Tensor: ...

    def close(self) -> None: ...


def batches(
    sources: Sequence[Source],
    slices: Iterable[range],
    *,
    preprocessing: Preprocessing,
    batch_size: int,
    workers: int = 0,
    gpu: bool = False,
    fast: bool = False,
    card: torch.device | None = None,
) -> Generator[Batch]:
    """The images of each slice of `sources`, as one batch a slice, in order.

    The pixels of a batch are overwritten once `HELD` more have been asked for.

    Parameters
    ----------
    slices : iterable of range
        Positions in `sources`, each at most `batch_size` long.
    workers : int
        Threads or processes that decode; 0 is one a core.
    gpu : bool
        Put the pixels into page-locked memory, from which a GPU copies while it computes, and decode
        many images in processes, out of the way of the thread that feeds it.
    fast : bool
        As in `ddeval.data.images.read_resized`.
    card : torch.device, optional
        The GPU, where its own decoder takes the JPEGs that suit it (`ddeval.score.card`).
    """
    slices = list(slices)
    n_buffers = min(AHEAD + HELD + 1, len(slices))
    shape = (n_buffers, batch_size, 3, preprocessing.size, preprocessing.size)
    n_workers = workers or len(os.sched_getaffinity(0))
    crew: Crew
    if gpu and sum(map(len, slices)) >= PROCESSES_PAY and not any(map(_is_remote, sources)):
        crew = _Processes(sources, preprocessing, shape, n_workers, fast)
    else:
        crew = _Threads(sources, preprocessing, shape, n_workers, fast, pin=gpu)
    if card is not None:
        crew = Card(crew, sources, preprocessing, card, decode_on(card))
    waiting: deque[tuple[range, int, list[Future[ImageError | None]]]] = deque()
    try:
        for number, rows in enumerate(slices):
            buffer = number % n_buffers
            crew.buffers[buffer, len(rows) :] = 0
            tasks = [crew.submit(buffer, place, row) for place, row in enumerate(rows)]
            waiting.append((rows, buffer, tasks))
            if len(waiting) > AHEAD:
                yield _finish(crew, *waiting.popleft())
        while waiting:
            yield _finish(crew, *waiting.popleft())
    finally:
        crew.close()


def _finish(crew: Crew, rows: range, buffer: int, tasks: list[Future[ImageError | None]]) -> Batch:
    results = [task.result() for task in tasks]
    failures = {row: error for row, error in zip(rows, results, strict=True) if error}
    return Batch(rows, crew.pixels(buffer), failures)


def _is_remote(source: Source) -> bool:
    """Objects of a bucket are read in this process, which holds the way to it."""
    return isinstance(source, Path) and io.in_bucket(source)


class _Threads:
    def __init__(
        self,
        sources: Sequence[Source],
        preprocessing: Preprocessing,
        shape: tuple[int, ...],
        n_workers: int,
        fast: bool,
        *,
        pin: bool,
    ) -> None:
        self.buffers = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
        self._slots = self.buffers.numpy()
        self._sources, self._preprocessing, self._fast = sources, preprocessing, fast
        self._pool = ThreadPoolExecutor(max_workers=n_workers)

    def submit(self, buffer: int, place: int, row: int) -> Future[ImageError | None]:
        slot = self._slots[buffer, place]
        return self._pool.submit(fill, slot, self._sources[row], self._preprocessing, fast=self._fast)

    def pixels(self, buffer: int) -> Tensor:
        return self.buffers[buffer]

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class _Processes:
    def __init__(
        self,
        sources: Sequence[Source],
        preprocessing: Preprocessing,
        shape: tuple[int, ...],
        n_workers: int,
        fast: bool,
    ) -> None:
        self._workers = Workers(
            sources, preprocessing, n_slots=shape[0] * shape[1], n_workers=n_workers, fast=fast
        )
        self._batch_size = shape[1]
        self.buffers = torch.from_numpy(self._workers.memory).view(shape)
        self._is_pinned = _pin(self.buffers)

    def submit(self, buffer: int, place: int, row: int) -> Future[ImageError | None]:
        return self._workers.submit(buffer * self._batch_size + place, row)

    def pixels(self, buffer: int) -> Tensor:
        return self.buffers[buffer]

    def close(self) -> None:
        self._workers.close()
        if self._is_pinned:
            torch.cuda.synchronize()
            _cuda_runtime().cudaHostUnregister(self.buffers.data_ptr())


def _pin(buffers: Tensor) -> bool:
    """Lock shared memory into RAM for the GPU; where that is refused, copies are merely slower."""
    if not torch.cuda.is_available():
        return False
    return int(_cuda_runtime().cudaHostRegister(buffers.data_ptr(), buffers.nbytes, 0)) == 0


def _cuda_runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
