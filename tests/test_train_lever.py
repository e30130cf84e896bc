"""Which lever: planted wrong labels make vetting worth something, and only they do."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from typer.testing import CliRunner

from ddeval.cli import BAD_INPUT, OK, app
from ddeval.data.overlay import Overlay
from ddeval.errors import InputError
from ddeval.io import write_csv, write_json, write_parquet
from ddeval.score.file_run import execute_file, prepare_file
from ddeval.score.folder import EMBEDDINGS_FILE, RUN_FILE, read_run
from ddeval.score.foreign import read_file
from ddeval.train.lever import lever
from ddeval.train.linear import SHARES, fit, sums

CLASSES = ("acne", "eczema", "wart", "other")
N_CASES, D = 480, 6


def planted(folder, *, wrong=0.6, seed=0):
    """A run of every split: two photographs a case, clouds a class; in train, acne is called eczema."""
    rng = np.random.default_rng(seed)
    case = np.repeat(np.arange(N_CASES), 2)
    truth = np.arange(N_CASES) % 4
    split = np.where(np.arange(N_CASES) % 8 < 4, "train", "test")
    label = truth.copy()
    acne = np.flatnonzero((split == "train") & (truth == 0))
    label[acne[: round(wrong * len(acne))]] = 1
    means = 1.8 * np.eye(4, D)
    frame = pd.DataFrame(
        {
            "image_id": [f"{c:03d}-{i % 2}" for i, c in enumerate(case)],
            "case_id": [f"{c:03d}" for c in case],
            "patient_id": [f"p{c:03d}" for c in case],
            "label": np.array(CLASSES)[label[case]],
            "split": split[case],
        }
    )
    write_csv(folder / "manifest.csv", frame)
    probs = pd.DataFrame(np.full((len(frame), 4), 0.25), columns=list(CLASSES)).assign(
        image_id=frame["image_id"]
    )
    write_parquet(folder / "said.parquet", probs)
    job = prepare_file(
        read_file(folder / "said.parquet"), folder / "manifest.csv", out=folder / "run", split="all",
        other_class="other",
    )  # fmt: skip
    run = execute_file(job)
    features = means[truth[case]] + rng.normal(0, 1, (len(case), D))
    np.save(run / EMBEDDINGS_FILE, features.astype(np.float32))
    return run, frame, truth[case], features.astype(np.float32)


def vetted(frame, truth, *, split="train", readers=("a", "b"), share=1.0):
    """The overlay of readers who are never wrong, over the first share of the cases of a split."""
    rows = frame[frame["split"] == split]
    cases = rows["case_id"].unique()
    rows = rows[rows["case_id"].isin(cases[: round(share * len(cases))])]
    right = np.array(CLASSES)[truth[rows.index]]
    held = pd.DataFrame(
        {
            "image_id": rows["image_id"],
            "image_sha256": None,
            "case_id": rows["case_id"],
            "split": split,
            "given_label": rows["label"],
            "outcome": np.where(rows["label"] == right, "keep", "relabel"),
            "labels": [[{"label": name, "weight": 1.0}] for name in right],
            "confidence": 1.0,
            "rule": "agreed",
            "readers": [list(readers)] * len(rows),
            "basis": "reading",
            "overlay_version": "v1",
        }
    )
    return Overlay(held.reset_index(drop=True), "v1", split, {}, "0" * 64)


@pytest.fixture(scope="module")
def noisy(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("noisy"))


def slope(found, name, part="so_far", class_name=None):
    table = found.slopes
    is_class = table["class_name"].isna() if class_name is None else table["class_name"] == class_name
    (row,) = table[(table["lever"] == name) & (table["part"] == part) & is_class].to_dict("records")
    return row


def test_the_head_is_shrunken_linear_discriminant_analysis(noisy):
    """sklearn's, of the same shrinkage D / (N + D); soft targets of weight 1 are hard ones."""
    _, _, truth, features = noisy
    wide = features.astype(np.float64)
    head = fit(sums(wide, np.eye(4)[truth]))
    n, d = wide.shape
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=d / (n + d)).fit(wide, truth)
    ours = wide @ head.weights + head.offsets
    np.testing.assert_allclose(
        ours - ours[:, :1], theirs.decision_function(wide) - theirs.decision_function(wide)[:, :1], atol=1e-9
    )


