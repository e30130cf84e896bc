"""Small real things to score: photographs, a manifest over them, an artefact with random weights."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ddeval.data.images import Preprocessing
from ddeval.data.questionnaire import FeatureSchema, Field
from ddeval.models.backbones import backbone_config
from ddeval.models.checkpoint import load_checkpoint, write_artefact
from ddeval.models.fusion import Fusion
from ddeval.score.run import Settings, score

CLASSES = ("eczema", "psoriasis", "acne", "other")
SCHEMA = FeatureSchema((Field("itch", "single", answers=("none", "mild")), Field("fever", "yes_no")))
SMALLER = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1]}
SMALL = Settings(batch_size=8, shard_size=16)


def make_photos(folder: Path, n: int = 40) -> Path:
    """`n` photographs of coloured noise, 00.jpg to ..."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(n):
        noise = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((64, 48)).save(folder / f"{i:02d}.jpg", quality=95)
    return folder


def make_manifest(folder: Path, n: int = 40, n_calibration: int = 10) -> Path:
    """manifest.csv over `n` photographs in `folder`/images: two a patient, the first ones calibration."""
    make_photos(folder / "images", n)
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(
        {
            "image_id": [f"im{i:02d}" for i in range(n)],
            "image": [f"images/{i:02d}.jpg" for i in range(n)],
            "label": [CLASSES[i] for i in rng.integers(0, len(CLASSES), n)],
            "split": ["calibration"] * n_calibration + ["test"] * (n - n_calibration),
            "case_id": [f"c{i // 2}" for i in range(n)],
            "patient_id": [f"p{i // 2}" for i in range(n)],
            "q.itch": [["none", "mild", None][i % 3] for i in range(n)],
            "q.fever": [["yes", "no"][i % 2] for i in range(n)],
        }
    )
    frame.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def make_artefact(folder: Path, *, seed: int = 0) -> Path:
    """A tiny artefact with random weights that reads the questionnaire `SCHEMA`."""
    torch.manual_seed(seed)
    model = {
        "backbone": "resnet_tiny",
        "backbone_config": backbone_config("resnet_tiny", changes=SMALLER),
        "answers_width": SCHEMA.width,
        "questionnaire_widths": [8],
    }
    module = Fusion(n_classes=len(CLASSES), **{k: v for k, v in model.items() if k != "backbone"})
    for parameter in module.head.parameters():
        torch.nn.init.normal_(parameter, std=1.0)  # so that photographs differ in their answers
    return write_artefact(
        folder,
        state=module.state_dict(),
        name="tiny",
        model=model,
        preprocessing=Preprocessing.for_norm("siglip", 32),
        class_names=CLASSES,
        other_class="other",
        schema=SCHEMA,
    )


def score_in_another_process(artefact: Path, manifest: Path, out: Path) -> None:
    """What a child process runs before it is killed."""
    torch.set_num_threads(1)
    score(load_checkpoint(artefact), manifest, settings=SMALL, out=out, workers=1)
