"""Scoring on a Ray cluster that is there: one task a shard, each written by the one atomic writer.

A task reads checkpoint and manifest itself, from where the run's folder lies too (a shared file system, or
buckets), and ends in the same part as the local engine's. A task that loses its node is done again on
another; a part that it wrote before it died is sound and written again as the same bytes.
"""

import functools
import logging
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ddeval import io
from ddeval.errors import InputError
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score import folder, shards
from ddeval.score.engine import answers
from ddeval.score.plan import agree, begin
from ddeval.score.run import Job, Progress, Settings, finish, is_complete, prepare, silent, speed_of

RETRIES = 10
"""Nodes that a shard may lose before the run gives up."""


class Order(NamedTuple):
    """What a worker needs to prepare the same run."""

    checkpoint: str
    """As the user typed it."""
    class_names: tuple[str, ...]
    other_class: str | None
    manifest: str
    image_roots: tuple[str, ...]
    settings: Settings
    out: str
    folder: str
    """Working directory: configs and ddeval.yaml are found from there."""
    variables: tuple[tuple[str, str], ...]
    """Those of the environment that say where things lie, $DDEVAL_ARTEFACTS and the like."""
    workers: int
    """Threads that decode; 0 is one a core."""
    n_threads: int
    """Of torch: the last bits of a product may depend on it."""


class Refusal(NamedTuple):
    """The parts of an InputError on its way back from a worker."""

    where: str
    found: str
    expected: str
    todo: str


def order_of(
    checkpoint: str,
    manifest: Path,
    job: Job,
    *,
    settings: Settings,
    class_names: tuple[str, ...] = (),
    other_class: str | None = None,
    image_roots: tuple[Path, ...] = (),
    workers: int = 0,
) -> Order:
    """The order for a `job` that `prepare` has made here, with every choice it made stated."""
    return Order(
        checkpoint,
        class_names,
        other_class,
        str(manifest.absolute()),
        tuple(str(root.absolute()) for root in image_roots),
        settings,
        str(job.out.absolute()),
        str(Path.cwd()),
        tuple((name, value) for name, value in os.environ.items() if name.startswith("DDEVAL_")),
        workers,
        torch.get_num_threads(),
    )


def execute_on_ray(job: Job, order: Order, *, address: str = "auto", progress: Progress = silent) -> Path:
    """Score what is not scored yet on the cluster at `address`, merge here, and give the run folder.

    Raises
    ------
    InputError
        If Ray or its cluster is not there, a shard is refused or lost with its nodes (it is named), or as
        `ddeval.score.run.execute`. Shards that are finished stay; the same call goes on.
    """
    ray = _connected(address)
    try:
        begin(job.out, job.plan, job.facts)
        if not is_complete(job.out, job.plan):
            io.local_folder(job.out, again=True)
            speed = _score(ray, job, order, progress)
            finish(job.out)
            folder.update_run(job.out, **speed)
    finally:
        ray.shutdown()
    return job.out


def score_shard(order: Order, shard: int) -> Refusal | None:
    """Runs in a worker: one shard scored and its part written; what was refused, if anything was."""
    try:
        job = _prepared(order)
        agree(job.out, job.plan)  # another card or library there than where the run began
        for number, part in answers(
            job.checkpoint,
            job.plan,
            [shard],
            job.on,
            job.sources,
            job.features,
            order.workers,
            lambda n: None,
        ):
            shards.write_part(job.out, job.plan, number, part)
    except InputError as error:
        return Refusal(error.where, error.found, error.expected, error.todo)
    return None


@functools.lru_cache(maxsize=1)
def _prepared(order: Order) -> Job:
    """The run that `order` asks for, made once in a worker; nothing is written."""
    os.chdir(order.folder)
    os.environ.update(order.variables)
    torch.set_num_threads(order.n_threads)
    names = order.class_names or None
    return prepare(
        load_checkpoint(order.checkpoint, class_names=names, other_class=order.other_class),
        io.place(order.manifest),
        settings=order.settings,
        out=io.place(order.out),
        image_roots=[io.place(root) for root in order.image_roots],
    )


def _score(ray: Any, job: Job, order: Order, progress: Progress) -> dict[str, float | None]:
    """A task for each shard that has no part; how fast they came back."""
    plan, started = job.plan, time.monotonic()
    done, _ = shards.finished(job.out, plan)
    task = ray.remote(score_shard).options(
        num_cpus=max(order.workers, 1), num_gpus=int(job.on.is_gpu), max_retries=RETRIES
    )
    pending = {task.remote(order, shard): shard for shard in range(plan.n_shards) if shard not in done}
    written: list[tuple[float, int]] = []
    with progress("scoring", len(plan.image_ids)) as tick:
        tick(sum(len(plan.rows(shard)) for shard in done))
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            shard = pending.pop(ready)
            _take(ray, ready, f"shard {shard} of {plan.n_shards}")
            written.append((time.monotonic(), len(plan.rows(shard))))
            tick(len(plan.rows(shard)))
    return speed_of(started, written)


def _take(ray: Any, ready: Any, where: str) -> None:
    try:
        refused = ray.get(ready)
    except ray.exceptions.RayTaskError as error:
        raise RuntimeError(f"{where}: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        raise InputError(
            where,
            f"{type(error).__name__}: its worker was lost more than {RETRIES} times",
            expected="a cluster that keeps a worker as long as a shard takes",
            todo="Look at the memory of the nodes; the same command goes on from the finished shards.",
        ) from error
    if refused is not None:
        raise InputError(
            f"{where}: {refused.where}", refused.found, expected=refused.expected, todo=refused.todo
        )


def _connected(address: str) -> Any:
    """The module `ray`, connected to a cluster that somebody else started."""
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError(
            "--engine ray", "no package ray", expected="it installed", todo="pip install 'ddeval[ray]'"
        ) from None
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise InputError(
            "--engine ray",
            f"no cluster ({str(error).splitlines()[0]})",
            expected="a running one, that $RAY_ADDRESS names or that this machine is part of",
            todo="Start it with `ray start --head`, or leave --engine out.",
        ) from error
    return ray
