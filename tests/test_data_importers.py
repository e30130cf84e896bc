"""Importers: the published layouts become manifests with the published counts.

The layouts of the fixtures of PAD-UFES-20, DDI and the labels of ISIC 2019 were written by hand from the
published descriptions; the other data sets are read as they are, where they are.
"""

import json

import numpy as np
import pandas as pd
import pytest

from ddeval.data.checks import data_checks
from ddeval.data.importers import IMPORTERS
from ddeval.data.manifest import manifest_problems, read_manifest, write_manifest
from ddeval.data.splits import leaks, split_by_group
from ddeval.errors import InputError
from ddeval.io import resolve


def image_folder(tmp_path, *paths):
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize("kind", IMPORTERS)
def test_an_empty_folder_is_refused_with_what_should_lie_there(kind, tmp_path):
    with pytest.raises(InputError, match=r"found no .*; expected (the published files|CLASS/image)"):
        IMPORTERS[kind](tmp_path)


HAM = """lesion_id,image_id,dx,dx_type,age,sex,localization
HAM_1,ISIC_1,bkl,histo,80.0,male,scalp
HAM_1,ISIC_2,bkl,histo,80.0,male,scalp
HAM_2,ISIC_3,nv,confocal,,unknown,unknown
"""


def test_ham10000_finds_images_in_its_parts_and_leaves_absent_ones_empty(tmp_path):
    folder = image_folder(tmp_path, "HAM10000_images_part_1/ISIC_1.jpg", "HAM10000_images_part_2/ISIC_3.jpg")
    (folder / "HAM10000_metadata.csv").write_text(HAM)
    frame = IMPORTERS["ham10000"](folder)
    assert frame["image"].tolist() == [
        "HAM10000_images_part_1/ISIC_1.jpg",
        None,
        "HAM10000_images_part_2/ISIC_3.jpg",
    ]
    assert frame["label_basis"].tolist() == ["histology", "histology", "unknown"]
    assert frame["sex"].tolist() == ["male", "male", None]
    assert frame["body_site"].tolist() == ["scalp", "scalp", None]
    assert frame["group"].tolist() == ["lesion:HAM_1", "lesion:HAM_1", "lesion:HAM_2"]
    assert frame["age"].tolist()[:2] == [80.0, 80.0]


def test_a_value_that_is_not_in_the_publication_is_refused(tmp_path):
    (tmp_path / "metadata.csv").write_text(HAM.replace("confocal", "guess"))
    with pytest.raises(
        InputError, match=r"found dx_type 'guess' \(1 rows\); expected one of histo, follow_up"
    ):
        IMPORTERS["ham10000"](tmp_path)


def test_isic2019_takes_labels_from_the_one_hot_table(tmp_path):
    (tmp_path / "ISIC_2019_Training_Metadata.csv").write_text(
        "image,age_approx,anatom_site_general,lesion_id,sex\nI1,55,,,female\nI2,30,head/neck,B1,\n"
    )
    truth = tmp_path / "ISIC_2019_Training_GroundTruth.csv"
    truth.write_text("image,MEL,NV,UNK\nI2,1.0,0.0,0.0\nI1,0.0,1.0,0.0\n")
    frame = IMPORTERS["isic2019"](tmp_path)
    assert frame["label"].tolist() == ["NV", "MEL"]
    assert frame["group"].tolist() == ["image:I1", "lesion:B1"]
    truth.write_text("image,MEL,NV,UNK\nI2,1.0,0.0,0.0\nI1,0.4,0.6,0.0\n")
    with pytest.raises(InputError, match="a row without exactly one 1"):
        IMPORTERS["isic2019"](tmp_path)


PAD = """patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,\
skin_cancer_history,cancer_history,has_piped_water,has_sewage_system,fitspatrick,region,diameter_1,diameter_2,\
diagnostic,itch,grew,hurt,changed,bleed,elevation,img_id,biopsed
PAT_1516,1765,,,,,8,,,,,,,,ARM,,,NEV,FALSE,FALSE,FALSE,FALSE,FALSE,FALSE,PAT_1516_1765_530.png,FALSE
PAT_46,881,False,False,POMERANIA,POMERANIA,55,False,FEMALE,True,True,True,True,3.0,NECK,6.0,5.0,BCC,True,True,\
False,True,UNK,True,PAT_46_881_939.png,True
"""


