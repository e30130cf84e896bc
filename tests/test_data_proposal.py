"""`ddeval init` on messy tables: it asks what only the team can know, and guesses at nothing else."""

import copy
import json
from pathlib import Path

import pytest

from ddeval.config import parse_config
from ddeval.data import guesses
from ddeval.data.conditions import read_conditions
from ddeval.data.manifest import read_manifest
from ddeval.data.mapped import apply_mapping, mapped_manifest
from ddeval.data.mapping import Mapping, read_mapping
from ddeval.data.proposal import as_yaml, propose
from ddeval.errors import InputError
from tests.command import run
from tests.messy_tables import TABLES, lines


def proposal(tmp_path, content, name="t.csv", **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return propose([path], folder=tmp_path, **options)


@pytest.mark.parametrize("name", TABLES)
def test_the_edits_it_names_are_all_that_a_messy_table_needs(tmp_path, name):
    """After them every cell of the manifest is the one a person would have written."""
    table = TABLES[name]
    found = proposal(tmp_path, table.content)
    assert len(found.edits) == len(table.asked), found.edits
    for line, piece in zip(found.edits, table.asked, strict=True):
        assert piece in line
    edited = copy.deepcopy(found.mapping)
    table.edit(edited)
    frame = mapped_manifest(parse_config(edited, Mapping, where="edited"), tmp_path)
    for column, cells in table.cells.items():
        assert frame[column].tolist() == cells, column


@pytest.mark.parametrize("name", TABLES)
def test_what_is_written_is_what_was_proposed_and_leaves_no_column_unmentioned(tmp_path, name):
    found = proposal(tmp_path, TABLES[name].content)
    (tmp_path / "mapping.yaml").write_text(as_yaml(found))
    mapping = read_mapping(tmp_path / "mapping.yaml")
    assert mapping == parse_config(found.mapping, Mapping, where="proposed")
    assert apply_mapping(mapping, tmp_path).unused == ()


@pytest.mark.parametrize("name", TABLES)
def test_a_cell_that_was_not_understood_stops_the_import_until_it_is_edited(tmp_path, name):
    """Nothing is coerced: either the proposal asked nothing, or what it could not read is counted."""
    table = TABLES[name]
    found = proposal(tmp_path, table.content)
    result = apply_mapping(parse_config(found.mapping, Mapping, where="proposed"), tmp_path)
    must_stop = {"mixed units": {"lesion_size", "duration"}, "codes and words for unknown": {"sex"}}
    assert set(result.not_understood["target"]) == must_stop.get(name, set())


def test_classes_of_a_model_and_known_diagnoses_are_used(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("melanoma: {class: Melanoma, synonyms: [malignant melanoma]}\nlipoma: {class: other}\n")
    conditions = read_conditions(path)
    content = "image,diagnosis\na.jpg,Malignant Melanoma\nb.jpg,eczema\nc.jpg,lipoma\nd.jpg,odd\n"
    found = proposal(tmp_path, content, classes=["Melanoma", "Eczema", "other"], conditions=conditions)
    assert found.mapping["label"]["classes"] == {
        "Malignant Melanoma": "Melanoma",
        "eczema": "Eczema",
        "lipoma": "other",
        "odd": None,
    }
    assert "1 of 4 diagnoses have no class" in found.edits[0]


def test_of_two_columns_for_one_target_the_likelier_is_taken_and_the_other_not_lost(tmp_path):
    """A second site is a question; a second diagnosis would give the answer away, so it is ignored."""
    rows = [f"{i}.jpg,wart,{'x' if i % 2 else 'y'},arm,{'leg' if i % 3 else 'face'}" for i in range(8)]
    found = proposal(tmp_path, lines("image,disease,diagnosis,region,body site", *rows))
    assert found.mapping["label"]["column"] == "diagnosis"
    assert found.mapping["ignore"] == ["disease", "region"]
    assert "ignored, another column named for a diagnosis: disease" in found.notes
    assert found.mapping["columns"]["body_site"] == "body site"
    assert "ignored, the same in every row: region" in found.notes


def test_two_tables_are_joined_by_the_ids_they_share(tmp_path):
    (tmp_path / "photos.csv").write_text("file,case\na.jpg,1\nb.jpg,1\nc.jpg,2\n")
    (tmp_path / "cases.csv").write_text("case,diagnosis,itch\n1,wart,yes\n2,eczema,no\n")
    found = propose([tmp_path / "photos.csv", tmp_path / "cases.csv"], folder=tmp_path)
    assert found.mapping["tables"][1] == {"path": "cases.csv", "join": "case"}
    frame = mapped_manifest(parse_config(found.mapping, Mapping, where="m"), tmp_path)
    assert frame[["case_id", "label", "q.itch"]].to_numpy().tolist() == [
        ["1", "wart", "yes"],
        ["1", "wart", "yes"],
        ["2", "eczema", "no"],
    ]


def test_diagnoses_get_their_class_from_the_conditions_and_a_note_says_how_many(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("melanoma: {class: Melanoma, synonyms: [malignant melanoma]}\n")
    content = "image,diagnosis\na.jpg,Malignant Melanoma\nb.jpg,melanoma\n"
    found = proposal(tmp_path, content, classes=["Melanoma"], conditions=read_conditions(path))
    assert "label.classes: 1 diagnoses have the class that conditions.yaml gives" in found.notes


@pytest.mark.parametrize("name", ["Pat.", "Kunde"])
def test_padded_numbers_are_ids_and_the_patient_is_asked_for(tmp_path, name):
    """001 is no measure: as an answer it would name the patient to the model."""
    rows = [f"{i}.jpg,wart,{i // 2:03d}" for i in range(80)]
    found = proposal(tmp_path, lines(f"image,dx,{name}", *rows))
    asked = "columns.patient_id: no column is named for the patient; is it 'Kunde'? Without one every"
    assert found.mapping["answers"] == {}
    assert found.mapping["columns"] == ({"patient_id": "Pat."} if name == "Pat." else {})
    assert [e[: len(asked)] for e in found.edits] == ([] if name == "Pat." else [asked])


def test_a_table_without_patients_says_what_counts_as_independent(tmp_path):
    found = proposal(tmp_path, "case,image,dx\n1,a.jpg,wart\n2,b.jpg,eczema\n")
    assert "no column is named for the patient: every case counts as independent" in found.notes


def test_the_unit_in_a_columns_name_is_that_of_its_bare_numbers(tmp_path):
    """`size_mm` in centimetres would be wrong by ten."""
    cells = ["7", "12", "2.5 cm", "31", "18"]
    rows = [f"{i}.jpg,wart,{cell}" for i, cell in enumerate(cells)]
    found = proposal(tmp_path, lines("image,dx,size_mm", *rows))
    size = found.mapping["answers"]["size_mm"]
    assert (size["unit"], size["units"], "bare_numbers" in size) == ("mm", {"mm": 1.0, "cm": 10.0}, False)
    frame = mapped_manifest(parse_config(found.mapping, Mapping, where="m"), tmp_path)
    assert frame["q.size_mm"].tolist() == cells


def test_skin_types_between_two_are_known_as_the_manifest_writes_them(tmp_path):
    words = ["I", "II-III", "iv–v", "3/4", "II-II"]
    assert guesses.skin_types(words) == {"I": "I", "II-III": "II-III", "iv–v": "IV-V", "3/4": "III-IV"}


def test_a_line_break_in_a_word_does_not_escape_from_the_comment_that_quotes_it(tmp_path):
    found = proposal(tmp_path, 'image,sex\na.jpg,m\nb.jpg,"x\nunknown: [m]"\n')
    (tmp_path / "mapping.yaml").write_text(as_yaml(found))
    assert read_mapping(tmp_path / "mapping.yaml").unknown == ()


def test_tables_without_common_ids_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text("file,case\na.jpg,1\n")
    (tmp_path / "b.csv").write_text("case,dx\n8,wart\n9,eczema\n")
    with pytest.raises(InputError, match=r"b\.csv: found no column that joins it"):
        propose([tmp_path / "a.csv", tmp_path / "b.csv"], folder=tmp_path)


def test_photographs_named_by_the_ids_are_found_where_they_lie(tmp_path):
    (tmp_path / "photos" / "part1").mkdir(parents=True)
    for name in ("x1", "x2"):
        (tmp_path / "photos" / "part1" / f"{name}.png").write_bytes(b"")
    found = proposal(tmp_path, "image_id,dx\nx1,wart\nx2,eczema\n")
    assert found.mapping["image"] == {
        "columns": ["image_id"],
        "pattern": "photos/part1/{}.png",
        "id": "image_id",
    }
    below = proposal(tmp_path, "image_id,dx\nx1,wart\nx2,eczema\n", images=tmp_path / "photos")
    assert below.mapping["image"]["pattern"] == "part1/{}.png"  # from the folder of --images
    named = proposal(tmp_path, "image,dx\nx1.png,wart\nx2.png,eczema\n", images=tmp_path / "photos")
    assert named.mapping["image"] == {"columns": ["image"], "pattern": "part1/{}"}
    lost = proposal(tmp_path, "image,dx\nz1.png,wart\n", images=tmp_path / "photos")
    assert any(note.startswith("photographs: z1.png is not below") for note in lost.notes)
    absent = proposal(tmp_path, "image_id,dx\ny1,wart\ny2,eczema\n")
    assert absent.mapping["image_id"] == "image_id"
    assert "no column names an image file" in absent.edits[0]


def test_of_two_columns_that_name_files_one_is_taken_and_the_other_asked_about(tmp_path):
    found = proposal(tmp_path, "original_name,file,dx\n1.jpg,a.jpg,wart\n2.jpg,b.jpg,eczema\n")
    assert found.mapping["image"] == {"columns": ["file"]}
    assert found.edits == ["image: 'original_name' names files too; 'file' was taken"]


def test_ids_that_stand_in_several_rows_are_asked_about(tmp_path):
    found = proposal(tmp_path, "image_id,dx,rater\na,wart,1\na,wart,2\nb,eczema,1\n")
    assert "image_id: 'image_id' has 2 values in 3 rows; a manifest has each once" in found.edits


def test_hashes_that_begin_with_digits_are_no_measures(tmp_path):
    """5e82a45b looks like the number 5e82 with a unit."""
    rows = [f"{i}.jpg,wart,{i}e{i}a4{i}bc" for i in range(1, 9)]
    found = proposal(tmp_path, lines("image,dx,md5", *rows))
    assert found.mapping["ignore"] == ["md5"]


@pytest.mark.parametrize(("cells", "kind"), [("1111", "constant"), ("1 1 ", "yes_no")])
def test_a_box_ticked_in_every_row_says_nothing(cells, kind):
    words = [c for c in cells if c != " "]
    guess = guesses.guess(list(dict.fromkeys(words)), n_rows=len(words), has_empty=" " in cells)
    assert guess.kind == kind


def test_columns_about_the_labelling_are_no_answers_and_telling_answers_are_hidden(tmp_path):
    rows = [f"{i}.jpg,wart,{'yes' if i % 2 else 'no'},{i % 3},yes" for i in range(6)]
    found = proposal(tmp_path, lines("image,dx,doctor_saw,label_confidence,label_reader", *rows))
    assert set(found.mapping["answers"]) == {"doctor_saw"}
    assert found.mapping["answers"]["doctor_saw"]["hide_when_blind"] is True


@pytest.mark.parametrize(
    ("words", "unknown"),
    [
        (["1", "2", "-1"], ["-1"]),
        (["-1", "-3", "2"], []),
        (["12", "40", "999"], ["999"]),
        (["40", "60", "99"], []),
        (["yes", "no", "n/a", "-1"], ["n/a", "-1"]),
        (["AGE_UNKNOWN", "AGE_30"], ["AGE_UNKNOWN"]),
        (["none", "mild"], []),
    ],
)
def test_a_number_means_unknown_only_far_from_all_others(words, unknown):
    """99 may be an age and -1 a temperature; none may be an answer."""
    assert guesses.unknown_words(words) == unknown


@pytest.mark.parametrize(
    ("word", "skin_type"),
    [("FST3", "III"), ("iv", "IV"), ("2.0", "II"), ("Type V", "V"), ("34", "III-IV"), ("1-2", "I-II")],
)
def test_skin_types_as_they_are_written(word, skin_type):
    assert guesses.skin_types([word]) == {word: skin_type}


@pytest.mark.parametrize("word", ["0", "7", "dark", "5-2", "VII"])
def test_what_is_no_skin_type_stays_unknown(word):
    assert guesses.skin_types([word]) == {}


@pytest.fixture
def team(tmp_path, monkeypatch):
    """A team's folder with one table, to which three answers are missing."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "cases.csv").write_text(
        "file,dx,gender,fold,itch\n"
        "a.jpg,wart,1,trn,yes\nb.jpg,eczema,2,dev,no\nc.jpg,wart,1,trn,\nd.jpg,eczema,2,final,yes\n"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_check_edit_import_takes_a_table_to_a_manifest(team):
    result = run("init", "cases.csv", "--images", "photos")
    assert "EDIT columns.sex.values: what 1, 2 of 'gender' means is not known" in result.stdout
    assert "EDIT columns.split.values: what final of 'fold' means is not known" in result.stdout
    result = run("data", "check", code=1)
    assert "3 words not understood" in result.stdout
    result = run("data", "import", "mapping", "mapping.yaml", code=3)
    assert "cells not understood: sex ('1' ×2, '2' ×2); split ('final' ×1)" in result.stderr
    assert not Path("manifest.csv").exists()
    text = Path("mapping.yaml").read_text()
    text = text.replace("values: {}", 'values: {"1": male, "2": female}')
    text = text.replace("      dev: val\n", "      dev: val\n      final: test\n")
    Path("mapping.yaml").write_text(text)
    run("data", "import", "mapping", "mapping.yaml")
    frame = read_manifest("manifest.csv")
    assert frame["sex"].tolist() == ["male", "female", "male", "female"]
    assert frame["split"].tolist() == ["train", "val", "train", "test"]
    run("data", "check", "--json", code=1)  # four images are few


def test_the_questionnaire_follows_the_mapping_when_it_is_imported(team):
    """An answer renamed in mapping.yaml was not understood by the feature_schema.json of `init`."""
    run("init", "cases.csv", "--images", "photos")
    text = Path("mapping.yaml").read_text().replace("values: {}", 'values: {"1": male, "2": female}')
    text = text.replace("      dev: val\n", "      dev: val\n      final: test\n")
    Path("mapping.yaml").write_text(text.replace("  itch:\n", "  itch_now:\n"))
    assert "next     ddeval data import mapping" in run("data", "check", code=0).stdout
    result = run("data", "import", "mapping", "mapping.yaml")
    assert "feature_schema.json: 2 encoded columns, as the mapping says" in result.stderr
    assert result.stdout.endswith("next     ddeval data check\n")
    found = json.loads(run("data", "check", "--json", code=1).stdout)
    assert [(f["field"], f["n_answered"]) for f in found["fields"]] == [("itch_now", 3)]

    own = {"name": "ours", "fields": [{"name": "fever", "kind": "yes_no"}]}
    Path("feature_schema.json").write_text(json.dumps(own))
    run("data", "import", "mapping", "mapping.yaml")
    assert json.loads(Path("feature_schema.json").read_text()) == own  # no mapping made it


def test_what_would_be_understood_stands_beside_what_was_not(team):
    Path("cases.csv").write_text(
        "file,dx,size_mm\n" + "".join(f"{i}.jpg,wart,{i}\n" for i in range(1, 30)) + "x.jpg,wart,8 cm\n"
    )
    run("init", "cases.csv")
    Path("mapping.yaml").write_text(Path("mapping.yaml").read_text().replace("high: 290.0", "high: 20"))
    found = json.loads(run("data", "check", "--json", code=1).stdout)["mapping"]["not_understood"]
    assert {row["found"]: row["expected"] for row in found}["25"] == "0 to 20 mm; unit mm, cm or none"


def test_the_projects_folders_hold_for_its_manifest_however_it_is_named(team):
    """`data check manifest.csv` found no photograph where `data check` found them all."""
    for name in "abcd":
        (team / "photos" / f"{name}.jpg").write_bytes(b"x")
    Path("cases.csv").write_text("file,dx\na.jpg,wart\nb.jpg,eczema\nc.jpg,wart\nd.jpg,eczema\n")
    run("init", "cases.csv", "--images", "photos")
    run("data", "import", "mapping", "mapping.yaml")
    run("data", "split", "--fractions", "train=0.5,test=0.5", "--out", "split.csv")
    for named in ([], ["manifest.csv"], ["split.csv"]):
        checks = json.loads(run("data", "check", *named, "--json", code=1).stdout)["checks"]
        assert {c["code"]: c["status"] for c in checks}["DD016"] == "passed", named


def test_a_folder_of_photographs_that_is_not_there_is_refused(team):
    assert (
        "--images: found photo, no such folder"
        in run("init", "cases.csv", "--images", "photo", code=3).stderr
    )


def test_init_never_overwrites_and_a_dry_run_writes_nothing(team):
    run("init", "cases.csv", "--dry-run")
    assert sorted(path.name for path in team.iterdir()) == ["cases.csv", "photos"]
    run("init", "cases.csv")
    before = Path("mapping.yaml").read_text()
    assert "already there" in run("init", "cases.csv", code=3).stderr
    assert Path("mapping.yaml").read_text() == before


def test_init_as_json_lists_notes_and_edits(team):
    found = json.loads(run("init", "cases.csv", "--json").stdout)
    assert len(found["edits"]) == 2
    assert found["mapping"]["label"] == {"column": "dx"}


def test_check_tells_the_checkpoints_questionnaire_from_the_projects(team):
    run("init", "cases.csv")
    folder = team / "artefact"
    folder.mkdir()
    fields = [
        {"name": "itch", "kind": "yes_no"},
        {"name": "fever", "kind": "yes_no"},
        {"name": "size", "kind": "number", "unit": "mm", "high": 100},
    ]
    (folder / "feature_schema.json").write_text(json.dumps({"fields": fields}))
    result = run("data", "check", "--checkpoint", folder, "--json", code=1)
    assert json.loads(result.stdout)["checkpoint"] == {
        "width": 2,
        "checkpoint_width": 6,
        "differences": [
            {"field": "fever", "width": 0, "other_width": 2},
            {"field": "size", "width": 0, "other_width": 2},
        ],
    }
    result = run("data", "check", "--checkpoint", "nobody", code=3)
    assert "--checkpoint: found nobody; expected a config name or artefact folder" in result.stderr


@pytest.mark.real_data
@pytest.mark.parametrize(
    "table",
    [
        "ham10000/metadata.csv",
        "isic2019/ISIC_2019_Training_Metadata.csv",
        "fitzpatrick17k/fitzpatrick17k.csv",
        "dermx/metadata.csv",
        "dermx/annotations.csv",
    ],
)
def test_the_proposal_for_a_real_table_fits_it(real_data, table):
    path = real_data / table
    found = propose([path], folder=path.parent)
    result = apply_mapping(parse_config(found.mapping, Mapping, where="proposed"), path.parent)
    assert result.unused == ()
    asked = " ".join(found.edits)
    assert all(f".{target}" in asked for target in set(result.not_understood["target"]))


@pytest.mark.real_data
def test_the_proposal_for_scin_needs_the_edits_it_names_and_finds_its_boxes(real_data):
    folder = real_data / "scin"
    found = propose([folder / "scin_cases.csv", folder / "scin_labels.csv"], folder=folder)
    asked = [line.split(":")[0] for line in found.edits]
    assert asked == ["columns.sex.values", "columns.skin_type.values", "label.classes"]
    boxes = {key: len(spec["one_hot"]) for key, spec in found.mapping["answers"].items() if "one_hot" in spec}
    assert boxes == {
        "body_parts": 12,
        "race_ethnicity": 10,
        "condition_symptoms": 8,
        "other_symptoms": 7,
        "textures": 4,
    }
    edited = copy.deepcopy(found.mapping)
    edited["columns"]["sex"]["values"]["OTHER_OR_UNSPECIFIED"] = None
    edited["columns"]["skin_type"]["values"]["NONE_IDENTIFIED"] = None
    result = apply_mapping(parse_config(edited, Mapping, where="edited"), folder)
    assert result.not_understood.empty
    assert (len(result.frame), result.n_rows) == (10_407, 5_033)
    assert result.fields.set_index("target")["n_known"]["label"] == 3_061


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("final dx", "label"),
        ("Dx", "label"),
        ("primary_diagnosis_text", "label"),
        ("case no", "case_id"),
        ("Consultation Number", "case_id"),
        ("PatientNr", "patient_id"),
        ("photo ref", "image_id"),
        ("previous_diagnosis", None),
        ("diagnosis your doctor gave you", None),
        ("number of cases in the family", None),
    ],
)
def test_a_column_is_known_by_the_usual_ways_to_write_its_name(name, target):
    assert guesses.role(name) == target


def test_answers_between_semicolons_are_several_answers_though_few_recur(tmp_path):
    """A semicolon is what separates answers in every manifest: no single answer could hold it."""
    rows = ["arm;leg", "face", "trunk;arm", "face", "arm;leg", "", "face", "trunk;arm"] * 2
    content = "image_id,where\n" + "\n".join(f"{i},{row}" for i, row in enumerate(rows))
    found = proposal(tmp_path, content).mapping["answers"]["where"]
    assert (found["kind"], found["separator"]) == ("multiple", ";")
    assert found["answers"] == ["arm", "leg", "face", "trunk"]


def test_a_diagnosis_under_an_unusual_name_is_no_question_shown_to_blind_readers(tmp_path):
    content = "image_id,old dx\n" + "\n".join(f"{i},{'ab'[i % 2]}" for i in range(8))
    found = proposal(tmp_path, content)
    assert found.mapping["answers"]["old_dx"]["hide_when_blind"]
    assert any("such as 'old dx'" in line for line in found.edits)
