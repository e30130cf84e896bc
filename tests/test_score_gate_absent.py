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
