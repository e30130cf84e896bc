"""The engine: pixels through the model, shard by shard, on whatever this machine has.

One batch size, one number format and one order of work for the whole run, so that a shard's answers do
not depend on when or beside what it was scored.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddeval.data.images import ImageError, Preprocessing
from ddeval.data.questionnaire import Features
from ddeval.models.checkpoint import Checkpoint
from ddeval.models.device import DeviceName, choose_device
from ddeval.score import feed, shards
from ddeval.score.plan import Plan
from ddeval.score.predictions import check_finite

DtypeName = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Engine(NamedTuple):
    """Where the model runs and in which number format."""

    device: torch.device
    dtype: str
    """fp32, bf16 or fp16: of the backbone; logits are float32."""
    note: str | None


def engine(device: DeviceName = "auto", dtype: DtypeName = "auto") -> Engine:
    """The device and number format of a run; `auto` asks the card, the CPU computes in fp32."""
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    chosen = choose_device(device)
    name = next(n for n, kind in DTYPES.items() if kind == chosen.dtype)
    return Engine(chosen.device, name if dtype == "auto" else dtype, chosen.note)


def answers(
    checkpoint: Checkpoint,
    plan: Plan,
    pending: Sequence[int],
    on: Engine,
    sources: Sequence[feed.Source],
    features: Features | None,
    workers: int,
    tick: Callable[[int], None],
) -> Iterator[tuple[int, shards.Part]]:
    """Each pending shard with its answers."""
    if not pending:
        return
    model = _Model(checkpoint, on, hflip=plan.inputs["tta"] == "hflip")
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
    def __call__(self, batch: feed.Batch, features: Features | None) -> tuple[Tensor, Tensor]:
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
    errors = [failures.get(row) for row in rows]
    return shards.Part(
        logits, embeddings, [e.code if e else None for e in errors], [e.reason if e else None for e in errors]
    )
