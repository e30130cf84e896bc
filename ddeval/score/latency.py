"""Latency: what does it cost to serve a checkpoint, one request after another?

A request is JPEG files in, logits out: decode, transfer to the device, compute. Requests of one size are
timed one by one after a warm-up; throughput is that of a stream whose photographs are decoded ahead, as
`ddeval score` does it. The network between a patient and the server is not in it.
"""

import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from ddeval.data.images import read_resized
from ddeval.data.questionnaire import Features, encode
from ddeval.errors import ImageError, InputError
from ddeval.metrics.resampling import quantile_interval
from ddeval.models.checkpoint import Checkpoint
from ddeval.score import feed, folder, roofline
from ddeval.score.engine import DTYPES, Engine, Model

N_WARM = 10
"""Requests before the clock is read."""
N_DRAWN = 16
STREAMED_BATCHES = 8
"""Least batches of a stream whose throughput is told."""
GB = 1e9


class Requests(NamedTuple):
    """Photographs that are asked for in turn, with their answers."""

    sources: list[Path]
    features: Features | None
    """(N, D), one row a source; None for a model of photographs alone."""


class Timing(NamedTuple):
    """Seconds of one request."""

    decode: float
    transfer: float
    compute: float


def drawn_requests(checkpoint: Checkpoint, into: Path, *, size: tuple[int, int] = (1024, 768)) -> Requests:
    """Drawn JPEGs of (width, height) `size`, and a questionnaire without answers."""
    rng = np.random.default_rng(0)
    sources = [into / f"{i:02d}.jpg" for i in range(N_DRAWN)]
    for path in sources:
        blocks = rng.integers(0, 255, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8)
        soft = Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)
        grain = Image.fromarray(rng.integers(0, 40, (size[1], size[0]), dtype=np.uint8))
        Image.blend(soft, Image.merge("RGB", (grain, grain, grain)), 0.15).save(path, quality=90)
    if checkpoint.encode is not None:
        raise InputError(
            f"checkpoint {checkpoint.name}",
            "an encoder of its own for the answers",
            expected="answers to encode",
            todo="Pass a manifest with --data.",
        )
    nothing = pd.DataFrame(index=range(N_DRAWN))
    unanswered = None
    if checkpoint.schema is not None:
        unanswered = encode(nothing, checkpoint.schema, on_missing="unknown")
    return Requests(sources, unanswered)


def manifest_requests(sources: Sequence[feed.Source], features: Features | None, *, n: int = 256) -> Requests:
    """The first `n` photographs of a run that are there."""
    rows = [row for row, source in enumerate(sources) if isinstance(source, Path)][:n]
    paths = [source for source in (sources[row] for row in rows) if isinstance(source, Path)]
    if not paths:
        raise InputError("--data", "no photograph", expected="some to ask for", todo="See ddeval data check.")
    return Requests(paths, None if features is None else features[rows])


def serving_cost(
    checkpoint: Checkpoint,
    on: Engine,
    requests: Requests,
    *,
    batch: int = 8,
    n_requests: int = 200,
    workers: int = 0,
    cold: dict[str, float] | None = None,
    tick: Callable[[int], None] = lambda n: None,
) -> dict[str, Any]:
    """Latency at batch 1 and `batch`, throughput, peak memory, cold start, and how near the roofline.

    Parameters
    ----------
    batch : int
        Photographs of the larger request.
    n_requests : int
        Timed requests of each size; from 72 on the p95 has an upper end.
    workers : int
        Threads that decode a larger request; 0 is one a core.
    cold : mapping, optional
        Seconds of a cold start that are already over; those of the device and the first answer are added.
    tick : callable
        Told each number of requests just done.

    Returns
    -------
    dict
        What `ddeval bench --json` prints. `latencies_ms` are the single times of batch 1, for
        `ddeval compare --bench`; memory in GB of 10^9 bytes.
    """
    device = on.device
    started = time.perf_counter()
    model = Model(checkpoint, on)
    roofline.synchronize(device)
    on_device = time.perf_counter()
    server = _Server(checkpoint, model, requests, workers)
    server.answer(0, 1)
    cold = {**(cold or {}), "device": on_device - started, "first_answer": time.perf_counter() - on_device}
    side = checkpoint.preprocessing.size
    width = None if requests.features is None else requests.features.shape[1]
    n_flops = roofline.count_flops(checkpoint.module, (3, side, side), width)
    n_bytes = roofline.weight_bytes(model.module)
    sizes = [_timed(server, size, n_requests, tick) for size in sorted({1, batch})]
    stream = _throughput(checkpoint, model, requests, batch=batch, n_images=n_requests, workers=workers)
    top = roofline.ceiling(device, DTYPES[on.dtype])
    for told in sizes:
        least = 1e3 * top.least_seconds(n_flops * told["batch"], n_bytes)
        told["roofline_ms"], told["roofline_reached"] = least, least / told["compute_ms"]
    one, latencies = sizes[0], [told.pop("latencies_ms") for told in sizes]
    return {
        "checkpoint": checkpoint.name,
        "device": _device_name(device),
        "dtype": on.dtype,
        "kernel": on.kernel,
        "image_size": checkpoint.preprocessing.size,
        "n": n_requests,
        **{f"latency_{q}_ms": one[f"{q}_ms"] for q in ("p50", "p95", "p99")},
        "latency_p95_ci_ms": one["p95_ci_ms"],
        "peak_memory_gb": one["peak_memory_gb"],
        "images_per_second": stream,
        "cold_start_s": {**cold, "total": sum(cold.values())},
        "flop_per_image": n_flops,
        "weight_bytes": n_bytes,
        "ceiling_tflops": top.flops / 1e12,
        "ceiling_gb_per_second": top.bandwidth / GB,
        "batches": sizes,
        "latencies_ms": latencies[0],
        "versions": folder.versions(),
    }


