"""The real-size system end to end: MedSigLIP-448 (0.43 B parameters, random weights) and a questionnaire.

    python benchmarks/real_size.py FOLDER [--config gen2a_medsiglip] [--images 512] [--size 1024x768]

Writes an artefact folder of the layout of the config and a manifest of generated photographs with answers
into FOLDER, so that `ddeval score FOLDER/NAME --data FOLDER/manifest.csv` can be timed on them. Speed does
not depend on the weights. The photographs are noise with some structure, so that JPEG decoding costs what
it costs.
"""

import argparse
import concurrent.futures
import io
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ddeval.config import config_file, find_config, read_config
from ddeval.data.fields import read_schema
from ddeval.models.artefact import write_artefact
from ddeval.models.build import build

N_PATTERNS = 60


def photograph(job: tuple[int, tuple[int, int]]) -> bytes:
    """JPEG bytes of one pattern: soft blocks under sensor noise."""
    seed, (width, height) = job
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (height // 16, width // 16, 3), dtype=np.uint8)
    soft = Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)
    grain = Image.fromarray(rng.integers(0, 40, (height, width), dtype=np.uint8))
    buffer = io.BytesIO()
    Image.blend(soft, Image.merge("RGB", (grain, grain, grain)), 0.15).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--config", default="gen2a_medsiglip")
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--size", default="1024x768")
    parser.add_argument("--classes", type=int, default=26)
    options = parser.parse_args()
    width, height = (int(side) for side in options.size.split("x"))

    path = find_config(options.config)
    if path is None:
        raise SystemExit(f"no config {options.config}")
    config = read_config(path)
    model = config.model.model_copy(update={"weights": "random"})
    schema = None
    if model.feature_schema:
        schema = read_schema(config_file(model.feature_schema, beside=path, where=str(path)))
    torch.manual_seed(0)
    built = build(model, n_classes=options.classes, answers_width=schema.width if schema else 0)
    n_parameters = sum(p.numel() for p in built.module.parameters())
    names = [f"class {k:02}" for k in range(options.classes - 1)] + ["other"]
    start = time.perf_counter()
    artefact = write_artefact(
        options.folder / config.name,
        state=built.module.state_dict(),
        name=config.name,
        model=built.model,
        preprocessing=built.preprocessing,
        class_names=names,
        other_class="other",
        schema=schema,
    )
    seconds = time.perf_counter() - start
    print(f"{artefact}: {n_parameters / 1e9:.2f} B parameters, written in {seconds:.0f} s")

    images = options.folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    jobs = [(seed, (width, height)) for seed in range(min(N_PATTERNS, options.images))]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        patterns = list(pool.map(photograph, jobs))
    rng = np.random.default_rng(0)
    rows = []
    for i in range(options.images):
        name = f"images/{i:06}.jpg"
        (options.folder / name).write_bytes(patterns[i % len(patterns)])
        rows.append(
            {
                "image_id": f"i{i:06}",
                "image": name,
                "label": names[int(rng.integers(len(names)))],
                "case_id": f"c{i // 2:06}",
                "patient_id": f"p{i // 3:06}",
                "split": "test",
                "age": int(rng.integers(1, 90)),
            }
        )
    frame = pd.DataFrame(rows)
    for field in schema.fields if schema else ():
        frame[f"q.{field.name}"] = None
    frame.to_csv(options.folder / "manifest.csv", index=False)
    print(f"{options.folder / 'manifest.csv'}: {len(frame)} images of {options.size}")


if __name__ == "__main__":
    main()
