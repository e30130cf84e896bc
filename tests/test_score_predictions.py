"""Predictions, ours and everybody else's: round trips, joins by id, and every file that is refused."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from ddeval import tables
from ddeval.cli import app
from ddeval.errors import InputError
from ddeval.score.align import align, named, own_manifest
from ddeval.score.foreign import read_file
from ddeval.score.predictions import Predictions, floored_log, read_predictions, write_predictions

CLASSES = ("acne", "eczema", "tinea")


def manifest(n=4, labels=CLASSES, **columns):
    frame = pd.DataFrame(
        {"image_id": [f"im{i}" for i in range(n)], "label": [labels[i % len(labels)] for i in range(n)]},
        dtype=object,
    ).assign(split="test", **columns)
    frame["group"] = tables.group_of(frame)
    return frame


def softmax_rows(n=4, K=3, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(K), size=n)


def predictions(n=4, seed=0, **fields):
    frame = manifest(n)[["image_id", "group", "split"]].assign(case_id=lambda f: f["image_id"])
    logits = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    return Predictions(frame[["image_id", "case_id", "group", "split"]], logits, CLASSES, **fields)


def csv(tmp_path, text, name="p.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def csv_of(tmp_path, probs, ids=None, names=CLASSES, id_column="image_id"):
    frame = pd.DataFrame(probs, columns=list(names))
    frame.insert(0, id_column, ids or [f"im{i}" for i in range(len(probs))])
    path = tmp_path / "p.csv"
    path.write_text(frame.to_csv(index=False))
    return path


# --- our own file ---------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(
    ids=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True),
    names=st.lists(st.text(min_size=1, max_size=8), min_size=2, max_size=4, unique=True),
)
def test_predictions_come_back_as_they_were_written(ids, names, tmp_path_factory):
    """Ids such as 001, NA and an emoji, and any class names, survive; logits to the last bit."""
    ids = [i for i in ids if i.encode("utf-8", "ignore").decode() == i] or ["NA"]
    names = [i for i in names if i.encode("utf-8", "ignore").decode() == i]
    names = names if len(names) > 1 else ["a", "b"]
    frame = pd.DataFrame({"image_id": ids, "case_id": ids, "group": ids, "split": None}, dtype=object)
    logits = np.random.default_rng(0).normal(size=(len(ids), len(names))).astype(np.float32)
    path = tmp_path_factory.mktemp("p") / "predictions.parquet"

    write_predictions(path, Predictions(frame, logits, tuple(names), fingerprint="f", settings={"a": 1}))
    back = read_predictions(path)

    assert back.frame.to_dict("list") == frame.to_dict("list")
    assert (back.class_names, back.fingerprint, back.settings) == (tuple(names), "f", {"a": 1})
    np.testing.assert_array_equal(back.logits, logits)


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_predictions(tmp_path / name, predictions(seed=1))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_logits_are_a_fixed_size_list_of_float32(tmp_path):
    """The schema is written, not inferred: another engine sees the same columns."""
    write_predictions(tmp_path / "p.parquet", predictions())
    schema = pq.read_schema(tmp_path / "p.parquet")
    assert schema.names == ["image_id", "case_id", "group", "split", "logits"]
    assert pa.types.is_fixed_size_list(schema.field("logits").type)
    assert schema.field("logits").type.value_type == pa.float32()


def test_probabilities_as_given_survive_the_round_trip_with_their_zeros(tmp_path):
    probs = np.array([[1.0, 0.0, 0.0], [0.2, 0.3, 0.5]])
    given_probs = Predictions(predictions(2).frame, floored_log(probs), CLASSES, probs=probs)
    write_predictions(tmp_path / "p.parquet", given_probs)
    back = read_predictions(tmp_path / "p.parquet")
    np.testing.assert_array_equal(back.pred_probs(), probs)
    assert np.isfinite(back.logits).all()


def test_sigmoid_scores_keep_their_order_and_sum_to_one():
    p = predictions(link="sigmoid")
    probs = p.pred_probs()
    np.testing.assert_allclose(probs.sum(axis=1), 1)
    np.testing.assert_array_equal(probs.argsort(axis=1), p.logits.argsort(axis=1))


def test_sigmoid_of_huge_logits_does_not_overflow():
    """sigmoid(1000) = 1 and sigmoid(-1000) = 0: shares 1, 0, 0."""
    p = predictions(1, link="sigmoid")
    p.logits[:] = [[1000, -1000, -1000]]
    np.testing.assert_allclose(p.pred_probs(), [[1, 0, 0]], atol=1e-12)


def test_predictions_with_a_nan_are_refused_by_id(tmp_path):
    p = predictions()
    p.logits[2, 1] = np.nan
    write_predictions(tmp_path / "p.parquet", p)
    with pytest.raises(InputError, match=r"logit that is NaN or infinite for 1 images \(im2\)"):
        read_predictions(tmp_path / "p.parquet")


def test_a_parquet_file_of_another_kind_is_not_read_as_predictions(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match="expected a predictions file of ddeval"):
        read_predictions(tmp_path / "p.parquet")


# --- files of others ------------------------------------------------------------------------------


def test_a_csv_a_parquet_and_an_npz_of_the_same_numbers_give_the_same_predictions(tmp_path):
    probs = softmax_rows()
    ids = np.array(["im0", "im1", "im2", "im3"])
    frame = pd.DataFrame({"image_id": ids, **{name: probs[:, k] for k, name in enumerate(CLASSES)}})
    (tmp_path / "a.csv").write_text(frame.to_csv(index=False))
    frame.to_parquet(tmp_path / "b.parquet")
    np.savez(tmp_path / "c.npz", pred_probs=probs, image_ids=ids, class_names=np.array(CLASSES))
    lists = pd.DataFrame({"image_id": ids, "pred_probs": list(probs)})
    lists.to_parquet(tmp_path / "d.parquet")

    for name in ("a.csv", "b.parquet", "c.npz", "d.parquet"):
        found, notes = align(read_file(tmp_path / name, class_names=CLASSES), manifest())
        np.testing.assert_array_equal(found.pred_probs(), probs, err_msg=name)
        assert (found.class_names, notes) == (CLASSES, [])


def test_rows_are_joined_by_id_whatever_their_order(tmp_path):
    """The file lists im3 first; the predictions come in manifest order."""
    probs = softmax_rows()
    path = csv_of(tmp_path, probs[::-1], ids=["im3", "im2", "im1", "im0"])
    found, _ = align(read_file(path), manifest())
    np.testing.assert_allclose(found.pred_probs(), probs)
    assert found.frame["image_id"].tolist() == ["im0", "im1", "im2", "im3"]


def test_groups_and_cases_come_from_the_manifest(tmp_path):
    """Two photographs of a case are one group; an image without a case is its own case."""
    frame = manifest(case_id=["c1", "c1", None, None])
    found, _ = align(read_file(csv_of(tmp_path, softmax_rows())), frame)
    assert found.frame["case_id"].tolist() == ["c1", "c1", "im2", "im3"]
    assert found.frame["group"].tolist() == ["case:c1", "case:c1", "image:im2", "image:im3"]


def test_a_file_ending_is_taken_off_only_where_no_id_fits_as_it_stands(tmp_path):
    path = csv_of(tmp_path, softmax_rows(), ids=["im0.jpg", "im1.JPG", "im2.jpg", "im3.png"])
    found, notes = align(read_file(path), manifest())
    assert notes == ["image ids matched without their file ending"]
    assert found.frame["image_id"].tolist() == ["im0", "im1", "im2", "im3"]

    with_ending = manifest()
    with_ending.loc[0, "image_id"] = "im0.jpg"  # one id fits as written: then all must
    with pytest.raises(InputError, match=r"row 3: found image id 'im1\.JPG', which the manifest lacks \(3"):
        align(read_file(path), with_ending)


def test_two_files_of_one_name_do_not_become_one_image(tmp_path):
    path = csv_of(tmp_path, softmax_rows(2), ids=["im0.jpg", "im0.png"])
    with pytest.raises(InputError, match=r"row 3: found image id 'im0' a second time"):
        align(read_file(path), manifest())


def test_class_names_match_ignoring_case_where_that_is_one_to_one(tmp_path):
    path = csv_of(tmp_path, softmax_rows(), names=("ACNE", "Eczema", "tinea"))
    found, notes = align(read_file(path), manifest())
    assert found.class_names == CLASSES
    assert notes == ["class names matched ignoring case: ACNE→acne, Eczema→eczema"]


def test_class_names_that_differ_only_in_case_are_left_alone(tmp_path):
    frame = manifest(labels=("acne", "Acne", "tinea"))
    found, notes = align(read_file(csv_of(tmp_path, softmax_rows(), names=("acne", "Acne", "TINEA"))), frame)
    assert (found.class_names, notes) == (("acne", "Acne", "TINEA"), [])


def test_unpredicted_images_and_other_splits_are_counted(tmp_path):
    frame = manifest(6)
    frame["split"] = ["test", "test", "test", "train", "test", "test"]
    found, notes = align(read_file(csv_of(tmp_path, softmax_rows())), frame, splits=("test",))
    assert found.frame["image_id"].tolist() == ["im0", "im1", "im2"]
    assert notes == [
        "images of the manifest without a prediction, not scored: 2",
        "predictions of other splits, not scored: 1",
    ]


def test_no_prediction_of_the_split_is_refused(tmp_path):
    with pytest.raises(InputError, match="4 predictions, none of an image in split calibration"):
        align(read_file(csv_of(tmp_path, softmax_rows())), manifest(), splits=("calibration",))


def test_ties_for_the_top_class_are_counted(tmp_path):
    probs = np.array([[0.4, 0.4, 0.2], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.5, 0.25]])
    _, notes = align(read_file(csv_of(tmp_path, probs)), manifest())
    assert notes == ["images with a tie for the top class, which counts as wrong: 1"]


def test_text_columns_are_not_classes_and_are_named(tmp_path):
    path = csv(tmp_path, "image,guess,acne,eczema\nim0,acne,0.7,0.3\n")
    file = read_file(path)
    assert file.class_names == ("acne", "eczema")
    assert file.notes == ("image ids are in the column image", "columns not used: guess")


def test_class_columns_may_be_renamed(tmp_path):
    path = csv(tmp_path, "k,p_a,p_e,age\nim0,0.7,0.3,41\n")
    file = read_file(path, id_column="k", class_columns=["acne=p_a", "eczema=p_e"])
    assert file.class_names == ("acne", "eczema")
    np.testing.assert_array_equal(file.values, [[0.7, 0.3]])


def test_ids_001_and_na_stay_text(tmp_path):
    path = csv(tmp_path, "image_id,acne,eczema\n001,0.7,0.3\nNA,0.5,0.5\n")
    assert read_file(path).image_ids.tolist() == ["001", "NA"]


def test_a_file_with_labels_is_its_own_manifest(tmp_path):
    """Labels 2, 0 index class_names; groups become patients; ids are made where there are none."""
    np.savez(
        tmp_path / "p.npz",
        logits=np.eye(3)[:2] * 5,
        labels=np.array([2, 0]),
        groups=np.array([7, 7]),
        class_names=np.array(CLASSES),
    )
    file = read_file(tmp_path / "p.npz")
    frame = own_manifest(file)
    assert frame["label"].tolist() == ["tinea", "acne"]
    assert frame["patient_id"].tolist() == ["7", "7"]
    assert frame["image_id"].tolist() == named(file).image_ids.tolist() == ["row-0000000", "row-0000001"]


@pytest.mark.parametrize(
    ("label", "message"),
    [(3, "row 2: found label 3 \\(1 such rows\\); expected a whole number from 0 to 2"), (0.5, "label 0.5")],
)
def test_a_label_that_indexes_no_class_is_refused(tmp_path, label, message):
    np.savez(tmp_path / "p.npz", logits=np.eye(3) * 5, labels=np.array([0, label, 1]))
    with pytest.raises(InputError, match=message):
        own_manifest(read_file(tmp_path / "p.npz"))


BAD_CSV = {
    "a nan": (
        "image_id,acne,eczema\nim0,nan,0.3\n",
        {},
        r"probability that is NaN or infinite for 1 images \(im0\)",
    ),
    "an empty cell": ("image_id,acne,eczema\nim0,,0.3\nim1,0.5,0.5\nim2,0.5,0.5\n", {}, r"images \(im0\)"),
    "logits": (
        "image_id,acne,eczema\nim0,4.2,-1\n",
        {},
        r"row 1: found a value outside 0\.\.1 .*--values logits",
    ),
    "decimal commas": (
        'image_id,acne,eczema\nim0,"0,25","0,75"\n',
        {},
        r"no column of numbers \(acne: '0,25'\).*Write decimal points, not commas\.",
    ),
    "per cent": ("image_id,acne,eczema\nim0,25,75\n", {}, "divide per cent by 100"),
    "a class too few": ("image_id,acne,eczema\nim0,.5,.2\n", {}, "Add the missing class"),
    "sums to 2": ("image_id,acne,eczema\nim0,1,1\n", {}, r"a row that sums to 2\.0000 .*--link sigmoid"),
    "a word": (
        "image_id,acne,eczema\nim0,.5,.5\nim1,.5,.5\nim2,x,1\n",
        {},
        r"line 4: found acne 'x' \(1 such",
    ),
    "another width": ("image_id,acne,eczema\nim0,.5\n", {}, r"line 2: found 2 cells"),
    "no numbers": ("image_id,acne\nim0,yes\n", {}, "no column of numbers"),
    "one class": ("image_id,acne\nim0,1\n", {}, "expected at least two classes"),
    "header only": ("image_id,acne,eczema\n", {}, "no column of numbers"),
    "no id column": ("image_id,acne,eczema\nim0,.5,.5\n", {"id_column": "key"}, "no column 'key'"),
    "no class column": ("image_id,a,b\nim0,.5,.5\n", {"class_columns": ["a", "c"]}, "no column 'c'"),
    "zeros": ("image_id,a,b\nim0,0,0\n", {"link": "sigmoid"}, "a row of zeros"),
    "probabilities as logits": (
        "image_id,a,b\nim0,.5,.5\n",
        {"kind": "logits"},
        "probabilities given as logits",
    ),
}


@pytest.mark.parametrize("case", BAD_CSV)
def test_a_bad_csv_is_refused_in_one_line(tmp_path, case):
    text, options, message = BAD_CSV[case]
    with pytest.raises(InputError, match=message) as caught:
        read_file(csv(tmp_path, text), **options)
    assert "\n" not in str(caught.value)


BAD_NPZ = {
    "no array": ({"x": np.zeros((2, 3))}, "found the arrays x; expected an array logits or pred_probs"),
    "one dimension": ({"logits": np.zeros(3)}, r"shape \(3,\)"),
    "text": ({"logits": np.array([["a", "b"]])}, "dtype <U1"),
    "wrong width of names": ({"logits": np.eye(3) * 9, "class_names": np.array(["a", "b"])}, "2 names"),
    "a name twice": ({"logits": np.eye(2) * 9, "class_names": np.array(["a", "a"])}, "'a' twice"),
    "too few ids": (
        {"logits": np.eye(3) * 9, "image_ids": np.array(["a"])},
        r"expected \(3,\), one an image",
    ),
    "infinite": ({"logits": np.array([[0, np.inf]]), "image_ids": np.array(["im9"])}, r"images \(im9\)"),
    "objects": ({"logits": np.array([{"a": 1}], dtype=object)}, "plain arrays"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_a_bad_npz_is_refused_in_one_line(tmp_path, case):
    arrays, message = BAD_NPZ[case]
    np.savez(tmp_path / "p.npz", **arrays)
    with pytest.raises(InputError, match=message):
        read_file(tmp_path / "p.npz")


def test_a_truncated_npz_is_refused_in_one_line(tmp_path):
    np.savez(tmp_path / "p.npz", logits=np.zeros((50, 3)))
    (tmp_path / "p.npz").write_bytes((tmp_path / "p.npz").read_bytes()[:300])
    with pytest.raises(InputError, match="an array that cannot be read"):
        read_file(tmp_path / "p.npz")


def test_rows_of_another_width_in_a_parquet_are_named(tmp_path):
    pd.DataFrame({"image_id": ["a", "b"], "logits": [[1.0, 2.0], [3.0]]}).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"row 2: found 1 values in logits \(1 such rows\); expected 2"):
        read_file(tmp_path / "p.parquet")


def test_an_unknown_id_is_refused_with_its_row(tmp_path):
    path = csv_of(tmp_path, softmax_rows(), ids=["im0", "im1", "zz", "yy"])
    with pytest.raises(
        InputError, match=r"row 4: found image id 'zz', which the manifest lacks \(2 such ids\)"
    ):
        align(read_file(path), manifest())


def test_an_unknown_id_that_names_a_photograph_is_told_the_id_of_it(tmp_path):
    """Several photographs a case get ids that a team's own predictor has never seen."""
    frame = manifest(image=[f"a/IMG_{i}.jpg" for i in range(4)])
    path = csv_of(tmp_path, softmax_rows(), ids=[f"IMG_{i}.jpg" for i in range(4)])
    with pytest.raises(InputError, match=r"such as 'im0', which is the photograph IMG_0\.jpg"):
        align(read_file(path), frame)
    path = csv_of(tmp_path, softmax_rows(), ids=["1", "2", "3", "4"])
    with pytest.raises(InputError, match="such as 'im0'\\. Write the manifest's ids"):
        align(read_file(path), frame)