def test_pad_ufes_20_from_its_published_layout(tmp_path):
    folder = image_folder(tmp_path, "images/imgs_part_1/PAT_46_881_939.png")
    (folder / "metadata.csv").write_text(PAD.replace(",FALSE\n", ",False\n"))
    frame = IMPORTERS["pad_ufes_20"](folder)
    first, second = frame.to_dict("records")
    assert second["image"] == "images/imgs_part_1/PAT_46_881_939.png"
    assert (second["skin_type"], second["sex"], second["age"]) == ("III", "female", 55.0)
    assert (second["label"], second["label_basis"]) == ("BCC", "histology")
    assert (second["q.itch"], second["q.hurt"], second["q.bleed"], second["q.diameter_1"]) == (
        "yes",
        "no",
        None,
        "6.0",
    )
    assert (first["image"], first["label_basis"], first["group"]) == (None, "consensus", "patient:PAT_1516")


def test_ddi_from_its_published_layout(tmp_path):
    (tmp_path / "ddi_metadata.csv").write_text(
        ",DDI_ID,DDI_file,skin_tone,malignant,disease\n"
        "0,1,000001.png,56,True,melanoma-in-situ\n1,2,000002.png,12,False,verruca-vulgaris\n"
    )
    frame = IMPORTERS["ddi"](image_folder(tmp_path, "000001.png"))
    assert frame["image_id"].tolist() == ["000001", "000002"]
    assert frame["image"].tolist() == ["000001.png", None]
    assert frame["skin_type"].tolist() == ["V-VI", "I-II"]
    assert set(frame["label_basis"]) == {"histology"}
    assert frame["malignant"].tolist() == ["yes", "no"]


def test_an_image_folder_has_a_class_a_folder(tmp_path):
    folder = image_folder(
        tmp_path, "nv/a.jpg", "nv/sub/b.PNG", "mel/a.jpg", ".cache/x/y.jpg", "mel/notes.txt"
    )
    frame = IMPORTERS["imagefolder"](folder)
    assert frame[["image_id", "label"]].to_numpy().tolist() == [
        ["mel/a.jpg", "mel"],
        ["nv/a.jpg", "nv"],
        ["nv/sub/b.PNG", "nv"],
    ]
    assert "split" not in frame.columns


def test_an_image_folder_may_have_a_split_above_the_class(tmp_path):
    folder = image_folder(tmp_path, "Train/nv/a.jpg", "valid/nv/b.jpg", "test/mel/c.jpg")
    frame = IMPORTERS["imagefolder"](folder)
    assert frame["split"].tolist() == ["train", "test", "val"]
    assert frame["label"].tolist() == ["nv", "mel", "nv"]


def test_an_image_outside_a_class_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"the image 'a.jpg' outside a class folder \(1 such\)"):
        IMPORTERS["imagefolder"](image_folder(tmp_path, "a.jpg", "nv/b.jpg"))


def test_files_that_are_no_images_are_counted(tmp_path, caplog):
    IMPORTERS["imagefolder"](image_folder(tmp_path, "nv/a.jpg", "nv/readme.txt"))
    assert "1 files are not images by their suffix" in caplog.text


@pytest.fixture(scope="module")
def imported(real_data):
    frames = {}

    def read(kind):
        if kind not in frames:
            frames[kind] = IMPORTERS[kind](real_data / kind)
        return frames[kind]

    return read


