"""Consensus: weights by inverse rank, the written rule, and SCIN's published differentials."""

import ast

import pandas as pd
import pytest

from ddeval.vet.consensus import Answer, consensus, differential, pooled, verdict

CLASS_OF = {
    "eczema": "eczema",
    "nummular eczema": "eczema",
    "tinea corporis": "tinea",
    "psoriasis": "psoriasis",
    "lipoma": "other",
}


def agreed(*answers, **options):
    return consensus(answers, class_of=CLASS_OF, **{"given_label": "eczema", **options})


def test_three_diagnoses_weigh_six_three_two_elevenths():
    """1 + 1/2 + 1/3 = 11/6."""
    weights = differential(Answer(("psoriasis", "eczema", "lipoma")))
    assert weights == pytest.approx({"psoriasis": 6 / 11, "eczema": 3 / 11, "lipoma": 2 / 11})


def test_equal_confidences_share_the_mean_of_their_places():
    """Confidences 4, 4, 3: (1 + 1/2) / 2 each for the first two, 1/3 for the last, over 11/6."""
    weights = differential(Answer(("psoriasis", "eczema", "lipoma"), (4, 4, 3)))
    assert weights == pytest.approx({"psoriasis": 9 / 22, "eczema": 9 / 22, "lipoma": 4 / 22})


def test_confidence_outranks_the_order_of_typing():
    assert next(iter(differential(Answer(("psoriasis", "eczema"), (1, 5))))) == "eczema"


def test_two_names_of_one_class_agree():
    """'Nummular eczema' and 'eczema' are one class, so two readers who say either keep the label eczema."""
    result = agreed(Answer(("nummular eczema",)), Answer(("eczema",)))
    assert (result.outcome, result.rule, result.labels) == ("keep", "agreed", {"eczema": 1.0})
    assert set(result.diagnoses) == {"eczema", "nummular eczema"}


def test_one_reading_never_relabels():
    assert agreed(Answer(("psoriasis",))).outcome == "unresolved"
    assert agreed(Answer(("psoriasis",))).rule == "single"


def test_two_readings_that_differ_wait_for_a_third_reader():
    readings = Answer(("psoriasis",)), Answer(("tinea corporis",))
    assert agreed(*readings).needs_adjudication
    settled = agreed(*readings, adjudication=Answer(("tinea corporis", "eczema")))
    assert (settled.outcome, settled.rule) == ("compatible", "adjudicated")
    assert settled.labels == pytest.approx({"tinea": 2 / 3, "eczema": 1 / 3})


def test_half_of_four_readers_is_no_majority():
    a, b = Answer(("psoriasis",)), Answer(("eczema",))
    assert agreed(a, a, b, b).needs_adjudication
    assert agreed(a, a, a, b).outcome == "relabel"


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"eczema": 1.0}, "keep"),
        ({"psoriasis": 0.6, "eczema": 0.4}, "compatible"),
        ({"psoriasis": 0.5, "eczema": 0.5}, "keep"),
        ({"psoriasis": 1.0}, "relabel"),
    ],
)
def test_the_verdict_follows_the_written_table(labels, expected):
    assert verdict("eczema", labels) == expected


def test_a_case_without_a_given_label_is_labelled():
    assert agreed(Answer(("eczema",)), Answer(("eczema",)), given_label=None).outcome == "relabel"


def test_histology_outranks_two_readers_and_an_adjudicator():
    result = agreed(
        Answer(("psoriasis",)),
        Answer(("psoriasis",)),
        adjudication=Answer(("psoriasis",)),
        label_basis="histology",
    )
    assert (result.outcome, result.rule, result.labels) == ("keep", "histology", {"eczema": 1.0})


def test_the_same_exit_twice_is_the_outcome_and_carries_no_label():
    result = agreed(Answer(exit="poor_image"), Answer(exit="poor_image"))
    assert (result.outcome, result.labels) == ("poor_image", {})


def test_an_exit_against_a_diagnosis_is_adjudicated():
    assert agreed(Answer(exit="poor_image"), Answer(("eczema",))).needs_adjudication


def test_a_diagnosis_without_a_class_is_named():
    with pytest.raises(KeyError, match="scurvy"):
        agreed(Answer(("scurvy",)), Answer(("scurvy",)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "either diagnoses or an exit"),
        ({"diagnoses": ("eczema",), "exit": "off_topic"}, "either diagnoses or an exit"),
        ({"diagnoses": ("eczema", "tinea corporis"), "confidences": (3,)}, "1 confidences for 2 diagnoses"),
        ({"exit": "unsure"}, "exit must be one of cannot_tell, poor_image"),
    ],
)
def test_an_answer_that_says_nothing_or_two_things_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Answer(**fields)


def test_pooling_sorts_by_weight_then_name():
    assert list(pooled([{"b": 0.5, "a": 0.5}, {"c": 1.0}])) == ["c", "a", "b"]
    assert pooled([]) == {}


@pytest.mark.real_data
def test_scin_weights_of_single_grader_cases_are_rebuilt(real_data):
    """Inverse rank with ties averaged gives the published weights of 2,409 of 2,409 cases, to .01."""
    table = pd.read_csv(real_data / "scin" / "scin_labels.csv", dtype=str, keep_default_na=False)
    single = (
        (table["dermatologist_gradable_for_skin_condition_1"] != "")
        & (table["dermatologist_gradable_for_skin_condition_2"] == "")
        & (table["weighted_skin_condition_label"].str.len() > 2)
    )
    rebuilt = n = 0
    for _, row in table[single].iterrows():
        published = ast.literal_eval(row["weighted_skin_condition_label"])
        names = ast.literal_eval(row["dermatologist_skin_condition_on_label_name"])
        confidences = ast.literal_eval(row["dermatologist_skin_condition_confidence"])
        weights = differential(Answer(tuple(names), tuple(confidences)))
        n += 1
        rebuilt += weights.keys() == published.keys() and all(
            abs(weights[k] - published[k]) <= 0.01 for k in published
        )
    assert (rebuilt, n) == (2409, 2409)
