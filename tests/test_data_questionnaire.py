"""The questionnaire: every question has its columns, and no answer is guessed at."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ddeval.data.questionnaire import (
    FeatureSchema,
    Field,
    coverage,
    encode,
    in_brief,
    missing_columns,
    not_understood,
    read_schema,
    readable,
)
from ddeval.errors import InputError
from tests import reference

CONFIGS = Path(__file__).parents[1] / "configs"
FULL = read_schema(CONFIGS / "feature_schema.json")
TRIMMED = read_schema(CONFIGS / "trimmed_feature_schema.json")

ITCH = Field("itch", "single", answers=("none", "mild", "severe"))
FEVER = Field("fever", "yes_no")
FEEL = Field("feel", "multiple", answers=("flat", "bump", "flaky"), none="nothing")
SITE = Field("site", "location", answers=("arm", "forearm", "leg"), within={"forearm": "arm"})
DAYS = {"day": 1.0, "week": 7.0, "month": 30.4375}
LASTS = Field("lasts", "number", unit="day", units=DAYS, low=0, high=100, bare_numbers=False)
AGE = Field("age", "number", unit="year", units={"year": 1.0, "month": 1 / 12}, low=0, high=100)
SMALL = FeatureSchema((ITCH, FEVER, FEEL, SITE, LASTS, AGE))


def one(field: Field, *cells: object) -> list[list[float]]:
    return encode(pd.DataFrame({f"q.{field.name}": list(cells)}), FeatureSchema((field,))).tolist()


def test_a_choice_of_three_answers_is_four_columns():
    """The fourth is unknown; exactly one of the four is on."""
    assert one(ITCH, "none", "mild", "severe", None) == np.eye(4).tolist()


def test_no_is_not_unknown():
    """Yes and unknown are the two columns, so "no" is both of them off."""
    assert one(FEVER, "yes", "no", None) == [[1, 0], [0, 0], [0, 1]]


def test_several_answers_stand_in_one_cell_and_none_of_these_marks_nothing():
    assert one(FEEL, "flaky; bump", "nothing", "") == [[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]]


def test_a_site_marks_its_region_too():
    """Coarse answers ("arm") and fine ones ("forearm") then share a column."""
    assert one(SITE, "forearm", "arm", "leg; forearm") == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 0]]


def test_a_duration_is_converted_by_its_unit():
    """10 days = .1 of 100; 2 weeks = 14 days; 1 month = 30.4375 days."""
    rows = one(LASTS, "10 days", "2 weeks", "1 month", "1day", None)
    np.testing.assert_allclose(rows, [[0.1, 0], [0.14, 0], [0.304375, 0], [0.01, 0], [0, 1]], rtol=1e-6)


def test_a_logarithmic_scale_still_runs_from_zero_to_one():
    """9 above the lowest of 0..99 above it: log(10) / log(100) = 1/2."""
    field = Field("size", "number", unit="mm", low=5, high=104, scale="log")
    np.testing.assert_allclose(one(field, "5", "14", "104"), [[0, 0], [0.5, 0], [1, 0]], rtol=1e-6)


def test_an_age_without_a_unit_is_in_years_and_an_infants_may_be_in_months():
    np.testing.assert_allclose(one(AGE, "50", "50.0 years", "6 months"), [[0.5, 0], [0.5, 0], [0.005, 0]])


@pytest.mark.parametrize("cell", ["YES", " yes ", "Y", "true", True])
def test_case_and_spaces_do_not_matter(cell):
    assert one(FEVER, cell) == [[1, 0]]


@pytest.mark.parametrize("word", ["unknown", " Unknown", "", "  ", None, np.nan, pd.NA])
def test_unknown_may_be_said_or_left_empty(word):
    assert one(ITCH, word) == [[0, 0, 0, 1]]


def test_a_field_has_its_own_words_for_unknown():
    field = replace(ITCH, unknown=("no idea", "-1"))
    assert one(field, "no idea", "-1") == [[0, 0, 0, 1]] * 2
    with pytest.raises(InputError, match="'unknown'"):
        one(field, "unknown")


@pytest.mark.parametrize(
    ("field", "cell"),
    [
        (ITCH, "a bit"),
        (ITCH, "none; mild"),
        (FEVER, "38.5"),
        (FEVER, "1"),
        (FEEL, "flat; nothing"),
        (FEEL, "flat; unknown"),
        (FEEL, "flat, bump"),
        (FEEL, ";"),
        (SITE, "arms"),
        (LASTS, "10"),
        (LASTS, "3 fortnights"),
        (LASTS, "2-3 weeks"),
        (LASTS, "101 days"),
        (AGE, "-1"),
        (AGE, "abc"),
        (AGE, "1,5"),
        (AGE, "inf"),
        (AGE, "1e999"),
        (AGE, "nan"),
    ],
)
def test_an_answer_of_another_form_is_refused(field, cell):
    """A bare duration, a contradiction and a value out of range are not understood, not bent to fit."""
    with pytest.raises(InputError, match="1 answers not understood: " + field.name):
        one(field, cell)


def test_refused_answers_are_listed_by_field_with_counts():
    answers = pd.DataFrame(
        {"q.itch": ["a bit", "mild", "a bit", "very"], "q.fever": ["yes", "hot", "no", ""]}
    )
    schema = FeatureSchema((ITCH, FEVER))
    with pytest.raises(InputError) as caught:
        encode(answers, schema, where="m.csv")
    assert str(caught.value) == (
        "m.csv: found 4 answers not understood: itch ('a bit' ×2, 'very' ×1); fever ('hot' ×1); "
        "expected for itch none, mild, severe, or empty. "
        "Map them in ddeval.yaml (`ddeval data check` lists them); an empty cell is unknown."
    )
    table = not_understood(answers, schema)
    assert table["field"].tolist() == ["itch", "itch", "fever"]
    assert table["answer"].tolist() == ["a bit", "very", "hot"]
    assert table["n"].tolist() == [2, 1, 1]


def test_refused_answers_become_unknown_only_when_that_is_chosen():
    answers = pd.DataFrame({"q.itch": ["a bit", "mild"]})
    rows = encode(answers, FeatureSchema((ITCH,)), on_unknown="unknown")
    assert rows.tolist() == [[0, 0, 0, 1], [0, 1, 0, 0]]
    with pytest.raises(ValueError, match="on_unknown must be 'error' or 'unknown', got 'skip'"):
        encode(answers, FeatureSchema((ITCH,)), on_unknown="skip")


def test_every_missing_column_is_named():
    answers = pd.DataFrame({"q.itch": ["mild"]})
    with pytest.raises(InputError, match=r"m\.csv: found no column q\.fever, q\.feel \(2 of 3 fields\)"):
        encode(answers, FeatureSchema((ITCH, FEVER, FEEL)), where="m.csv")
    assert missing_columns(answers, FeatureSchema((ITCH, FEVER, FEEL))) == ["q.fever", "q.feel"]


def test_a_missing_column_is_unknown_only_when_that_is_chosen():
    rows = encode(pd.DataFrame({"image_id": ["a", "b"]}), FeatureSchema((FEVER,)), on_missing="unknown")
    assert rows.tolist() == [[0, 1], [0, 1]]


def test_no_rows_still_have_the_width_of_the_schema():
    empty = pd.DataFrame({f"q.{f.name}": pd.Series([], dtype=object) for f in SMALL.fields})
    assert encode(empty, SMALL).shape == (0, SMALL.width)
    assert encode(pd.DataFrame(index=range(3)), FeatureSchema(())).shape == (3, 0)


def test_rows_follow_the_order_of_the_manifest_whatever_its_index():
    answers = pd.DataFrame({"q.itch": ["mild", "none", "mild"]}, index=[7, 7, 3])
    assert encode(answers, FeatureSchema((ITCH,)))[:, 1].tolist() == [1, 0, 1]


def test_coverage_counts_every_row_once():
    answers = pd.DataFrame({"q.itch": ["mild", "a bit", None, "unknown", "none"]})
    table = coverage(answers, FeatureSchema((ITCH, FEVER))).set_index("field")
    counts = ["n_answered", "n_unknown", "n_not_understood"]
    assert table.loc["itch", counts].tolist() == [2, 2, 1]
    assert table.loc["fever", counts].tolist() == [0, 5, 0]
    assert table["has_column"].tolist() == [True, False]


ANSWERS = {
    "itch": st.sampled_from(["none", "Mild", "severe", "unknown", "", None, "bad"]),
    "fever": st.sampled_from(["yes", "no", None, "bad"]),
    "feel": st.lists(st.sampled_from(["flat", "bump", "flaky", "nothing"]), max_size=3).map("; ".join),
    "site": st.lists(st.sampled_from(["arm", "forearm", "leg", "ear"]), max_size=3).map(";".join),
    "lasts": st.sampled_from(["3 days", "2 weeks", "4 months", "5", "", "1.5 weeks"]),
    "age": st.integers(-2, 105).map(str),
}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries(ANSWERS), max_size=12))
def test_encoding_matches_the_definition_cell_by_cell(rows):
    """The table of distinct answers gives what reading each cell on its own gives."""
    frame = pd.DataFrame([{f"q.{k}": v for k, v in row.items()} for row in rows], dtype=object)
    frame = frame.reindex(columns=[f"q.{f.name}" for f in SMALL.fields])
    encoded = encode(frame, SMALL, on_unknown="unknown")
    assert encoded.dtype == np.float32
    expected = np.reshape(reference.encode(frame, SMALL), (len(frame), SMALL.width))
    np.testing.assert_allclose(encoded, expected, rtol=1e-6)


@pytest.mark.parametrize("schema", [SMALL, FULL, TRIMMED], ids=lambda s: s.name)
def test_a_schema_survives_the_round_trip_through_json(schema, tmp_path):
    path = tmp_path / "feature_schema.json"
    path.write_text(json.dumps(schema.to_dict()))
    assert read_schema(path) == schema


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "choice"}, r"field 1 \(itch\): found kind must be one of single, multiple"),
        ({"name": "Itch!"}, "a field name is lower-case letters"),
        ({"answer": ["a"]}, r"the key 'answer' \(1 such\).*Did you mean 'answers'\?"),
        ({"answers": "abc"}, "answers: found 'abc'; expected a list of text"),
        ({"answers": []}, "at least one"),
        ({"answers": ["a", "A "]}, "'a' is there 2 times"),
        ({"answers": ["unknown", "b"]}, "'unknown' is there 2 times"),
        ({"answers": ["a;b"]}, "words without ';'"),
        ({"hide_when_blind": "no"}, "hide_when_blind: found 'no'; expected true or false"),
        ({"unit": "day"}, "a single field has no unit"),
        ({"none": "nothing"}, "`none` for those with several answers"),
        ({"within": {"a": "b"}}, "`within` is for location fields"),
        ({"kind": "location", "within": {"a": "z"}}, "`within` names 'z'"),
        ({"kind": "yes_no"}, "a yes_no field has no answers to choose from"),
        ({"kind": "number", "answers": []}, "a number needs a `unit`"),
    ],
)
def test_a_schema_that_does_not_fit_names_the_field_and_what_is_wrong(change, message, tmp_path):
    held = {"name": "itch", "kind": "single", "answers": ["a", "b"]} | change
    path = tmp_path / "feature_schema.json"
    path.write_text(json.dumps({"fields": [held]}))
    with pytest.raises(InputError, match=message) as caught:
        read_schema(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": 3.0, "high": 3.0}, "low must be less than high"),
        ({"units": {"day": 1.0, "week": -7.0}}, "positive multiples"),
        ({"units": {"week": 7.0}}, "`units` must give 'day' as 1"),
        ({"scale": "sqrt"}, "scale must be linear or log"),
    ],
)
def test_a_number_field_needs_a_range_and_a_unit(change, message):
    with pytest.raises(ValueError, match=message):
        replace(LASTS, **change)


def test_a_schema_of_another_package_is_refused_with_the_way_out(tmp_path):
    path = tmp_path / "feature_schema.json"
    path.write_text('{"columns": ["a", "b"]}')
    with pytest.raises(InputError, match=r"dict without a list `fields`.*adapter\.yaml"):
        read_schema(path)


def test_a_field_may_not_stand_twice():
    with pytest.raises(ValueError, match="the field 'itch' is there 2 times"):
        FeatureSchema((ITCH, ITCH))


def test_the_trimmed_questionnaire_encodes_to_159_columns():
    assert TRIMMED.width == len(set(TRIMMED.columns)) == 159
    answers = pd.DataFrame({f"q.{f.name}": [None] for f in TRIMMED.fields})
    assert encode(answers, TRIMMED).shape == (1, 159)


def test_the_trimmed_questionnaire_is_the_full_one_without_twelve_removable_fields():
    assert [f for f in FULL.fields if not f.removable] == list(TRIMMED.fields)
    assert len(FULL.fields) - len(TRIMMED.fields) == 12
    assert {"body_site", "morphology"} <= {f.name for f in TRIMMED.fields}
    gone = FULL.difference(TRIMMED)
    assert len(gone) == 12
    assert (gone["other_width"] == 0).all()
    assert gone["width"].sum() == FULL.width - 159


def test_the_difference_of_two_schemas_names_the_fields_that_change_the_width():
    longer = replace(ITCH, answers=(*ITCH.answers, "unbearable"))
    table = FeatureSchema((ITCH, FEVER)).difference(FeatureSchema((longer, FEVER, AGE)))
    assert table["field"].tolist() == ["itch", "age"]
    assert table["width"].tolist() == [4, 0]
    assert table["other_width"].tolist() == [5, 2]


def test_every_question_is_asked_in_plain_words():
    """The vetting app and the report print `question`; a bare field name is not for a clinician."""
    assert all(len(f.question.split()) >= 3 for f in FULL.fields)


def test_a_blind_reader_is_not_told_what_the_doctor_said():
    answers = {"q.my_doctor_said": "psoriasis", "q.itch": "mild itch", "q.fever": None, "q.age": "unknown"}
    seen = readable(answers, TRIMMED, is_blind=True)
    assert seen == [("How much does it itch?", "mild itch")]
    assert ("My doctor said it is ...", "psoriasis") in readable(answers, TRIMMED, is_blind=False)


def test_fifteen_thousand_rows_are_encoded_in_seconds():
    """The test split of the users has 15,561 rows; each distinct answer is parsed once."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            f"q.{f.name}": rng.choice([*f.answers, ""] if f.answers else [""], size=15561)
            for f in TRIMMED.fields
        }
    )
    encoded = encode(frame, TRIMMED)
    assert encoded.shape == (15561, 159)
    assert (encoded.sum(axis=1) >= len(TRIMMED.fields)).all()


