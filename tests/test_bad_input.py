"""Bad input through the command line: a quarantine row, or exit 3 in one line. Nothing is dropped silently.

The line says where, what was found, what was expected and what to do; the stages' own tests hold the
finer cases.
"""

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ddeval import cli, io
from ddeval.score.predictions import read_predictions
from tests.score_fixture import make_artefact, make_manifest

QUICK = ("--n-resamples", "20", "--calibrators", "none")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A sound manifest with its images, and a sound artefact; tests work on copies."""
    folder = tmp_path_factory.mktemp("sound")
    make_manifest(folder)
    make_artefact(folder / "tiny")
    return folder


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("DDEVAL_ARTEFACTS", "DDEVAL_MANIFEST"):
        monkeypatch.delenv(name, raising=False)


def score(*arguments):
    return CliRunner().invoke(cli.app, ["score", *map(str, arguments), "--out", "run", *QUICK])


def refused(result, message: str) -> str:
    """The one line of a refusal, checked for its form."""
    assert result.exit_code == cli.BAD_INPUT, result.output
    line = result.stderr.strip().splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert re.match(r"ddeval: .+: found .+; expected .+\. .+", line), line
    assert re.search(message, line), line
    assert result.stdout == ""
    return line


# --- images -----------------------------------------------------------------------------------------


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def zero_bytes(path: Path) -> None:
    path.write_bytes(b"")


def a_pdf(path: Path) -> None:
    path.write_bytes(b"%PDF-1.7 not a photograph")


def too_large(path: Path) -> None:
    Image.new("1", (9000, 9000)).save(path, "PNG")


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "code"),
    [(truncated, "truncated"), (zero_bytes, "empty"), (a_pdf, "format"), (too_large, "too_large"),
     (a_folder, "not_a_file"), (Path.unlink, "missing")],
)  # fmt: skip
def test_an_image_that_cannot_be_used_is_a_counted_quarantine_row(tmp_path, source, damage, code):
    manifest = make_manifest(tmp_path / "set")
    damage(tmp_path / "set" / "images" / "20.jpg")

    result = score(source / "tiny", "--data", manifest)

    assert result.exit_code == 0, result.stderr
    rows, _ = io.read_parquet(Path("run/quarantine.parquet"))
    assert rows[["image_id", "code"]].to_numpy().tolist() == [["im20", code]]
    assert len(rows["reason"].iloc[0]) > 5
    assert "unreadable images, not scored: 1" in result.stdout
    assert len(read_predictions(Path("run/predictions.parquet")).frame) == 39


def cmyk(image: Image.Image, path: Path) -> None:
    image.convert("CMYK").save(path, "JPEG", quality=95)


def sixteen_bit(image: Image.Image, path: Path) -> None:
    grey = np.asarray(image.convert("L"), dtype=np.uint16) * 257
    Image.fromarray(grey).save(path, "PNG")


def rotated(image: Image.Image, path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    image.transpose(Image.Transpose.ROTATE_90).save(path, "JPEG", quality=95, exif=exif)


def wrongly_named(image: Image.Image, path: Path) -> None:
    image.save(path, "PNG")


@pytest.mark.parametrize("kind", [cmyk, sixteen_bit, rotated, wrongly_named])
def test_an_unusual_image_is_scored_as_what_it_shows(tmp_path, source, kind):
    """CMYK, 16 bits, turned by EXIF, PNG named .jpg: one picture, so the same logits up to the format."""
    manifest = make_manifest(tmp_path / "set")
    path = tmp_path / "set" / "images" / "20.jpg"
    image = Image.open(path).convert("L" if kind is sixteen_bit else "RGB").convert("RGB")
    image.save(path.with_suffix(".png"))
    frame = pd.read_csv(manifest, dtype=object)
    plain = frame.assign(image=frame["image"].replace("images/20.jpg", "images/20.png"))
    plain.to_csv(tmp_path / "set" / "plain.csv", index=False)
    kind(image, path)

    logits = []
    for data in (manifest, tmp_path / "set" / "plain.csv"):
        result = CliRunner().invoke(
            cli.app, ["score", str(source / "tiny"), "--data", str(data), "--out", data.stem, *QUICK]
        )
        assert result.exit_code == 0, result.stderr
        p = read_predictions(Path(data.stem) / "predictions.parquet")
        logits.append(p.logits[p.frame["image_id"].tolist().index("im20")])
    scale = np.abs(logits[1]).max()
    assert np.abs(logits[0] - logits[1]).max() < 0.05 * scale


# --- manifests --------------------------------------------------------------------------------------


def with_manifest(tmp_path, source, change):
    """Score with the sound artefact over a manifest changed by `change(frame)`."""
    frame = pd.read_csv(source / "manifest.csv", dtype=object)
    change(frame).to_csv(tmp_path / "manifest.csv", index=False)
    return score(source / "tiny", "--data", tmp_path / "manifest.csv", "--images", source)


MANIFESTS = {
    "a duplicate id": (lambda f: f.assign(image_id=f["image_id"].replace("im21", "im20")), "image_id 'im20'"),
    "no ids": (lambda f: f.drop(columns="image_id"), "image_id no such column"),
    "an empty id": (
        lambda f: f.assign(image_id=f["image_id"].replace("im21", None)),
        "line 23: found image_id",
    ),
    "an unknown split": (lambda f: f.assign(split=f["split"].replace("test", "testing")), "split 'testing'"),
    "a patient in two splits": (
        lambda f: f.assign(patient_id=f["patient_id"].replace("p15", "p0")),
        "patient 'p0' in the splits calibration, test",
    ),
    "no questionnaire": (lambda f: f.drop(columns=["q.itch"]), r"manifest\.csv: found no column q\.itch"),
    "an answer nobody gave": (
        lambda f: f.assign(**{"q.itch": f["q.itch"].replace("mild", "unbearable")}),
        "unbearable",
    ),
    "an unmapped label": (
        lambda f: f.assign(label=f["label"].replace("acne", "acne vulgaris")),
        r"no class of the model: 'acne vulgaris' \(\d+\); expected one of eczema, psoriasis, acne, other",
    ),
    "no label at all": (lambda f: f.assign(label=None), "no label for any of the 30 images"),
    "a path out of the root": (
        lambda f: f.assign(image=f["image"].replace("images/20.jpg", "../../etc/passwd")),
        r"\.\./\.\./etc/passwd",
    ),
    "a web address": (lambda f: f.assign(image="https://example.org/a.jpg"), "a plain local path"),
    "no test split": (lambda f: f.assign(split="train"), r"no image of split 'test' \(train 40\)"),
    "no rows": (lambda f: f.head(0), "no rows"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_bad_manifest_is_refused(tmp_path, source, case):
    change, message = MANIFESTS[case]
    refused(with_manifest(tmp_path, source, change), message)
    assert not Path("run").exists()  # told before anything was scored


def test_ids_001_and_na_stay_what_they_are(tmp_path, source):
    def change(frame):
        return frame.assign(image_id=frame["image_id"].replace({"im20": "001", "im21": "NA", "im22": "1"}))

    result = with_manifest(tmp_path, source, change)
    assert result.exit_code == 0, result.stderr
    ids = set(read_predictions(Path("run/predictions.parquet")).frame["image_id"])
    assert {"001", "NA", "1"} <= ids


def test_no_manifest_file_is_refused(source):
    refused(score(source / "tiny", "--data", "nowhere.csv"), r"nowhere\.csv: found no such file")


# --- predictions ------------------------------------------------------------------------------------


def predictions_of(source, **changes):
    """Probabilities for the sound manifest, as a frame."""
    ids = pd.read_csv(source / "manifest.csv", dtype=object)["image_id"]
    probs = np.random.default_rng(0).dirichlet(np.ones(4), len(ids))
    return pd.DataFrame(probs, columns=["eczema", "psoriasis", "acne", "other"]).assign(
        image_id=ids, **changes
    )


PREDICTIONS = {
    "a nan": (
        lambda f: f.assign(acne=f["acne"].where(f.index != 3)),
        r"NaN or infinite for 1 images \(im03\)",
    ),
    "logits as probabilities": (lambda f: f.assign(acne=f["acne"] + 5), r"outside 0\.\.1 \(40 such rows\)"),
    "a missing class": (lambda f: f.drop(columns="acne"), "a row that sums to"),
    "an id twice": (lambda f: pd.concat([f, f.head(1)]), "line 42|row 42.*'im00' a second time"),
    "an unknown id": (
        lambda f: f.assign(image_id=f["image_id"].replace("im05", "zz")),
        r"'zz', which the man",
    ),
    "a word for a number": (
        lambda f: f.assign(acne=f["acne"].astype(object).where(f.index != 3, "high")),
        "'high'",
    ),
    "no rows": (lambda f: f.head(0), "no column of numbers"),
}


@pytest.mark.parametrize("case", PREDICTIONS)
def test_a_bad_predictions_file_is_refused(tmp_path, source, case):
    change, message = PREDICTIONS[case]
    change(predictions_of(source)).to_csv(tmp_path / "model.csv", index=False)
    refused(score(tmp_path / "model.csv", "--data", source / "manifest.csv"), message)


def test_a_row_of_another_width_is_refused_with_its_line(tmp_path, source):
    text = predictions_of(source).to_csv(index=False).splitlines()
    text[7] += ",0.5"
    (tmp_path / "model.csv").write_text("\n".join(text))
    refused(score(tmp_path / "model.csv", "--data", source / "manifest.csv"), "line 8: found 6 cells")


def test_probabilities_given_as_logits_are_refused(tmp_path, source):
    frame = predictions_of(source)
    np.savez(
        tmp_path / "model.npz",
        logits=frame.drop(columns="image_id").to_numpy(),
        image_ids=frame["image_id"].to_numpy().astype(str),
        class_names=np.array(frame.columns[:4], dtype=str),
    )
    message = r"probabilities given as logits .* expected logits\. Save them as pred_probs"
    refused(score(tmp_path / "model.npz", "--data", source / "manifest.csv"), message)


# --- checkpoints ------------------------------------------------------------------------------------


def resaved(folder: Path, change) -> None:
    """Save the artefact's weights again after `change(state)`."""
    state = torch.load(folder / "best_model.pt", weights_only=True)
    torch.save(change(state) or state, folder / "best_model.pt")
    config = json.loads((folder / "config.json").read_text())
    config["weights_sha256"] = io.file_sha256(folder / "best_model.pt")
    (folder / "config.json").write_text(json.dumps(config))


