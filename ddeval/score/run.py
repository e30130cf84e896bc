"""Scoring: a checkpoint and a manifest become a run folder. The only place that runs a model to judge it.

Shards of fixed size are decoded, put through the model in batches of one fixed size and written as
parts; killed anywhere, the same command goes on from the last finished shard and ends in the same
bytes. No label is read here and no metric computed: `ddeval.score.evaluate` does that.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ddeval import io
from ddeval.data.images import ImageError, Preprocessing
from ddeval.data.questionnaire import encode
from ddeval.errors import InputError
from ddeval.models.checkpoint import Checkpoint
from ddeval.models.device import choose_device
from ddeval.score import feed, folder, shards
from ddeval.score.align import id_frame
from ddeval.score.plan import SHARD_SIZE, Plan, agree, shards_of
from ddeval.score.predictions import Predictions, check_finite

DtypeName = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BATCH_SIZE = 64
Tta = Literal["none", "hflip"]


class Engine(NamedTuple):
    """Where the model runs and in which number format."""

    device: torch.device
    dtype: str
    """fp32, bf16 or fp16: of the backbone; logits are float32."""
    note: str | None


def engine(device: Literal["auto", "cpu", "cuda"] = "auto", dtype: DtypeName = "auto") -> Engine:
    """The device and number format of a run; `auto` asks the card, the CPU computes in fp32."""
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    chosen = choose_device(device)
    name = next(n for n, kind in DTYPES.items() if kind == chosen.dtype)
    return Engine(chosen.device, name if dtype == "auto" else dtype, chosen.note)


def make_plan(
    checkpoint: Checkpoint,
    rows: pd.DataFrame,
    *,
    manifest_sha256: str,
    splits: Sequence[str],
    on: Engine,
    batch_size: int = BATCH_SIZE,
    shard_size: int = SHARD_SIZE,
    tta: Tta = "none",
) -> Plan:
    """The plan of scoring `rows` (MANIFEST with `group`) with `checkpoint`."""
    if batch_size < 1 or shard_size < 1:
        raise ValueError(f"batch_size and shard_size must be positive, got {batch_size} and {shard_size}")
    if tta not in ("none", "hflip"):
        raise ValueError(f"tta must be none or hflip, got {tta!r}")
    versions = folder.versions()
    device = torch.cuda.get_device_name(on.device) if on.device.type == "cuda" else "cpu"
    return Plan(
        tuple(rows["image_id"]),
        inputs={
            "manifest": manifest_sha256,
            "checkpoint": checkpoint.sha256,
            "split": list(splits),
            "preprocessing": checkpoint.preprocessing.to_dict(),
            "classes": list(checkpoint.class_names),
            "dtype": on.dtype,
            "batch size": batch_size,
            "tta": tta,
        },
        machine={
            "device": device,
            "shard size": shard_size,
            **{
                name: versions[name]
                for name in ("ddeval", "torch", "transformers", "pillow")
                if name in versions
            },
        },
        batch_size=batch_size,
        shard_size=shard_size,
    )


def score(
    checkpoint: Checkpoint,
    rows: pd.DataFrame,
    plan: Plan,
    out: Path,
    *,
    on: Engine,
    sources: Sequence[feed.Source],
    shard: tuple[int, int] = (0, 1),
    workers: int = 0,
    tick: Callable[[int], None] = lambda n: None,
    note: Callable[[str], None] = lambda line: None,
) -> Path:
    """Score what is not yet scored of `plan` into the run folder `out`; merge once every shard is there.

    Parameters
    ----------
    rows : DataFrame
        The manifest's rows of the plan, in its order.
    out : Path
        A run folder that `begin` made.
    sources : sequence of Path or ImageError
        Where each image lies.
    shard : (i, n)
        Score every n-th shard from the i-th only; the job that finishes last merges.
    workers : int
        Threads that decode; 0 is one a core.
    tick, note : callables
        Told the number of images just scored; told a sentence worth showing.

    Raises
    ------
    InputError
        If a logit is not finite (with the ids), no image can be read, or another process scores the
        same shards now.
    """
    if is_complete(out, plan):
        return out
    with only_process(out / shards.PARTS / f".lock-{shard[0]}-of-{shard[1]}"):
        if shard == (0, 1):
            io.sweep(out / shards.PARTS)
        io.sweep(out)
        done, notes = shards.finished(out, plan)
        for line in notes:
            note(line)
        pending = [s for s in shards_of(plan, shard) if s not in done]
        tick(sum(len(plan.rows(s)) for s in shards_of(plan, shard) if s in done))
        for number, part in _scored(checkpoint, rows, plan, pending, on, sources, workers, tick):
            shards.write_part(out, plan, number, part)
    merge_if_complete(out, plan, rows, checkpoint)
    return out


def is_complete(out: Path, plan: Plan) -> bool:
    """Whether the run folder holds the merged predictions of this plan."""
    path = out / folder.PREDICTIONS_FILE
    return path.is_file() and io.read_table(path)[1].get("fingerprint") == plan.fingerprint


def merge_if_complete(out: Path, plan: Plan, rows: pd.DataFrame, checkpoint: Checkpoint) -> bool:
    """Merge the parts once all are there; whether the run is complete now."""
    with only_process(out / shards.PARTS / ".lock-merge", wait=True):
        if not is_complete(out, plan):
            if len(shards.finished(out, plan)[0]) < plan.n_shards:
                return False
            settings = {**plan.inputs, "checkpoint_name": checkpoint.name, "kind": checkpoint.kind}
            template = Predictions(
                rows,
                np.empty((0, len(checkpoint.class_names)), np.float32),
                checkpoint.class_names,
                checkpoint.link,
                checkpoint.other_class,
                settings=settings,
            )
            frame = id_frame(rows).assign(image=rows["image"].to_numpy() if "image" in rows else None)
            shards.merge(out, plan, frame, template)
        shards.remove_parts(out)
    return True


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


def _scored(
    checkpoint: Checkpoint,
    rows: pd.DataFrame,
    plan: Plan,
    pending: Sequence[int],
    on: Engine,
    sources: Sequence[feed.Source],
    workers: int,
    tick: Callable[[int], None],
) -> Iterator[tuple[int, shards.Part]]:
    """Each pending shard with its answers."""
    if not pending:
        return
    model = _Model(checkpoint, on, hflip=plan.inputs["tta"] == "hflip")
    features = encode(rows, checkpoint.schema) if checkpoint.schema else None  # (N, D)
    batches = feed.batches(
        sources,
        [rows for s in pending for rows in plan.batches(s)],
        preprocessing=checkpoint.preprocessing,
        batch_size=plan.batch_size,
        workers=workers,
        pin=on.device.type == "cuda",
    )
    with contextlib.closing(batches):
        for number in pending:
            answers: list[tuple[Tensor, Tensor]] = []
            failures: dict[int, ImageError] = {}
            for _ in plan.batches(number):
                batch = next(batches)
                answers.append(model(batch, features))
                failures |= batch.failures
                tick(len(batch.rows))
            yield number, _part(checkpoint, plan, plan.rows(number), answers, failures)


class _Model:
    """The checkpoint's module on its device, fed with uint8 pixels."""

    def __init__(self, checkpoint: Checkpoint, on: Engine, *, hflip: bool) -> None:
        self.module, self.on, self.hflip = checkpoint.module.to(on.device), on, hflip
        p: Preprocessing = checkpoint.preprocessing
        # x * rescale - mean, / std in one multiply and one subtract
        self.scale = torch.tensor([p.rescale / s for s in p.std], device=on.device).view(1, 3, 1, 1)
        self.shift = torch.tensor([m / s for m, s in zip(p.mean, p.std, strict=True)], device=on.device)
        self.shift = self.shift.view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, batch: feed.Batch, features: Any) -> tuple[Tensor, Tensor]:
        """Logits (n, K) and embeddings (n, E) of the batch's images, float32, still on the device."""
        n = len(batch.rows)
        pixels = batch.pixels.to(self.on.device, non_blocking=True) * self.scale - self.shift  # (B, 3, S, S)
        answers = None
        if features is not None:
            padded = np.zeros((len(batch.pixels), features.shape[1]), np.float32)
            padded[:n] = features[batch.rows.start : batch.rows.stop]
            answers = torch.from_numpy(padded).to(self.on.device, non_blocking=True)  # (B, D)
        is_half = self.on.dtype != "fp32"
        with torch.autocast(self.on.device.type, DTYPES[self.on.dtype], enabled=is_half):
            logits, embeddings = self.module(pixels, answers)
            if self.hflip:
                mirrored = self.module(pixels.flip(-1), answers)
                logits, embeddings = (logits + mirrored[0]) / 2, (embeddings + mirrored[1]) / 2
        return logits[:n].float(), embeddings[:n].float()


