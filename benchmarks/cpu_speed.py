"""Scoring speed on a CPU beside the transformers pipeline at its defaults, in one run; and what bf16 changes.

    python benchmarks/cpu_speed.py [--images 96] [--rounds 3] [--json FILE]

Two models: the demo's (a small ResNet, on the demo's own photographs) and one of the size of ViT-B/16
(random weights, on drawn JPEGs of 1024 x 768). Rounds of the peer and of each of ours take turns; ratios are
between medians. Ours is `images_per_second` of run.json, from the first thread to the last part written; the
pipeline's clock starts after one warm photograph. Flips of bf16 are counted on the demo's trained model.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from real_size import photograph
from transformers import (
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from ddeval import io
from ddeval.cli import embedded
from ddeval.data.manifest import image_files, read_manifest
from ddeval.models.checkpoint import Checkpoint, load_checkpoint
from ddeval.score.predictions import read_predictions
from ddeval.score.run import Settings, score

DTYPES = ("fp32", "bf16")


def hf_pipeline(model: Any, processor: Any, files: Sequence[Path]) -> float:
    """Images a second of a pipeline as documented: a list of file names, nothing else said."""
    pipe = pipeline("image-classification", model=model, image_processor=processor, device="cpu")
    names = [str(file) for file in files]
    pipe(names[:1])
    start = time.perf_counter()
    pipe(names)
    return len(names) / (time.perf_counter() - start)


def ours(checkpoint: Checkpoint, manifest: Path, split: str, dtype: str) -> tuple[float, pd.Series]:
    """Images a second as run.json states them, and the top-1 answer of each image."""
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(split=split, device="cpu", dtype=dtype)
        run = score(checkpoint, manifest, settings=settings, out=Path(folder) / "run")
        found = read_predictions(run / "predictions.parquet")
        answers = pd.Series(found.logits.argmax(1), index=found.frame["image_id"])
        return io.read_json(run / "run.json")["images_per_second"], answers


def compared(
    name: str, checkpoint: Checkpoint, manifest: Path, split: str, peer: tuple[Any, Any], *, rounds: int
) -> dict[str, Any]:
    """One row: rates of the peer and of ours in each format, and answers that bf16 changes."""
    frame = read_manifest(manifest)
    rows = frame if split == "all" else frame[frame["split"].isin([split, "calibration"])]
    files = [Path(file) for file in image_files(rows, [manifest.parent], where=str(manifest))]
    rates: dict[str, list[float]] = {"pipeline": [], **{dtype: [] for dtype in DTYPES}}
    answers = {}
    for _ in range(rounds):
        rates["pipeline"].append(hf_pipeline(*peer, files))
        for dtype in DTYPES:
            rate, answers[dtype] = ours(checkpoint, manifest, split, dtype)
            rates[dtype].append(rate)
    medians = {key: statistics.median(values) for key, values in rates.items()}
    return {
        "model": name,
        "images": len(files),
        "pipeline": medians["pipeline"],
        **{dtype: medians[dtype] for dtype in DTYPES},
        "fp32 / pipeline": medians["fp32"] / medians["pipeline"],
        "bf16 / pipeline": medians["bf16"] / medians["pipeline"],
        "bf16 / fp32": medians["bf16"] / medians["fp32"],
        "flips": int((answers["bf16"] != answers["fp32"].loc[answers["bf16"].index]).sum()),
        "rounds": rates,
    }


def demo(rounds: int) -> dict[str, Any]:
    """The demo's model; its peer is the same network of transformers under a linear head."""
    there = embedded.ready_demo()
    checkpoint = load_checkpoint(there.artefact)
    config = checkpoint.settings["model"]["backbone_config"]
    peer = ResNetForImageClassification(ResNetConfig(**config, num_labels=len(checkpoint.class_names))).eval()
    p = checkpoint.preprocessing
    size = {"height": p.size, "width": p.size}
    processor = ViTImageProcessor(size=size, resample=3, image_mean=list(p.mean), image_std=list(p.std))
    return compared("demo", checkpoint, there.manifest, "test", (peer, processor), rounds=rounds)


def vit_base(n_images: int, rounds: int) -> dict[str, Any]:
    """A ViT-B/16 in a Hugging Face folder, which both read."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        torch.manual_seed(0)
        names = {k: f"class {k}" for k in range(26)}
        config = ViTConfig(id2label=names, label2id={v: k for k, v in names.items()})
        model = ViTForImageClassification(config).eval()
        processor = ViTImageProcessor()
        model.save_pretrained(folder / "vit_base")
        processor.save_pretrained(folder / "vit_base")
        for i in range(n_images):
            (folder / f"{i}.jpg").write_bytes(photograph((i, (1024, 768))))
        frame = pd.DataFrame({"image_id": [str(i) for i in range(n_images)]})
        frame["image"] = frame["image_id"] + ".jpg"
        frame.to_csv(folder / "manifest.csv", index=False)
        checkpoint = load_checkpoint(folder / "vit_base")
        return compared(
            "ViT-B/16", checkpoint, folder / "manifest.csv", "all", (model, processor), rounds=rounds
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = [demo(options.rounds), vit_base(options.images, options.rounds)]
    shown = pd.DataFrame([{k: v for k, v in row.items() if k != "rounds"} for row in rows])
    print(shown.to_string(index=False, float_format="{:.2f}".format))
    has_bf16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    print(f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, bf16 products: {has_bf16}")
    if options.json:
        io.write_json(options.json, {"rows": rows, "load": os.getloadavg()[0], "has_bf16": has_bf16})


if __name__ == "__main__":
    main()
