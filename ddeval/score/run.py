"""Scoring: a checkpoint and a manifest become a run folder. The only place that runs a model to judge it.

Shards of fixed size are decoded, put through the model in batches of one fixed size and written as
parts; killed anywhere, the same call goes on from the last finished shard and ends in the same bytes.
No label is read here and no metric computed: `ddeval.score.evaluate` does that.
"""

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from ddeval import io
from ddeval.data.manifest import image_files, manifest_sha256, read_manifest
from ddeval.data.questionnaire import Features
from ddeval.errors import ImageError, InputError
from ddeval.models.checkpoint import Checkpoint
from ddeval.models.device import DeviceName
from ddeval.score import folder, shards
from ddeval.score.align import id_frame
from ddeval.score.engine import DtypeName, Engine, Precision, answers, decoders, engine
from ddeval.score.feed import Source
from ddeval.score.plan import SHARD_SIZE, Plan, begin, shards_of
from ddeval.score.predictions import Predictions
from ddeval.score.rows import group_unit, manifest_path, rows_of, synthetic, unchanged_manifest
from ddeval.score.views import WAYS, Tta, feed_preprocessing

BIT_RELEVANT = ("ddeval", "torch", "transformers", "pillow")
"""Libraries whose version may change the last bits of a logit."""

Progress = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Called with a label and the number of images; gives a function to call with each number just done."""


@contextlib.contextmanager
def silent(label: str, total: int) -> Iterator[Callable[[int], None]]:
    yield lambda n: None


@dataclass(frozen=True)
class Settings:
    """How a run is made; all of it is kept in `run.json`."""

    split: str = "test"
    """Scored together with the split `calibration`, where there is one; `all` for every row."""
    device: DeviceName = "auto"
    dtype: DtypeName = "auto"
    """Number format of the backbone; auto asks the GPU, the CPU computes in fp32."""
    precision: Precision = "native"
    """fp8: the large products of a SigLIP backbone in float8; opt-in, since it costs accuracy."""
    fast_decode: bool = False
    """JPEGs are shrunk while they are decoded; opt-in, since pixels change a little."""
    batch_size: int = 0
    """Images a batch; 0 lets the engine choose, once for the run."""
    shard_size: int = SHARD_SIZE
    tta: Tta = "none"
    """Several views of each image, whose logits and embeddings are averaged: `ddeval.score.views`."""

    def __post_init__(self) -> None:
        if self.batch_size < 0 or self.shard_size < 1:
            raise ValueError(
                "batch_size must be 0 or more and shard_size positive, got "
                f"{self.batch_size} and {self.shard_size}"
            )
        if self.tta not in WAYS:
            raise ValueError(f"tta must be one of {', '.join(WAYS)}, got {self.tta!r}")


class Job(NamedTuple):
    """A run that is ready to start, or to go on."""

    checkpoint: Checkpoint
    plan: Plan
    rows: pd.DataFrame
    """The images of the plan, in its order."""
    sources: list[Source]
    """Where each lies."""
    features: Features | None
    """(N, D), the encoded questionnaire, where the checkpoint reads one."""
    on: Engine
    out: Path
    facts: dict[str, Any]
    """What `run.json` will say."""


def score(
    checkpoint: Checkpoint,
    manifest: Path,
    *,
    settings: Settings = Settings(),
    out: Path | None = None,
    runs: Path = Path("runs"),
    image_roots: Sequence[Path] = (),
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Score what is not scored yet and give the run folder: `prepare`, then `execute`."""
    job = prepare(
        checkpoint, manifest, settings=settings, out=out, runs=runs, image_roots=image_roots, note=note
    )
    return execute(job, shard=shard, workers=workers, progress=progress, note=note)


