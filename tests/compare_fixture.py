"""Five simulated checkpoints compared as `ddeval compare` does it: gate, subgroups, photographs, an ensemble.

Predictions are drawn; everything after them is computed by the commands' own functions.
"""

import io as bytes_io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from ddeval import io
from ddeval.report.compare_page import write_compare_report
from ddeval.report.html import write_run_report
from ddeval.score import comparison_folder
from ddeval.score.comparison_folder import Asked
from ddeval.score.evaluate import evaluate
from ddeval.score.file_run import execute_file, prepare_file
from ddeval.score.foreign import read_file
from tests.report_fixture import skin_patch

ROOT = Path(__file__).parents[1]
CONDITIONS = ROOT / "configs" / "conditions.yaml"
DATE = "2026-07-01"
CHECKPOINTS = {
    "gen2a_port": 0.0,
    "convnextv2_base": 0.55,
    "medsiglip_frozen": -0.05,
    "medsiglip_standalone": 0.95,
    "gen2a_medsiglip": 1.1,
}
"""Name -> how much larger the logit of the right class is than the baseline's."""
GATE = {
    "criteria": [
        {"name": "Top-1 no worse than production", "metric": "top_1_accuracy", "kind": "not_worse",
         "bound": 0.01},
        {"name": "Malignant conditions: no more missed", "metric": "malignant_missed", "kind": "not_worse",
         "bound": 0.02},
        {"name": "Calibrated as it is served", "metric": "ece", "kind": "at_most", "bound": 0.08},
        {"name": "No large gap between skin types", "metric": "largest_subgroup_gap", "of": "top_1_accuracy",
         "attribute": "skin type, by a dermatologist", "kind": "at_most", "bound": 0.05},
    ]
}  # fmt: skip
SKIN_TYPES = ("I", "II", "III", "IV", "V", "VI")


def class_names() -> tuple[str, ...]:
    """The target classes of the shipped conditions, then `other`."""
    conditions = yaml.safe_load(CONDITIONS.read_text())
    named = dict.fromkeys(entry["class"] for entry in conditions.values())
    return (*(name for name in named if name != "other"), "other")


def noise(rng: np.random.Generator, size: int = 320) -> bytes:
    """A JPEG of random pixels: no photograph of that size takes more room in a page."""
    buffer = bytes_io.BytesIO()
    Image.fromarray(rng.integers(256, size=(size, size, 3), dtype=np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_manifest(
    folder: Path,
    n_images: int,
    *,
    photograph: Callable[[np.random.Generator], bytes] = skin_patch,
    n_photos: int = 60,
    seed: int = 5,
) -> pd.DataFrame:
    """manifest.csv of made-up patients: `n_images` to be scored, an eighth as many for calibration."""
    rng = np.random.default_rng(seed)
    names = class_names()
    for i in range(n_photos):
        io.write_bytes(folder / "images" / f"{i:03d}", photograph(rng))
    shares = 1 / (np.arange(len(names)) + 2.5)
    shares[-1] = 0.12 * shares.sum()
    n_held = max(1, n_images // 8)
    held = _cases(n_held, rng)
    case = np.concatenate([held, _cases(n_images, rng) + held[-1] + 2 - held[-1] % 2])  # no patient in both
    n_cases = case[-1] + 1
    label = rng.choice(len(names), size=n_cases, p=shares / shares.sum())[case]
    of_case = {
        "skin_type": rng.choice(list(SKIN_TYPES), n_cases, p=[0.1, 0.3, 0.3, 0.15, 0.1, 0.05]),
        "sex": rng.choice(["female", "male"], n_cases),
        "age": rng.integers(1, 90, n_cases),
        "body_site": rng.choice(["face", "trunk", "arm", "leg"], n_cases),
    }  # fmt: skip
    frame = pd.DataFrame(
        {
            "image_id": [f"img-{i:05d}" for i in range(len(case))],
            "image": [f"images/{i:03d}" for i in rng.integers(n_photos, size=len(case))],
            "label": np.array(names)[label],
            "split": np.where(np.arange(len(case)) < n_held, "calibration", "test"),
            "case_id": [f"case-{c:05d}" for c in case],
            "patient_id": [f"patient-{c // 2:05d}" for c in case],
            **{name: values[case] for name, values in of_case.items()},
            "skin_type_source": "dermatologist",
            "source": "synthetic",
        }
    )
    frame.to_csv(folder / "manifest.csv", index=False)
    return frame


def _cases(n_images: int, rng: np.random.Generator) -> np.ndarray:
    """The case of each image (n_images,), 0 and up, 1.6 photographs a case."""
    n_cases = max(1, int(n_images / 1.6))
    return np.sort(np.concatenate([np.arange(n_cases), rng.integers(n_cases, size=n_images - n_cases)]))


def make_runs(folder: Path, frame: pd.DataFrame, *, n_resamples: int, seed: int = 11) -> list[Path]:
    """A scored run of each checkpoint; what is hard for one is hard for all."""
    rng = np.random.default_rng(seed)
    names = class_names()
    labels = pd.Index(names).get_indexer(frame["label"])
    alike = rng.normal(size=(len(names), len(names))) * 1.1
    hard = rng.gamma(2.0, 0.5, size=len(frame))[:, None]
    darker = frame["skin_type"].isin(["V", "VI"]).to_numpy()[:, None]
    shared = alike[labels] + rng.normal(size=(len(frame), len(names))) * 1.9
    made = []
    for name, better in CHECKPOINTS.items():
        right = (8.2 + better - 0.6 * darker) / np.sqrt(0.4 + 2 * hard)
        logits = right * np.eye(len(names))[labels] + shared + rng.normal(size=shared.shape) * 1.2
        logits[:, 0] += 0.9 - 0.3 * better
        np.savez(
            folder / f"{name}.npz",
            logits=logits.astype(np.float32),
            image_ids=frame["image_id"].to_numpy(dtype=str),
            class_names=np.array(names),
        )
        file = read_file(folder / f"{name}.npz", kind="logits")
        job = prepare_file(file, folder / "manifest.csv", out=folder / "runs" / name, other_class="other")
        run = execute_file(job)
        evaluate(run, n_resamples=n_resamples, conditions=CONDITIONS)
        made.append(run)
    return made


def make_comparison(
    folder: Path,
    n_images: int,
    *,
    n_resamples: int,
    photograph: Callable[[np.random.Generator], bytes] = skin_patch,
    n_photos: int = 60,
) -> Path:
    """Write a run's page `run.html` and the comparison's `page.html`, which is returned, with its tables."""
    frame = make_manifest(folder, n_images, photograph=photograph, n_photos=n_photos)
    runs = make_runs(folder, frame, n_resamples=n_resamples)
    (folder / "gate.yaml").write_text(json.dumps(GATE))
    asked = Asked(
        tuple(runs), baseline="gen2a_port", candidate="gen2a_medsiglip", gate=folder / "gate.yaml",
        ensembles=("gen2a_medsiglip+convnextv2_base",), conditions=CONDITIONS,
        prevalence={"malignant": 0.02}, n_resamples=n_resamples,
    )  # fmt: skip
    comparison_folder.write(comparison_folder.compared(asked), folder / "page")
    write_compare_report(folder / "page", folder / "page.html", date=DATE, photos=True)
    write_run_report(runs[-1], folder / "run.html", date=DATE, photos=True)
    return folder / "page.html"
