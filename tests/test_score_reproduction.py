"""The numbers that a checkpoint's makers wrote are looked for, and the reason where they do not come out."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ddeval.cli import app
from ddeval.data.images import Preprocessing
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score.predictions import read_predictions
from ddeval.score.reproduction import claims, reproduction
from ddeval.score.run import Settings, score
from ddeval.score.trials import alternatives
from tests.score_fixture import make_artefact, make_manifest


@pytest.mark.parametrize(
    ("reported", "found"),
    [
        ({"test_top1": 73.6, "test_top3": 92.8},
         [("top_1_accuracy", 0.736, "test"), ("top_3_accuracy", 0.928, "test")]),
        ({"val": {"acc@1": 0.71, "loss": 0.9}}, [("top_1_accuracy", 0.71, "val")]),
        ({"split": "val", "epoch": 6, "top_1_accuracy": 0.788}, [("top_1_accuracy", 0.788, "val")]),
        ({"valTop1Acc": 71}, [("top_1_accuracy", 0.71, "val")]),
        ({"best_validation_accuracy": 0.5}, [("top_1_accuracy", 0.5, "val")]),
        ({"metrics": {"top_3_accuracy": {"value": 0.9, "ci_low": 0.8}}}, [("top_3_accuracy", 0.9, None)]),
        ({"test": {"balanced_accuracy": 0.6, "auroc": 0.9, "macro-F1": 0.5}},
         [("balanced_accuracy", 0.6, "test"), ("auroc_macro", 0.9, "test"), ("macro_f1", 0.5, "test")]),
        ({"top1": True, "top3": "0.9", "top5": None, "accuracy_eczema": 0.4, "top1_std": 0.01}, []),
        ({"top1": 730}, []),
    ],
)  # fmt: skip
def test_numbers_are_known_by_the_names_others_give_them(reported, found):
    """What has no name here is no claim; nothing is guessed from a value."""
    assert [(c.metric, c.value, c.split) for c in claims(reported)] == found


def result(top_1, *, open_top_1=None, by_case=None, splits=("test",), n_images=15_561):
    metrics = {"top_1_accuracy": {"value": top_1}, "open_top_1_accuracy": {"value": open_top_1}}
    cases = {"top_1_accuracy": {"value": by_case}}
    return {"metrics": metrics, "cases": cases, "splits": list(splits), "n_images": n_images}


@pytest.mark.parametrize(
    ("written", "found", "is_reproduced"),
    [
        (73.6, 0.7361, True),
        (73.6, 0.7374, True),  # rounding .0005, and .001 beside it
        (73.6, 0.7376, False),
        (0.7361, 0.7370, True),
        (0.7361, 0.7373, False),
        (74, 0.7359, True),  # whole percent were written
    ],
)
def test_reproduced_means_within_rounding_and_a_thousandth(written, found, is_reproduced):
    compared = reproduction({"test_top1": written}, result(found))
    assert compared.claims[0].is_reproduced == is_reproduced


def test_of_few_images_one_may_differ():
    assert reproduction({"test_top1": 0.5}, result(0.52, n_images=50)).missed == []
    assert reproduction({"test_top1": 0.5}, result(0.54, n_images=50)).missed


def test_the_open_set_or_the_case_is_named_where_it_gives_the_number():
    by_open = reproduction({"top1": 66.6}, result(0.736, open_top_1=0.666))
    assert "with `other` among the answers" in by_open.causes[0]
    by_case = reproduction({"top1": 75.2}, result(0.736, open_top_1=0.666, by_case=0.752))
    assert by_case.causes == (
        "1 of 1 numbers are those of another reading of the same answers: one answer a case",
    )


def test_numbers_of_another_split_are_listed_and_not_compared():
    found = reproduction({"val": {"top1": 0.71}, "test": {"top1": 0.736}}, result(0.736))
    assert [(c.split, c.is_comparable, c.is_reproduced) for c in found.claims] == [
        ("val", False, False),
        ("test", True, True),
    ]
    assert found.missed == []


def test_without_known_numbers_nothing_is_said():
    assert reproduction({"loss": 0.3}, result(0.7)) is None


def test_a_split_that_is_not_stated_is_a_possible_cause():
    assert "does not say of which split" in reproduction({"top1": 0.9}, result(0.7)).causes[0]


@pytest.fixture
def misread(tmp_path):
    """An artefact whose config.json states another preprocessing than the one its numbers were made with.

    The labels of 70 test images are its own answers under that one, so its makers saw 100 %.
    """

    def make(stated, meant):
        manifest = make_manifest(tmp_path, n=80)
        folder = make_artefact(tmp_path / "tiny", seed=3)
        checkpoint = replace(load_checkpoint(folder), preprocessing=meant, other_class=None)
        meant_run = score(checkpoint, manifest, settings=Settings(batch_size=8), out=tmp_path / "meant")
        said = read_predictions(meant_run / "predictions.parquet")
        frame = pd.read_csv(manifest, dtype=str, keep_default_na=False).set_index("image_id")
        answers = said.logits[:, :3].argmax(axis=1)  # never `other`
        frame.loc[said.frame["image_id"], "label"] = np.array(said.class_names)[answers]
        frame.to_csv(manifest)
        config = json.loads((folder / "config.json").read_text())
        config["preprocessing"] = stated.to_dict()
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "metrics.json").write_text(json.dumps({"test_top1": 100.0}))
        return folder, manifest

    return make


SIGLIP = Preprocessing.for_norm("siglip", 32)


@pytest.mark.parametrize("change", [0, 3])
def test_the_preprocessing_that_gives_the_numbers_is_found(misread, tmp_path, monkeypatch, change):
    """Each way in which packages differ is tried on the test images, and named with its counts."""
    monkeypatch.chdir(tmp_path)
    name, meant = list(alternatives(SIGLIP).items())[change]
    folder, manifest = misread(SIGLIP, meant)
    done = CliRunner().invoke(
        app, ["score", str(folder), "--data", str(manifest), "--n-resamples", "20", "--calibrators", "none",
              "--batch-size", "8"],
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "metrics.json: NOT reproduced: top-1 100.0 % there" in done.stdout
    assert f"why: with {name}, 70 of 70 images are right and not " in done.stdout


def test_a_reproduced_number_is_said_in_one_line_and_kept(misread, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder, manifest = misread(SIGLIP, SIGLIP)
    arguments = [
        "score",
        str(folder),
        "--data",
        str(manifest),
        "--n-resamples",
        "20",
        "--calibrators",
        "none",
    ]
    done = CliRunner().invoke(app, [*arguments, "--out", "run"])
    assert "metrics.json: reproduces top-1 100.0 %\n" in done.stdout
    kept = json.loads((tmp_path / "run" / "run.json").read_text())["reproduction"]
    assert (kept["claims"][0]["is_reproduced"], kept["causes"]) == (True, [])
    done = CliRunner().invoke(app, [*arguments, "--out", "run", "--json"])
    assert json.loads(done.stdout)["reproduction"] == kept
