"""The manifest: text stays text, every bad row is told at once, and its hash is of what it says."""

import logging

import numpy as np
import pandas as pd
import pytest

from ddeval import io
from ddeval.data.manifest import (
    image_files,
    manifest_problems,
    manifest_sha256,
    read_manifest,
    with_group,
    write_manifest,
)
from ddeval.data.overview import counts
from ddeval.data.withdrawal import TOMBSTONES, patient_sha256
from ddeval.errors import InputError


def written(tmp_path, text, name="manifest.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


def problems(**columns):
    bad = manifest_problems(pd.DataFrame(columns, dtype=object))
    return list(bad[["row", "column", "found"]].itertuples(index=False, name=None))


def test_a_manifest_of_image_ids_alone_is_enough(tmp_path):
    frame = read_manifest(written(tmp_path, "image_id\n001\nNA\n"))
    assert frame["image_id"].tolist() == ["001", "NA"]
    assert frame["group"].tolist() == ["image:001", "image:NA"]


def test_cells_are_text_or_none_and_age_is_a_number(tmp_path):
    frame = read_manifest(written(tmp_path, "image_id,label,age,q.itch,camera\n001,NA,34,1e3,007\n002,,,,\n"))
    assert frame["label"].tolist() == ["NA", None]
    assert frame["q.itch"].tolist() == ["1e3", None]
    assert frame["camera"].tolist() == ["007", None]
    assert frame["age"].dtype == float
    assert frame["age"].tolist()[0] == 34.0
    assert np.isnan(frame["age"][1])


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_csv_and_parquet_hold_the_same_manifest(tmp_path, name):
    columns = {
        "image_id": ["001", "NA"],
        "patient_id": ["7", None],
        "age": ["34", None],
        "q.a": ["x;y", None],
    }
    write_manifest(tmp_path / name, pd.DataFrame(columns, dtype=object))
    frame = read_manifest(tmp_path / name)
    assert frame["group"].tolist() == ["patient:7", "image:NA"]
    assert frame["q.a"].tolist() == ["x;y", None]
    assert manifest_sha256(frame) == manifest_sha256(with_group(pd.DataFrame(columns, dtype=object)))


def test_what_is_written_has_no_derived_column_and_reads_back_the_same(tmp_path):
    frame = read_manifest(written(tmp_path, "image_id,lesion_id\nb,1\na,1\n"))
    write_manifest(tmp_path / "again.csv", frame)
    assert (tmp_path / "again.csv").read_text() == "image_id,lesion_id\nb,1\na,1\n"


def test_typed_parquet_becomes_text_without_inventing_decimals(tmp_path):
    """Whole numbers with a gap are floats in Arrow's frames; as an answer 3.0 is the 3 that was given."""
    io.write_parquet(
        tmp_path / "m.parquet",
        pd.DataFrame(
            {
                "image_id": [1, 2],
                "q.weeks": [3.0, None],
                "q.where": [["arm", "leg"], []],
                "q.itch": [True, False],
            }
        ),
    )
    frame = read_manifest(tmp_path / "m.parquet")
    assert frame["image_id"].tolist() == ["1", "2"]
    assert frame["q.weeks"].tolist() == ["3", None]
    assert frame["q.where"].tolist() == ["arm;leg", None]
    assert frame["q.itch"].tolist() == ["True", "False"]


def test_an_id_stored_as_a_float_is_refused(tmp_path):
    """It may have been 007; nobody can tell any more."""
    io.write_parquet(
        tmp_path / "m.parquet", pd.DataFrame({"image_id": ["a", "b"], "patient_id": [7.0, None]})
    )
    with pytest.raises(InputError, match="patient_id stored as float64; expected text"):
        read_manifest(tmp_path / "m.parquet")


def test_every_bad_cell_is_listed_in_the_order_of_the_rows():
    assert problems(
        image_id=["a", "a", "c", None],
        split=["test", "Test", None, "val"],
        age=["12", "130", "young", None],
        skin_type=["II-III", "VII", "III-II", "IV"],
        label=["nv", " nv", "n\nv", "nv"],
    ) == [
        (1, "image_id", "'a'"),
        (1, "split", "'Test'"),
        (1, "age", "'130'"),
        (1, "label", "' nv'"),
        (1, "skin_type", "'VII'"),
        (2, "age", "'young'"),
        (2, "label", "'n\\nv'"),
        (2, "skin_type", "'III-II'"),
        (3, "image_id", "empty"),
    ]


@pytest.mark.parametrize("skin_type", ["I", "VI", "I-II", "III-IV", "I-VI"])
def test_a_skin_type_is_one_of_six_or_a_rising_range(skin_type):
    assert problems(image_id=["a"], skin_type=[skin_type]) == []


@pytest.mark.parametrize("skin_type", ["0", "1", "i", "II - III", "II–III", "II-II", "unknown"])
def test_any_other_skin_type_is_a_problem(skin_type):
    assert problems(image_id=["a"], skin_type=[skin_type]) == [(0, "skin_type", repr(skin_type))]


@pytest.mark.parametrize("bad", ["a ", "\ta", "a\nb", "a\x1b[2Jb", "a\u00a0"])
def test_an_id_that_would_forge_a_line_or_hide_a_space_is_a_problem(bad):
    assert (0, "image_id", repr(bad)) in problems(image_id=[bad])


def test_the_refusal_names_the_line_of_the_file_and_counts_all(tmp_path):
    path = written(tmp_path, 'image_id,note,split\na,"two\nlines",dev\n\nb,x,test\na,x,dev\n')
    says = (
        r"manifest.csv line 2: found split 'dev' \(3 such cells: 2 in split, 1 in image_id\);"
        r" expected one of train, val, calibration, test or empty\. `ddeval data check` lists every"
    )
    with pytest.raises(InputError, match=says):
        read_manifest(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("image_id,label\n", "found no rows"),
        ("", "found an empty file"),
        ("id,label\na,x\n", "found image_id no such column; expected a column image_id"),
        ("image_id,group\na,g\n", "found a column 'group'; expected that name unused"),
        ("image_id,image_id\na,b\n", "found the column 'image_id' 2 times"),
    ],
)
def test_a_file_that_is_no_manifest_is_refused_in_one_line(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read_manifest(written(tmp_path, text))


def test_a_patient_in_two_splits_is_refused_unless_leaks_are_to_be_listed(tmp_path):
    path = written(tmp_path, "image_id,patient_id,split\na,7,train\nb,7,test\nc,8,val\nd,8,test\n")
    says = r"found patient '7' in the splits test, train \(2 such patients, lesions or cases\)"
    with pytest.raises(InputError, match=says):
        read_manifest(path)
    assert len(read_manifest(path, allow_leaks=True)) == 4


def without(frame):
    held = counts(frame)
    return held["n_without_image"], held["n_without_label"]


def test_images_without_a_file_or_label_are_counted_not_refused(tmp_path):
    frame = read_manifest(written(tmp_path, "image_id,image,label\na,a.jpg,x\nb,,\nc,c.jpg,\n"))
    assert without(frame) == (1, 2)
    bare = read_manifest(written(tmp_path, "image_id\na\nb\n"))
    assert without(bare) == (2, 2)


def test_images_must_lie_under_a_root_and_all_that_do_not_are_counted(tmp_path):
    path = written(tmp_path, "image_id,image\na,in.jpg\nb,../out.jpg\nc,/etc/passwd\nd,\n")
    with pytest.raises(InputError, match=r"the path '../out.jpg' \(2 such rows\); expected a path under"):
        read_manifest(path, image_roots=[tmp_path])
    assert len(read_manifest(path)) == 4


def test_image_files_are_real_paths_or_none(tmp_path):
    frame = read_manifest(written(tmp_path, "image_id,image\na,sub/in.jpg\nb,\n"))
    assert image_files(frame, [tmp_path]).tolist() == [tmp_path.resolve() / "sub" / "in.jpg", None]
    assert image_files(pd.DataFrame({"image_id": ["a"]}), [tmp_path]).tolist() == [None]


BASE = {"image_id": ["a", "b"], "label": ["x", None], "age": [30.0, np.nan]}


@pytest.mark.parametrize(
    "same",
    [
        {"image_id": ["b", "a"], "label": [None, "x"], "age": [np.nan, 30.0]},
        {"age": [30.0, np.nan], "label": ["x", None], "image_id": ["a", "b"]},
        BASE | {"lesion_id": [None, None]},
        BASE | {"group": ["image:a", "image:b"]},
        BASE | {"label": ["x", np.nan]},
    ],
    ids=[
        "order of rows",
        "order of columns",
        "an empty column",
        "the derived group",
        "another kind of empty",
    ],
)
def test_the_hash_depends_only_on_what_the_manifest_says(same):
    assert manifest_sha256(pd.DataFrame(same)) == manifest_sha256(pd.DataFrame(BASE))


@pytest.mark.parametrize(
    "other",
    [
        BASE | {"label": ["y", None]},
        BASE | {"label": [None, "x"]},
        BASE | {"age": [31.0, np.nan]},
        BASE | {"q.itch": ["yes", None]},
        {"image_id": ["a", "b"], "raw_label": ["x", None], "age": [30.0, np.nan]},
        {"image_id": ["a"], "label": ["x"], "age": [30.0]},
    ],
)
def test_the_hash_changes_with_any_cell(other):
    assert manifest_sha256(pd.DataFrame(other)) != manifest_sha256(pd.DataFrame(BASE))


def test_the_hash_is_the_same_from_either_file(tmp_path):
    frame = pd.DataFrame({"image_id": ["é", "001"], "age": [3.5, None]})
    for name in ("m.csv", "m.parquet"):
        write_manifest(tmp_path / name, frame)
    assert manifest_sha256(read_manifest(tmp_path / "m.csv")) == manifest_sha256(
        read_manifest(tmp_path / "m.parquet")
    )


def test_a_withdrawn_patient_is_left_out_and_logged(tmp_path, caplog):
    path = written(tmp_path, "image_id,patient_id\na,7\nb,8\nc,7\nd,\n")
    io.write_json(tmp_path / TOMBSTONES, {"withdrawn": [{"patient_sha256": patient_sha256("7")}]})
    with caplog.at_level(logging.WARNING):
        frame = read_manifest(path)
    assert frame["image_id"].tolist() == ["b", "d"]
    assert frame.index.tolist() == [0, 1]
    assert "2 images of 1 withdrawn patients left out" in caplog.text


def test_fifteen_thousand_rows_are_checked_in_seconds(tmp_path):
    n = 15_561
    frame = pd.DataFrame({"image_id": np.arange(n).astype(str), "label": "x", "split": "test"})
    frame["image"] = "images/" + frame["image_id"] + ".jpg"
    write_manifest(tmp_path / "m.csv", frame)
    import time

    started = time.process_time()
    assert len(read_manifest(tmp_path / "m.csv", image_roots=[tmp_path])) == n
    assert time.process_time() - started < 8
