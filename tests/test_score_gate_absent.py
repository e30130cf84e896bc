"""A gate about conditions that no photograph shows, or about groups that nobody recorded."""

import numpy as np
import pandas as pd
import pytest

from ddeval.errors import InputError
from ddeval.metrics.paired import Comparison
from ddeval.score.gate import Criterion, _of_comparison
from tests.test_score_gate import compared, made


def asked(metric: str) -> object:
    columns = ["run", "baseline", "subset", "metric", "value", "difference", "ci_low", "ci_high"]
    empty = pd.DataFrame({name: [] for name in [*columns, "n_images", "n_groups"]})
    comparison = Comparison(**{**dict.fromkeys(Comparison._fields, empty), "n_images": 0, "n_groups": 0})
    criterion = Criterion(name="x", metric=metric, kind="at_most", bound=0.2)
    return _of_comparison(criterion, comparison, "B", "A", "gate.yaml: x")


def test_malignant_conditions_that_no_photograph_shows_cannot_be_told():
    found = asked("malignant_missed")
    assert np.isnan(found.value)
    assert found.n_images == 0
    assert "risk group" in found.note


def test_a_misspelt_metric_is_still_refused():
    with pytest.raises(InputError, match="malignant_misses"):
        asked("malignant_misses")


@pytest.fixture(scope="module")
def of_one_sex(tmp_path_factory):
    """Two runs over men alone; the column `body_site` is there and empty."""
    return made(tmp_path_factory.mktemp("one"), n=80, sexes=("male", "male"), body_site=None)


def gap(attribute: str) -> dict[str, object]:
    return {"name": "it", "metric": "largest_subgroup_gap", "of": "top_1_accuracy", "attribute": attribute,
            "kind": "at_most", "bound": 0.1}  # fmt: skip


@pytest.mark.parametrize(
    ("attribute", "n", "why"),
    [("sex", (80, 40), "sex: 'male' is the only group recorded"),
     ("body site", (0, 0), "body site: not recorded of any photograph")],
)  # fmt: skip
def test_a_gap_between_groups_that_are_not_there_cannot_be_told(of_one_sex, attribute, n, why):
    """One group, or none, has nobody to be worse than; a gate file for all clinics stays one file."""
    gate = compared(of_one_sex, [gap(attribute)])["gate"]
    (told,) = gate["criteria"]
    assert (told["answer"], told["value"], told["ci_low"]) == ("cannot tell", None, None)
    assert (told["n_images"], told["n_groups"]) == n
    assert told["note"].startswith(why)
    assert why in (of_one_sex / "page.html").read_text().replace("&#39;", "'")


def test_an_attribute_that_no_column_carries_is_still_refused(of_one_sex):
    *_, last = compared(of_one_sex, [gap("age")], code=3).stderr.splitlines()
    assert "gate.yaml: it: found the attribute 'age'" in last
    assert last.endswith("Correct the gate file.")


def test_a_misspelt_attribute_of_a_group_is_refused_too(of_one_sex):
    criterion = {"name": "it", "metric": "top_1_accuracy", "attribute": "sexes", "group": "male",
                 "kind": "at_least", "bound": 0.5}  # fmt: skip
    assert "'sexes'" in compared(of_one_sex, [criterion], code=3).stderr


DERMATOLOGIST = "skin type, by a dermatologist"


def of_group(metric: str, attribute: str, group: str) -> dict[str, object]:
    return {"name": "it", "metric": metric, "attribute": attribute, "group": group, "kind": "at_least",
            "bound": 0.5}  # fmt: skip


@pytest.fixture(scope="module")
def of_two_sexes(tmp_path_factory):
    """No photograph is urgent, nobody has skin type VI, and no dermatologist typed the skin of a melanoma."""
    is_melanoma = np.random.default_rng(0).integers(3, size=80) == 1
    typed = {
        "skin_type": np.where(np.arange(80) % 2 == 0, "I", "II"),
        "skin_type_source": np.where(is_melanoma, "self", "dermatologist"),
    }
    return made(tmp_path_factory.mktemp("two"), n=80, **typed)


def test_groups_without_a_photograph_that_the_number_is_over_cannot_be_told(of_two_sexes):
    """Every name is one that the manifest carries: nothing is misspelt, there is only nobody to count."""
    asked_for = [
        (of_group("urgent_right", "sex", "male"), "sex: male: no photograph of that risk group"),
        (gap("sex") | {"of": "urgent_right"}, "sex: recorded of no photograph of that risk group"),
        (gap(DERMATOLOGIST) | {"of": "malignant_right"}, f"{DERMATOLOGIST}: recorded of no photograph"),
        (of_group("malignant_right", DERMATOLOGIST, "I"), f"{DERMATOLOGIST}: I: no photograph of that risk"),
        (of_group("top_1_accuracy", DERMATOLOGIST, "VI"), f"{DERMATOLOGIST}: VI: no photograph of a target"),
    ]
    gate = compared(of_two_sexes, [criterion for criterion, _ in asked_for])["gate"]
    assert gate["answer"] == "cannot tell"
    for told, (_, why) in zip(gate["criteria"], asked_for, strict=True):
        assert (told["answer"], told["value"], told["n_images"]) == ("cannot tell", None, 0)
        assert told["note"].startswith(why)


@pytest.mark.parametrize(
    ("criterion", "word"),
    [(of_group("top_1_accuracy", "sex", "mal"), "'mal'"),
     (of_group("malign_right", "sex", "male"), "'malign_right'"),
     ({"name": "it", "metric": "malignant_right", "subset": "deferring", "kind": "at_least", "bound": 0.5},
      "--abstain")],
)  # fmt: skip
def test_a_name_that_nothing_carries_and_a_rule_that_is_not_passed_are_refused(of_two_sexes, criterion, word):
    assert word in compared(of_two_sexes, [criterion], code=3).stderr


def test_a_gap_counts_the_photographs_it_is_over(of_two_sexes):
    """Melanomas, not everything; and two groups of few patients are named."""
    (told,) = compared(of_two_sexes, [gap("sex") | {"of": "malignant_right"}])["gate"]["criteria"]
    assert told["n_images"] == int((np.random.default_rng(0).integers(3, size=80) == 1).sum())
    assert told["note"] == "not shown, too few patients: female, male"
