"""A test split is given up by one command alone, and the ledger keeps it."""

import json

import pytest
from typer.testing import CliRunner

from ddeval.cli import BAD_INPUT, OK, app
from ddeval.data.manifest import manifest_sha256, read_manifest
from ddeval.data.overlay import read_overlay
from ddeval.errors import InputError
from ddeval.io import read_csv, write_parquet
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score.evaluate import evaluate
from ddeval.score.folder import ledger_path, read_looks, retirements
from ddeval.score.run import score
from ddeval.train.loop import train
from ddeval.train.retirement import retire
from tests.train_fixture import make_config, make_data

WHY = {"reason": "looked at 40 times", "by": "Ada"}


def overlay(folder, split, image_ids, *, version="v1", label="acne"):
    """A frozen overlay that gives these images one label."""
    given = read_csv(folder / "manifest.csv").set_index("image_id")["label"]
    path = folder / "labels" / f"{split}-{version}.parquet"
    rows = [
        {
            "image_id": image_id,
            "image_sha256": None,
            "case_id": image_id[:3],
            "split": split,
            "given_label": given[image_id],
            "outcome": "keep" if given[image_id] == label else "relabel",
            "labels": [{"label": label, "weight": 1.0}],
            "confidence": 1.0,
            "rule": "agreed",
            "readers": ["a", "b"],
            "basis": "reading",
            "overlay_version": version,
        }
        for image_id in image_ids
    ]
    import pandas as pd

    write_parquet(path, pd.DataFrame(rows), metadata={"overlay_version": version, "split": split})
    return path


@pytest.fixture
def data(tmp_path):
    make_data(tmp_path)
    return tmp_path


def test_the_split_becomes_training_data_with_its_vetted_labels(data):
    """16 images of test; their overlay and that of train become one, which a training run takes."""
    old = data / "manifest.csv"
    before = old.read_bytes()
    overlays = [read_overlay(overlay(data, "test", ["016-0", "016-1"]))]
    overlays.append(read_overlay(overlay(data, "train", ["000-0"], version="v3")))
    found = retire(old, "test", data / "new.csv", overlays=overlays, folder=data / "labels", **WHY)
    assert (found.n_images, found.n_groups, found.n_vetted) == (16, 8, 3)
    assert old.read_bytes() == before
    assert found.overlay == data / "labels" / "train-v4.parquet"

    new = read_manifest(data / "new.csv")
    assert new["split"].value_counts().to_dict() == {"train": 64, "val": 16}
    assert (new["retired_from"] == "test").sum() == 16
    merged = read_overlay(found.overlay)
    assert (merged.split, merged.version, len(merged.frame)) == ("train", "v4", 3)
    result = train(make_config(data, epochs=1), data / "new.csv", data / "out", overlay=merged)
    assert result.n_train == 64


def test_both_ledgers_say_what_was_given_up_and_why(data):
    old, new = data / "manifest.csv", data / "new.csv"
    retire(old, "test", new, **WHY)
    for path in (old, new):
        (line,) = [json.loads(text) for text in ledger_path(path).read_text().splitlines()]
        assert (line["retired"], line["to"], line["by"], line["n_images"]) == ("test", "train", "Ada", 16)
        assert line["manifest_sha256"] == manifest_sha256(read_manifest(old))
        assert line["new_manifest_sha256"] == manifest_sha256(read_manifest(new))
        assert read_looks(path) == []  # it is no look


def test_who_scores_the_old_split_is_told(data):
    """And who scores another split of the new manifest is not."""
    old = data / "manifest.csv"
    train(make_config(data, epochs=1), old, data / "out")
    run = score(load_checkpoint(data / "out"), old, out=data / "run")
    notes = []
    evaluate(run, n_resamples=20, calibrators="none", note=notes.append)
    assert not any("retired" in line for line in notes)
    retire(old, "test", data / "new.csv", **WHY)
    evaluate(run, n_resamples=20, calibrators="none", note=notes.append)
    assert sum("was retired into train" in line and "Ada (looked at 40 times)" in line for line in notes) == 1
    assert retirements(old, ["val"]) == retirements(data / "new.csv", ["test"]) == []


def test_without_the_command_labels_of_test_never_train(data):
    """The message names the command."""
    held = read_overlay(overlay(data, "test", ["016-0"]))
    with pytest.raises(InputError, match=r"vetted labels of the test split; .*ddeval data retire"):
        train(make_config(data), data / "manifest.csv", data / "out", overlay=held)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "train"}, "'train'; expected test, calibration or val"),
        ({"split": "calibration"}, "no image of split calibration"),
        ({"reason": " "}, "--reason: found nothing"),
        ({"out": "manifest.csv"}, "a file that exists"),
    ],
)
def test_what_cannot_be_given_up_is_refused_before_anything_is_written(data, changes, message):
    asked = {"split": "test", "out": "new.csv", **WHY, **changes}
    with pytest.raises(InputError, match=message):
        retire(
            data / "manifest.csv", asked["split"], data / asked["out"], reason=asked["reason"], by=asked["by"]
        )
    assert not (data / "new.csv").exists()
    assert not ledger_path(data / "manifest.csv").exists()


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train"], "labels of train alone; expected those of test too"),
        (["test", "test"], "overlays of test, test"),
        (["val"], "overlays of val"),
    ],
)
def test_overlays_that_do_not_belong_are_refused(data, splits, message):
    ids = {"train": "000-0", "test": "016-0", "val": "012-0"}
    overlays = [read_overlay(overlay(data, split, [ids[split]])) for split in splits]
    with pytest.raises(InputError, match=message):
        retire(data / "manifest.csv", "test", data / "new.csv", overlays=overlays, **WHY)


def test_an_overlay_with_images_of_another_split_is_refused(data):
    """Train's own readings cannot slip in under the name of test."""
    held = read_overlay(overlay(data, "test", ["016-0", "000-0"]))
    with pytest.raises(InputError, match=r"image '000-0', not of split test \(1 such\)"):
        retire(data / "manifest.csv", "test", data / "new.csv", overlays=[held], **WHY)


def test_the_command_prints_what_it_did_and_dry_run_does_nothing(data):
    labels = overlay(data, "test", ["016-0"])
    arguments = [
        "data",
        "retire",
        "test",
        "--manifest",
        str(data / "manifest.csv"),
        "--out",
        str(data / "new.csv"),
    ]
    arguments += ["--reason", "replaced", "--labels", str(labels), "--labels-folder", str(data / "labels")]
    dry = CliRunner().invoke(app, [*arguments, "--dry-run"])
    assert dry.exit_code == OK, dry.output
    assert "16 images of 8 groups would be training images" in dry.stdout
    assert not (data / "new.csv").exists()
    said = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert (said["n_images"], said["n_vetted"]) == (16, 1)
    assert (data / "labels" / "train-v1.parquet").is_file()
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == BAD_INPUT
    assert "a file that exists" in again.stderr
