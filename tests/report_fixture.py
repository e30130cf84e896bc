"""A run folder as `ddeval score` leaves it, from simulated answers: 25 conditions and `other`.

The numbers are made by `ddeval.metrics.summary`, so that a page is tested on what really stands in the
tables; the photographs are drawn.
"""

import io as bytes_io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from ddeval import io
from ddeval.metrics.arrays import softmax
from ddeval.metrics.summary import summarise, summary_json

CLASSES = (
    "Eczema", "Acne", "Psoriasis", "Tinea corporis", "Seborrhoeic dermatitis", "Urticaria", "Rosacea",
    "Contact dermatitis", "Folliculitis", "Pityriasis versicolor", "Molluscum contagiosum", "Viral wart",
    "Impetigo", "Scabies", "Herpes zoster", "Herpes simplex", "Basal cell carcinoma", "Actinic keratosis",
    "Seborrhoeic keratosis", "Melanocytic naevus", "Melanoma", "Squamous cell carcinoma", "Alopecia areata",
    "Vitiligo", "Insect bite", "other",
)  # fmt: skip


def make_run(
    folder: Path,
    *,
    n_images: int = 1_500,
    class_names: Sequence[str] = CLASSES,
    other_class: str | None = "other",
    absent: Sequence[str] = (),
    is_synthetic: bool = True,
    name: str = "gen2a_medsiglip",
    n_gallery: int = 12,
    n_resamples: int = 40,
    seed: int = 7,
) -> Path:
    """Write the run folder and return it; classes in `absent` label no image."""
    rng = np.random.default_rng(seed)
    labels, logits, cases = _answers(n_images, class_names, other_class, absent, rng)
    summary = summarise(
        labels,
        softmax(logits),
        groups=cases // 2,
        class_names=class_names,
        other_class=other_class,
        case_ids=cases,
        logits=logits,
        run=folder.name,
        rng=rng,
        n_resamples=n_resamples,
    )
    labelled = folder / "labels-v0"
    io.write_parquet(labelled / "metrics.parquet", summary.metrics)
    for curve_name, curve in summary.curves.items():
        io.write_parquet(labelled / "curves" / f"{curve_name}.parquet", curve)
    gallery = _gallery(folder, labels, logits, class_names, other_class, n_gallery, rng)
    if len(gallery):
        io.write_parquet(labelled / "curves" / "gallery.parquet", gallery)
    io.write_json(
        labelled / "metrics.json",
        {
            "run": folder.name, "checkpoint": name, "labels": "v0", "splits": ["test"],
            "group_unit": "patients",
            **summary_json(summary), "n_unlabelled": 0, "n_quarantined": 3, "other_class": other_class,
            "notes": [], "made_from": {"labels": "v0", "predictions": "9c02a1f3" * 8, "seed": 0},
        },
    )  # fmt: skip
    io.write_json(labelled / "checks.json", CHECKS)
    io.write_parquet(folder / "quarantine.parquet", pd.DataFrame(QUARANTINE))
    io.write_json(
        folder / "run.json",
        {
            "run": folder.name, "splits": ["test"], "is_synthetic": is_synthetic, "n_images": n_images,
            "n_groups": summary.n_groups, "class_names": list(class_names), "other_class": other_class,
            "checkpoint": {"name": name, "kind": "artefact", "sha256": "3f1a7c20" * 8},
            "manifest": {"path": "/data/derm/manifest.csv", "sha256": "b41d09e7" * 8},
            "device": "NVIDIA H100 80GB HBM3", "dtype": "bf16", "batch_size": 64,
            "versions": {"ddeval": "0.1.0", "numpy": "2.4.6", "torch": "2.13.0"},
            "fingerprint": "77aa01cd" * 8,
        },
    )  # fmt: skip
    return folder