def prepare(
    checkpoint: Checkpoint,
    manifest: Path,
    *,
    settings: Settings = Settings(),
    out: Path | None = None,
    runs: Path = Path("runs"),
    image_roots: Sequence[Path] = (),
    note: Callable[[str], None] = lambda line: None,
) -> Job:
    """Read the manifest and fix the plan; nothing is written.

    Parameters
    ----------
    out : Path, optional
        The run folder; `runs/<checkpoint>-<split>-<manifest hash>` where None.
    image_roots : paths
        Where images may lie; the manifest's folder where empty.
    note : callable
        Told each sentence worth showing.
    """
    manifest = io.local(manifest)
    roots = [io.place(root) for root in image_roots] or [manifest.parent]
    frame = read_manifest(manifest)
    rows, splits = rows_of(frame, settings.split, where=str(manifest), note=note)
    files = image_files(rows, roots, where=str(manifest))
    _refuse_if_none_is_there(files)
    unnamed = ImageError("missing", "the manifest names no image")
    features = checkpoint.features(rows, where=str(manifest))
    on = engine(
        checkpoint,
        settings.device,
        settings.dtype,
        settings.precision,
        fast_decode=settings.fast_decode,
    )
    if on.note:
        note(on.note)
    sha256 = manifest_sha256(frame)
    plan = _plan(checkpoint, rows, settings, manifest=sha256, splits=splits, on=on)
    facts = {
        "splits": splits,
        "is_synthetic": synthetic(rows),
        "n_images": int(rows["split"].isin(splits).sum()) if splits else len(rows),
        "n_groups": int((rows[rows["split"].isin(splits)] if splits else rows)["group"].nunique()),
        "group_unit": group_unit(rows["group"]),
        "class_names": checkpoint.class_names,
        "other_class": checkpoint.other_class,
        "link": checkpoint.link,
        "checkpoint": {
            "name": checkpoint.name,
            "kind": checkpoint.kind,
            "sha256": checkpoint.sha256,
            "folder": io.shown(str(checkpoint.folder.resolve())) if checkpoint.folder else None,
            "settings": checkpoint.settings,
            "reported": checkpoint.reported,
            "n_parameters": checkpoint.n_parameters,
        },
        "manifest": {"path": io.shown(str(manifest.resolve())), "sha256": sha256, "n_images": len(frame)},
        "image_roots": [io.shown(str(root.resolve())) for root in roots],
        "device": plan.machine["device"],
        "dtype": plan.inputs["dtype"],
        "kernel": on.kernel,
        "decode": plan.inputs.get("decode", "exact"),
        "decoders": decoders(
            on, feed_preprocessing(checkpoint.preprocessing, settings.tta), fast=settings.fast_decode
        ),
        "batch_size": plan.batch_size,
        "versions": folder.versions(),
    }
    out = io.place(out or runs / folder.run_name(checkpoint.name, splits, sha256))
    sources = [unnamed if f is None else f for f in files]
    return Job(checkpoint, plan, rows, sources, features, on, out, facts)


