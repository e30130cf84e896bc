"""The check at every door: each bad cell once, by row and column, and one line for all of them."""

import numpy as np
import pandas as pd
import pytest

from ddeval.errors import InputError
from ddeval.tables import ISSUES, MANIFEST, METRICS, Column, Table, check, group_of, problems

TABLE = Table(
    "patients",
    (
        Column("id", is_unique=True),
        Column("sex", is_required=False, is_nullable=True, allowed=("female", "male")),
        Column("age", "float", is_required=False, is_nullable=True, low=0, high=120),
        Column("visits", "int", is_required=False),
    ),
)


def found(**columns):
    bad = problems(pd.DataFrame(columns), TABLE)
    return list(bad[["row", "column", "found"]].itertuples(index=False, name=None))


def test_a_table_that_fits_has_no_problems_and_is_returned_as_it_is():
    frame = pd.DataFrame({"id": ["001", "NA"], "sex": ["male", None], "age": [1.0, np.nan], "visits": [0, 2]})
    assert problems(frame, TABLE).empty
    assert check(frame, TABLE, where="p.csv") is frame


def test_every_bad_cell_is_reported_not_only_the_first():
    assert found(id=["a", "a", None], sex=["m", "male", "F"], age=["x", "121", "-1"]) == [
        (2, "id", "empty"),
        (1, "id", "'a'"),
        (0, "sex", "'m'"),
        (2, "sex", "'F'"),
        (0, "age", "'x'"),
        (1, "age", "'121'"),
        (2, "age", "'-1'"),
    ]


def test_the_ends_of_a_range_are_allowed():
    assert found(id=["a", "b"], age=[0, 120]) == []


def test_a_count_is_a_whole_number():
    assert found(id=["a", "b"], visits=[1.0, 1.5]) == [(1, "visits", "1.5")]


def test_an_id_that_is_not_text_is_a_problem():
    """1 and "001" were one id once; only text keeps them apart."""
    assert found(id=pd.Series([1, "001"], dtype=object)) == [(0, "id", "1")]


def test_a_missing_required_column_is_named_and_an_optional_one_is_not():
    assert found(sex=["male"]) == [(-1, "id", "no such column")]


def test_row_numbers_are_positions_whatever_the_index():
    frame = pd.DataFrame({"id": ["a", None]}, index=[70, 80])
    assert problems(frame, TABLE)["row"].tolist() == [1]


def test_the_error_names_the_first_line_and_counts_all_by_column():
    frame = pd.DataFrame({"id": ["a", "b", "b"], "sex": ["m", "x", "male"]})
    says = (
        r"p.csv line 4: found id 'b' \(3 such cells: 2 in sex, 1 in id\); expected each value once\. Correct"
    )
    with pytest.raises(InputError, match=says):
        check(frame, TABLE, where="p.csv")


def test_limits_of_the_schemas_hold():
    rows = pd.DataFrame({"image_id": ["a"], "label_basis": ["biopsy"], "split": ["dev"], "age": ["150"]})
    assert problems(rows, MANIFEST)["column"].tolist() == ["label_basis", "split", "age"]
    assert "label_quality" in problems(pd.DataFrame({"label_quality": [1.1]}), ISSUES)["column"].tolist()
    assert set(problems(pd.DataFrame({"run": ["r"]}), METRICS)["found"]) == {"no such column"}


def test_the_group_is_patient_else_lesion_else_case_else_image():
    frame = pd.DataFrame(
        {
            "image_id": ["i1", "i2", "i3", "i4"],
            "patient_id": ["7", None, None, None],
            "lesion_id": ["l1", "7", None, None],
            "case_id": ["c1", "c2", "7", None],
        }
    )
    assert group_of(frame).tolist() == ["patient:7", "lesion:7", "case:7", "image:i4"]


def test_the_group_needs_no_more_than_image_ids():
    assert group_of(pd.DataFrame({"image_id": ["001"]})).tolist() == ["image:001"]
