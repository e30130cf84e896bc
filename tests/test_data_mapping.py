"""Mapping: foreign tables become the manifest by what the file says, and by nothing it does not say."""

import json
from pathlib import Path

import pandas as pd
import pytest

from ddeval import io
from ddeval.data.importers import IMPORTERS
from ddeval.data.manifest import manifest_problems
from ddeval.data.mapped import apply_mapping, mapped_manifest
from ddeval.data.mapping import feature_schema, read_mapping
from ddeval.data.questionnaire import encode
from ddeval.errors import InputError

SCIN = Path(__file__).parents[1] / "docs" / "examples" / "scin_mapping.yaml"


def mapped(tmp_path, table, mapping, **others):
    """The mapping applied to table t.csv (and others by name) in `tmp_path`."""
    for name, text in {"t": table, **others}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    path = tmp_path / "mapping.yaml"
    path.write_text(
        mapping if "tables:" in mapping else f"tables: [{{path: t.csv}}]\nimage_id: id\n{mapping}"
    )
    return apply_mapping(read_mapping(path), tmp_path)


def answers(tmp_path, table, spec):
    """The cells of one question q, and the words not understood."""
    result = mapped(tmp_path, table, f"answers: {{q: {spec}}}")
    cells = result.frame.get("q.q", pd.Series([None] * len(result.frame)))
    refused = dict(zip(result.not_understood["found"], result.not_understood["n"], strict=True))
    return cells.tolist(), refused


def test_words_in_the_file_are_text_and_never_numbers_or_booleans(tmp_path):
    """In plain YAML the keys 001, no and 1.50 would be 1, False and 1.5, and match nothing."""
    cells, refused = answers(
        tmp_path,
        "id,a\n1,001\n2,no\n3,1.50\n4,1\n",
        "{kind: single, column: a, values: {001: one, no: two, 1.50: three}}",
    )
    assert cells == ["one", "two", "three", None]
    assert refused == {"1": 1}


def test_yes_no_by_codes_with_words_for_unknown(tmp_path):
    cells, refused = answers(
        tmp_path,
        "id,a\n1,1\n2,0\n3,-1\n4,\n5,Y\n6,perhaps\n",
        "{kind: yes_no, column: a, values: {1: yes, 0: no}, unknown: ['-1']}",
    )
    assert cells == ["yes", "no", None, None, "Y", None]
    assert refused == {"perhaps": 1}


def test_an_answer_that_is_not_understood_becomes_unknown_only_where_the_file_says_so(tmp_path):
    spec = "{kind: yes_no, column: a, otherwise: unknown}"
    cells, refused = answers(tmp_path, "id,a\n1,yes\n2,perhaps\n", spec)
    assert (cells, refused) == (["yes", None], {})


@pytest.mark.parametrize(
    ("spec", "cell", "expected"),
    [
        ("{kind: multiple, column: a, form: separator, separator: '|', answers: [x, y]}", "y | x", "y;x"),
        ("{kind: multiple, column: a, form: list, answers: [x, y]}", '"[""x"", ""y""]"', "x;y"),
        ("{kind: multiple, column: a, form: list, answers: [x, y]}", "\"['x', 'y']\"", "x;y"),
        ("{kind: multiple, column: a, form: list, answers: [x, y]}", "[]", None),
        (
            "{kind: multiple, column: a, form: separator, values: {A: x, B: y}, answers: [x, y]}",
            "A;B;A",
            "x;y",
        ),
        ("{kind: multiple, column: a, form: separator, answers: [x, y], unknown: ['?']}", "x;?", "x"),
    ],
)
def test_several_answers_as_a_list_or_between_separators(tmp_path, spec, cell, expected):
    assert answers(tmp_path, f"id,a\n1,{cell}\n", spec) == ([expected], {})


def test_a_list_that_is_none_and_an_answer_out_of_the_list_are_not_understood(tmp_path):
    spec = "{kind: multiple, column: a, form: list, answers: [x]}"
    cells, refused = answers(tmp_path, "id,a\n1,x y\n2,\"['x', 'z']\"\n3,[1]\n", spec)
    assert cells == [None, None, None]
    assert refused == {"x y": 1, "[1]": 1, "x;z": 1}