def test_predictions_without_ids_are_never_joined_by_position(tmp_path):
    np.savez(tmp_path / "p.npz", pred_probs=softmax_rows(), class_names=np.array(CLASSES))
    with pytest.raises(InputError, match="rows are never joined by position"):
        align(read_file(tmp_path / "p.npz"), manifest())


def test_predictions_without_class_names_are_refused(tmp_path):
    np.savez(tmp_path / "p.npz", pred_probs=softmax_rows(), image_ids=np.array(["im0", "im1", "im2", "im3"]))
    with pytest.raises(InputError, match="expected a name for each of the 3 columns"):
        align(read_file(tmp_path / "p.npz"), manifest())


def test_the_other_class_must_be_a_class(tmp_path):
    with pytest.raises(InputError, match="--other-class: found 'rest'; expected one of acne, eczema, tinea"):
        align(read_file(csv_of(tmp_path, softmax_rows())), manifest(), other_class="rest")


def test_the_fingerprint_follows_the_numbers_and_what_they_mean(tmp_path):
    file = read_file(csv_of(tmp_path, softmax_rows()))
    prints = {
        align(file, manifest())[0].fingerprint,
        align(file, manifest(), other_class="acne")[0].fingerprint,
        align(file, manifest(), link="sigmoid")[0].fingerprint,
        align(read_file(csv_of(tmp_path, softmax_rows(seed=1))), manifest())[0].fingerprint,
    }
    assert len(prints) == 4


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "accuracy"), [("00Compare", 0.7246), ("01Threshold", 0.7421), ("02Compare", 0.7393)]
)
def test_ham10000_predictions_of_others_give_their_published_accuracy(real_data, name, accuracy):
    """2,927 images each; the ids carry .jpg and the classes are in capitals."""
    metadata = pd.read_csv(real_data / "ham10000/metadata.csv", dtype=object)
    frame = metadata.rename(columns={"dx": "label"}).assign(split=None)
    frame["group"] = tables.group_of(frame)
    path = real_data / "ham10000_predictions" / f"predictions_01DataShift{name}41.csv"

    found, notes = align(read_file(path, id_column="image"), frame)

    assert len(found.frame) == 2927
    assert "image ids matched without their file ending" in notes
    labels = frame.set_index("image_id")["label"].reindex(found.frame["image_id"])
    predicted = np.array(found.class_names)[found.pred_probs().argmax(axis=1)]
    assert (predicted == labels.to_numpy()).mean() == pytest.approx(accuracy, abs=1e-3)


