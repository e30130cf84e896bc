"""The engine: pixels through the model, shard by shard, on whatever this machine has.

One batch size, one number format, one kernel and one order of work for the whole run, so that a shard's
answers do not depend on when or beside what it was scored. On a GPU nothing waits for it but the feed,
which is two batches ahead at most: answers are copied back while the next shard is computed.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import PIL
import torch
from torch import Tensor

from ddeval.data.images import ImageError, Preprocessing, fewest_large
from ddeval.data.questionnaire import Features
from ddeval.errors import InputError
from ddeval.models.checkpoint import Checkpoint
from ddeval.models.device import DeviceName, choose_device, imitated
from ddeval.models.onnx import PROVIDER
from ddeval.models.tower import has_tower, kernel_for, with_towers
from ddeval.score import card, feed, shards
from ddeval.score.plan import Plan
from ddeval.score.predictions import check_finite
from ddeval.score.resizing import can_resize
from ddeval.score.views import Tta, feed_preprocessing, views

DtypeName = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Precision = Literal["native", "fp8"]
LARGE_GPU = 20 * 2**30
"""Bytes of memory from which on a batch of 128 at 448 px leaves room to spare."""


LARGE_NETWORK = 10_000_000
"""Parameters from which on the activations of 64 photographs leave the cache of a CPU."""


class Engine(NamedTuple):
    """Where the model runs, in which number format, by which kernels."""

    device: torch.device
    dtype: str
    """fp32, bf16 or fp16: of the backbone; logits are float32."""
    note: str | None
    kernel: str = "transformers"
    """transformers as it is, `tower` and its attention (`ddeval.models.tower`), or onnxruntime's provider."""
    precision: Precision = "native"
    decoder: str = "libjpeg"
    """Of large JPEGs under --fast-decode: libjpeg, or the card's (`ddeval.score.card.decoder_of`)."""
    batch_size: int = 64
    """Where the user states none: 128 keeps a tower's products a little nearer to the card's ceiling, and
    on a CPU 8 photographs of a large network stay in its cache."""

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"


def engine(
    checkpoint: Checkpoint,
    device: DeviceName = "auto",
    dtype: DtypeName = "auto",
    precision: Precision = "native",
    *,
    fast_decode: bool = False,
) -> Engine:
    """The device, number format and kernels of a run; `auto` asks the card, the CPU computes in fp32.

    `fast_decode` asks whether the card decodes JPEGs itself.

    Raises an InputError where float8 is asked for and the card or the checkpoint has none.
    """
    if dtype not in ("auto", *DTYPES):
        raise ValueError(f"dtype must be auto, {', '.join(DTYPES)}, got {dtype!r}")
    if checkpoint.kind == "onnx":
        return _onnx(checkpoint, device, dtype, precision)
    chosen = choose_device(device)
    name = next(n for n, kind in DTYPES.items() if kind == chosen.dtype) if dtype == "auto" else dtype
    kernel = "transformers"
    if name != "fp32" and has_tower(checkpoint.module):
        kernel = kernel_for(checkpoint.module, chosen.device, DTYPES[name], precision)
    if precision == "fp8":
        is_gpu = chosen.device.type == "cuda"
        capability = torch.cuda.get_device_capability(chosen.device) if is_gpu else None
        if capability is None or capability < (8, 9) or not kernel.startswith("tower"):
            raise InputError(
                "--precision fp8",
                f"{checkpoint.name} on {chosen.device}",
                expected="a SigLIP backbone in bf16 on a GPU of compute capability 8.9 or more",
                todo="Leave it out.",
            )
    is_large = chosen.device.type == "cuda" and _memory(chosen.device) >= LARGE_GPU
    batch_size = 128 if is_large and kernel.startswith("tower") else 64
    if chosen.device.type == "cpu" and checkpoint.n_parameters >= LARGE_NETWORK:
        batch_size = 8
    is_asked = fast_decode and can_resize(checkpoint.preprocessing)
    decoder = card.decoder_of(chosen.device) if is_asked else None
    notes = [note for note in (chosen.note, imitated(chosen.device, name)) if note]
    return Engine(
        chosen.device,
        name,
        " ".join(notes) or None,
        kernel,
        precision,
        decoder or "libjpeg",
        batch_size=batch_size,
    )


def _onnx(checkpoint: Checkpoint, device: DeviceName, dtype: DtypeName, precision: Precision) -> Engine:
    """onnxruntime computes what the file says, in float32, on the CPU."""
    asked = [
        *(["--device cuda"] if device == "cuda" else []),
        *([f"--dtype {dtype}"] if dtype not in ("auto", "fp32") else []),
        *([f"--precision {precision}"] if precision != "native" else []),
    ]
    if asked:
        raise InputError(
            " ".join(asked),
            f"the ONNX file {checkpoint.name}",
            expected="fp32 on the CPU, as onnxruntime computes it here",
            todo="Leave it out, or score the checkpoint that the file was made from.",
        )
    batch_size = 8 if checkpoint.n_parameters >= LARGE_NETWORK else 64
    return Engine(torch.device("cpu"), "fp32", None, f"onnxruntime {PROVIDER}", batch_size=batch_size)


