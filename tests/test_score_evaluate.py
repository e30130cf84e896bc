"""Numbers of a run: from predictions and labels alone, with everything left out counted."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from ddeval import io, tables
from ddeval.data.importers import IMPORTERS
from ddeval.data.manifest import read_manifest
from ddeval.data.manifest import write_manifest as write_frame
from ddeval.errors import InputError
from ddeval.metrics import balanced_accuracy, ece, top_k_accuracy
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score import folder
from ddeval.score.evaluate import evaluate
from ddeval.score.file_run import execute_file, prepare_file
from ddeval.score.foreign import read_file
from ddeval.score.numbers import confident_errors, label_codes
from ddeval.score.predictions import Predictions, read_predictions, write_predictions
from ddeval.score.recalibration import closed_set_logits, recalibration
from ddeval.score.rows import group_unit
from ddeval.score.run import score
from ddeval.score.verify import verify
from tests.score_fixture import SMALL, make_artefact, make_manifest

CLASSES = ("acne", "eczema", "tinea")
FEW = {"n_resamples": 50, "calibrators": "none"}


def write_manifest(path, n=60, **columns):
    """Three photographs a patient; of 60 photographs the first 21 are for calibration, 39 for test."""
    labels = np.array(CLASSES)[np.random.default_rng(0).integers(0, 3, n)]
    frame = pd.DataFrame(
        {
            "image_id": [f"im{i}" for i in range(n)],
            "label": labels,
            "split": ["calibration" if i < n * 0.35 else "test" for i in range(n)],
            "patient_id": [f"p{i // 3}" for i in range(n)],
        },
        dtype=object,
    ).assign(**columns)
    frame.to_csv(path, index=False)
    return path


def write_predictions_csv(path, manifest, *, sharpness=2.0, seed=0):
    frame = pd.read_csv(manifest, dtype=object)
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(frame), 3)) + sharpness * (
        frame["label"].fillna("acne").to_numpy()[:, None] == np.array(CLASSES)
    )
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    pd.DataFrame(probs, columns=list(CLASSES)).assign(image_id=frame["image_id"]).to_csv(path, index=False)
    return path


def file_run(tmp_path, **options):
    manifest = options.pop("manifest", None) or write_manifest(tmp_path / "manifest.csv")
    path = write_predictions_csv(tmp_path / "model.csv", manifest)
    return execute_file(prepare_file(read_file(path), manifest, out=tmp_path / "run", **options))


def labels_of(run, manifest):
    """Labels and probabilities of the judged rows, joined the plain way."""
    p = read_predictions(run / "predictions.parquet")
    p = p.rows((p.frame["split"] == "test").to_numpy())
    label = pd.read_csv(manifest, dtype=object).set_index("image_id")["label"].loc[p.frame["image_id"]]
    return np.array([p.class_names.index(name) for name in label]), p.pred_probs()


def test_numbers_are_those_of_the_metrics_on_the_test_split(tmp_path):
    run = file_run(tmp_path)
    result = evaluate(run, **FEW)
    labels, probs = labels_of(run, tmp_path / "manifest.csv")
    assert (result["n_images"], result["n_groups"], result["group_unit"]) == (39, 13, "patients")
    for name, metric in {
        "top_1_accuracy": top_k_accuracy,
        "balanced_accuracy": balanced_accuracy,
        "ece": ece,
    }.items():
        assert result["metrics"][name]["value"] == pytest.approx(metric(labels, probs))


def test_the_json_has_the_keys_that_scripts_read(tmp_path):
    result = evaluate(file_run(tmp_path), **FEW)
    assert {"run", "n_images", "n_groups", "labels", "metrics", "per_class", "confusion"} <= set(result)
    assert {"value", "ci_low", "ci_high"} <= set(result["metrics"]["top_1_accuracy"])
    assert result["labels"] == "v0"
    assert np.sum(result["confusion"]["counts"]) == 39
    json.loads(io.to_json(result))


def test_numbers_are_written_as_tables_beside_the_predictions(tmp_path):
    run = file_run(tmp_path)
    result = evaluate(run, n_resamples=50, calibrators="quick")
    frame, made_from = io.read_parquet(run / "labels-v0" / "metrics.parquet")
    tables.check(frame, tables.METRICS, where="metrics")
    assert made_from["predictions"] == read_predictions(run / "predictions.parquet").fingerprint
    stored = io.read_json(run / "labels-v0" / "metrics.json")
    assert stored["metrics"]["top_1_accuracy"]["value"] == result["metrics"]["top_1_accuracy"]["value"]
    names = {path.stem for path in (run / "labels-v0" / "curves").glob("*.parquet")}
    assert {
        "reliability",
        "reliability_after",
        "calibrators",
        "risk_coverage",
        "confusion",
        "gallery",
    } <= names
    checks = io.read_json(run / "labels-v0" / "checks.json")
    assert {"code", "title", "status", "message"} == set(checks[0])


def test_twice_is_the_same_bytes_and_another_seed_is_not(tmp_path):
    run = file_run(tmp_path)
    evaluate(run, **FEW)
    files = {p: p.read_bytes() for p in (run / "labels-v0").rglob("*") if p.is_file()}
    evaluate(run, **FEW)
    assert all(path.read_bytes() == content for path, content in files.items())
    evaluate(run, seed=1, **FEW)
    assert (run / "labels-v0/metrics.parquet").read_bytes() != files[run / "labels-v0/metrics.parquet"]


def test_each_look_is_a_line_in_the_ledger_beside_the_manifest(tmp_path):
    run = file_run(tmp_path)
    for _ in range(2):
        evaluate(run, **FEW)
    looks = folder.read_looks(tmp_path / "manifest.csv")
    assert [(look["run"], look["labels"], look["splits"]) for look in looks] == [("run", "v0", ["test"])] * 2


def test_a_ledger_that_cannot_be_written_is_said_not_hidden(tmp_path):
    run = file_run(tmp_path)
    (tmp_path / "manifest.looks.jsonl").mkdir()
    notes = []
    evaluate(run, note=notes.append, **FEW)
    assert any("this look was not entered in the ledger" in line for line in notes)


def test_images_without_a_label_are_counted_and_left_out(tmp_path):
    manifest = write_manifest(tmp_path / "manifest.csv")
    frame = pd.read_csv(manifest, dtype=object)
    frame.loc[[30, 40], "label"] = None
    frame.to_csv(manifest, index=False)
    notes = []
    result = evaluate(file_run(tmp_path, manifest=manifest), note=notes.append, **FEW)
    assert (result["n_images"], result["n_unlabelled"]) == (37, 2)
    assert notes[0] == "images without a label under v0, not counted: 2"


def test_a_manifest_without_labels_is_refused_and_the_predictions_kept(tmp_path):
    manifest = write_manifest(tmp_path / "manifest.csv")
    pd.read_csv(manifest, dtype=object).drop(columns="label").to_csv(manifest, index=False)
    frame = pd.read_csv(manifest, dtype=object).assign(label="acne")
    frame.to_csv(tmp_path / "other.csv", index=False)
    path = write_predictions_csv(tmp_path / "model.csv", tmp_path / "other.csv")
    run = execute_file(prepare_file(read_file(path), manifest, out=tmp_path / "run"))
    with pytest.raises(InputError, match="no label for any of the 39 images"):
        evaluate(run, **FEW)
    assert (run / "predictions.parquet").is_file()


def test_a_label_that_is_no_class_is_refused_with_its_count(tmp_path):
    manifest = write_manifest(tmp_path / "manifest.csv")
    run = file_run(tmp_path, manifest=manifest)
    frame = pd.read_csv(manifest, dtype=object).set_index("image_id")
    frame["label"] = frame["label"].replace("tinea", "ringworm")
    with pytest.raises(InputError, match=r"labels that are no class of the model: 'ringworm' \(\d+\)"):
        label_codes(frame, CLASSES, where="m.csv")
    assert evaluate(run, **FEW)["n_images"] == 39


def test_a_manifest_that_changed_since_is_refused(tmp_path):
    run = file_run(tmp_path)
    text = (tmp_path / "manifest.csv").read_text()
    (tmp_path / "manifest.csv").write_text(text.replace("im50,acne", "im50,tinea").replace("p19", "p99"))
    with pytest.raises(InputError, match=r"manifest\.csv: found sha256 .* the manifest run was made from"):
        evaluate(run, **FEW)


def test_a_manifest_that_moved_is_found_by_its_new_place(tmp_path):
    run = file_run(tmp_path)
    (tmp_path / "manifest.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(InputError, match=r"which is not there; .* pass where it lies now with --data"):
        evaluate(run, **FEW)
    assert evaluate(run, manifest=tmp_path / "moved.csv", **FEW)["n_images"] == 39


def overlay(tmp_path, manifest, outcomes):
    """A frozen overlay of the test split: image_id -> outcome or new label."""
    frame = pd.read_csv(manifest, dtype=object).set_index("image_id")
    rows = []
    for image_id, outcome in outcomes.items():
        is_label = outcome in CLASSES
        rows.append(
            {
                "image_id": image_id, "image_sha256": None, "case_id": image_id, "split": "test",
                "given_label": frame.loc[image_id, "label"], "outcome": "relabel" if is_label else outcome,
                "labels": [{"label": outcome, "weight": 1.0}] if is_label else [],
                "confidence": 1.0 if is_label else None, "rule": "agreed", "readers": ["a", "b"],
                "basis": "consensus", "overlay_version": "v1",
            }
        )  # fmt: skip
    io.write_parquet(
        tmp_path / "labels" / "test-v1.parquet",
        pd.DataFrame(rows),
        metadata={"overlay_version": "v1", "split": "test"},
    )


def test_an_overlay_changes_the_numbers_and_never_the_predictions(tmp_path):
    """One wrong label put right and one image off-topic, worked out by hand from the plain join."""
    run = file_run(tmp_path)
    before = evaluate(run, **FEW)
    logits = (run / "predictions.parquet").read_bytes()
    labels, probs = labels_of(run, tmp_path / "manifest.csv")
    wrong = np.flatnonzero(probs.argmax(axis=1) != labels)[0]
    right = np.flatnonzero(probs.argmax(axis=1) == labels)[0]
    ids = [f"im{21 + i}" for i in range(39)]
    overlay(tmp_path, tmp_path / "manifest.csv",
            {ids[wrong]: CLASSES[probs[wrong].argmax()], ids[right]: "off_topic"})  # fmt: skip

    after = evaluate(run, "v1", overlays=tmp_path / "labels", **FEW)

    n_right = round(before["metrics"]["top_1_accuracy"]["value"] * 39)
    assert after["metrics"]["top_1_accuracy"]["value"] == pytest.approx(n_right / 38)  # one more, one fewer
    assert (after["labels"], after["n_unlabelled"]) == ("v1", 1)
    assert (run / "predictions.parquet").read_bytes() == logits
    assert (run / "labels-v0/metrics.json").is_file()
    assert (run / "labels-v1/metrics.json").is_file()


def test_an_unknown_overlay_is_refused_with_those_there_are(tmp_path):
    run = file_run(tmp_path)
    with pytest.raises(InputError, match="--labels v7: found no overlay"):
        evaluate(run, "v7", overlays=tmp_path / "labels", **FEW)


def test_temperature_is_fitted_on_the_calibration_split_and_judged_on_the_test_split(tmp_path):
    result = evaluate(file_run(tmp_path), **FEW)
    assert result["recalibration"]["basis"] == "calibration split"
    assert result["recalibration"]["n_fit"] == 21
    parts = result["metrics"]
    assert parts["nll_calibration"]["value"] + parts["nll_refinement"]["value"] == pytest.approx(
        parts["nll"]["value"]
    )


def test_without_a_calibration_split_temperature_is_cross_fitted(tmp_path):
    manifest = write_manifest(tmp_path / "manifest.csv", split="test")
    result = evaluate(file_run(tmp_path, manifest=manifest), **FEW)
    assert "fold" in result["recalibration"]["basis"]
    assert len(result["recalibration"]["temperatures"]) == 5


def test_too_few_groups_to_cross_fit_is_none_not_a_guess(tmp_path):
    manifest = write_manifest(tmp_path / "manifest.csv", n=12, split="test")
    assert evaluate(file_run(tmp_path, manifest=manifest), **FEW)["recalibration"] is None


def with_other(n=6):
    """Classes a, b, other; the third image is labelled other."""
    frame = pd.DataFrame({"image_id": [f"im{i}" for i in range(n)]}, dtype=object)
    frame["case_id"], frame["group"], frame["split"] = frame["image_id"], frame["image_id"], "test"
    logits = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    return Predictions(frame, logits, ("a", "other", "b"), other_class="other"), np.array([0, 2, 1, 2, 0, 0])


def test_the_closed_set_drops_the_column_and_the_rows_of_other():
    predictions, labels = with_other()
    closed = closed_set_logits(predictions, labels)
    assert closed.labels.tolist() == [0, 1, 1, 0, 0]
    np.testing.assert_allclose(closed.logits, predictions.logits[[0, 1, 3, 4, 5]][:, [0, 2]])


def test_recalibration_of_no_target_image_is_none():
    predictions, labels = with_other()
    closed = closed_set_logits(predictions, np.ones_like(labels))
    rng = np.random.default_rng(0)
    assert recalibration(closed, None, run="r", calibrators="none", rng=rng, n_resamples=10) is None


def test_confident_errors_are_wrong_surest_first_and_never_about_other():
    """Of six images the one labelled other is left out; probabilities are over a and b alone."""
    predictions, labels = with_other()
    errors = confident_errors(predictions, labels)
    assert "im2" not in set(errors["image_id"])
    assert (errors["label"] != errors["predicted"]).all()
    assert "other" not in set(errors["predicted"])
    assert errors["confidence"].is_monotonic_decreasing
    x = predictions.logits.astype(float)
    wrong = [i for i, label in enumerate(labels) if label != 1 and (x[i, 0] > x[i, 2]) != (label == 0)]
    assert sorted(errors["image_id"]) == [f"im{i}" for i in wrong]


def test_thumbnails_are_written_for_the_gallery_and_hold_no_metadata(tmp_path):
    manifest = make_manifest(tmp_path)
    run = score(
        load_checkpoint(make_artefact(tmp_path / "tiny")), manifest, settings=SMALL, out=tmp_path / "run"
    )
    evaluate(run, **FEW)
    gallery, _ = io.read_parquet(run / "labels-v0/curves/gallery.parquet")
    assert list(gallery.columns) == ["image_id", "label", "predicted", "confidence", "thumbnail"]
    for path in gallery["thumbnail"]:
        content = (run / path).read_bytes()
        assert content[8:12] == b"WEBP"
        assert b"EXIF" not in content
    labels = read_manifest(manifest).set_index("image_id")["label"]
    assert (labels.loc[gallery["image_id"]].to_numpy() == gallery["label"].to_numpy()).all()


def test_a_gallery_without_images_says_how_many_cannot_be_shown(tmp_path):
    notes = []
    result = evaluate(file_run(tmp_path), note=notes.append, **FEW)
    n_wrong = round((1 - result["metrics"]["top_1_accuracy"]["value"]) * 39)
    assert f"images of the gallery that could not be shown: {n_wrong}" in notes


def test_the_unit_of_the_intervals_is_named():
    assert group_unit(pd.Series(["patient:1", "patient:2"])) == "patients"
    assert (
        group_unit(pd.Series(["image:1", "patient:2", "lesion:1"])) == "patients, else lesions, else images"
    )


def test_a_predictions_file_with_its_own_labels_needs_no_manifest(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(
        tmp_path / "p.npz",
        logits=rng.normal(size=(30, 3)),
        labels=rng.integers(0, 3, 30),
        groups=np.arange(30) // 2,
        class_names=np.array(CLASSES),
    )
    run = execute_file(prepare_file(read_file(tmp_path / "p.npz"), None, out=tmp_path / "run"))
    result = evaluate(run, **FEW)
    assert (result["n_images"], result["n_groups"], result["group_unit"]) == (30, 15, "patients")


def test_another_file_does_not_overwrite_a_run(tmp_path):
    run = file_run(tmp_path)
    path = write_predictions_csv(tmp_path / "model.csv", tmp_path / "manifest.csv", seed=1)
    with pytest.raises(InputError, match="found predictions file sha256"):
        execute_file(prepare_file(read_file(path), tmp_path / "manifest.csv", out=run))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"found no run\.json; expected a run folder"):
        evaluate(tmp_path)


def test_a_torn_line_of_the_ledger_stays_visible_and_harms_no_other(tmp_path):
    """A machine lost power while it wrote the second look; the third goes on a line of its own."""
    manifest = tmp_path / "m.csv"
    folder.record_look(manifest, {"run": "a"})
    with folder.ledger_path(manifest).open("a") as file:
        file.write('{"run": "b"')
    folder.record_look(manifest, {"run": "c"})
    assert [look["run"] for look in folder.read_looks(manifest)] == ["a", "(line 2 is unreadable)", "c"]


@pytest.fixture(scope="module")
def ham10000(real_data, tmp_path_factory):
    """Manifest of the 10,015 real images."""
    path = tmp_path_factory.mktemp("ham10000") / "manifest.csv"
    write_frame(path, IMPORTERS["ham10000"](real_data / "ham10000"))
    return path


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "top_1", "balanced", "auroc"),
    [
        ("00Compare", 0.7246, 0.676, 0.931),
        ("01Threshold", 0.7421, 0.594, 0.929),
        ("02Compare", 0.7393, 0.693, 0.932),
    ],
)
def test_ham10000_predictions_give_their_published_numbers_with_lesion_intervals(
    real_data, ham10000, tmp_path, name, top_1, balanced, auroc
):
    file = read_file(
        real_data / "ham10000_predictions" / f"predictions_01DataShift{name}41.csv", id_column="image"
    )
    run = execute_file(prepare_file(file, ham10000, out=tmp_path / "run"))
    result = evaluate(run, n_resamples=50, calibrators="none")
    found = {k: v["value"] for k, v in result["metrics"].items()}
    assert found["top_1_accuracy"] == pytest.approx(top_1, abs=1e-3)
    assert found["balanced_accuracy"] == pytest.approx(balanced, abs=1e-3)
    assert found["auroc_macro"] == pytest.approx(auroc, abs=1e-3)
    assert result["group_unit"] == "lesions"
    assert result["n_groups"] < result["n_images"] == 2927


def test_scores_of_a_model_are_judged_by_case_too(tmp_path):
    """Two photographs a case: 15 cases of 30 test images, and mixed cases are counted."""
    manifest = make_manifest(tmp_path)
    run = score(
        load_checkpoint(make_artefact(tmp_path / "tiny")),
        manifest,
        settings=replace(SMALL),
        out=tmp_path / "r",
    )
    result = evaluate(run, **FEW)
    assert result["n_cases"] == 15
    assert result["cases"]["open_top_1_accuracy"]["n_images"] + result["n_mixed_cases"] == 15


def test_verify_finds_nothing_where_nothing_changed(tmp_path):
    run = file_run(tmp_path)
    evaluate(run, **FEW)
    overlay(tmp_path, tmp_path / "manifest.csv", {"im30": "off_topic"})
    evaluate(run, "v1", overlays=tmp_path / "labels", **FEW)
    found = verify(run)
    assert (found.labels, found.differences) == (("v0", "v1"), ())
    assert found.n_cells > 1000


@pytest.mark.parametrize("column", ["value", "ci_low", "n_images"])
def test_verify_names_the_one_cell_of_the_table_that_was_changed(tmp_path, column):
    run = file_run(tmp_path)
    evaluate(run, **FEW)
    path = run / "labels-v0" / "metrics.parquet"
    frame, made_from = io.read_parquet(path)
    row = frame.index[frame["metric"] == "top_3_accuracy"][0]
    frame.loc[row, column] = frame.loc[row, column] + (1 if column == "n_images" else 1e-4)
    io.write_parquet(path, frame, metadata=made_from)
    differences = verify(run).differences
    assert [(d.file, d.cell) for d in differences] == [
        ("labels-v0/metrics.parquet", f"{column} of top_3_accuracy all")
    ]


def test_verify_finds_a_changed_digit_in_the_json_and_in_a_curve(tmp_path):
    run = file_run(tmp_path)
    result = evaluate(run, **FEW)
    result["per_class"]["acne"]["sensitivity"]["value"] += 0.001
    io.write_json(run / "labels-v0" / "metrics.json", result)
    curve, _ = io.read_parquet(run / "labels-v0" / "curves" / "confusion.parquet")
    curve.loc[4, "n"] += 1
    io.write_parquet(run / "labels-v0" / "curves" / "confusion.parquet", curve)
    found = {d.file: d.cell for d in verify(run).differences}
    assert found == {
        "labels-v0/metrics.json": "per_class.acne.sensitivity.value",
        "labels-v0/curves/confusion.parquet": "n of row 5",
    }


def test_verify_finds_changed_predictions(tmp_path):
    run = file_run(tmp_path)
    evaluate(run, **FEW)
    p = read_predictions(run / "predictions.parquet")
    p.probs[25] = p.probs[25][::-1]
    write_predictions(run / "predictions.parquet", p)
    assert verify(run).differences


def test_verify_of_a_run_without_numbers_says_how_to_make_them(tmp_path):
    with pytest.raises(InputError, match=r"found no numbers; .* Make them: ddeval score"):
        verify(file_run(tmp_path))