def _answers(
    n_images: int,
    class_names: Sequence[str],
    other_class: str | None,
    absent: Sequence[str],
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels (N,), logits (N, K) of a model that names the first class too often, cases (N,)."""
    n_classes = len(class_names)
    shares = np.array([0.0 if c in absent else 1 / (i + 2.5) for i, c in enumerate(class_names)])
    if other_class is not None:
        shares[class_names.index(other_class)] = 0.12 * shares.sum()
    n_cases = max(1, int(n_images / 1.6))
    case_of = np.sort(np.concatenate([np.arange(n_cases), rng.integers(n_cases, size=n_images - n_cases)]))
    label_of_case = rng.choice(n_classes, size=n_cases, p=shares / shares.sum())
    labels = label_of_case[case_of]
    alike = rng.normal(size=(n_classes, n_classes)) * 1.1
    hard = rng.gamma(2.0, 0.5, size=n_images)[:, None]
    logits = (
        9.6 * np.eye(n_classes)[labels] / np.sqrt(0.4 + 2 * hard)
        + alike[labels]
        + rng.normal(size=(n_images, n_classes)) * 2.2
    )
    logits[:, 0] += 0.9
    return labels, logits.astype(np.float32), case_of


def _gallery(
    folder: Path,
    labels: np.ndarray,
    logits: np.ndarray,
    class_names: Sequence[str],
    other_class: str | None,
    n: int,
    rng: np.random.Generator,
) -> pd.DataFrame:
    probs = softmax(logits)
    wrong = np.flatnonzero(probs.argmax(axis=1) != labels)
    rows = []
    for i in wrong[np.argsort(-probs.max(axis=1)[wrong], kind="stable")][:n]:
        path = f"thumbnails/{i:05d}.webp"
        io.write_bytes(folder / path, skin_patch(rng))
        rows.append(
            {
                "image_id": f"img-{i:05d}", "label": class_names[labels[i]],
                "predicted": class_names[probs[i].argmax()], "confidence": probs[i].max(), "thumbnail": path,
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def skin_patch(rng: np.random.Generator, size: int = 160) -> bytes:
    """A made-up photograph of skin with a patch on it, as WebP."""
    tones = np.array([[244, 208, 177], [224, 172, 105], [198, 134, 66], [141, 85, 36], [90, 56, 37]])
    tone = tones[rng.integers(5)]
    y, x = np.mgrid[0:size, 0:size] / size - rng.uniform(0.35, 0.65, (2, 1, 1))
    radius, angle = np.hypot(x * rng.uniform(0.8, 1.5), y), np.arctan2(y, x)
    for waves in (2, 3, 7):
        radius += rng.uniform(0.005, 0.03) * np.sin(waves * angle + rng.uniform(0, 6))
    spot = 1 / (1 + np.exp((radius - rng.uniform(0.1, 0.3)) * 40))
    colour = tone * rng.uniform([0.7, 0.35, 0.35], [1.0, 0.7, 0.7])
    pixels = tone * (1 - spot[..., None]) + colour * spot[..., None] + rng.normal(0, 7, (size, size, 3))
    pixels *= 1.06 - 0.25 * np.hypot(*(np.mgrid[0:size, 0:size] / size - 0.4))[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    buffer = bytes_io.BytesIO()
    image.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()


CHECKS: list[dict[str, Any]] = [
    {"code": "DD001", "title": "ids are unique", "status": "passed", "message": ""},
    {"code": "DD003", "title": "lesion in train and test", "status": "passed", "message": ""},
    {"code": "DD005", "title": "fewer than 30 test images of a class", "status": "failed",
     "message": "Squamous cell carcinoma (24)."},
    {"code": "DD007", "title": "skin type known", "status": "not_applicable",
     "message": "The manifest has no skin_type column."},
]  # fmt: skip
QUARANTINE = {
    "image_id": ["img-00412", "img-07733", "img-11020"],
    "split": ["test", "test", "test"],
    "reason": ["truncated file", "no such file", "12,000 × 9,000 pixels; the limit is 50 megapixels"],
}
