"""Prediction sets reach the user: the run's table and the comparison's are what the predictions give."""

import json

import numpy as np
import pandas as pd
import pytest

from ddeval import io
from ddeval.metrics.arrays import softmax
from ddeval.score.answers import Labelled
from ddeval.score.sets import prediction_sets
from tests import reference
from tests.test_score_abstain import CLASSES, made, run


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    return made(tmp_path_factory.mktemp("sets"))


def table_of(run_folder):
    return io.read_parquet(run_folder / "labels-v0" / "curves" / "conformal.parquet")[0]


def halves(folder):
    """Labels and probabilities of the calibration split and of the judged one, from the user's files."""
    manifest = pd.read_csv(folder / "manifest.csv").set_index("image_id")
    answers = pd.read_csv(folder / "answers.csv").set_index("image_id").loc[manifest.index, list(CLASSES)]
    probs = softmax(answers.to_numpy().astype(np.float32))
    labels = pd.Index(CLASSES).get_indexer(manifest["label"])
    is_fit = (manifest["split"] == "calibration").to_numpy()
    return (labels[is_fit], probs[is_fit]), (labels[~is_fit], probs[~is_fit])


def test_a_run_says_how_long_its_lists_are(scored):
    """LAC against the slow definition, over the open set; the malignant row is melanoma alone."""
    (fit_labels, fit), (labels, probs) = halves(scored)
    sets = [reference.lac_set(fit_labels, fit, row, 0.9) for row in probs]
    table = table_of(scored / "run").set_index(["method", "images"])
    for images, rows in (("all", range(600)), ("malignant", np.flatnonzero(labels == 1))):
        row = table.loc["LAC", images]
        hits = [labels[i] in sets[i] for i in rows]
        assert row["n_images"] == len(hits)
        assert row["coverage"] == pytest.approx(np.mean(hits))
        assert row["mean_size"] == pytest.approx(np.mean([len(sets[i]) for i in rows]))
        assert row["share_empty"] == pytest.approx(np.mean([not sets[i] for i in rows]))
        assert row["share_single"] == pytest.approx(np.mean([len(sets[i]) == 1 for i in rows]))
        assert row["ci_low"] < row["coverage"] < row["ci_high"]
    assert set(table["basis"]) == {"calibration split"}
    assert set(table["n_fit"]) == {1000}
    assert table.loc[("APS", "all"), "coverage"] == pytest.approx(0.9, abs=0.045)


def test_a_changed_cell_of_the_table_is_found(scored, tmp_path):
    folder = made(tmp_path / "r", n=300, n_calibration=150)
    path = folder / "run" / "labels-v0" / "curves" / "conformal.parquet"
    table, metadata = io.read_parquet(path)
    table.loc[0, "mean_size"] += 0.01
    io.write_parquet(path, table, metadata=metadata)
    found = run("verify", folder / "run", code=1)
    assert "conformal.parquet: mean_size of row 1 is" in found.output


def test_without_a_calibration_split_the_lists_are_made_over_folds_of_patients(tmp_path):
    folder = made(tmp_path / "r", n=400, n_calibration=0)
    table = table_of(folder / "run")
    assert set(table["basis"]) == {"5 folds of groups"}
    assert set(table["n_fit"]) == {320}
    assert table["coverage"].between(0.8, 1.0).all()


def labelled(n):
    rng = np.random.default_rng(n)
    probs = softmax(rng.normal(size=(n, 3)))
    return Labelled(np.array([f"i{k}" for k in range(n)], dtype=object), rng.integers(3, size=n), probs)


def test_with_nothing_to_calibrate_on_the_row_is_nan_and_says_why():
    table = prediction_sets(labelled(8), None, None, groups=np.arange(8) // 2, seed=0, n_resamples=5)
    assert table["method"].tolist() == ["LAC", "APS"]
    assert (
        table[["coverage", "ci_low", "ci_high", "mean_size", "share_single", "share_empty"]]
        .isna()
        .all(axis=None)
    )
    assert set(table["note"]) == {"no calibration split, and too few groups (4) for 5 folds"}
    assert table["n_images"].tolist() == [8, 8]


def test_too_few_calibration_images_hold_every_class_and_say_so():
    table = prediction_sets(labelled(20), labelled(8), None, groups=np.arange(20), seed=0, n_resamples=5)
    assert table["mean_size"].tolist() == [3.0, 3.0]
    assert set(table["note"]) == {"8 images cannot promise 90%: every list holds every class"}


def test_the_order_of_images_changes_no_list():
    """APS draws a share for each image; it is drawn by the order of the ids."""
    judged, fit, groups = labelled(60), labelled(40), np.arange(60) // 2
    shuffled = np.random.default_rng(0).permutation(60)
    back = Labelled(*(part[::-1] for part in fit))
    moved = Labelled(*(part[shuffled] for part in judged))
    tables = [
        prediction_sets(judged, fit, None, groups=groups, seed=1, n_resamples=20),
        prediction_sets(moved, back, None, groups=groups[shuffled], seed=1, n_resamples=20),
    ]
    pd.testing.assert_frame_equal(*tables)


def test_a_comparison_says_of_each_run_what_the_run_says_and_of_an_ensemble_too(scored, tmp_path):
    answers = pd.read_csv(scored / "answers.csv")
    noisy = answers.copy()
    noisy[list(CLASSES)] += np.random.default_rng(1).normal(size=(len(noisy), 4))
    noisy.to_csv(tmp_path / "b.csv", index=False)
    run("score", tmp_path / "b.csv", "--values", "logits", "--data", scored / "manifest.csv", "--out",
        tmp_path / "b", "--other-class", "other", "--n-resamples", 10, "--calibrators", "none")  # fmt: skip
    found = run("compare", scored / "run", tmp_path / "b", "--ensemble", "answers+b", "--json",
                "--n-resamples", 10, "--out", tmp_path / "page.html")  # fmt: skip
    table = pd.DataFrame(json.loads(found.stdout)["conformal"]).set_index("run")
    for name, folder in (("answers", scored / "run"), ("b", tmp_path / "b")):
        own = table_of(folder)
        for column in ("method", "images", "coverage", "mean_size", "share_single", "n_fit", "basis"):
            assert table.loc[name, column].tolist() == own[column].tolist(), column

    (fit_labels, a), (labels, test_a) = halves(scored)
    noisy.to_csv(tmp_path / "answers.csv", index=False)
    (tmp_path / "manifest.csv").write_text((scored / "manifest.csv").read_text())
    (_, b), (_, test_b) = halves(tmp_path)
    sets = [reference.lac_set(fit_labels, (a + b) / 2, row, 0.9) for row in (test_a + test_b) / 2]
    row = table.loc["answers+b"].set_index(["method", "images"]).loc[("LAC", "all")]
    assert row["coverage"] == pytest.approx(
        np.mean([k in held for k, held in zip(labels, sets, strict=True)])
    )
    assert row["mean_size"] == pytest.approx(np.mean([len(held) for held in sets]))


def test_both_pages_show_the_lists(scored, tmp_path):
    for command in (("score", scored / "run"), ("compare", scored / "run", made(tmp_path / "b") / "run")):
        out = ("--report" if command[0] == "score" else "--out", tmp_path / f"{command[0]}.html")
        run(*command, *out, "--n-resamples", 10)
        page = (tmp_path / f"{command[0]}.html").read_text()
        part = page[page.index("Lists of conditions that hold the label of 90 %") :]
        part = part[: part.index("</table>")]
        coverage = table_of(scored / "run")["coverage"][0]
        assert f"{100 * coverage:.1f}" in part
        assert "calibration split" in part