def without_head(folder: Path) -> None:
    resaved(folder, lambda state: {k: v for k, v in state.items() if not k.startswith("head")})


def other_order(folder: Path) -> None:
    names = (folder / "labels.txt").read_text().split()
    (folder / "labels.txt").write_text("\n".join(names[::-1]) + "\n")


def nan_weight(folder: Path) -> None:
    def change(state):
        next(v for k, v in state.items() if k.startswith("head") and v.ndim == 2)[0, 0] = torch.nan

    resaved(folder, change)


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("canary"),)


def malicious(folder: Path) -> None:
    (folder / "best_model.pt").write_bytes(pickle.dumps({"head.weight": Malicious()}))


def cut_short(folder: Path) -> None:
    content = (folder / "best_model.pt").read_bytes()
    (folder / "best_model.pt").write_bytes(content[: len(content) // 2])


def lfs_pointer(folder: Path) -> None:
    (folder / "best_model.pt").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )


CHECKPOINTS = {
    "a missing head": (without_head, "head"),
    "another class order": (other_order, r"'other' at index 0|labels\.txt"),
    "a NaN weight": (nan_weight, "NaN|finite"),
    "a malicious pickle": (malicious, r"best_model\.pt"),
    "half a file": (cut_short, r"best_model\.pt"),
    "a git-lfs pointer": (lfs_pointer, r"best_model\.pt"),
    "no weights": (lambda folder: (folder / "best_model.pt").unlink(), r"best_model\.pt"),
    "no config": (lambda folder: (folder / "config.json").unlink(), r"config\.json"),
}


@pytest.mark.parametrize("case", CHECKPOINTS)
def test_a_bad_checkpoint_is_refused(tmp_path, source, case):
    damage, message = CHECKPOINTS[case]
    folder = make_artefact(tmp_path / "bad")
    damage(folder)
    refused(score(folder, "--data", source / "manifest.csv"), message)
    assert not Path("canary").exists()
    assert not Path("run").exists()


def test_an_unknown_checkpoint_names_those_there_are():
    refused(score("gen2a_medsiglib"), "expected 'gen2a_medsiglip'")


def test_artefacts_that_cannot_be_reached_are_named_with_the_way_out():
    line = refused(score("gen2a_medsiglip"), "gen2a_medsiglip")
    assert "$DDEVAL_ARTEFACTS" in line
    assert "`ddeval score demo` works without network" in line
