"""Splits: no patient, lesion or case on both sides, classes shared out alike, whatever the row order."""

import numpy as np
import pandas as pd
import pytest

from ddeval.data.splits import leaks, split_by_group, units

FRACTIONS = {"train": 0.6, "val": 0.1, "calibration": 0.1, "test": 0.2}


def manifest(seed=0, n_patients=300):
    """Patients with one to four lesions of one to three photographs; three classes, one of them rare."""
    rng = np.random.default_rng(seed)
    rows = []
    for patient in range(n_patients):
        for lesion in range(rng.integers(1, 5)):
            label = rng.choice(["nv", "mel", "df"], p=[0.7, 0.25, 0.05])
            rows += [(f"p{patient}", f"p{patient}l{lesion}", label)] * int(rng.integers(1, 4))
    frame = pd.DataFrame(rows, columns=["patient_id", "lesion_id", "label"])
    return frame.assign(image_id=[f"i{i}" for i in range(len(frame))])


@pytest.mark.parametrize("seed", range(5))
def test_no_patient_or_lesion_stands_in_two_splits(seed):
    frame = manifest(seed)
    frame["split"] = split_by_group(frame, FRACTIONS, rng=np.random.default_rng(seed))
    assert leaks(frame).empty
    assert set(frame["split"]) == set(FRACTIONS)


def test_shares_are_kept_over_all_and_in_the_common_class():
    """A patient has about five images: one patient more or less of 300 moves a share by 0.3 points."""
    frame = manifest()
    split = split_by_group(frame, FRACTIONS, rng=np.random.default_rng(0))
    for rows in (frame.index, frame.index[frame["label"] == "nv"]):
        shares = split[rows].value_counts(normalize=True)
        for name, share in FRACTIONS.items():
            assert shares[name] == pytest.approx(share, abs=0.03)


def test_a_rare_class_reaches_every_split_when_its_lesions_are_the_units():
    frame = manifest().drop(columns="patient_id")
    split = split_by_group(frame, FRACTIONS, rng=np.random.default_rng(0))
    assert set(split[frame["label"] == "df"]) == set(FRACTIONS)
    shares = split[frame["label"] == "df"].value_counts(normalize=True)
    for name, share in FRACTIONS.items():
        assert shares[name] == pytest.approx(share, abs=0.06)


def test_classes_of_one_lesion_each_do_not_all_go_the_same_way():
    """Alone in its class each fits either half equally well; over all classes they must balance."""
    frame = pd.DataFrame({"image_id": [f"i{i}" for i in range(100)], "label": [f"c{i}" for i in range(100)]})
    split = split_by_group(frame, {"train": 0.5, "test": 0.5}, rng=np.random.default_rng(0))
    assert split.value_counts().to_dict() == {"train": 50, "test": 50}


def test_the_order_of_the_rows_does_not_matter():
    frame = manifest()
    frame["split"] = split_by_group(frame, FRACTIONS, rng=np.random.default_rng(3))
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    again = split_by_group(shuffled, FRACTIONS, rng=np.random.default_rng(3))
    assert (again == shuffled["split"]).all()


def test_the_seed_decides():
    frame = manifest()
    first, second = (split_by_group(frame, FRACTIONS, rng=np.random.default_rng(seed)) for seed in (0, 1))
    assert (first != second).mean() > 0.2


def test_a_lesion_whose_patient_is_known_in_one_row_only_stays_whole():
    """By `group` alone its two photographs would be patient 1 and lesion L: two units, perhaps two splits."""
    frame = pd.DataFrame(
        {
            "image_id": ["a", "b", "c", "d"],
            "patient_id": ["1", None, "1", None],
            "lesion_id": ["L", "L", "M", None],
            "case_id": [None, "9", None, "9"],
        }
    )
    assert len(set(units(frame))) == 1


def test_two_cases_that_share_a_photograph_stay_together():
    """Fifteen files of SCIN do."""
    frame = pd.DataFrame(
        {"image_id": ["a", "b", "c"], "image": ["x.png", "x.png", None], "case_id": list("123")}
    )
    assert units(frame)[0] == units(frame)[1] != units(frame)[2]


def test_units_of_images_without_ids_are_the_images():
    assert len(set(units(pd.DataFrame({"image_id": ["a", "b"]})))) == 2
    blank = pd.DataFrame({"image_id": ["a", "b"], "patient_id": [None, None]})
    assert len(set(units(blank))) == 2


def test_a_patient_and_a_lesion_of_the_same_name_are_not_linked():
    frame = pd.DataFrame({"image_id": ["a", "b"], "patient_id": ["7", None], "lesion_id": [None, "7"]})
    assert len(set(units(frame))) == 2


def test_unlabelled_images_are_dealt_too():
    frame = manifest().assign(label=None)
    split = split_by_group(frame, {"train": 0.5, "test": 0.5}, rng=np.random.default_rng(0))
    assert split.value_counts(normalize=True)["train"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    "fractions", [{"train": 0.5, "test": 0.4}, {"train": 1.0, "test": 0.0}, {"training": 1.0}, {}]
)
def test_fractions_must_be_positive_sum_to_one_and_name_splits(fractions):
    with pytest.raises(ValueError, match="fractions must be positive"):
        split_by_group(manifest(), fractions, rng=np.random.default_rng(0))


def test_leaks_name_kind_id_and_splits():
    frame = pd.DataFrame(
        {
            "image_id": list("abcdef"),
            "patient_id": ["1", "1", "2", "2", None, None],
            "case_id": ["x", "y", "z", "z", "w", "w"],
            "split": ["train", "test", "val", None, "val", "test"],
        }
    )
    assert leaks(frame).to_dict("records") == [
        {"kind": "patient", "id": "1", "splits": "test, train", "n_images": 2},
        {"kind": "case", "id": "w", "splits": "test, val", "n_images": 2},
    ]


@pytest.mark.parametrize("columns", [["image_id"], ["image_id", "patient_id"], ["image_id", "split"]])
def test_nothing_leaks_without_ids_or_splits(columns):
    assert leaks(pd.DataFrame({name: ["a", "a"] for name in columns})).empty


@pytest.mark.real_data
def test_real_lesions_split_without_a_leak_and_within_a_point(real_data):
    frame = pd.read_csv(real_data / "ham10000" / "metadata.csv", dtype=str).rename(columns={"dx": "label"})
    frame["split"] = split_by_group(
        frame, {"train": 0.7, "val": 0.1, "test": 0.2}, rng=np.random.default_rng(0)
    )
    assert leaks(frame).empty
    shares = pd.crosstab(frame["label"], frame["split"], normalize="index")
    assert (shares - [0.2, 0.7, 0.1]).abs().max().max() < 0.01