def decoders(on: Engine, p: Preprocessing, *, fast: bool) -> dict[str, str]:
    """What decodes which files, in the words of `run.json`."""
    pillow = f"Pillow {PIL.__version__}"
    if not fast:
        return {"all files": pillow}
    large = f"JPEG of {fewest_large(p)} px a side or more"
    shrunk = f"libjpeg of {pillow}, shrunk while decoding"
    if on.decoder == "libjpeg":
        return {large: shrunk, "other files": pillow}
    return {
        f"baseline {large}": f"{on.decoder}, resized on the card",
        f"other {large}": shrunk,
        "other files": pillow,
    }


def _memory(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)


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
    tta: Tta = plan.inputs["tta"]
    model = Model(checkpoint, on, tta=tta)
    batches = feed.batches(
        sources,
        [rows for s in pending for rows in plan.batches(s)],
        preprocessing=feed_preprocessing(checkpoint.preprocessing, tta),
        batch_size=plan.batch_size,
        workers=workers,
        gpu=on.is_gpu,
        fast=plan.inputs.get("decode") == "fast",
        card=on.device if on.decoder != "libjpeg" else None,
    )
    copied: deque[torch.cuda.Event] = deque()
    waiting: deque[_Shard] = deque()
    with contextlib.closing(batches):
        for number in pending:
            shard = _Shard(number)
            for _ in plan.batches(number):
                if len(copied) > feed.HELD:
                    copied.popleft().synchronize()  # its buffer is about to be filled again
                batch = next(batches)
                shard.answers.append(model(batch.pixels, _features_of(batch, features)))
                shard.failures |= batch.failures
                if on.is_gpu:
                    copied.append(_mark())
                tick(len(batch.rows))
                if waiting and waiting[0].is_ready():
                    done = waiting.popleft()
                    yield done.number, _part(checkpoint, plan, done)
            shard.finish(plan.rows(number))
            waiting.append(shard)
            if not on.is_gpu:
                yield number, _part(checkpoint, plan, waiting.popleft())
        for done in waiting:
            yield done.number, _part(checkpoint, plan, done)


class _Shard:
    """The answers of a shard in the making, then on their way back from the device."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.answers: list[tuple[Tensor, Tensor]] = []
        self.failures: dict[int, ImageError] = {}
        self.logits = self.embeddings = torch.empty(0)
        self._event: torch.cuda.Event | None = None

    def finish(self, rows: range) -> None:
        """Begin to copy the answers to the host; those of padding are left behind."""
        logits, embeddings = (torch.cat([a[i] for a in self.answers])[: len(rows)] for i in (0, 1))
        self.answers.clear()
        if logits.is_cuda:
            self.logits, self.embeddings = (
                torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True)
                for t in (logits, embeddings)
            )
            self._event = _mark()
        else:
            self.logits, self.embeddings = logits, embeddings

    def is_ready(self) -> bool:
        return self._event is None or bool(self._event.query())  # type: ignore[no-untyped-call]

    def wait(self) -> None:
        if self._event is not None:
            self._event.synchronize()


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return event


def _features_of(batch: feed.Batch, features: Features | None) -> Tensor | None:
    """The encoded answers of a batch, (B, D), zeros where it is padding."""
    if features is None:
        return None
    padded = np.zeros((len(batch.pixels), features.shape[1]), np.float32)
    padded[: len(batch.rows)] = features[batch.rows.start : batch.rows.stop]
    return torch.from_numpy(padded)


class Model:
    """The checkpoint's module on its device, fed with uint8 pixels."""

    def __init__(self, checkpoint: Checkpoint, on: Engine, *, tta: Tta = "none") -> None:
        self.on, self.tta = on, tta
        module = checkpoint.module
        if on.kernel.startswith("tower"):
            module = with_towers(
                module,
                dtype=DTYPES[on.dtype],
                device=on.device,
                kernel=on.kernel,
                precision=on.precision,
            )
        self.module = module.to(on.device)
        p: Preprocessing = checkpoint.preprocessing
        self.size = p.size
        # x * rescale - mean, / std in one multiply and one subtract
        self.scale = torch.tensor([p.rescale / s for s in p.std], device=on.device).view(1, 3, 1, 1)
        self.shift = torch.tensor([m / s for m, s in zip(p.mean, p.std, strict=True)], device=on.device)
        self.shift = self.shift.view(1, 3, 1, 1)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and embeddings (B, E) of uint8 pixels, float32, still on the device.

        With several views each is the mean over these.
        """
        device = self.on.device
        normalised = pixels.to(device, non_blocking=True) * self.scale - self.shift  # (B, 3, S, S)
        answers = features if features is None else features.to(device, non_blocking=True)  # (B, D)
        is_half = self.on.dtype != "fp32"
        with torch.autocast(device.type, DTYPES[self.on.dtype], enabled=is_half):
            seen = [self.module(view, answers) for view in views(normalised, self.tta, size=self.size)]
        logits, embeddings = (torch.stack([t.float() for t in of]).mean(0) for of in zip(*seen, strict=True))
        return logits, embeddings


def _part(checkpoint: Checkpoint, plan: Plan, shard: _Shard) -> shards.Part:
    shard.wait()
    rows, logits = plan.rows(shard.number), shard.logits.numpy()
    failed = np.array([row in shard.failures for row in rows])
    ids = np.array([plan.image_ids[row] for row in rows], dtype=object)
    check_finite(logits[~failed], ids[~failed], where=f"checkpoint {checkpoint.name}", what="logit")
    errors = [shard.failures.get(row) for row in rows]
    return shards.Part(
        logits,
        shard.embeddings.numpy(),
        [e.code if e else None for e in errors],
        [e.reason if e else None for e in errors],
    )