@pytest.mark.real_data
def test_an_answer_the_documentation_does_not_list_is_found_in_real_data(real_data):
    """SCIN documents NONE_SELECTED for the skin type; its file says NONE_IDENTIFIED, 328 times."""
    cases = pd.read_csv(real_data / "scin" / "scin_cases.csv", dtype=str)
    answers = pd.DataFrame(
        {"q.skin_type": cases["fitzpatrick_skin_type"], "q.fever": cases["other_symptoms_fever"]}
    )
    types = Field("skin_type", "single", answers=tuple(f"FST{i}" for i in range(1, 7)))
    schema = FeatureSchema((replace(types, unknown=("NONE_SELECTED",)), FEVER))
    with pytest.raises(InputError, match="328 answers not understood: skin_type"):
        encode(answers, schema)

    schema = FeatureSchema((replace(types, unknown=("NONE_IDENTIFIED",)), FEVER))
    unknown = encode(answers, schema)[:, list(schema.columns).index("skin_type=unknown")].sum()
    assert unknown == cases["fitzpatrick_skin_type"].isna().sum() + 328


TABLE_START, TABLE_END = "<!-- table of fields: written by the test, see below -->\n", "<!-- end of table -->"


def field_table(schema: FeatureSchema) -> str:
    """One Markdown row a field: kind, columns, answers, marks."""
    lines = ["| field | kind | columns | answers | |", "|---|---|---|---|---|"]
    for f in schema.fields:
        said = ", ".join(f.answers) or ("yes" if f.kind == "yes_no" else "")
        if f.kind == "number":
            units = ", ".join(f.units or [f.unit])
            said = f"{f.low:g} to {f.high:g} {f.unit}s ({f.scale} scale); in {units}"
        marks = [("full only", f.removable), ("hidden from blind readers", f.hide_when_blind)]
        note = ", ".join(word for word, is_set in marks if is_set)
        lines.append(
            f"| `{f.name}` | {f.kind} | {f.width} | {said}{f'; {f.none}' if f.none else ''} | {note} |"
        )
    return "\n".join(lines) + "\n"