def test_sums_of_two_halves_are_the_sums_of_the_whole(noisy):
    """So images can be added: no fit sees an image twice or forgets one."""
    _, _, truth, features = noisy
    wide, targets = features.astype(np.float64), np.eye(4)[truth]
    whole, parts = sums(wide, targets), [sums(wide[h], targets[h]) for h in (slice(100), slice(100, None))]
    for total, a, b in zip(whole, *parts, strict=True):
        np.testing.assert_allclose(a + b, total, atol=1e-9)


def test_planted_wrong_labels_make_vetting_worth_more_than_new_cases(noisy):
    """60 % of acne is called eczema: verdicts put it right, more cases would not."""
    run, frame, truth, _ = noisy
    found = lever(run, overlay=vetted(frame, truth), reference=vetted(frame, truth, split="test"))
    assert (found.n_cases, found.n_vetted, found.n_readings) == (240, 240, 480)
    assert slope(found, "labels")["ci_low"] > 0
    assert slope(found, "labels - data", "next")["ci_low"] > 0
    by_class = {name: slope(found, "labels", class_name=name)["value"] for name in CLASSES[:3]}
    assert max(by_class, key=by_class.get) == "acne"


def test_a_slope_is_the_difference_of_two_fits_over_the_readings(noisy):
    """By hand: a head on the given labels, one on the vetted; 480 readings lie between them."""
    run, frame, truth, features = noisy
    found = lever(run, overlay=vetted(frame, truth), reference=vetted(frame, truth, split="test"))
    train, test = (frame["split"] == "train").to_numpy(), (frame["split"] == "test").to_numpy() & (truth != 3)
    wide = features.astype(np.float64) - features[train].astype(np.float64).mean(axis=0)
    given = pd.Index(CLASSES).get_indexer(frame["label"])
    accuracy = []
    for labels in (given, truth):
        head = fit(sums(wide[train], np.eye(4)[labels[train]]))
        accuracy.append(
            ((wide[test] @ head.weights + head.offsets)[:, :3].argmax(axis=1) == truth[test]).mean()
        )
    assert slope(found, "labels")["value"] == pytest.approx(
        100 * (accuracy[1] - accuracy[0]) / 480, abs=1e-12
    )
    whole = found.curve[found.curve["class_name"].isna() & (found.curve["lever"] == "labels")]
    assert list(whole["value"].iloc[[0, -1]]) == pytest.approx(accuracy)
    assert list(whole["share"]) == list(SHARES["labels"])


def test_verdicts_that_change_nothing_are_worth_exactly_nothing(tmp_path):
    run, frame, truth, _ = planted(tmp_path, wrong=0)
    found = lever(run, overlay=vetted(frame, truth))
    for part in ("so_far", "next"):
        assert slope(found, "labels", part)["value"] == pytest.approx(0, abs=1e-12)
    assert slope(found, "data")["ci_low"] > 0
    assert (
        slope(found, "data", "next")["value"] < slope(found, "data")["value"]
    )  # each case less than the last


def test_a_verdict_that_took_twice_the_readings_is_worth_half(noisy):
    run, frame, truth, _ = noisy
    one, two = (
        slope(lever(run, overlay=vetted(frame, truth, readers=readers)), "labels")["value"]
        for readers in (("a",), ("a", "b"))
    )
    assert one == pytest.approx(2 * two)
    cheap, dear = (slope(lever(run, readings_a_case=cost), "data")["value"] for cost in (1, 4))
    assert cheap == pytest.approx(4 * dear)


