"""What becomes of the conditions that must not be missed: counted by hand, and found inside `other`."""

import numpy as np
import pandas as pd
import pytest

from ddeval.data.conditions import Conditions, Diagnosis
from ddeval.errors import InputError
from ddeval.metrics.resampling import group_codes
from ddeval.metrics.stakes import (
    Stakes,
    consequences,
    followed,
    harm_rows,
    net_benefit_table,
    outcome_masks,
    sure_misses,
)
from ddeval.score.stakes import stakes_of

CLASSES = ("Eczema", "Melanoma", "Cellulitis", "other")


def diagnosis(name, class_name, group, cost=1.0, synonyms=()):
    return Diagnosis(
        **{"name": name, "class": class_name, "group": group, "cost": cost, "synonyms": synonyms}
    )


CONDITIONS = Conditions(
    (
        diagnosis("Eczema", "Eczema", "routine"),
        diagnosis("Melanoma", "Melanoma", "malignant", 100.0, ("malignant melanoma",)),
        diagnosis("Cellulitis", "Cellulitis", "urgent", 20.0),
        diagnosis("Merkel cell carcinoma", "other", "malignant", 80.0),
        diagnosis("Skin tag", "other", "self_care", 0.5),
        diagnosis("Nobody's", "other", None, None),
    )
)


def stakes(rows, **options):
    found, notes = stakes_of(
        pd.DataFrame(rows), CLASSES, other_class="other", conditions=CONDITIONS, **options
    )
    return found, notes


def answers(*names, confidence=0.9):
    probs = np.full((len(names), len(CLASSES)), (1 - confidence) / (len(CLASSES) - 1))
    probs[np.arange(len(names)), [CLASSES.index(name) for name in names]] = confidence
    return probs


def point(probs, found, **options):
    return {
        k: float(v[0]) for k, v in consequences(probs, found, **options)(np.ones((1, len(probs)))).items()
    }


def test_a_cancer_inside_other_counts():
    """Two malignant images, one labelled `other`: called eczema it is missed, called `other` deferred."""
    found, _ = stakes({"label": ["Melanoma", "other"], "raw_label": ["melanoma", "Merkel cell carcinoma"]})
    missed = point(answers("Melanoma", "Eczema"), found)
    assert (missed["malignant_right"], missed["malignant_missed"]) == (0.5, 0.5)
    deferred = point(answers("Melanoma", "other"), found)
    assert (deferred["malignant_deferred"], deferred["malignant_missed"]) == (0.5, 0.0)


def test_the_three_outcomes_and_the_cost_worked_by_hand():
    """Cost: melanoma right 0, melanoma as eczema 100, cellulitis as melanoma 1, cellulitis as other 1,
    eczema as cellulitis 1, skin tag as eczema 0.5: 103.5 / 6."""
    rows = {
        "label": ["Melanoma", "Melanoma", "Cellulitis", "Cellulitis", "Eczema", "other"],
        "raw_label": [None, None, None, None, None, "Skin tag"],
    }
    found, _ = stakes(rows, prevalence={"malignant": 0.02})
    got = point(answers("Melanoma", "Eczema", "Melanoma", "other", "Cellulitis", "Eczema"), found)
    assert [got[f"malignant_{o}"] for o in ("right", "deferred", "missed")] == [0.5, 0.0, 0.5]
    assert [got[f"urgent_{o}"] for o in ("right", "deferred", "missed")] == [0.5, 0.5, 0.0]
    assert got["malignant_missed_per_1000"] == pytest.approx(1000 * 0.02 * 0.5)
    assert got["expected_cost"] == pytest.approx(103.5 / 6)


def test_a_rule_that_holds_an_answer_back_defers_it():
    found, _ = stakes({"label": ["Melanoma", "Melanoma"]})
    got = point(answers("Eczema", "Melanoma"), found, is_deferred=np.array([True, False]))
    assert [got[f"malignant_{o}"] for o in ("right", "deferred", "missed")] == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("probs", "outcome"),
    [
        ([0.4, 0.4, 0.1, 0.1], "missed"),
        ([0.1, 0.4, 0.1, 0.4], "deferred"),
        ([0.4, 0.1, 0.1, 0.4], "missed"),
        ([0.1, 0.1, 0.4, 0.4], "missed"),
    ],
)
def test_a_tie_counts_against_the_model(probs, outcome):
    """Eczema, melanoma, cellulitis, other; the image is a melanoma."""
    found, _ = stakes({"label": ["Melanoma"]})
    right, deferred = outcome_masks(np.array([probs]), found, "malignant")
    assert (right[0], deferred[0]) == (outcome == "right", outcome == "deferred")


def test_readers_overrule_the_diagnosis_string():
    """Relabelled to eczema, the image is no melanoma any more; merely kept, it is."""
    rows = {
        "label": ["Eczema", "Melanoma"],
        "raw_label": ["melanoma"] * 2,
        "label_outcome": ["relabel", "keep"],
    }
    found, _ = stakes(rows)
    assert found.mask("malignant").tolist() == [False, True]


def test_a_diagnosis_without_a_group_counts_as_nothing_and_is_said():
    found, notes = stakes({"label": ["Melanoma", "other"], "raw_label": [None, "Nobody's"]})
    assert found.mask("malignant").tolist() == [True, False]
    assert "1 image has a diagnosis without a risk group" in notes[0]


