"""Decoding in processes: photographs become pixels in shared memory, out of the way of the GPU's feeder.

Threads share one interpreter with the loop that feeds the GPU and stop at about 580 photographs a second
on sixteen cores; processes reach 800. Each worker is this module run by `python -m`: it takes (slot, row)
pairs from one common pipe, finds the row's path in shared memory, writes pixels into the slot and answers
through another pipe. What crosses is plain bytes, never an object. Workers end when the pipe of jobs
closes, however the parent ends.
"""

import contextlib
import json
import mmap
import os
import select
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ddeval.data.images import Preprocessing, read_resized
from ddeval.errors import ImageError, InputError

JOB = struct.Struct("<II")
"""Slot and row. Reads and writes of so few bytes are never torn apart by another process's."""
HEAD = struct.Struct("<IH")
"""Slot and length of what follows: nothing, or the code and reason of an ImageError."""
LONGEST_ERROR = 4096 - HEAD.size
"""Bytes: an answer is one write of at most PIPE_BUF."""

Source = Path | ImageError
"""Where an image lies, or why it was given up before it was opened."""


def fill(
    slot: npt.NDArray[np.uint8], source: Source, preprocessing: Preprocessing, *, fast: bool = False
) -> ImageError | None:
    """Put the preprocessed image into `slot`; zeros and the error where it cannot be read."""
    try:
        if isinstance(source, ImageError):
            raise source
        np.copyto(slot, read_resized(source, preprocessing, fast=fast))
    except ImageError as error:
        slot[:] = 0
        return error
    return None


class Workers:
    """Processes that decode into `memory`, an array of slots (n, 3, S, S), uint8.

    `sources` are files of this machine, or the reason why one was given up.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        preprocessing: Preprocessing,
        *,
        n_slots: int,
        n_workers: int,
        fast: bool = False,
    ) -> None:
        shape = (n_slots, 3, preprocessing.size, preprocessing.size)
        pixels = os.memfd_create("ddeval-pixels")
        os.ftruncate(pixels, int(np.prod(shape)))
        self.memory = np.frombuffer(mmap.mmap(pixels, 0), np.uint8).reshape(shape)
        self._sources = sources
        self._waiting: dict[int, tuple[int, Future[ImageError | None]]] = {}
        self._lock = threading.Lock()
        self._end: Exception | None = None
        paths = _shared(sources)
        jobs, self._jobs = os.pipe()
        self._answers, answers = os.pipe()
        task = {
            "pixels": pixels,
            "shape": shape,
            "paths": paths,
            "n_sources": len(sources),
            "jobs": jobs,
            "answers": answers,
            "preprocessing": preprocessing.to_dict(),
            "fast": fast,
        }
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "ddeval.score.decoder", json.dumps(task)],
                stdin=subprocess.DEVNULL,
                pass_fds=(pixels, paths, jobs, answers),
                env=environment,
                start_new_session=True,  # an interrupt is the parent's to answer
            )
            for _ in range(n_workers)
        ]
        for handle in (pixels, paths, jobs, answers):
            os.close(handle)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def submit(self, slot: int, row: int) -> Future[ImageError | None]:
        """Begin to decode image `row` into `slot`.

        The future gives why the image cannot be read, None where it could; it raises an InputError where
        a worker was killed, and a RuntimeError where one failed.
        """
        future: Future[ImageError | None] = Future()
        source = self._sources[row]
        if isinstance(source, ImageError):
            self.memory[slot] = 0
            future.set_result(source)
            return future
        with self._lock:
            if self._end:
                future.set_exception(self._end)
                return future
            self._waiting[slot] = row, future
        with contextlib.suppress(BrokenPipeError):  # no worker is left; `_read` says so
            os.write(self._jobs, JOB.pack(slot, row))
        return future

    def close(self) -> None:
        """End the workers, whatever they are at."""
        os.close(self._jobs)
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait()
        self._reader.join()
        os.close(self._answers)

    def _read(self) -> None:
        """Pass the workers' answers on, until they end or one of them is found to have failed."""
        with os.fdopen(os.dup(self._answers), "rb", buffering=0) as answers:
            while True:
                ready, _, _ = select.select([answers], [], [], 1.0)
                if ready:
                    head = answers.read(HEAD.size)
                    if not head:
                        break
                    slot, length = HEAD.unpack(head)
                    error = _error(answers.read(length)) if length else None
                    self._waiting.pop(slot)[1].set_result(error)
                elif any(process.poll() for process in self._processes):
                    break
        with self._lock:
            self._end = self._why_ended()
            for _, future in self._waiting.values():
                future.set_exception(self._end)

    def _why_ended(self) -> Exception:
        """A signal is the machine's doing (short of memory, as a rule), any other code is ours."""
        codes = [code for process in self._processes if (code := process.poll())]
        rows = [row for row, _ in self._waiting.values()]
        at = f" at or near {self._sources[min(rows)]}" if rows else ""
        if not codes or min(codes) > 0:
            return RuntimeError(f"a process that decodes images ended with code {codes or 0}{at}")
        return InputError(
            f"decoding{at}",
            f"a worker process killed by signal {-min(codes)}",
            expected=f"{len(self._processes)} of them until the last image",
            todo="Memory may be short: try fewer, --workers 2. The same command goes on from here.",
        )


def _shared(sources: Sequence[Source]) -> int:
    """A handle to shared memory that holds every path: n + 1 offsets, then the bytes."""
    paths = [b"" if isinstance(source, ImageError) else os.fsencode(source) for source in sources]
    ends = np.cumsum([0, *map(len, paths)], dtype=np.int64)
    handle = os.memfd_create("ddeval-paths")
    with os.fdopen(os.dup(handle), "wb") as file:
        file.write(ends.tobytes() + b"".join(paths))
    return handle


def _error(message: bytes) -> ImageError:
    code, _, reason = message.decode(errors="ignore").partition("\n")
    return ImageError(code, reason)


def work(task: str) -> None:
    """What a worker does: jobs until the pipe closes."""
    given = json.loads(task)
    jobs, answers = given["jobs"], given["answers"]
    slots = np.frombuffer(mmap.mmap(given["pixels"], 0), np.uint8).reshape(given["shape"])
    paths = mmap.mmap(given["paths"], 0, prot=mmap.PROT_READ)
    ends = np.frombuffer(paths, np.int64, given["n_sources"] + 1)
    preprocessing = Preprocessing.from_dict(given["preprocessing"])
    while job := os.read(jobs, JOB.size):
        slot, row = JOB.unpack(job)
        first, last = (ends.nbytes + int(end) for end in ends[row : row + 2])
        path = Path(os.fsdecode(paths[first:last]))
        error = fill(slots[slot], path, preprocessing, fast=given["fast"])
        message = f"{error.code}\n{error.reason}".encode()[:LONGEST_ERROR] if error else b""
        os.write(answers, HEAD.pack(slot, len(message)) + message)


if __name__ == "__main__":
    work(sys.argv[1])