def test_the_documented_table_of_fields_is_that_of_the_schema():
    """DDEVAL_WRITE_DOCS=1 writes the table into the page; otherwise the page must already hold it."""
    page = CONFIGS.parent / "docs" / "questionnaire.md"
    before, rest = page.read_text().split(TABLE_START)
    written, after = rest.split(TABLE_END)
    if os.environ.get("DDEVAL_WRITE_DOCS"):
        page.write_text(before + TABLE_START + field_table(FULL) + TABLE_END + after)
    else:
        assert written == field_table(FULL)
    assert f"full questionnaire encodes to {FULL.width} columns" in before


def test_a_reader_sees_what_is_there_first_and_what_was_denied_gathered():
    """Subjects are field names in words; no and none of these carry no answer of their own."""
    answers = {
        "q.itch": "severe",
        "q.fever": "no",
        "q.feel": "nothing",
        "q.site": "forearm; leg",
        "q.age": "34",
    }
    said, denied = in_brief(answers, SMALL, is_blind=True)
    assert said == [("itch", "severe"), ("site", "forearm, leg"), ("age", "34")]
    assert denied == ["fever", "feel"]


def test_a_hidden_answer_is_in_no_brief():
    answers = {"q.my_doctor_said": "psoriasis", "q.fever": "unknown"}
    assert in_brief(answers, FULL, is_blind=True) == ([], [])
    assert in_brief(answers, FULL, is_blind=False) == ([("my doctor said", "psoriasis")], [])