def test_images_a_reader_took_out_are_in_no_fit_of_vetted_labels(noisy):
    """All acne ungradable: with every verdict known no head can answer acne."""
    run, frame, truth, _ = noisy
    overlay = vetted(frame, truth)
    is_acne = overlay.frame["labels"].map(lambda labels: labels[0]["label"] == "acne")
    held = overlay.frame.assign(
        outcome=overlay.frame["outcome"].where(~is_acne, "poor_image"),
        labels=[[] if out else labels for out, labels in zip(is_acne, overlay.frame["labels"], strict=True)],
    )
    curve = lever(run, overlay=Overlay(held, "v1", "train", {}, "0" * 64)).curve
    acne = curve[(curve["class_name"] == "acne") & (curve["lever"] == "labels")]["value"].to_numpy()
    assert acne[0] > 0.1
    assert acne[-1] == 0


def test_without_vetted_labels_only_more_cases_are_judged(noisy):
    found = lever(noisy[0])
    assert set(found.curve["lever"]) == set(found.slopes["lever"]) == {"data"}
    assert found.notes == ("no vetted labels of train: what cleaner labels are worth needs --labels",)


def test_a_backbone_that_learnt_from_these_labels_is_named(noisy, tmp_path):
    run, *_ = planted(tmp_path)
    facts = read_run(run)
    provenance = {
        "manifest_sha256": facts["inputs"]["manifest"],
        "config": {"train": {"epochs": 3, "frozen_epochs": 1}},
    }
    for frozen, n in ((1, 1), (3, 0)):
        provenance["config"]["train"]["frozen_epochs"] = frozen
        checkpoint = {**facts["checkpoint"], "settings": {"provenance": provenance}}
        write_json(run / RUN_FILE, {**facts, "checkpoint": checkpoint})
        assert sum("learnt from these training labels" in line for line in lever(run).notes) == n


@pytest.mark.parametrize("split", ["test", "val"])
def test_only_vetted_labels_of_train_are_learnt_from(noisy, split):
    run, frame, truth, _ = noisy
    overlay = vetted(frame, truth, split="test")
    with pytest.raises(InputError, match=f"vetted labels of {split}; expected those of train"):
        lever(
            run,
            overlay=overlay._replace(split=split) if hasattr(overlay, "_replace") else _as(overlay, split),
        )


def _as(overlay, split):
    return Overlay(overlay.frame, overlay.version, split, overlay.metadata, overlay.sha256)


def test_a_run_without_the_judging_split_is_refused_with_the_command_that_helps(noisy):
    run, *_ = noisy
    with pytest.raises(InputError, match=r"no labelled image of split val; .*--split all"):
        lever(run, judged="val")


def test_the_command_prints_slopes_and_writes_both_tables(noisy, tmp_path):
    run, frame, truth, _ = noisy
    write_parquet(
        tmp_path / "train-v1.parquet",
        vetted(frame, truth).frame,
        metadata={"overlay_version": "v1", "split": "train"},
    )
    arguments = [
        "lever",
        str(run),
        "--labels",
        str(tmp_path / "train-v1.parquet"),
        "--out",
        str(tmp_path / "out"),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == OK, result.output
    assert "top-1 with a share of the 240 vetted cases known: 0 %" in result.stdout
    assert "vet labels there are" in result.stdout
    assert "acne" in result.stdout
    said = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert said["n_readings"] == 480
    curve = pd.read_csv(tmp_path / "out" / "curve.csv")
    assert len(curve) == len(said["curve"]) == 12 * 4
    assert len(pd.read_csv(tmp_path / "out" / "slopes.csv")) == 6 * 4


def test_a_run_without_embeddings_ends_in_one_line(noisy, tmp_path):
    run, *_ = planted(tmp_path)
    (run / EMBEDDINGS_FILE).unlink()
    result = CliRunner().invoke(app, ["lever", str(run)])
    assert result.exit_code == BAD_INPUT
    assert "no embeddings.npy" in result.stderr
