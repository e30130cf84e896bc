"""A run folder as `ddeval score` leaves it, made up in a second: 25 conditions and `other`, planted shapes.

The numbers are drawn, not computed by ddeval: a report must show whatever stands in the tables.
"""

import io as bytes_io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from ddeval import io

CLASSES = (
    "Eczema", "Acne", "Psoriasis", "Tinea corporis", "Seborrhoeic dermatitis", "Urticaria", "Rosacea",
    "Contact dermatitis", "Folliculitis", "Pityriasis versicolor", "Molluscum contagiosum", "Viral wart",
    "Impetigo", "Scabies", "Herpes zoster", "Herpes simplex", "Basal cell carcinoma", "Actinic keratosis",
    "Seborrhoeic keratosis", "Melanocytic naevus", "Melanoma", "Squamous cell carcinoma", "Alopecia areata",
    "Vitiligo", "Insect bite", "other",
)  # fmt: skip
RUN_METRICS = {
    "top_1_accuracy": (0.7364, 0.008), "top_3_accuracy": (0.9281, 0.005), "top_5_accuracy": (0.9662, 0.0035),
    "balanced_accuracy": (0.6610, 0.011), "macro_f1": (0.652, 0.011), "weighted_f1": (0.731, 0.008),
    "mcc": (0.7132, 0.0085), "cohen_kappa": (0.7121, 0.0085), "auroc_macro": (0.9671, 0.002),
    "auroc_weighted": (0.9612, 0.002), "average_precision_macro": (0.7021, 0.011),
    "open_top_1_accuracy": (0.6981, 0.0082), "open_top_3_accuracy": (0.9012, 0.0055),
    "other_auroc": (0.8934, 0.006), "other_sensitivity": (0.6423, 0.016), "other_ppv": (0.5811, 0.017),
    "calibration_gap": (0.0312, 0.0052), "brier_score": (0.3662, 0.009), "nll": (0.8731, 0.021),
    "aurc": (0.1012, 0.004), "augrc": (0.0683, 0.0025), "coverage_at_risk_5": (0.608, 0.013),
    "coverage_at_risk_10": (0.7612, 0.012),
}  # fmt: skip


def make_run(
    folder: Path,
    *,
    n_images: int = 15_561,
    n_patients: int = 9_204,
    class_names: tuple[str, ...] = CLASSES,
    is_synthetic: bool = True,
    name: str = "gen2a_medsiglip",
    n_gallery: int = 60,
    undefined: tuple[str, ...] = (),
) -> Path:
    """Write the folder and return it; classes in `undefined` have no test image."""
    rng = np.random.default_rng(7)
    labelled = folder / "labels-v0"
    shares = 1 / np.arange(1.6, len(class_names) + 1.6)
    shares[[i for i, c in enumerate(class_names) if c in undefined]] = 0
    n_by_class = rng.multinomial(n_images, shares / shares.sum())

    confusion = _confusion(n_by_class, class_names, rng)
    io.write_parquet(labelled / "metrics.parquet", _metrics(name, n_images, n_patients, confusion, rng))
    _curves(labelled / "curves", confusion, class_names, rng, n_images)
    _gallery(folder, labelled / "curves", class_names, rng, n_gallery)
    io.write_json(labelled / "metrics.json", {"run": name, "n_images": n_images})
    io.write_json(labelled / "checks.json", _checks())
    io.write_parquet(
        folder / "quarantine.parquet",
        pd.DataFrame(
            {
                "image_id": ["img-00412", "img-07733", "img-11020"],
                "image": ["images/img-00412.jpg", "images/img-07733.jpg", "images/img-11020.jpg"],
                "reason": [
                    "truncated file",
                    "no such file",
                    "12,000 × 9,000 pixels; the limit is 50 megapixels",
                ],
            }
        ),
    )
    io.write_json(folder / "run.json", _facts(name, n_images, n_patients, class_names, is_synthetic))
    return folder


