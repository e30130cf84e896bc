"""`ddeval bench`: what it costs to serve a checkpoint, and whether that is within limits."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ddeval.cli import FINDINGS, console, embedded


def bench(
    checkpoint: Annotated[str, typer.Argument(help="Config name, artefact or Hugging Face folder.")],
    data: Annotated[
        Path | None, typer.Option(help="Manifest to ask with [drawn JPEGs of 1024 x 768].")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="Folder its images may lie in; may be repeated.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Photographs of the larger request.")] = 8,
    requests: Annotated[int, typer.Option(min=2, help="Timed requests of each size.")] = 200,
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"], typer.Option(help="Number format; a T4 computes in fp16.")
    ] = "auto",
    precision: Annotated[
        Literal["native", "fp8"], typer.Option(help="fp8: faster on Hopper, and a little less accurate.")
    ] = "native",
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where the model runs.")] = "auto",
    workers: Annotated[int, typer.Option(min=0, help="Threads that decode; 0 is one a core.")] = 0,
    max_p95: Annotated[
        float | None, typer.Option(help="Exit 1 where the p95 of single photographs is above, ms.")
    ] = None,
    max_memory: Annotated[
        float | None, typer.Option(help="Exit 1 where single photographs need more, GB.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the JSON here, for compare --bench.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the numbers as JSON, nothing else.")] = False,
) -> None:
    """Latency at batch 1 and n, throughput, peak memory and cold start of a checkpoint.

    Exit code 1 where a limit is exceeded; limits are on requests of one photograph.

    Example: ddeval bench gen2a_medsiglip --dtype fp16 --max-p95 250 --max-memory 2.5 --out bench.json
    """
    began = time.perf_counter()
    from ddeval.io import place, write_json
    from ddeval.models.checkpoint import load_checkpoint, locate
    from ddeval.score.engine import engine
    from ddeval.score.latency import drawn_requests, manifest_requests, serving_cost
    from ddeval.score.run import Settings, prepare

    imported = time.perf_counter()
    spec = str(embedded.ready_demo().artefact) if checkpoint == embedded.NAME else checkpoint
    reading = time.perf_counter()
    config = locate(spec)[1]
    loaded = load_checkpoint(spec)
    if config:
        loaded = replace(loaded, name=config.name)
    cold = {"imports": imported - began, "weights": time.perf_counter() - reading}
    with tempfile.TemporaryDirectory() as folder:
        if data:
            settings = Settings(split="all", device=device, dtype=dtype, precision=precision)
            job = prepare(loaded, place(data), settings=settings, image_roots=images or [], note=console.note)
            on, asked = job.on, manifest_requests(job.sources, job.features)
        else:
            on = engine(loaded, device, dtype, precision)
            if on.note:
                console.note(on.note)
            asked = drawn_requests(loaded, Path(folder))
        with console.progress("requests", requests * len({1, batch})) as tick:
            told = serving_cost(
                loaded, on, asked, batch=batch, n_requests=requests, workers=workers, cold=cold, tick=tick
            )
    exceeded = _exceeded(told, max_p95, max_memory)
    told["exceeded"] = exceeded
    if out:
        write_json(place(out), told)
    if as_json:
        console.say_json(told)
    else:
        console.say(described(told))
    for line in exceeded:
        console.note(line)
    raise typer.Exit(FINDINGS if exceeded else 0)


def _exceeded(told: dict[str, Any], max_p95: float | None, max_memory: float | None) -> list[str]:
    """A sentence for each limit that is exceeded."""
    p95, memory = told["latency_p95_ms"], told["peak_memory_gb"]
    found = []
    if max_p95 is not None and not p95 <= max_p95:
        found.append(f"p95 of one photograph is {p95:.1f} ms, above the limit of {max_p95:g} ms")
    if max_memory is not None and not memory <= max_memory:
        found.append(
            f"peak memory of one photograph is {memory:.2f} GB, above the limit of {max_memory:g} GB"
        )
    return found


def _roofline(size: dict[str, Any]) -> str:
    if (
        size["roofline_ms"] != size["roofline_ms"]
    ):  # of a network whose products are not counted, an ONNX file
        return "unknown"
    return f"{size['roofline_ms']:.2f} ms, {size['roofline_reached']:.0%} reached"


def described(told: dict[str, Any]) -> str:
    """What a person reads of a bench."""
    names = ("checkpoint", "device", "dtype", "kernel")
    lines = ["  ·  ".join([*(str(told[name]) for name in names), f"{told['image_size']} px"])]
    cells = ("p50", "p95", "p99", "decode", "transfer", "compute")
    rows = [
        [
            str(size["batch"]),
            *(f"{size[f'{cell}_ms']:.1f}" for cell in cells),
            f"{size['peak_memory_gb']:.2f}",
            _roofline(size),
        ]
        for size in told["batches"]
    ]
    header = ["request", *(f"{cell} ms" for cell in cells), "peak GB", "roofline"]
    low, high = (f"{end:.1f}" if end == end else "unknown" for end in told["latency_p95_ci_ms"])
    cold, flop = told["cold_start_s"], told["flop_per_image"]
    parts = " + ".join(f"{name.replace('_', ' ')} {s:.1f}" for name, s in cold.items() if name != "total")
    return "\n".join(
        [
            *lines,
            "",
            console.table(rows, header=header),
            "",
            f"p95 of one photograph  {told['latency_p95_ms']:.1f} ms, 95 % interval {low} – {high} "
            f"({told['n']} requests)",
            f"throughput             {told['images_per_second']:,.1f} images/s, decoded ahead",
            f"cold start             {cold['total']:.1f} s: {parts}",
            f"measured ceilings      {told['ceiling_tflops']:,.2f} TFLOP/s in {told['dtype']}, "
            f"{told['ceiling_gb_per_second']:,.0f} GB/s; a photograph is "
            + ("unknown" if flop != flop else f"{flop / 1e9:,.2f} GFLOP"),
        ]
    )
