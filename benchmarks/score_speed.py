"""Scoring speed on one GPU beside its peers, on the same photographs, in one run; and what speed costs.

    python benchmarks/real_size.py FOLDER --images 15561
    python benchmarks/score_speed.py FOLDER/gen2a_medsiglip [--large N] [--trained ARTEFACT MANIFEST]

Peers: the transformers pipeline with one worker a core, and a plain DataLoader loop of the eager bf16 model.
`--large` adds N photographs of 12 megapixels with --fast-decode. `--trained` takes a checkpoint whose
answers mean something and counts the top-1 answers that another kernel or number format changes.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from real_size import photograph
from transformers import SiglipConfig, SiglipForImageClassification, SiglipImageProcessor, pipeline

from ddeval import io
from ddeval.data.images import read_resized
from ddeval.data.manifest import image_files, read_manifest
from ddeval.errors import InputError
from ddeval.models.checkpoint import Checkpoint, load_checkpoint
from ddeval.score import feed
from ddeval.score.engine import Engine, Model, engine
from ddeval.score.run import Settings, score

CORES = len(os.sched_getaffinity(0))
LARGE = (4032, 3024)


class Photos(torch.utils.data.Dataset[torch.Tensor]):
    """What a reader of the documentation writes."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> torch.Tensor:
        image = (
            Image.open(self.files[i]).convert("RGB").resize((self.size, self.size), Image.Resampling.BILINEAR)
        )
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def eager_loop(vision: Any, files: Sequence[Path], size: int) -> float:
    """Images a second after the first batch."""
    device, dtype = vision.device, vision.dtype
    loader = torch.utils.data.DataLoader(
        Photos(files, size), 64, num_workers=CORES, pin_memory=device.type == "cuda", prefetch_factor=4
    )
    n, start = 0, 0.0
    with torch.inference_mode():
        for pixels in loader:
            vision(pixel_values=pixels.to(device, non_blocking=True).to(dtype).div_(127.5).sub_(1))
            if not start:
                _wait(device)
                start = time.perf_counter()
            else:
                n += len(pixels)
        _wait(device)
    return n / (time.perf_counter() - start)


def hf_pipeline(model: Any, files: Sequence[Path], size: int) -> float:
    """Images a second after a first batch."""
    processor = SiglipImageProcessor(size={"height": size, "width": size})
    names = [str(file) for file in files]
    pipe = pipeline(
        "image-classification", model=model, image_processor=processor, device=model.device, dtype=model.dtype
    )
    list(pipe(names[:64], batch_size=64, num_workers=CORES))
    start = time.perf_counter()
    list(pipe(names, batch_size=64, num_workers=CORES, top_k=3))
    return len(names) / (time.perf_counter() - start)


def ours(
    checkpoint: Checkpoint, manifest: Path, n: int, *, shard_size: int, **settings: Any
) -> dict[str, Any]:
    """Speeds that a run's run.json states, over the first `n` images of a manifest."""
    with tempfile.TemporaryDirectory() as folder:
        part = manifest.with_name(f"first-{n}.csv")
        pd.read_csv(manifest, nrows=n).to_csv(part, index=False)
        run = score(
            checkpoint, part, settings=Settings(shard_size=shard_size, **settings), out=Path(folder) / "r"
        )
        facts = io.read_json(run / "run.json")
    names = ("images_per_second", "steady_images_per_second", "kernel", "dtype", "decode", "batch_size")
    return {name: facts[name] for name in names} | {"decoder": facts["machine"].get("decoder")}


def logits_of(checkpoint: Checkpoint, manifest: Path, on: Engine, n: int, *, fast: bool = False) -> Any:
    """Logits (n, K) of the first `n` images, by one engine."""
    rows = read_manifest(manifest).iloc[:n]
    files = image_files(rows, [manifest.parent], where=str(manifest))
    features = checkpoint.features(rows, where=str(manifest))
    model = Model(checkpoint, on)
    found = []
    for batch in feed.batches(
        list(files), [range(i, min(i + 64, len(rows))) for i in range(0, len(rows), 64)],
        preprocessing=checkpoint.preprocessing, batch_size=64, gpu=on.is_gpu, fast=fast,
        card=on.device if on.decoder != "libjpeg" else None,
    ):  # fmt: skip
        answers = None
        if features is not None:
            answers = torch.zeros(64, features.shape[1])
            answers[: len(batch.rows)] = torch.from_numpy(features[batch.rows.start : batch.rows.stop])
        found.append(model(batch.pixels, answers)[0][: len(batch.rows)].cpu())
    return torch.cat(found).double().numpy()


def agreement(checkpoint: Checkpoint, manifest: Path, device: str, n: int) -> list[dict[str, Any]]:
    """How far each engine's logits lie from eager float32, and whose top-1 answers it changes."""
    half = engine(checkpoint, device, "bf16")
    engines = {
        "eager fp32": Engine(half.device, "fp32", None),
        "eager bf16": Engine(half.device, "bf16", None),
        "ours bf16": half,
    }
    try:
        engines["ours fp8"] = engine(checkpoint, device, "bf16", "fp8")
    except InputError as error:
        print(error)
    logits = {}
    for name, on in engines.items():
        try:
            logits[name] = logits_of(checkpoint, manifest, on, n)
        except Exception as error:
            print(name, repr(error)[:300])
    exact, eager = logits["eager fp32"], logits["eager bf16"]
    frame = read_manifest(manifest).iloc[:n]
    labels = frame["label"].map({name: k for k, name in enumerate(checkpoint.class_names)}).to_numpy()
    rows = []
    for name, values in logits.items():
        answers = values.argmax(1)
        rows.append(
            {
                "engine": name,
                "n": len(values),
                "relative_error": float(np.linalg.norm(values - exact) / np.linalg.norm(exact)),
                "largest_error": float(np.abs(values - exact).max()),
                "flips_to_fp32": float((answers != exact.argmax(1)).mean()),
                "flips_to_eager_bf16": float((answers != eager.argmax(1)).mean()),
                "top_1_accuracy": float((answers == labels).mean()),
            }
        )
    return rows