def _part(
    checkpoint: Checkpoint,
    plan: Plan,
    rows: range,
    answers: Sequence[tuple[Tensor, Tensor]],
    failures: dict[int, ImageError],
) -> shards.Part:
    logits = torch.cat([a[0] for a in answers]).cpu().numpy()
    embeddings = torch.cat([a[1] for a in answers]).cpu().numpy()
    failed = np.array([row in failures for row in rows])
    ids = np.array([plan.image_ids[row] for row in rows], dtype=object)
    check_finite(logits[~failed], ids[~failed], where=f"checkpoint {checkpoint.name}", what="logit")
    logits[failed], embeddings[failed] = 0, 0
    errors = [failures.get(row) for row in rows]
    return shards.Part(
        logits, embeddings, [e.code if e else None for e in errors], [e.reason if e else None for e in errors]
    )


def begin(out: Path, plan: Plan, facts: dict[str, Any]) -> None:
    """Write the plan and `facts` into `run.json` of a new run; go on with an old one only if it agrees."""
    if folder.is_run(out):
        agree(out, plan)
        return
    if out.is_dir() and any(p.name != shards.PARTS for p in out.iterdir()):
        raise InputError(
            str(out),
            "a folder with other files in it",
            expected="a run folder or an empty one",
            todo="Pass another --out.",
        )
    io.write_json(
        out / folder.RUN_FILE,
        {
            "run": out.name,
            **facts,
            "fingerprint": plan.fingerprint,
            "inputs": dict(plan.inputs),
            "machine": dict(plan.machine),
            "started": folder.utc_now(),
        },
    )