def test_one_box_a_column(tmp_path):
    """Empty boxes are unanswered; boxes that say no are an answer: none of these."""
    cells, refused = answers(
        tmp_path,
        "id,x,y\n1,YES,\n2,1,x\n3,,\n4,0,0\n5,no,\n6,maybe,1\n7,maybe,0\n",
        "{kind: multiple, one_hot: {x: ex, y: why}, none: neither}",
    )
    assert cells == ["ex", "ex;why", None, "neither", "neither", "why", None]
    assert refused == {"maybe": 2}


def test_numbers_with_units_decimal_commas_and_a_column_of_units(tmp_path):
    spec = (
        "{kind: number, column: a, unit: mm, units: {mm: 1, cm: 10}, low: 0, high: 500,"
        " decimal: ',', unit_column: u}"
    )
    table = 'id,a,u\n1,"1,5",cm\n2,20,mm\n3,7,\n4,"1.234,5",mm\n5,3,inch\n'
    cells, refused = answers(tmp_path, table, spec)
    assert cells[:3] == ["1.5 cm", "20 mm", "7"]
    assert refused == {"1.234,5 mm": 1, "3 inch": 1}
    result = mapped(tmp_path, table, f"answers: {{q: {spec[:-1]}, otherwise: unknown}}}}")
    schema = feature_schema(read_mapping(tmp_path / "mapping.yaml"))
    assert encode(result.frame, schema)[:, 0].tolist() == pytest.approx([0.03, 0.04, 0.014, 0, 0])


def test_an_unstated_unit_beside_stated_ones_is_not_guessed(tmp_path):
    spec = "{kind: number, column: a, unit: mm, units: {mm: 1, cm: 10}, bare_numbers: false, high: 99}"
    assert answers(tmp_path, "id,a\n1,3\n2,3 cm\n", spec) == ([None, "3 cm"], {"3": 1})


def test_columns_by_values_and_a_stated_value(tmp_path):
    result = mapped(
        tmp_path,
        "id,g,who,n\nx,F,7,a \ny,d,NA,\nz,k.A.,8,b\n",
        "unknown: ['NA', 'k.a.']\n"
        "columns: {sex: {column: g, values: {f: female, d: null}}, patient_id: who, source: {value: ours},"
        " body_site: {column: n, strip: true}}",
    )
    assert result.frame["sex"].tolist() == ["female", None, None]
    assert result.frame["patient_id"].tolist() == ["7", "NA", "8"]  # in an id, NA is somebody
    assert result.frame["source"].tolist() == ["ours"] * 3
    assert result.frame["body_site"].tolist() == ["a", None, "b"]
    assert result.not_understood.empty


def test_a_word_without_a_value_is_not_understood_and_stops_the_import(tmp_path):
    mapping = "columns: {sex: {column: g, values: {F: female}}}"
    result = mapped(tmp_path, "id,g\nx,F\ny,3\nz,3\n", mapping)
    assert result.not_understood.to_dict("records") == [
        {"target": "sex", "found": "3", "n": 2, "expected": "a word of `values`"}
    ]
    with pytest.raises(InputError, match=r"2 cells not understood: sex \('3' ×2\); expected every word"):
        mapped_manifest(read_mapping(tmp_path / "mapping.yaml"), tmp_path)


def test_ages_with_units(tmp_path):
    mapping = (
        "columns: {age: {column: a, number: {unit: year, units: {months: 0.083333, y: 1}, decimal: ','}}}"
    )
    result = mapped(tmp_path, 'id,a\n1,34\n2,6 months\n3,"2,5 y"\n4,old\n', mapping)
    assert result.frame["age"].tolist() == ["34", "0.499998", "2.5", None]
    assert result.not_understood["found"].tolist() == ["old"]


def test_the_teams_words_for_splits_come_from_the_project_unless_the_mapping_has_its_own(tmp_path):
    mapped(tmp_path, "id,s\n1,dev\n2,test\n", "columns: {split: s}")
    mapping = read_mapping(tmp_path / "mapping.yaml")
    result = apply_mapping(mapping, tmp_path, splits={"dev": "val", "test": "test"})
    assert result.frame["split"].tolist() == ["val", "test"]
    assert apply_mapping(mapping, tmp_path).frame["split"].tolist() == ["dev", "test"]  # refused on reading


