"""A small data set and a small config to train in a second: coloured squares, one colour a class."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from ddeval.config import Config, parse_config
from ddeval.io import write_csv, write_json

COLOURS = {"eczema": (200, 60, 60), "acne": (60, 200, 60), "wart": (60, 60, 200), "other": (128, 128, 128)}
SPLITS = ("train", "train", "train", "val", "test")
SCHEMA = {"name": "small", "fields": [{"name": "itch", "kind": "single", "answers": ["none", "mild"]}]}


def make_data(folder: Path, *, n_cases: int = 40, seed: int = 0) -> Path:
    """Path of a manifest with two photographs a case; every fifth case is val, every fifth test."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for case in range(n_cases):
        label = list(COLOURS)[case % 4]
        for photo in range(2):
            noise = rng.normal(0, 25, (32, 32, 3))
            pixels = (np.array(COLOURS[label]) + noise).clip(0, 255).astype(np.uint8)
            name = f"images/{case:03d}-{photo}.png"
            Image.fromarray(pixels).save(folder / name)
            rows.append(
                {
                    "image_id": f"{case:03d}-{photo}",
                    "case_id": f"{case:03d}",
                    "patient_id": f"p{case:03d}",
                    "image": name,
                    "label": label,
                    "split": SPLITS[(case // 4) % 5],
                    "q.itch": "mild" if label == "eczema" else "none",
                }
            )
    write_csv(folder / "manifest.csv", pd.DataFrame(rows))
    write_json(folder / "schema.json", SCHEMA)
    return folder / "manifest.csv"


def make_config(folder: Path, *, model: dict[str, Any] | None = None, **train: Any) -> Config:
    """The smallest system that learns the colours, with what is given replaced."""
    values = {
        "name": "small",
        "other_class": "other",
        "model": {
            "backbone": "resnet_tiny",
            "weights": "random",
            "image_size": 32,
            "image_norm": "siglip",
            "backbone_config": {"embedding_size": 4, "hidden_sizes": [4, 4, 8, 8]},
            "feature_schema": str(folder / "schema.json"),
            "questionnaire_widths": [4],
            **(model or {}),
        },
        "train": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "cpu_threads": 1, **train},
    }
    config: Config = parse_config(values, where="test")
    return config
