"""Conditions: a diagnosis is found by any of its names, and nothing is taken for routine by default."""

from pathlib import Path
from typing import get_args

import pandas as pd
import pytest

from ddeval.data.conditions import Conditions, Diagnosis, Group, read_conditions
from ddeval.errors import InputError

CONFIGS = Path(__file__).parents[1] / "configs"
DEMO = read_conditions(CONFIGS / "conditions.yaml")
PUBLIC = read_conditions(CONFIGS / "conditions_public.yaml")


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "conditions.yaml"
    path.write_text(text)
    return path


TWO = """
Psoriasis:
  synonyms: [plaque psoriasis]
  class: Psoriasis
  group: routine
  cost: 2
  definition: Scaly plaques.
  approved_by: Dr A. Example
  approved_on: 2026-03-31
Rare thing:
  class: other
"""


@pytest.mark.parametrize(
    "name", ["Psoriasis", "psoriasis", " PLAQUE  psoriasis", "Plaque_Psoriasis", "plaque-psoriasis"]
)
def test_a_diagnosis_is_found_by_name_or_synonym_whatever_the_case(name, tmp_path):
    conditions = read_conditions(written(tmp_path, TWO))
    assert conditions.find(name).name == "Psoriasis"
    assert (conditions.class_of(name), conditions.group_of(name)) == ("Psoriasis", "routine")


def test_a_diagnosis_without_a_group_is_listed_and_never_routine(tmp_path):
    conditions = read_conditions(written(tmp_path, TWO))
    assert conditions.without_group == ("Rare thing",)
    assert conditions.group_of("rare thing") is None
    assert conditions.class_groups == {"Psoriasis": "routine", "other": None}


def test_a_class_of_mixed_diagnoses_has_no_group_of_its_own():
    """`other` holds cancers and skin tags: only the diagnosis says which."""
    assert DEMO.class_groups["other"] is None
    assert DEMO.class_groups["Melanoma"] == "malignant"


def test_a_diagnosis_nobody_approved_is_listed(tmp_path):
    conditions = read_conditions(written(tmp_path, TWO))
    assert [d.name for d in conditions.diagnoses if not d.approved_by] == ["Rare thing"]
    assert conditions.find("psoriasis").approved_on.isoformat() == "2026-03-31"


def test_an_unknown_name_is_answered_with_the_nearest_ones():
    with pytest.raises(InputError, match=r"no diagnosis 'psoriasys'.*Near to it: Psoriasis\."):
        DEMO.class_of("psoriasys")


def test_lookup_keeps_rows_and_leaves_strangers_empty():
    raw = pd.Series(["SHINGLES", None, "not a disease", "scc"], index=[3, 1, 3, 0])
    table = DEMO.lookup(raw)
    assert table.index.tolist() == [3, 1, 3, 0]
    assert table["class"].tolist()[::3] == ["Herpes zoster", "other"]
    assert table["group"].tolist()[::3] == ["urgent", "malignant"]
    assert table.iloc[1:3].isna().all(axis=None)


def test_strings_that_match_no_diagnosis_are_counted_not_sent_to_other():
    raw = pd.Series(["eczema", "odd", "odd", "rash", None])
    assert DEMO.unmatched(raw).to_dict() == {"odd": 2, "rash": 1}


def test_lookup_of_no_rows_keeps_its_columns():
    assert list(DEMO.lookup(pd.Series([], dtype=object)).columns) == ["diagnosis", "class", "group", "cost"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("A:\n  class: A\n  synonyms: [x]\nB:\n  class: B\n  synonyms: [X]\n", "'X' for both 'A' and 'B'"),
        ("A:\n  class: A\nB:\n  class: B\n  synonyms: [a]\n", "'a' for both 'A' and 'B'"),
        ("A:\n  class: A\na:\n  class: B\n", "'a' for both 'A' and 'a'"),
        ("A:\n  class: A\nA:\n  class: B\n", "the key 'A' twice"),
        ("A:\n  class: A\n  group: harmless\n", "group.*'harmless'"),
        ("A:\n  class: A\n  cost: -1\n", "cost"),
        ("A:\n  group: routine\n", "class"),
        ("A:\n  class: A\n  synonym: [b]\n", "'synonym'.*'synonyms'"),
        ("A: routine\n", "'A'"),
        ("- A\n", "list at the top; expected one key a diagnosis"),
        ("", "NoneType at the top"),
    ],
)
def test_a_file_that_does_not_fit_names_what_is_wrong(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_conditions(written(tmp_path, text))


def test_one_string_may_not_mean_two_diagnoses():
    a = Diagnosis(name="A", class_name="A", synonyms=("lichen",))
    b = Diagnosis(name="B", class_name="B", synonyms=("Lichen",))
    with pytest.raises(InputError, match="'Lichen' for both 'A' and 'B'"):
        Conditions((a, b))


def test_the_demo_file_has_25_target_classes_and_cancers_inside_other():
    assert len(DEMO.classes) == 26
    assert DEMO.classes[-1] == "other"
    inside = [d for d in DEMO.diagnoses if d.class_name == "other"]
    assert 25 <= len(inside) <= 40
    assert sum(d.group == "malignant" for d in inside) >= 5


@pytest.mark.parametrize("conditions", [DEMO, PUBLIC], ids=["demo", "public"])
def test_the_worked_examples_define_every_diagnosis_and_claim_no_approval(conditions):
    for d in conditions.diagnoses:
        assert not d.approved_by
        assert d.definition.endswith(".")
        assert (d.group in get_args(Group)) == (d.cost is not None)


def test_in_the_worked_examples_a_cancer_or_an_emergency_costs_more_than_anything_else():
    for conditions in (DEMO, PUBLIC):
        cost = {g: [d.cost for d in conditions.diagnoses if d.group == g] for g in get_args(Group)}
        assert min(cost["malignant"]) > max(cost["routine"])
        assert min(cost["routine"]) > max(cost["self_care"])


@pytest.mark.parametrize("code", ["akiec", "bcc", "bkl", "df", "mel", "nv", "vasc", "AK", "SCC", "UNK"])
def test_the_codes_of_ham10000_and_isic_2019_are_diagnoses(code):
    assert PUBLIC.find(code).definition


@pytest.mark.real_data
def test_every_label_of_ham10000_and_fitzpatrick17k_is_a_diagnosis(real_data):
    ham = pd.read_csv(real_data / "ham10000" / "metadata.csv")["dx"]
    fitzpatrick = pd.read_csv(real_data / "fitzpatrick17k" / "fitzpatrick17k.csv")["label"]
    assert PUBLIC.unmatched(ham).empty
    assert PUBLIC.unmatched(fitzpatrick).empty
    assert (PUBLIC.lookup(ham)["class"] == ham).all()