def test_classes_nobody_knows_give_no_decisions():
    found, notes = stakes_of(
        pd.DataFrame({"label": ["cat", "dog"]}), ("cat", "dog"), other_class=None, conditions=CONDITIONS
    )
    assert found is None
    assert "knows none of these classes" in notes[0]


def test_no_malignant_image_gives_no_malignant_number():
    """Not 0 missed: nothing is known."""
    found, _ = stakes({"label": ["Eczema", "Cellulitis"]})
    assert followed(found) == ["urgent"]
    got = point(answers("Eczema", "Eczema"), found)
    assert not [name for name in got if name.startswith("malignant")]
    assert net_benefit_table(
        {"a": answers("Eczema", "Eczema")}, found, group_of=np.arange(2), n_groups=2,
        rng=np.random.default_rng(0), n_resamples=5,
    ).empty  # fmt: skip


@pytest.mark.parametrize("prevalence", [{"malignant": 2.0}, {"benign": 0.1}])
def test_a_prevalence_that_is_none_is_refused(prevalence):
    with pytest.raises(InputError, match=r"--prevalence: found .*=.*; expected malignant or urgent"):
        stakes({"label": ["Eczema"]}, prevalence=prevalence)


def test_the_harm_table_counts_images_and_patients():
    found, _ = stakes({"label": ["Melanoma"] * 4}, prevalence={"malignant": 0.5})
    values = pd.DataFrame(
        [
            {"run": "a", "metric": f"malignant_{o}", "value": v, "ci_low": v, "ci_high": v}
            for o, v in (("right", 0.5), ("deferred", 0.25), ("missed", 0.25))
        ]
    )
    table = harm_rows(values, found, np.array(["p", "p", "q", "r"]))
    assert table["n_images"].tolist() == [2, 1, 1]
    assert table["n_groups"].tolist() == [3, 3, 3]
    assert table["per_1000"].tolist() == [250.0, 125.0, 125.0]


def test_half_of_one_patients_photographs_has_no_interval_in_the_harm_table():
    """Every resample is that patient again; what it repeats bounds nothing."""
    found, _ = stakes({"label": ["Melanoma"] * 2}, prevalence={"malignant": 0.5})
    rows = (("right", 0.5), ("deferred", 0.0), ("missed", 0.5))
    values = pd.DataFrame([{"run": "a", "metric": f"malignant_{o}", "value": v} for o, v in rows])
    table = harm_rows(values.assign(ci_low=np.nan, ci_high=np.nan), found, np.array(["p", "p"]))
    ends = table.set_index("outcome")[["ci_low", "ci_high", "per_1000_low", "per_1000_high"]]
    assert ends.loc[["right", "missed"]].isna().all(axis=None)
    assert ends.loc["deferred"].notna().all()


def test_sure_misses_come_surest_first_and_leave_out_what_is_deferred():
    found, _ = stakes({"label": ["Melanoma"] * 4})
    probs = np.vstack(
        [answers("Eczema", confidence=c) for c in (0.85, 0.95)]
        + [answers("other"), answers("Eczema", confidence=0.7)]
    )
    assert sure_misses(probs, found).tolist() == [1, 0]


def test_the_difference_of_net_benefits_is_paired():
    """A run against its copy differs by exactly nothing in every resample, and so has no interval."""
    rng = np.random.default_rng(0)
    found, _ = stakes({"label": rng.choice(["Melanoma", "Eczema"], size=60).tolist()})
    probs = rng.dirichlet(np.ones(4), size=60)
    group_of, n_groups = group_codes(np.arange(60) // 2)
    table = net_benefit_table(
        {"a": probs, "b": probs}, found, group_of=group_of, n_groups=n_groups, baseline="a",
        rng=np.random.default_rng(1), n_resamples=50,
    )  # fmt: skip
    of_b = table[table["run"] == "b"]
    assert (of_b["difference"] == 0).all()
    assert of_b[["difference_low", "difference_high"]].isna().all(axis=None)
    assert (of_b["ci_low"] < of_b["ci_high"]).any()


def test_stakes_follow_the_image_and_not_the_row():
    found, _ = stakes({"label": ["Melanoma", "Eczema"]})
    assert isinstance(found, Stakes)
    swapped, _ = stakes({"label": ["Eczema", "Melanoma"]})
    assert found.mask("malignant").tolist() == swapped.mask("malignant").tolist()[::-1]


def test_a_share_of_none_or_all_has_its_exact_bound_in_the_harm_table():
    """Six patients, none missed: that bounds the share by 1 - .025 ** (1 / 6), not by 0."""
    groups = np.arange(6)
    stakes = Stakes(
        np.array(["malignant"] * 6, dtype=object),
        np.ones(6),
        np.zeros(6, dtype=np.int64),
        ("malignant", "routine"),
        None,
        {"malignant": 0.1},
    )
    rows = [("right", 1.0), ("deferred", 0.0), ("missed", 0.0)]
    values = pd.DataFrame(
        [
            {
                "run": "a",
                "metric": f"malignant_{outcome}",
                "value": share,
                "ci_low": np.nan,
                "ci_high": np.nan,
            }
            for outcome, share in rows
        ]
    )
    found = harm_rows(values, stakes, groups).set_index("outcome")
    bound = 0.025 ** (1 / 6)
    assert found.loc["right", ["ci_low", "ci_high"]].tolist() == pytest.approx([bound, 1])
    assert found.loc["missed", ["ci_low", "ci_high"]].tolist() == pytest.approx([0, 1 - bound])
    assert found.loc["missed", "per_1000_high"] == pytest.approx(100 * (1 - bound))
