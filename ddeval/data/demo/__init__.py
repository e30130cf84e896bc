"""The embedded data set: drawn skin, planted truth, the same bytes every time. All of it is SYNTHETIC.

`make_demo` draws some 2,800 photographs of 25 target conditions and others in seconds, without a network:
cases of one to three photographs, several cases a patient, the answers to the full questionnaire. What is
wrong in it is known: labels, copies across splits and photographs of no skin are listed in truth.csv, which
no stage reads; only simulated readers and tests do.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ddeval.data.demo.cases import TRUTH, Case, draw_cases, manifest_rows
from ddeval.data.demo.diseases import OTHER, class_names
from ddeval.data.demo.photos import near_copy, off_topic, photo_of, to_jpeg
from ddeval.data.demo.skin import make_noise
from ddeval.io import write_csv, write_text

__all__ = ["N_PATIENTS", "OTHER", "class_names", "make_demo", "read_truth"]

N_PATIENTS = 1000
README = """SYNTHETIC: every photograph in this folder was drawn by ddeval; nobody is in them.

manifest.csv   one row a photograph, as any manifest
truth.csv      what is true of it: read by tests and simulated readers, by no stage of the pipeline
images/        the photographs
"""


def make_demo(folder: Path, *, seed: int = 0, n_patients: int = N_PATIENTS) -> Path:
    """Draw the data set into `folder` and give the path of its manifest.csv.

    The manifest is removed first and written last, so a folder with a manifest is complete. The same seed
    gives the same bytes on the same versions of numpy and Pillow.

    Parameters
    ----------
    folder : Path
        Made if need be; gets images/, manifest.csv, truth.csv and README.txt.
    seed : int
        0 is the data set all documentation speaks of.
    n_patients : int
        Fewer make a smaller set for tests.

    Returns
    -------
    Path of manifest.csv
        Columns of MANIFEST (ddeval.tables) and `q.<field>` for every field of the full questionnaire.
    """
    manifest = Path(folder) / "manifest.csv"
    manifest.unlink(missing_ok=True)
    (Path(folder) / "images").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, 0])
    cases = draw_cases(n_patients, rng)
    rows = manifest_rows(cases, rng)
    _draw(Path(folder), rows, cases, seed)
    write_csv(Path(folder) / "truth.csv", rows[list(TRUTH)])
    write_text(Path(folder) / "README.txt", README)
    hidden = [*(set(TRUTH) - {"image_id", "case_id"}), "case", "photo"]
    write_csv(manifest, rows.drop(columns=hidden))
    return manifest


def read_truth(manifest: Path) -> pd.DataFrame:
    """The truth.csv beside a drawn manifest, with booleans as booleans."""
    truth = pd.read_csv(Path(manifest).with_name("truth.csv"), dtype=object)
    for name in ("is_wrong", "is_off_topic", "is_ungradable"):
        truth[name] = truth[name] == "True"
    return truth


def _draw(folder: Path, rows: pd.DataFrame, cases: list[Case], seed: int) -> None:
    """Write every photograph; copies come after what they copy."""
    noise = make_noise(np.random.default_rng([seed, 1]))
    contents: dict[str, bytes] = {}
    wanted = ["image_id", "image", "case", "photo", "is_off_topic", "is_ungradable", "duplicate_of"]
    originals_first = rows[wanted].sort_values("duplicate_of", na_position="first", kind="stable")
    for (
        image_id,
        image,
        i,
        photo,
        is_off_topic,
        is_ungradable,
        original,
    ) in originals_first.to_numpy().tolist():
        seeds = (seed, int(i), int(photo))
        rng = np.random.default_rng([*seeds, 2])
        if cases[i].copy_of is not None:
            is_exact = cases[i].copy_kind == "exact"
            content = contents[original] if is_exact else near_copy(contents[original], rng)
        elif is_off_topic:
            content = to_jpeg(off_topic(rng))
        else:
            drawn = photo_of(cases[i], int(photo), is_ungradable=is_ungradable, noise=noise, seeds=seeds)
            content = to_jpeg(drawn)
        contents[image_id] = content
        (folder / image).write_bytes(content)
