"""Decoding in processes: photographs become pixels in shared memory, out of the way of the GPU's feeder.

Threads share one interpreter with the loop that feeds the GPU and stop at about 580 photographs a second
on sixteen cores; processes reach 800. Each worker is this module run by `python -m`, takes (slot, row)
pairs from one common pipe, writes pixels into the slot of the shared memory and answers through another
pipe. The workers end when the pipe of jobs closes, however the parent ends.
"""

import contextlib
import mmap
import os
import pickle
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
from ddeval.errors import ImageError

JOB = struct.Struct("<II")
LENGTH = struct.Struct("<H")
LONGEST_REASON = 900
"""Characters; an answer must fit into one atomic write of 4,096 bytes."""

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
    """Processes that decode into `memory`, an array of slots (n, 3, S, S)."""

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
        memory = os.memfd_create("ddeval-pixels")
        os.ftruncate(memory, int(np.prod(shape)))
        self.memory = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(shape)
        jobs, self._jobs = os.pipe()
        self._answers, answers = os.pipe()
        self._waiting: dict[int, Future[ImageError | None]] = {}
        payload = pickle.dumps((list(sources), preprocessing, shape, fast, memory, jobs, answers))
        command = [sys.executable, "-m", "ddeval.score.decoder"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        self._processes = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                pass_fds=(memory, jobs, answers),
                env=environment,
                start_new_session=True,  # an interrupt is the parent's to answer
            )
            for _ in range(n_workers)
        ]
        for fd in (memory, jobs, answers):
            os.close(fd)
        threading.Thread(target=self._start, args=(payload,), daemon=True).start()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def submit(self, slot: int, row: int) -> Future[ImageError | None]:
        """Begin to decode image `row` into `slot`."""
        future: Future[ImageError | None] = Future()
        self._waiting[slot] = future
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

    def _start(self, payload: bytes) -> None:
        for process in self._processes:
            if process.stdin is None:
                continue
            with contextlib.suppress(OSError), process.stdin as stdin:  # ended already: `_read` says so
                stdin.write(payload)

    def _read(self) -> None:
        """Pass the workers' answers on, until the last of them has ended."""
        with os.fdopen(os.dup(self._answers), "rb", buffering=0) as answers:
            while True:
                ready, _, _ = select.select([answers], [], [], 1.0)
                if ready:
                    head = answers.read(LENGTH.size)
                    if not head:
                        break
                    slot, error = pickle.loads(answers.read(LENGTH.unpack(head)[0]))  # noqa: S301
                    self._waiting.pop(slot).set_result(ImageError(*error) if error else None)
                elif any(process.poll() for process in self._processes):
                    break
        ended = [code for process in self._processes if (code := process.poll())]
        for future in list(self._waiting.values()):
            future.set_exception(RuntimeError(f"a process that decodes images ended with {ended or 'none'}"))


def work() -> None:
    """What a worker does: jobs until the pipe closes."""
    sources, preprocessing, shape, fast, memory, jobs, answers = pickle.load(sys.stdin.buffer)  # noqa: S301
    slots = np.frombuffer(mmap.mmap(memory, 0), np.uint8).reshape(shape)
    while job := os.read(jobs, JOB.size):
        slot, row = JOB.unpack(job)
        error = fill(slots[slot], sources[row], preprocessing, fast=fast)
        answer = pickle.dumps((slot, (error.code, error.reason[:LONGEST_REASON]) if error else None))
        os.write(answers, LENGTH.pack(len(answer)) + answer)


if __name__ == "__main__":
    work()