@pytest.mark.real_data
def test_ham10000_has_the_published_counts(imported, real_data):
    frame = imported("ham10000")
    counts = {"nv": 6705, "mel": 1113, "bkl": 1099, "bcc": 514, "akiec": 327, "vasc": 142, "df": 115}
    assert frame["label"].value_counts().to_dict() == counts
    assert len(frame) == 10_015
    per_lesion = frame["lesion_id"].value_counts()
    assert (len(per_lesion), (per_lesion > 1).sum()) == (7_470, 1_956)
    assert frame["group"].nunique() == 7_470
    assert frame["label_basis"].value_counts().to_dict() == {
        "histology": 5340,
        "follow_up": 3704,
        "consensus": 902,
        "unknown": 69,
    }
    assert frame["image"].notna().all()
    assert all(
        resolve(p, [real_data / "ham10000"]).is_file() for p in frame["image"].sample(100, random_state=0)
    )


@pytest.mark.real_data
def test_ham10000_splits_by_lesion_and_reads_back(imported, tmp_path):
    frame = imported("ham10000")
    split = split_by_group(frame, {"train": 0.7, "val": 0.1, "test": 0.2}, rng=np.random.default_rng(0))
    frame = frame.assign(split=split)
    assert leaks(frame).empty
    write_manifest(tmp_path / "m.csv", frame)
    back = read_manifest(tmp_path / "m.csv")
    assert back["group"].tolist() == frame["group"].tolist()
    failed = {c.code for c in data_checks(back) if c.status == "failed"}
    assert failed == {"DD004"}  # 23 test images of df: 115 in all


@pytest.mark.real_data
def test_isic2019_has_the_published_counts(imported):
    frame = imported("isic2019")
    assert (len(frame), frame["lesion_id"].isna().sum()) == (25_331, 2_084)
    assert frame["group"].str.startswith("image:").sum() == 2_084
    assert "label" not in frame.columns  # the ground truth is another file


@pytest.mark.real_data
def test_scin_has_the_published_counts(imported):
    """5,033 cases, 61 % of them with two or three photographs; 15 files stand in several cases."""
    frame = imported("scin")
    cases = frame.drop_duplicates("case_id")
    assert (len(frame), len(cases), frame["image"].nunique()) == (10_407, 5_033, 10_380)
    assert cases["label"].notna().sum() == 3_061
    assert cases["q.fitzpatrick_skin_type"].isna().sum() == 2_530
    assert (frame["case_id"].value_counts() >= 2).mean() == pytest.approx(0.613, abs=0.001)
    weights = cases["label_weights"].dropna().map(json.loads)
    assert len({name for w in weights for name in w}) == 370
    assert all(w[label] == max(w.values()) for w, label in zip(weights, cases["label"].dropna(), strict=True))
    assert cases["label_basis"].value_counts().to_dict() == {"single": 2_508, "consensus": 553}


@pytest.mark.real_data
def test_scin_answers_are_the_ticked_boxes(imported, real_data):
    raw = pd.read_csv(real_data / "scin" / "scin_cases.csv", dtype=str).set_index("case_id")
    cases = imported("scin").drop_duplicates("case_id").set_index("case_id")
    itching = cases["q.condition_symptoms"].fillna("").str.split(";").map(lambda t: "itching" in t)
    assert (itching == (raw["condition_symptoms_itching"] == "YES").reindex(cases.index)).all()
    assert cases["sex"].value_counts().to_dict() == {"female": 1666, "male": 807}


@pytest.mark.real_data
def test_fitzpatrick17k_has_the_published_counts(imported):
    frame = imported("fitzpatrick17k")
    assert (len(frame), frame["label"].nunique()) == (16_577, 114)
    assert frame["skin_type"].isna().sum() == 565
    assert frame["qc"].value_counts().to_dict() == {
        "1 Diagnostic": 348,
        "5 Potentially": 97,
        "2 Characteristic": 32,
        "3 Wrongly labelled": 17,
        "4 Other": 10,
    }


@pytest.mark.real_data
@pytest.mark.parametrize("kind", ["ham10000", "isic2019", "scin", "fitzpatrick17k"])
def test_an_imported_manifest_has_no_problem(imported, kind):
    frame = imported(kind)
    assert manifest_problems(frame).empty
    assert frame.columns[0] == "image_id"