class _Server:
    """Answers requests the way a service does: nothing is decoded ahead."""

    def __init__(self, checkpoint: Checkpoint, model: Model, requests: Requests, workers: int) -> None:
        self.preprocessing, self.model, self.requests = checkpoint.preprocessing, model, requests
        self.device = model.on.device
        self._pool = ThreadPoolExecutor(workers or len(os.sched_getaffinity(0)))

    def answer(self, first: int, size: int) -> Timing:
        """Time one request of `size` photographs, from the `first` on, round and round."""
        rows = [(first + i) % len(self.requests.sources) for i in range(size)]
        start = time.perf_counter()
        seen = [self._decode(rows[0])] if size == 1 else list(self._pool.map(self._decode, rows))
        pixels = torch.from_numpy(np.stack(seen))
        decoded = time.perf_counter()
        answers: Tensor | None = None
        if self.requests.features is not None:
            answers = torch.from_numpy(self.requests.features[rows]).to(self.device)
        pixels = pixels.to(self.device)
        roofline.synchronize(self.device)
        moved = time.perf_counter()
        logits, _ = self.model(pixels, answers)
        logits.cpu()
        return Timing(decoded - start, moved - decoded, time.perf_counter() - moved)

    def _decode(self, row: int) -> Any:
        path = self.requests.sources[row]
        try:
            return read_resized(path, self.preprocessing)
        except ImageError as error:
            raise InputError(
                str(path), error.reason, expected="a photograph", todo="Leave it out; see ddeval data check."
            ) from None


def _timed(server: _Server, size: int, n_requests: int, tick: Callable[[int], None]) -> dict[str, Any]:
    """Times, their parts and the peak of memory of requests of one size."""
    device = server.device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    for i in range(min(N_WARM, n_requests)):
        server.answer(i * size, size)
    times = []
    for i in range(n_requests):
        times.append(server.answer(i * size, size))
        tick(1)
    parts = 1e3 * np.array(times)  # (n, 3)
    whole = parts.sum(axis=1)
    _, low, high = quantile_interval(whole, 0.95)
    return {
        "batch": size,
        **{f"p{q}_ms": float(np.quantile(whole, q / 100)) for q in (50, 95, 99)},
        "p95_ci_ms": [low, high],
        **{f"{name}_ms": float(np.median(parts[:, i])) for i, name in enumerate(Timing._fields)},
        **_peak_memory(device),
        "latencies_ms": whole.round(4).tolist(),
    }


def _peak_memory(device: torch.device) -> dict[str, float]:
    """Most memory so far: of the card what torch reserved (and of it, used), else resident in RAM."""
    if device.type == "cuda":
        return {
            "peak_memory_gb": torch.cuda.max_memory_reserved(device) / GB,
            "peak_allocated_gb": torch.cuda.max_memory_allocated(device) / GB,
        }
    return {"peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB}


def _throughput(
    checkpoint: Checkpoint, model: Model, requests: Requests, *, batch: int, n_images: int, workers: int
) -> float:
    """Images a second of a stream decoded ahead, after its first batch."""
    n_batches = max(STREAMED_BATCHES, n_images // batch) + 1
    n = len(requests.sources)
    sources: list[feed.Source] = [requests.sources[i % n] for i in range(n_batches * batch)]
    slices = [range(i * batch, (i + 1) * batch) for i in range(n_batches)]
    began = 0.0
    for held in feed.batches(
        sources, slices, preprocessing=checkpoint.preprocessing, batch_size=batch, workers=workers,
        gpu=model.on.is_gpu,
    ):  # fmt: skip
        answers = None
        if requests.features is not None:
            answers = torch.from_numpy(requests.features[[row % n for row in held.rows]])
        model(held.pixels, answers)[0].cpu()
        began = began or time.perf_counter()
    return (n_batches - 1) * batch / (time.perf_counter() - began)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
