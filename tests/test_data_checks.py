"""Data checks: each finds its planted fault, passes on the sound manifest, says when it does not apply."""

import pandas as pd
import pytest

from ddeval.data.checks import CHECKS, MIN_TEST_IMAGES, data_checks
from ddeval.data.manifest import with_group

N = 2 * MIN_TEST_IMAGES


def sound():
    """Two classes of 30 test images and 30 training images each, a patient an image."""
    number = pd.Series(range(2 * N)).astype(str)
    frame = pd.DataFrame({"image_id": "i" + number, "image": "i" + number + ".jpg"}, dtype=object)
    frame["label"] = ["nv", "mel"] * N
    frame["raw_label"] = frame["label"]
    frame["split"] = ["test"] * N + ["train"] * N
    for kind in ("patient", "lesion", "case"):
        frame[f"{kind}_id"] = kind[0] + number
    return frame


STATES = pd.Series({f"i{i}": "there" for i in range(2 * N)})
HASHES = pd.Series({f"i{i}": f"h{i}" for i in range(2 * N)})


def answers(frame, **options):
    options = {"class_names": ["nv", "mel"], "image_sha256": HASHES, "file_state": STATES} | options
    return {check.code: check for check in data_checks(with_group(frame), **options)}


def changed(column, rows):
    frame = sound()
    for row, value in rows.items():
        frame.loc[row, column] = value
    return frame


FAULTS = {
    "DD001": (changed("patient_id", {N: "p0"}), "1 patients (2 images) stand in several splits, first 'p0'"),
    "DD002": (changed("lesion_id", {N: "l0"}), "first 'l0' in test, train"),
    "DD004": (changed("label", {0: "mel"}), "1 of 2 classes have fewer than 30 test images: nv (29)"),
    "DD006": (changed("label", {0: None, 2: None}), "2 images carry 1 diagnoses without a class: nv (2)"),
    "DD007": (changed("case_id", {N: "c0"}), "first 'c0' in test, train"),
    "DD008": (changed("image", {1: "i0.jpg"}), "1 paths stand twice: i0.jpg"),
    "DD009": (changed("image_id", {0: "\u00e9", 1: "e\u0301"}), "2 ids differ only in case or accents"),
    "DD010": (changed("label", {0: None}), "1 of 120 images have no label"),
    "DD011": (changed("image", {0: None}), "1 of 120 rows name no image file"),
    "DD012": (
        sound().drop(columns=["patient_id", "lesion_id", "case_id"]),
        "120 of 120 images have no patient",
    ),
    "DD013": (changed("lesion_id", {1: "l0"}), "1 lesions carry several labels: l0"),
    "DD014": (changed("lesion_id", {2: "l0"}), "1 lesions, cases or files belong to several groups"),
    "DD015": (
        sound().drop(columns="patient_id").assign(Patient_ID="p"),
        "1 columns are not used: 'Patient_ID' (is it patient_id?)",
    ),
}


def test_a_sound_manifest_passes_every_check():
    assert {c.code: c.status for c in answers(sound()).values()} == dict.fromkeys(CHECKS, "passed")


@pytest.mark.parametrize("code", FAULTS)
def test_each_check_finds_its_planted_fault(code):
    frame, says = FAULTS[code]
    found = answers(frame)[code]
    assert found.status == "failed"
    assert says in found.message


def test_ids_that_differ_only_in_case_look_alike_too():
    found = answers(changed("patient_id", {0: "P7x", 1: "p7X"}))["DD009"]
    assert "patient_id 'P7x', patient_id 'p7X'" in found.message


def test_the_same_file_under_two_ids_is_found_and_marked_when_it_crosses_splits():
    found = answers(sound(), image_sha256=HASHES.replace({"h1": "h0"}))["DD003"]
    assert found.message == "1 files stand under several ids, first i0, i1"
    found = answers(sound(), image_sha256=HASHES.replace({f"h{N}": "h0"}))["DD003"]
    assert found.message == f"1 files stand under several ids, 1 of them in two splits, first i0, i{N}"


def test_a_file_that_is_missing_or_outside_the_roots_is_found():
    found = answers(sound(), file_state=STATES.where(STATES.index != "i3", "missing"))
    assert found["DD016"].message == "1 image files are not there: i3"
    assert found["DD017"].status == "passed"
    found = answers(sound(), file_state=STATES.where(STATES.index != "i3", "outside"))
    assert found["DD017"].message == "1 image files lie outside the allowed folders: i3"


def test_a_class_without_an_image_is_found_from_the_class_list_or_the_test_split():
    found = answers(sound(), class_names=["nv", "mel", "df"])["DD005"]
    assert found.message == "1 classes label no image: df"
    found = answers(changed("label", {N: "df"}), class_names=None)["DD005"]
    assert found.message == "1 classes label no image of the test split: df"


def test_a_label_outside_the_class_list_is_a_diagnosis_without_a_class():
    found = answers(sound(), class_names=["nv"])["DD006"]
    assert found.message == f"{N} images carry 1 diagnoses without a class: mel ({N})"


@pytest.mark.parametrize(
    ("code", "missing"),
    [
        ("DD001", ["patient_id"]),
        ("DD001", ["split"]),
        ("DD002", ["lesion_id"]),
        ("DD004", ["label"]),
        ("DD007", ["case_id"]),
        ("DD008", ["image"]),
        ("DD013", ["lesion_id"]),
        ("DD014", ["lesion_id", "case_id", "image"]),
    ],
)
def test_without_its_columns_a_check_does_not_apply_which_is_not_to_pass(code, missing):
    found = answers(sound().drop(columns=missing))[code]
    assert found.status == "not_applicable"
    assert found.message


def test_without_hashes_class_list_or_test_split_the_checks_on_them_do_not_apply():
    frame = sound().drop(columns="raw_label").assign(split="train")
    found = answers(frame, class_names=None, image_sha256=None, file_state=None)
    unanswered = [code for code in found if found[code].status == "not_applicable"]
    assert unanswered == ["DD003", "DD004", "DD005", "DD006", "DD016", "DD017"]


def test_exactly_thirty_test_images_are_enough():
    assert answers(sound())["DD004"].status == "passed"