def test_a_file_whose_classes_were_put_right_is_scored_under_the_same_name(tmp_path, monkeypatch):
    """The refused one left a run folder, and the corrected one was refused for being another file."""
    monkeypatch.chdir(tmp_path)
    frame = manifest(12, labels=("acne", "other"), patient_id="p").drop(columns="group")
    (tmp_path / "m.csv").write_text(frame.to_csv(index=False))
    command = ["score", "p.csv", "--data", "m.csv", "--n-resamples", "2", "--calibrators", "none"]
    csv_of(tmp_path, softmax_rows(12, 2), names=("AC1", "other"))
    refused = CliRunner().invoke(app, command)
    assert (refused.exit_code, (tmp_path / "runs").exists()) == (3, False)
    assert "--class-columns class=column" in refused.stderr
    csv_of(tmp_path, softmax_rows(12, 2), names=("acne", "other"))
    scored = CliRunner().invoke(app, command)
    assert scored.exit_code == 0, scored.stderr
    assert (
        "'other' is a class like the rest; where it means none of them: --other-class other" in scored.stderr
    )


def test_a_file_with_labels_says_that_the_projects_manifest_was_not_read(tmp_path, monkeypatch):
    """Its train photographs would be in the number, each a patient of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ddeval.yaml").write_text("manifest: m.csv\n")
    csv(tmp_path, "image_id,label,acne,eczema\na,acne,.6,.4\nb,eczema,.6,.4\n")
    result = CliRunner().invoke(app, ["score", "p.csv", "--dry-run"])
    where = tmp_path.resolve() / "m.csv"
    assert f"labels are those in p.csv; splits and patients of {where}: --data {where}" in result.stderr