def make_large(folder: Path, source: Path, n: int) -> Path:
    """A manifest of `n` 12-megapixel photographs, of a few patterns, beside that of the small ones."""
    (folder / "large").mkdir(exist_ok=True)
    n_patterns = min(CORES, n)
    with ProcessPoolExecutor() as pool:
        patterns = list(pool.map(photograph, [(seed, LARGE) for seed in range(n_patterns)]))
    frame = pd.read_csv(source, nrows=n)
    frame["image"] = [f"large/{i:05}.jpg" for i in range(len(frame))]
    for i, name in enumerate(frame["image"]):
        path = folder / name
        if i < n_patterns:
            path.write_bytes(patterns[i])
        else:
            path.hardlink_to(folder / frame["image"].iloc[i % n_patterns])
    frame.to_csv(folder / "large.csv", index=False)
    return folder / "large.csv"


def pixel_error(checkpoint: Checkpoint, manifest: Path, on: Engine) -> dict[str, Any]:
    """What --fast-decode changes in the pixels of the first 32 images, in levels of 255."""
    p = checkpoint.preprocessing
    files = list(image_files(read_manifest(manifest).iloc[:32], [manifest.parent], where=str(manifest)))
    card = on.device if on.decoder != "libjpeg" else None
    (batch,) = feed.batches(
        files, [range(len(files))], preprocessing=p, batch_size=len(files), fast=True, card=card
    )
    exact = np.stack([read_resized(file, p) for file in files])
    errors = np.abs(batch.pixels.cpu().numpy().astype(int) - exact)
    share = float((errors <= 3).mean())
    return {
        "decoder": on.decoder,
        "mean": float(errors.mean()),
        "largest": float(errors.max()),
        "share_up_to_3": share,
    }


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artefact", type=Path)
    parser.add_argument("--images", type=int, default=6144)
    parser.add_argument("--peer-images", type=int, default=2048)
    parser.add_argument("--shard-size", type=int, default=512)
    parser.add_argument("--large", type=int, default=0, metavar="N")
    parser.add_argument("--trained", nargs=2, type=Path, metavar=("ARTEFACT", "MANIFEST"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: dict[str, Any] = {"rates": {}, "machine": options.device}
    began = time.perf_counter()

    def save(name: str, value: Any, said: str) -> None:
        found[name] = value
        print(f"[{time.perf_counter() - began:5.0f} s] {said}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1))

    def rate(name: str, measure: Callable[[], Any]) -> None:
        try:
            value = measure()
        except Exception as error:  # one that fails must not cost the others their figures
            value = {"error": str(error)[:300]}
        found["rates"][name] = value
        save("rates", found["rates"], f"{name:42} {value if isinstance(value, dict) else round(value, 1)}")

    if options.device == "cuda":
        found["machine"] = torch.cuda.get_device_name()
    checkpoint = load_checkpoint(options.artefact)
    manifest, size = options.artefact.parent / "manifest.csv", checkpoint.preprocessing.size
    half = {"device": options.device, "dtype": "bf16", "shard_size": options.shard_size}
    rate("ours", lambda: ours(checkpoint, manifest, options.images, **half))
    files = [Path(f) for f in image_files(read_manifest(manifest), [manifest.parent], where=str(manifest))]
    files = files[: options.peer_images]
    vision = checkpoint.settings["model"]["backbone_config"]
    config = SiglipConfig(vision_config=dict(vision), num_labels=len(checkpoint.class_names))
    model = SiglipForImageClassification(config).eval().to(torch.bfloat16).to(options.device)
    rate("peer: DataLoader loop, eager bf16", lambda: eager_loop(model.vision_model, files, size))
    rate(f"peer: transformers pipeline, {CORES} workers", lambda: hf_pipeline(model, files, size))
    if options.device == "cuda":
        n = options.images // 2
        rate("ours, fp8", lambda: ours(checkpoint, manifest, n, precision="fp8", **half))
    if options.trained:
        folder, rows = load_checkpoint(options.trained[0]), options.trained[1]
        for row in agreement(folder, rows, options.device, 10**6):
            save(f"trained, {row['engine']}", row, f"trained, {row}")
    for row in agreement(checkpoint, manifest, options.device, min(256, options.peer_images)):
        save(f"random weights, {row['engine']}", row, f"random weights, {row}")
    if options.large:
        large = make_large(options.artefact.parent, manifest, options.large)
        fast = engine(checkpoint, options.device, "bf16", fast_decode=True)
        save(
            "fast_decode_pixels",
            value := pixel_error(checkpoint, large, fast),
            f"fast decode, levels of 255: {value}",
        )
        small = half | {"shard_size": 128}
        rate(
            "ours, 12 MP, --fast-decode",
            lambda: ours(checkpoint, large, options.large, fast_decode=True, **small),
        )
        plain = engine(checkpoint, options.device, "bf16")
        exact = logits_of(checkpoint, large, plain, CORES)
        changed = logits_of(checkpoint, large, fast, CORES, fast=True)
        flips = {"n": len(exact), "flips": int((exact.argmax(1) != changed.argmax(1)).sum())}
        save("fast_decode_flips", flips, f"fast decode, 12 MP, top-1 answers changed: {flips}")


if __name__ == "__main__":
    main()
