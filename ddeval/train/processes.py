"""Processes: one training run on several GPUs, a process a GPU, started by torchrun.

A step is what the config says, `accumulate` batches of `batch_size` images; the processes share its batches
out and their gradients are summed. So the same config gives the same losses up to rounding on one GPU and on
four, and a run begun on four may go on with one. The first process alone validates and writes; the folder
must be one that all can read. One process without torchrun knows nothing of this.
"""

import contextlib
import datetime as dt
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed as dist

from ddeval.config import TrainConfig
from ddeval.errors import InputError

Rows = npt.NDArray[np.int64]
PATIENCE = dt.timedelta(hours=3)
"""How long one waits for another: the first validates and compares pictures while the others do nothing."""


LOST = ("Connection closed by peer", "Connection reset by peer")
"""What gloo says of a process that is gone; NCCL has an error of its own."""


class Processes(NamedTuple):
    """Which of how many processes this is."""

    rank: int = 0
    n: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Until every process is here."""
        if self.n > 1:
            dist.barrier()

    def summed(self, *values: float, device: torch.device) -> list[float]:
        """Each value summed over the processes, in float64."""
        if self.n == 1:
            return list(values)
        held = torch.tensor(values, dtype=torch.float64, device=device)
        dist.all_reduce(held)
        return [float(value) for value in held]


ALONE = Processes()


@contextlib.contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes of this run, each with its own GPU; alone where torchrun did not start it."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    own_gpu = None  # named, or a barrier guesses which it is and warns
    if device != "cpu" and torch.cuda.is_available():
        own_gpu = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(own_gpu)
    dist.init_process_group("gloo" if own_gpu is None else "nccl", timeout=PATIENCE, device_id=own_gpu)
    processes = Processes(dist.get_rank(), dist.get_world_size())
    try:
        yield processes
    except RuntimeError as error:
        if not isinstance(error, dist.DistBackendError) and not any(sign in str(error) for sign in LOST):
            raise
        if not processes.is_first:
            raise SystemExit(1) from None  # the one that ended has said why, or the first does
        raise InputError(
            "torchrun",
            "a process of this run that ended",
            expected=f"all {processes.n} to the end",
            todo="Its own line says why; the same command goes on from the last finished epoch.",
        ) from error
    dist.destroy_process_group()  # not after an error: torchrun ends those that wait


def check_shares(recipe: TrainConfig, processes: Processes) -> None:
    """An InputError where the batches of a step cannot be shared out evenly; it names a step that can."""
    n, images = processes.n, recipe.batch_size * recipe.accumulate
    if recipe.accumulate % n == 0:
        return
    is_whole = images % n == 0
    same = f"Set batch_size: {images // n} and accumulate: {n} (the same step)" if is_whole else ""
    raise InputError(
        "train.accumulate",
        f"{recipe.accumulate} for {n} processes",
        expected=f"a multiple of {n}: a step's batches are shared out",
        todo=f"{same or f'Make batch_size x accumulate a multiple of {n}'}.",
    )


class Share(NamedTuple):
    """What one process learns from in one epoch."""

    rows: Rows
    """Of all its batches, in order; each but the last has `batch_size` rows."""
    steps: list[tuple[int, bool]]
    """Of each step: how many batches of these, and whether it is a spare one of weight 0."""


def share_of(rows: Rows, recipe: TrainConfig, processes: Processes) -> Share:
    """The batches of each step that are this process's: every n-th from its rank.

    In the last step of an epoch there may be too few; who has none goes through the first batch at weight 0,
    since the sum of the gradients waits for everyone.
    """
    size, own, steps = recipe.batch_size, [], []
    for start in range(0, len(rows), size * recipe.accumulate):
        of_step = rows[start : start + size * recipe.accumulate]
        parts = [of_step[i : i + size] for i in range(0, len(of_step), size)]
        mine = parts[processes.rank :: processes.n]
        own += mine or parts[:1]
        steps.append((len(mine) or 1, not mine))
    return Share(np.concatenate(own) if own else rows[:0], steps)