def _confusion(n_by_class: np.ndarray, names: tuple[str, ...], rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    neighbours = {
        i: rng.choice(np.delete(np.arange(len(names)), i), 3, replace=False) for i in range(len(names))
    }
    for i, n in enumerate(n_by_class):
        p = np.full(len(names), 0.004)
        p[neighbours[i]] = rng.uniform(0.02, 0.12, 3)
        p[0] += 0.05
        p[i] = rng.uniform(1.2, 4.0) * p.sum()
        rows += [
            {"label": names[i], "predicted": names[j], "n": int(count)}
            for j, count in enumerate(rng.multinomial(n, p / p.sum()))
        ]
    table = pd.DataFrame(rows)
    total = table.groupby("label")["n"].transform("sum")
    table["share"] = table["n"] / total.where(total > 0)
    return table


def _metrics(
    run: str, n_images: int, n_patients: int, confusion: pd.DataFrame, rng: np.random.Generator
) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []

    def add(
        metric: str, subset: str, value: float, half: float, n: int, class_name: str | None = None
    ) -> None:
        rows.append(
            {
                "run": run, "metric": metric, "subset": subset, "class_name": class_name, "value": value,
                "ci_low": value - half, "ci_high": value + half, "n_images": n,
                "n_groups": round(n * n_patients / n_images), "n_undefined": 0,
            }
        )  # fmt: skip

    for metric, (value, half) in RUN_METRICS.items():
        add(metric, "all", value, half, n_images)
        add(metric, "cases", value + 0.011, half * 1.15, n_patients + 1_200)
    for metric, value in {"ece": 0.0412, "ece_equal_mass": 0.0405, "mce": 0.1131, "classwise_ece": 0.0061,
                          "smooth_ece": 0.0398}.items():  # fmt: skip
        for subset in ("all", "cases"):
            add(metric, subset, value, np.nan, n_images)
            rows[-1] |= {"ci_low": value * 0.15, "ci_high": value * 0.31}

    answered = confusion.groupby("predicted")["n"].sum()
    for label, held in confusion.groupby("label", sort=False):
        n = int(held["n"].sum())
        right = int(held.loc[held["predicted"] == label, "n"].sum())
        has = n > 0
        half = 1.96 * np.sqrt(0.2 / n) if has else np.nan
        drawn = {
            "sensitivity": right / n if has else np.nan,
            "specificity": rng.uniform(0.96, 0.995),
            "ppv": right / answered[label] if has and answered[label] else np.nan,
            "npv": rng.uniform(0.97, 0.995),
            "f1": rng.uniform(0.5, 0.9) if has else np.nan,
            "auroc": rng.uniform(0.9, 0.99) if has else np.nan,
            "average_precision": rng.uniform(0.5, 0.92) if has else np.nan,
            "labelled_share": n / n_images,
            "predicted_share": answered[label] / n_images,
        }
        for metric, value in drawn.items():
            add(
                metric,
                "all",
                float(value),
                float(half) * (0.2 if "spec" in metric or "share" in metric else 1),
                n,
                label,
            )
    return pd.DataFrame(rows)


def _curves(
    folder: Path, confusion: pd.DataFrame, names: tuple[str, ...], rng: np.random.Generator, n_images: int
) -> None:
    edges = np.linspace(0, 1, 16)
    n = np.array([0, 2, 60, 190, 330, 480, 590, 660, 720, 810, 940, 1130, 1490, 2390, 0])
    n[-1] = max(0, n_images - n.sum())
    middle = (edges[:-1] + edges[1:]) / 2
    bins = pd.DataFrame({"low": edges[:-1], "high": edges[1:], "n": n, "confidence": middle})
    before = bins.assign(
        accuracy=np.clip(middle - 0.055 * np.sin(np.pi * middle) + rng.normal(0, 0.008, 15), 0, 1)
    )
    after = bins.assign(accuracy=np.clip(middle + rng.normal(0, 0.012, 15), 0, 1))
    for table in (before, after):
        table.loc[table["n"] == 0, ["confidence", "accuracy"]] = np.nan
    io.write_parquet(folder / "reliability.parquet", before)
    io.write_parquet(folder / "reliability_after.parquet", after)

    coverage = np.linspace(1 / 2000, 1, 2000)
    io.write_parquet(
        folder / "risk_coverage.parquet",
        pd.DataFrame(
            {"coverage": coverage, "risk": 0.2636 * coverage**3.1, "threshold": 1 - 0.85 * coverage**1.4}
        ),
    )
    io.write_parquet(folder / "confusion.parquet", confusion)
    wrong = confusion[confusion["label"] != confusion["predicted"]]
    io.write_parquet(
        folder / "most_confused.parquet", wrong.sort_values("n", ascending=False, kind="stable").head(10)
    )
    methods = ["none", "temperature", "vector", "histogram", "isotonic", "beta", "bbq", "logistic"]
    io.write_parquet(
        folder / "calibrators.parquet",
        pd.DataFrame(
            {
                "calibrator": methods,
                "ece": 0.041 * rng.uniform(0.2, 1, 8), "smooth_ece": 0.04 * rng.uniform(0.2, 1, 8),
                "classwise_ece": 0.006 * rng.uniform(0.6, 1, 8), "nll": 0.87 * rng.uniform(0.94, 1, 8),
                "brier_score": 0.366 * rng.uniform(0.97, 1, 8),
            }
        ),
    )  # fmt: skip


def _gallery(folder: Path, curves: Path, names: tuple[str, ...], rng: np.random.Generator, n: int) -> None:
    targets = [c for c in names if c != "other"]
    rows = []
    for i in range(n):
        label, predicted = rng.choice(targets, 2, replace=False)
        image_id = f"img-{i:05d}"
        path = f"thumbnails/{image_id}.webp"
        io.write_bytes(folder / path, skin_patch(rng))
        rows.append(
            {"image_id": image_id, "label": label, "predicted": predicted, "confidence": 0.998 - 0.004 * i,
             "thumbnail": path}
        )  # fmt: skip
    io.write_parquet(curves / "gallery.parquet", pd.DataFrame(rows))


def skin_patch(rng: np.random.Generator, size: int = 160) -> bytes:
    """A made-up photograph of skin with a patch on it, as WebP."""
    tone = np.array([[244, 208, 177], [224, 172, 105], [198, 134, 66], [141, 85, 36], [90, 56, 37]])[
        rng.integers(5)
    ]
    y, x = np.mgrid[0:size, 0:size] / size - rng.uniform(0.35, 0.65, (2, 1, 1))
    radius = np.hypot(x * rng.uniform(0.8, 1.5), y) + 0.05 * np.sin(5 * np.arctan2(y, x) + rng.uniform(0, 6))
    spot = 1 / (1 + np.exp((radius - rng.uniform(0.1, 0.3)) * 40))
    colour = tone * rng.uniform([0.7, 0.35, 0.35], [1.0, 0.7, 0.7])
    pixels = tone * (1 - spot[..., None]) + colour * spot[..., None] + rng.normal(0, 7, (size, size, 3))
    pixels *= 1.06 - 0.25 * np.hypot(*(np.mgrid[0:size, 0:size] / size - 0.4))[..., None]
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))
    buffer = bytes_io.BytesIO()
    image.save(buffer, "WEBP", quality=70)
    return buffer.getvalue()


def _checks() -> list[dict[str, str]]:
    return [
        {"code": "DD001", "title": "ids are unique", "status": "passed", "message": ""},
        {"code": "DD003", "title": "lesion in train and test", "status": "passed", "message": ""},
        {"code": "DD004", "title": "patient in two splits", "status": "finding",
         "message": "2 patients stand in train and test; 5 test images are theirs."},
        {"code": "DD005", "title": "fewer than 30 test images of a class", "status": "finding",
         "message": "Squamous cell carcinoma (24)."},
        {"code": "DD007", "title": "skin type known", "status": "not applicable",
         "message": "The manifest has no skin_type column."},
    ]  # fmt: skip


def _facts(
    name: str, n_images: int, n_patients: int, names: tuple[str, ...], is_synthetic: bool
) -> dict[str, Any]:
    return {
        "run": name,
        "is_synthetic": is_synthetic,
        "splits": ["test"],
        "n_images": n_images,
        "n_groups": n_patients,
        "class_names": list(names),
        "other_class": "other",
    }