def execute(
    job: Job,
    *,
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    progress: Progress = silent,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Score what is not scored yet, merge once every shard is there, and give the run folder.

    Parameters
    ----------
    shard : (i, n)
        Score every n-th shard from the i-th; the job that finishes last merges.
    workers : int
        Threads that decode; 0 is one a core.
    progress, note : callables
        Told the number of images just done; told each sentence worth showing.

    Raises
    ------
    InputError
        If the folder was begun with another manifest, checkpoint, dtype or batch size (named), another
        process scores into it, a logit is not finite (ids named), or no image can be read.
    """
    begin(job.out, job.plan, job.facts)
    if not is_complete(job.out, job.plan):
        speed = _score_shards(job, shard, workers, progress, note)
        _merge_if_complete(job.out, job.plan, job.rows, speed)
    elif any((job.out / shards.PARTS).glob("part-*.parquet")):  # killed while it tidied up
        shards.remove_parts(job.out)
    return job.out


def finish(run: Path) -> None:
    """Merge a run whose shards are all scored; without the checkpoint, from `run.json` and the manifest.

    Does nothing where it is merged. An InputError names the shards that are missing.
    """
    facts = folder.read_run(run)
    if (run / folder.PREDICTIONS_FILE).is_file():
        return
    if facts["checkpoint"]["kind"] == "predictions file":
        raise InputError(
            str(run),
            f"no {folder.PREDICTIONS_FILE}",
            expected="a finished run",
            todo=f"Run again: ddeval score {facts['checkpoint']['folder']}.",
        )
    frame = unchanged_manifest(manifest_path(run, facts), facts["inputs"]["manifest"], run=run)
    rows, _ = rows_of(frame, facts["splits"][0] if facts["splits"] else "all", where=str(run))
    plan = Plan(
        tuple(rows["image_id"]),
        facts["inputs"],
        facts["machine"],
        batch_size=facts["batch_size"],
        shard_size=facts["machine"]["shard size"],
    )
    if not _merge_if_complete(run, plan, rows, {}):
        missing = sorted(set(range(plan.n_shards)) - set(shards.finished(run, plan)[0]))
        raise InputError(
            str(run),
            f"{plan.n_shards - len(missing)} of {plan.n_shards} shards (missing: {missing[:10]})",
            expected="all of them",
            todo="Run the command that began it again; it goes on from here.",
        )


def is_complete(run: Path, plan: Plan) -> bool:
    """Whether the run folder holds the merged predictions of this plan and its `run.json` is finished."""
    path = run / folder.PREDICTIONS_FILE
    is_merged = path.is_file() and io.read_table(path)[1].get("fingerprint") == plan.fingerprint
    return is_merged and "finished" in folder.read_run(run)


@contextlib.contextmanager
def only_process(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`; another process that holds it is waited for, or named in an InputError.

    The system lets go of the lock when its holder ends, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(
                str(path.parent.parent),
                "another process that is scoring it",
                expected="one process a run (or a shard)",
                todo="Wait for it, or score into another folder with --out.",
            ) from None
        yield


def _refuse_if_none_is_there(files: pd.Series) -> None:
    """An InputError where a bucket holds none of the images: now, not after the model has run."""
    named = [path for path in files.dropna() if io.in_bucket(path)]
    if named and not any(io.there(named).values()):
        raise InputError(
            io.shown(str(named[0])),
            f"no such object, nor any of the {len(named):,} images",
            expected="images",
            todo="Pass the folder they lie in with --images s3://bucket/folder.",
        )


def _score_shards(
    job: Job, shard: tuple[int, int], workers: int, progress: Progress, note: Callable[[str], None]
) -> dict[str, float | None]:
    """Write the missing parts of this job; how fast, from the start and after the first shard."""
    started = time.monotonic()
    written: list[tuple[float, int]] = []
    out, plan = job.out, job.plan
    mine = shards_of(plan, shard)
    with only_process(out / shards.PARTS / f".lock-{shard[0]}-of-{shard[1]}"):
        shards.sweep(out, mine)
        done, notes = shards.finished(out, plan)
        for line in notes:
            note(line)
        pending = [s for s in mine if s not in done]
        n_mine, n_pending = (sum(len(plan.rows(s)) for s in some) for some in (mine, pending))
        with progress("scoring", n_mine) as tick:
            tick(n_mine - n_pending)
            upcoming = [job.sources[row] for s in pending for row in plan.rows(s)]
            with io.fetched_ahead(source for source in upcoming if isinstance(source, Path)):
                for number, part in answers(
                    job.checkpoint, plan, pending, job.on, job.sources, job.features, workers, tick
                ):
                    shards.write_part(out, plan, number, part)
                    written.append((time.monotonic(), len(plan.rows(number))))
    return speed_of(started, written)


def speed_of(started: float, written: Sequence[tuple[float, int]]) -> dict[str, float | None]:
    """Images a second of shards by when each was `written`, (seconds, images), in order.

    `images_per_second` counts from `started`, with all that a start costs: the workers, the weights on
    their way to the device, the first batches. `steady_images_per_second` counts from the first shard
    that was written, and so the shards after it alone. None where nothing was scored, or one shard.

    >>> speed_of(0.0, [(6.0, 1000), (8.0, 1000), (10.0, 1000)])
    {'images_per_second': 300.0, 'steady_images_per_second': 500.0}
    """
    counts = [n for _, n in written]
    whole = round(sum(counts) / (written[-1][0] - started), 1) if written else None
    seconds = written[-1][0] - written[0][0] if written else 0.0
    steady = round(sum(counts[1:]) / seconds, 1) if seconds > 0 else None
    return {"images_per_second": whole, "steady_images_per_second": steady}


def _merge_if_complete(run: Path, plan: Plan, rows: pd.DataFrame, more: dict[str, Any]) -> bool:
    """Merge the parts once all are there; whether the run is complete now. `more` goes into `run.json`."""
    facts = folder.read_run(run)
    with only_process(run / shards.PARTS / ".lock-merge", wait=True):
        io.local_folder(run, again=True)  # parts of other machines
        if not is_complete(run, plan):
            if len(shards.finished(run, plan)[0]) < plan.n_shards:
                return False
            frame = id_frame(rows).assign(image=rows["image"].to_numpy() if "image" in rows else None)
            names, checkpoint = tuple(facts["class_names"]), facts["checkpoint"]
            like = Predictions(
                frame,
                np.empty((0, len(names)), np.float32),
                names,
                facts["link"],
                facts["other_class"],
                settings={**plan.inputs, "name": checkpoint["name"], "kind": checkpoint["kind"]},
            )
            shards.merge(run, plan, frame, like)
            folder.update_run(run, finished=folder.utc_now(), **more)
        shards.remove_parts(run)
    return True


def _plan(
    checkpoint: Checkpoint,
    rows: pd.DataFrame,
    settings: Settings,
    *,
    manifest: str,
    splits: Sequence[str],
    on: Engine,
) -> Plan:
    versions = folder.versions()
    batch_size = settings.batch_size or on.batch_size
    return Plan(
        tuple(rows["image_id"]),
        inputs={
            "manifest": manifest,
            "checkpoint": checkpoint.sha256,
            "split": list(splits),
            "preprocessing": checkpoint.preprocessing.to_dict(),
            "classes": list(checkpoint.class_names),
            "dtype": "fp8" if on.precision == "fp8" else on.dtype,
            "batch size": batch_size,
            "tta": settings.tta,
            **({"decode": "fast"} if settings.fast_decode else {}),
        },
        machine={
            "kernel": on.kernel,
            **({"decoder": on.decoder} if settings.fast_decode else {}),
            "device": torch.cuda.get_device_name(on.device) if on.device.type == "cuda" else "cpu",
            "shard size": settings.shard_size,
            **({"onnxruntime": metadata.version("onnxruntime")} if checkpoint.kind == "onnx" else {}),
            **{name: versions[name] for name in BIT_RELEVANT if name in versions},
        },
        batch_size=batch_size,
        shard_size=settings.shard_size,
    )