@pytest.mark.parametrize(
    ("spec", "labels", "n_lost"),
    [
        ("{column: d}", ["Eczema ", "eczema", "SCC", None], 0),
        ("{column: d, strip: true, classes: {ECZEMA: eczema}}", ["eczema", "eczema", None, None], 1),
        (
            "{column: d, classes: {'eczema': eczema}, otherwise: other}",
            ["eczema", "eczema", "other", None],
            0,
        ),
        ("{column: d, classes: {eczema: e, scc: null}}", ["e", "e", None, None], 1),
    ],
)
def test_diagnoses_become_classes_only_by_the_file(tmp_path, spec, labels, n_lost):
    result = mapped(tmp_path, "id,d\n1,Eczema \n2,eczema\n3,SCC\n4,?\n", f"unknown: ['?']\nlabel: {spec}")
    assert result.frame["label"].tolist() == labels
    assert result.frame["raw_label"].tolist()[1:] == ["eczema", "SCC", None]
    assert len(result.without_class) == n_lost
    if n_lost:
        assert result.without_class.to_dict("records") == [{"raw_label": "SCC", "n": 1}]


def test_weights_and_ranked_lists_of_diagnoses(tmp_path):
    table = (
        "id,w,l\n1,\"{'a': 0.3, 'b': 0.7}\",\"['b', 'a']\"\n2,{},[]\n3,\"{'a': 0.5, 'c': 0.5}\",['c']\n4,x,\n"
    )
    weights = mapped(tmp_path, table, "label: {column: w, form: weights}")
    assert weights.frame["label"].tolist() == ["b", None, "a", None]  # the first of equals
    assert json.loads(weights.frame["label_weights"][0]) == {"a": 0.3, "b": 0.7}
    assert weights.not_understood["found"].tolist() == ["x"]
    ranked = mapped(tmp_path, table, "label: {column: l, form: list}")
    assert ranked.frame["label"].tolist() == ["b", None, "c", None]


WIDE = "case,p1,p2,sick\nA,a.jpg,b.jpg,yes\nB,,c.jpg,no\nC,,,yes\n"


def test_several_photographs_a_row_become_rows_with_the_rows_answers(tmp_path):
    result = mapped(
        tmp_path,
        WIDE,
        "tables: [{path: t.csv}]\nimage: {columns: [p1, p2], pattern: 'photos/{}'}\n"
        "columns: {case_id: case}\nanswers: {sick: {kind: yes_no, column: sick}}",
    )
    assert result.frame["image_id"].tolist() == ["A-1", "A-2", "B-1", "C-1"]
    assert result.frame["image"].tolist() == ["photos/a.jpg", "photos/b.jpg", "photos/c.jpg", None]
    assert result.frame["q.sick"].tolist() == ["yes", "yes", "no", "yes"]
    assert result.n_rows == 3


def test_several_photographs_a_cell(tmp_path):
    result = mapped(
        tmp_path,
        "n,f\n7,a.jpg; b.jpg\n8,c.jpg\n",
        "tables: [{path: t.csv}]\nimage: {columns: [f], separator: ';', id: n}",
    )
    assert result.frame["image_id"].tolist() == ["7-1", "7-2", "8-1"]


@pytest.mark.parametrize(
    ("files", "ids"),
    [(("x/a.jpg", "y/b.jpg"), ["a", "b"]), (("x/a.jpg", "y/a.jpg"), ["x/a.jpg", "y/a.jpg"])],
)
def test_without_an_id_the_files_name_is_it_where_it_is_unique(tmp_path, files, ids):
    table = "f\n" + "\n".join(files) + "\n"
    result = mapped(tmp_path, table, "tables: [{path: t.csv}]\nimage: {columns: [f]}")
    assert result.frame["image_id"].tolist() == ids


JOIN = "tables: [{path: t.csv}, {path: u.csv, join: case}]\nimage_id: id\ncolumns: {case_id: case, sex: sex}"


def test_tables_are_joined_by_a_column_and_rows_without_a_partner_are_counted(tmp_path):
    result = mapped(tmp_path, "id,case\n1,A\n2,A\n3,B\n", JOIN, u="case,sex\nA,male\nC,female\n")
    assert result.frame["sex"].tolist() == ["male", "male", None]
    assert (result.n_rows, result.n_unjoined) == (3, 1)


def test_a_join_that_would_multiply_rows_is_refused(tmp_path):
    with pytest.raises(
        InputError, match=r"u\.csv: found case 'A' 2 times or others so; expected each value once"
    ):
        mapped(tmp_path, "id,case\n1,A\n", JOIN, u="case,sex\nA,male\nA,female\n")


def test_columns_neither_used_nor_ignored_are_named(tmp_path):
    result = mapped(tmp_path, "id,a,b\n1,x,y\n", "ignore: [b]")
    assert result.unused == ("a",)


@pytest.mark.parametrize(
    ("mapping", "says"),
    [
        ("columns: {sex: gendr}", r"no column 'gendr' \(1 such\); expected 'gender'"),
        ("columns: {group: gender}", "'group' is none of them"),
        ("columns: {sex: {column: gender, value: x}}", "needs `column`, or `value`"),
        ("answers: {q: {kind: single, column: gender}}", "answers must be words"),
        ("answers: {q: {kind: yes_no}}", "needs `column`, or `one_hot`"),
        ("answers: {Q: {kind: yes_no, column: gender}}", "a field name is lower-case"),
        ("answers: {q: {kind: yesno, column: gender}}", "answers.q.kind"),
        ("columns: {sex: {column: gender, values: {M: male, m: female}}}", "'M' and 'm' are one word"),
        ("answer: {}", "the unknown key 'answer'; expected 'answers'"),
        ("image: {columns: [gender]}", "needs `image`, or `image_id`"),
        ("tables: [{path: t.csv}, {path: t.csv}]\nimage_id: id", "every table but the first needs `join`"),
        ("tables: [{path: t.csv}]\nimage: {columns: [id], pattern: photo}", "must hold {} once"),
        ("tables: [{path: u.csv}]\nimage_id: id", "no such file"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused_by_name(tmp_path, mapping, says):
    with pytest.raises(InputError, match=says) as caught:
        mapped(tmp_path, "id,gender\n1,f\n", mapping)
    assert "\n" not in str(caught.value)


def test_hide_when_blind_and_the_order_of_columns_reach_the_questionnaire(tmp_path):
    mapped(
        tmp_path,
        "id,a,b\n1,yes,x\n",
        "answers: {said: {kind: yes_no, column: a, hide_when_blind: true, question: 'What was said?'},"
        " where: {kind: location, column: b, answers: [x, y], within: {x: y}}}",
    )
    schema = feature_schema(read_mapping(tmp_path / "mapping.yaml"))
    assert schema.columns == ("said=yes", "said=unknown", "where=x", "where=y", "where=unknown")
    assert (schema.fields[0].hide_when_blind, schema.fields[0].question) == (True, "What was said?")


def test_a_parquet_table_is_mapped_too(tmp_path):
    io.write_parquet(tmp_path / "p.parquet", pd.DataFrame({"id": ["1"], "age": [34.0]}))
    mapping = "tables: [{path: p.parquet}]\nimage_id: id\ncolumns: {age: age}"
    assert mapped(tmp_path, "id\n", mapping).frame["age"].tolist() == ["34"]


@pytest.fixture(scope="module")
def scin(real_data):
    return apply_mapping(read_mapping(SCIN), real_data / "scin")


@pytest.mark.real_data
def test_scin_becomes_a_manifest_by_its_mapping_file_alone(scin):
    assert scin.not_understood.empty
    assert scin.without_class.empty
    assert scin.unused == ()
    assert (scin.n_rows, scin.n_unjoined, len(scin.frame)) == (5_033, 0, 10_407)
    cases = scin.frame.drop_duplicates("case_id")
    assert cases["label"].notna().sum() == 3_061
    assert len({name for w in cases["label_weights"].dropna().map(json.loads) for name in w}) == 370
    assert cases["q.skin_in_sun"].isna().sum() == 2_530
    assert (scin.frame["case_id"].value_counts() >= 2).mean() == pytest.approx(0.613, abs=0.001)
    assert manifest_problems(scin.frame).empty


@pytest.mark.real_data
def test_scin_by_mapping_says_the_same_as_its_importer(scin, real_data):
    by_code = IMPORTERS["scin"](real_data / "scin").set_index("image_id")
    by_file = scin.frame.set_index("image_id").reindex(by_code.index)
    for name in ("label", "case_id", "sex", "skin_type", "image"):
        assert (by_file[name].fillna("") == by_code[name].fillna("")).all(), name
    n_parts = by_code["q.body_parts"].str.count(";")
    assert (by_file["q.body_parts"].str.count(";").fillna(-1) == n_parts.fillna(-1)).all()


@pytest.mark.real_data
def test_scins_answers_encode_by_the_mappings_own_questionnaire(scin):
    schema = feature_schema(read_mapping(SCIN))
    features = encode(scin.frame, schema)
    assert features.shape == (10_407, schema.width)
    itch = schema.columns.index("symptoms=itching")
    assert features[:, itch].sum() == scin.frame["q.symptoms"].str.contains("itching", na=False).sum() > 1000
