"""Summary: every number of one run, with its interval, in one pass."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest

from ddeval import io, tables
from ddeval.metrics import (
    auroc_macro,
    bootstrap,
    calibration,
    discrimination,
    ece,
    macro_f1,
    nll,
    selective,
    smooth_ece,
    top_k_accuracy,
)
from ddeval.metrics.arrays import softmax, top_class
from ddeval.metrics.floors import FLOORED
from ddeval.metrics.measures import SHARES, rows_counted
from ddeval.metrics.readings import case_rows, closed_set, joined_groups, run_readings
from ddeval.metrics.resampling import replicates
from ddeval.metrics.shares import share_ends
from ddeval.metrics.summary import Summary, summarise, summary_json

NAMES = ("eczema", "psoriasis", "acne", "other")
SCALARS = [
    *(f"top_{k}_accuracy" for k in (1, 3, 5)),
    *("balanced_accuracy", "macro_f1", "weighted_f1", "mcc", "cohen_kappa"),
    *("auroc_macro", "auroc_weighted", "average_precision_macro"),
    *("ece", "ece_equal_mass", "mce", "classwise_ece", "smooth_ece", "brier_score", "nll", "calibration_gap"),
    *("aurc", "augrc", "coverage_at_risk_5", "coverage_at_risk_10"),
]
FUNCTIONS = {
    **{f"top_{k}_accuracy": partial(top_k_accuracy, k=k) for k in (1, 3)},
    **{name: getattr(discrimination, name) for name in SCALARS[3:11]},
    **{name: getattr(calibration, name) for name in ("nll", "brier_score", "calibration_gap")},
    **{name: getattr(selective, name) for name in ("aurc", "augrc")},
    **{f"coverage_at_risk_{r}": partial(selective.coverage_at_risk, risk=r / 100) for r in (5, 10)},
}
BY_CLASS = ["sensitivity", "specificity", "ppv", "npv", "f1", "auroc", "average_precision"]
BY_CLASS += ["predicted_share", "labelled_share", "share_ratio"]


def run_case(seed=0, n_images=200):
    """Labels, logits and groups of 4 classes; two images a case, two cases a group."""
    rng = np.random.default_rng(seed)
    case_of = np.arange(n_images) // 2
    labels = rng.integers(4, size=n_images // 2)[case_of]
    logits = rng.normal(size=(n_images, 4)) + 1.5 * np.eye(4)[labels]
    return labels, logits, case_of // 2, case_of


def summary_of(labels, probs, groups, *, n_resamples=40, **arguments) -> Summary:
    return summarise(
        labels,
        probs,
        groups=groups,
        class_names=NAMES[: probs.shape[1]],
        rng=np.random.default_rng(5),
        n_resamples=n_resamples,
        **arguments,
    )


def number(summary, metric, *, subset="all", class_name=None):
    rows = summary.metrics
    is_class = rows["class_name"].isna() if class_name is None else rows["class_name"] == class_name
    (row,) = rows[(rows["metric"] == metric) & (rows["subset"] == subset) & is_class].to_dict("records")
    return row


@pytest.fixture(scope="module")
def with_other():
    labels, logits, groups, cases = run_case()
    return summary_of(labels, softmax(logits), groups, other_class="other", case_ids=cases)


def test_the_frame_fits_its_table(with_other):
    assert len(tables.problems(with_other.metrics, tables.METRICS)) == 0
    assert not with_other.metrics.duplicated(["run", "metric", "subset", "class_name"]).any()


@pytest.mark.parametrize("subset", ["all", "cases"])
@pytest.mark.parametrize("prefix", ["", "open_"])
def test_every_metric_of_the_design_is_there_by_its_name(with_other, prefix, subset):
    rows = with_other.metrics[with_other.metrics["subset"] == subset]
    assert {prefix + name for name in SCALARS} <= set(rows.loc[rows["class_name"].isna(), "metric"])
    assert {prefix + name for name in BY_CLASS} <= set(rows.loc[rows["class_name"].notna(), "metric"])
    assert {"other_auroc", "other_sensitivity", "other_ppv"} <= set(rows["metric"])


def test_a_model_without_other_has_one_set():
    labels, logits, groups, _ = run_case()
    summary = summary_of(labels, softmax(logits), groups)
    assert not summary.metrics["metric"].str.startswith(("open_", "other_", "target_")).any()
    assert set(summary.curves) == {"reliability", "risk_coverage", "confusion", "confused_pairs"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_value_and_its_interval_are_those_of_bootstrap(name):
    """One pass over all metrics draws what `bootstrap` draws for one; a share is stated no surer than few
    patients allow."""
    labels, logits, groups, _ = run_case()
    probs, metric = softmax(logits), FUNCTIONS[name]
    row = number(summary_of(labels, probs, groups), name)
    options = {"groups": groups, "n_resamples": 40}
    alone = bootstrap(metric, labels, probs, rng=np.random.default_rng(5), **options)
    if name in SHARES:
        drawn = replicates(metric, labels, probs, rng=np.random.default_rng(5), **options)
        ends = share_ends([alone.value], [alone.ci_low], [alone.ci_high], [drawn.std(ddof=1)], [50])
        alone = alone._replace(ci_low=ends[0].item(), ci_high=ends[1].item())
    assert [row[field] for field in alone._fields] == pytest.approx(list(alone), rel=1e-6)


def test_the_closed_set_is_drawn_with_the_groups_of_all_images(with_other):
    """All readings of a run see the same draws, so the number of target images moves from draw to draw."""
    labels, logits, groups, _ = run_case()

    def closed_macro_f1(labels, probs):
        return macro_f1(*closed_set(labels, probs, 3)[1:])

    rng = np.random.default_rng(5)
    alone = bootstrap(closed_macro_f1, labels, softmax(logits), groups=groups, rng=rng, n_resamples=40)
    row = number(with_other, "macro_f1")
    assert [row[field] for field in ("value", "ci_low", "ci_high")] == pytest.approx(alone[:3])


def test_a_case_weighs_what_its_group_does(with_other):
    labels, logits, groups, _ = run_case()
    mean_probs = softmax((logits[::2] + logits[1::2]) / 2)
    rng = np.random.default_rng(5)
    alone = bootstrap(macro_f1, labels[::2], mean_probs, groups=groups[::2], rng=rng, n_resamples=40)
    row = number(with_other, "open_macro_f1", subset="cases")
    assert [row[field] for field in alone._fields] == pytest.approx(list(alone))


def test_the_closed_set_is_over_target_images_with_probabilities_over_the_targets(with_other):
    """Renormalised by hand: drop the rows labelled other and its column, divide by what is left."""
    labels, logits, _, _ = run_case()
    held = labels != 3
    closed = softmax(logits[held][:, :3])
    expected = {
        m: m(labels[held], closed) for m in (top_k_accuracy, macro_f1, auroc_macro, nll, ece, smooth_ece)
    }
    names = {m: "top_1_accuracy" if m is top_k_accuracy else m.__name__ for m in expected}
    assert {m: number(with_other, names[m])["value"] for m in expected} == pytest.approx(expected)
    assert number(with_other, "top_1_accuracy")["n_images"] == held.sum()


def test_the_open_set_is_over_all_images_and_other_is_an_answer(with_other):
    labels, logits, _, _ = run_case()
    probs = softmax(logits)
    assert number(with_other, "open_top_1_accuracy")["value"] == top_k_accuracy(labels, probs)
    assert number(with_other, "open_auroc_macro")["value"] == pytest.approx(auroc_macro(labels, probs))
    assert number(with_other, "open_sensitivity", class_name="other")["n_images"] == (labels == 3).sum()


def test_the_detector_is_worked_by_hand():
    """Two images of `other` with p .6 and .3, three targets with .7, .6 and .1; above .5 it is said.

    Of the 6 pairs .6 wins one and ties one and .3 wins one: AUROC 2.5 / 6. It is said three times, once
    rightly. Of the targets one is right, none is taken for another, two are deferred.
    """
    p_other = np.array([0.6, 0.3, 0.7, 0.6, 0.1])
    probs = np.column_stack([1 - p_other, np.zeros((5, 2)), p_other])
    summary = summary_of(np.array([3, 3, 0, 0, 0]), probs, np.arange(5), other_class="other")
    values = {m: number(summary, m)["value"] for m in ("other_auroc", "other_sensitivity", "other_ppv")}
    assert values == pytest.approx({"other_auroc": 2.5 / 6, "other_sensitivity": 1 / 2, "other_ppv": 1 / 3})
    outcomes = summary.curves["three_outcomes"]
    expected = [1 / 3, 0, 2 / 3, 1 / 2, 1 / 2]
    assert outcomes["share"].tolist() == pytest.approx(expected)
    assert outcomes["n_images"].tolist() == [3, 3, 3, 2, 2]


@pytest.mark.parametrize(
    ("is_right", "low", "high"), [(True, 0.025 ** (1 / 6), 1), (False, 0, 1 - 0.025 ** (1 / 6))]
)
def test_six_patients_of_six_are_no_certainty(is_right, low, high):
    """Twelve photographs of six patients: the exact bound of 6 of 6, where every resample says the same."""
    labels = np.zeros(12, dtype=int)
    probs = np.tile([0.9, 0.1] if is_right else [0.1, 0.9], (12, 1))
    groups, rng = np.arange(12) // 2, np.random.default_rng(0)
    summary = summarise(labels, probs, groups=groups, class_names=("a", "b"), rng=rng, n_resamples=50)
    row = number(summary, "top_1_accuracy")
    assert (row["ci_low"], row["ci_high"], row["n_groups"]) == (pytest.approx(low), pytest.approx(high), 6)


@pytest.mark.parametrize("groups", [np.arange(12) // 2, np.zeros(12, int)], ids=["perfect", "one patient"])
def test_a_number_that_every_resample_repeats_has_no_interval(groups):
    labels = np.tile([0, 1], 6)
    probs = np.where(labels[:, None] == np.arange(2), 0.8, 0.2)
    rng = np.random.default_rng(0)
    summary = summarise(labels, probs, groups=groups, class_names=("a", "b"), rng=rng, n_resamples=50)
    rows = summary.metrics[summary.metrics["metric"].isin(["auroc_macro", "balanced_accuracy", "nll"])]
    assert len(rows) == 3
    assert rows["value"].notna().all()
    assert rows[["ci_low", "ci_high"]].isna().all(axis=None)


def test_the_three_outcomes_of_a_target_add_up_to_one(with_other):
    shares = with_other.curves["three_outcomes"].groupby("given")["share"].sum()
    assert shares.to_dict() == pytest.approx({"target": 1.0, "other": 1.0})


def test_the_interval_of_an_outcome_holds_its_share(with_other):
    outcomes = with_other.curves["three_outcomes"]
    assert (outcomes["ci_low"] < outcomes["share"]).all()
    assert (outcomes["share"] < outcomes["ci_high"]).all()


def test_a_row_that_puts_everything_on_other_is_wrong_in_the_closed_set():
    """It says nothing about the targets: equal shares, a tie, and a tie counts against the model."""
    rows, labels, probs = closed_set(np.array([1, 2]), np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), 2)
    assert (rows.tolist(), labels.tolist(), probs.tolist()) == ([0], [1], [[0.5, 0.5]])
    assert top_k_accuracy(labels, probs) == 0.0


@pytest.mark.parametrize("other", [0, 1, 2])
def test_targets_keep_their_order_wherever_other_stands(other):
    probs = np.array([[0.5, 0.3, 0.2]] * 3)
    rows, labels, closed = closed_set(np.arange(3), probs, other)
    targets = [k for k in range(3) if k != other]
    assert rows.tolist() == targets
    assert labels.tolist() == [0, 1]
    np.testing.assert_allclose(closed, probs[rows][:, targets] / (1 - probs[0, other]))


def test_case_level_is_the_mean_logit_over_a_cases_photographs(with_other):
    labels, logits, _, _ = run_case()
    mean_logits = (logits[::2] + logits[1::2]) / 2
    expected = top_k_accuracy(labels[::2], softmax(mean_logits))
    row = number(with_other, "open_top_1_accuracy", subset="cases")
    assert (row["value"], row["n_images"], row["n_groups"]) == (pytest.approx(expected), 100, 50)
    row = number(with_other, "open_nll", subset="cases")
    assert row["value"] == pytest.approx(nll(labels[::2], softmax(mean_logits)))


def test_logits_given_are_what_is_averaged():
    labels, logits, groups, cases = run_case()
    summary = summary_of(labels, softmax(logits), groups, case_ids=cases, logits=2 * logits)
    expected = nll(labels[::2], softmax(logits[::2] + logits[1::2]))
    assert number(summary, "nll", subset="cases")["value"] == pytest.approx(expected)


def test_a_probability_of_zero_does_not_rule_a_class_out_of_a_case():
    """ln 1e-15 is -34.5: half of it against ln .5 still leaves class 0 behind, but finite."""
    probs = np.array([[0.0, 1.0], [0.5, 0.5]])
    _, _, of_case, _ = case_rows(np.array([0, 0]), probs, np.array([0, 0]))
    assert of_case[0, 0] == pytest.approx(np.sqrt(1e-15 * 0.5) / np.sqrt(0.5), rel=1e-6)


def test_a_case_with_two_labels_is_left_out_and_counted():
    labels, logits, groups, cases = run_case()
    labels = labels.copy()
    labels[0] = (labels[1] + 1) % 4
    summary = summary_of(labels, softmax(logits), groups, case_ids=cases)
    assert (summary.n_cases, summary.n_mixed_cases) == (100, 1)
    assert number(summary, "top_1_accuracy", subset="cases")["n_images"] == 99


def test_cases_of_one_photograph_each_have_no_rows_of_their_own():
    labels, logits, groups, _ = run_case()
    summary = summary_of(labels, softmax(logits), groups, case_ids=np.arange(len(labels)))
    assert (set(summary.metrics["subset"]), summary.n_cases) == ({"all"}, 200)


def test_groups_that_share_a_case_are_drawn_as_one():
    """Lesions 0 and 1 are photographed in case a, 1 and 2 in case b: they hang together, 3 does not."""
    groups, n_groups = joined_groups(np.array([0, 1, 1, 2, 3]), np.array([0, 0, 1, 1, 2]))
    assert (groups.tolist(), n_groups) == ([0, 0, 0, 0, 1], 2)


def test_lesions_of_one_case_are_not_independent_in_a_summary():
    labels, logits, _, cases = run_case()
    summary = summary_of(labels, softmax(logits), np.arange(len(labels)), case_ids=cases)
    assert summary.n_groups == 100
    assert number(summary, "top_1_accuracy")["n_groups"] == 100


def test_calibration_errors_carry_a_band_and_no_interval(with_other):
    for name in FLOORED:
        row = number(with_other, name)
        assert np.isnan([row["ci_low"], row["ci_high"]]).all()
        low, high, p = (
            number(with_other, name + s)["value"] for s in ("_floor_low", "_floor_high", "_p_value")
        )
        assert row["n_groups"] == number(with_other, "top_1_accuracy")["n_groups"]
        assert 0 <= low < high <= 1
        assert 0 < p <= 1


@pytest.mark.parametrize("name", [n for n in SCALARS if n not in FLOORED])
def test_every_other_metric_carries_an_interval_around_its_value(with_other, name):
    row = number(with_other, name)
    assert row["ci_low"] <= row["value"] <= row["ci_high"]


def test_a_class_without_images_is_named_and_its_numbers_are_nan():
    labels, logits, groups, _ = run_case()
    labels = np.where(labels == 2, 1, labels)
    summary = summary_of(labels, softmax(logits), groups)
    assert summary.excluded == ("acne",)
    row = number(summary, "sensitivity", class_name="acne")
    assert np.isnan([row["value"], row["ci_low"], row["ci_high"]]).all()
    assert (row["n_images"], row["n_groups"], row["n_undefined"]) == (0, 0, 40)
    assert np.isfinite(number(summary, "auroc_macro")["value"])


def test_a_rate_carries_its_denominator(with_other):
    labels, logits, groups, _ = run_case()
    held = labels != 3
    predicted = softmax(logits[held][:, :3]).argmax(axis=1)
    for name, is_in in {
        "sensitivity": labels[held] == 0,
        "specificity": labels[held] != 0,
        "ppv": predicted == 0,
        "npv": predicted != 0,
        "labelled_share": np.ones(held.sum(), dtype=bool),
    }.items():
        row = number(with_other, name, class_name="eczema")
        n_groups = len(np.unique(groups[held][is_in]))
        assert (row["n_images"], row["n_groups"]) == (is_in.sum(), n_groups), name


def test_no_image_labelled_with_a_target_leaves_nan_and_not_an_error():
    probs = np.array([[0.5, 0.3, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7]])
    summary = summary_of(np.array([3, 3]), probs, np.arange(2), other_class="other")
    row = number(summary, "top_1_accuracy")
    assert np.isnan(row["value"])
    assert row["n_images"] == 0
    assert number(summary, "other_sensitivity")["value"] == 0.5
    assert np.isnan(number(summary, "other_auroc")["value"])


def test_confused_pairs_are_the_wrong_cells_most_first():
    """Six images of eczema, two of psoriasis: 3 eczemas called psoriasis, 1 psoriasis called eczema."""
    said = np.array([0, 0, 0, 1, 1, 1, 0, 1])
    summary = summary_of(np.array([0] * 6 + [1] * 2), np.eye(2)[said], np.arange(8))
    pairs = summary.curves["confused_pairs"].to_dict("records")
    assert pairs == [
        {"label": "eczema", "predicted": "psoriasis", "n": 3, "share_of_label": 0.5, "share_of_errors": 0.75},
        {"label": "psoriasis", "predicted": "eczema", "n": 1, "share_of_label": 0.5, "share_of_errors": 0.25},
    ]


def test_the_confusion_table_has_every_cell(with_other):
    labels, logits, _, _ = run_case()
    cells = with_other.curves["open_confusion"].set_index(["label", "predicted"])["n"]
    predicted = softmax(logits).argmax(axis=1)
    assert len(cells) == 16
    assert cells["eczema", "other"] == ((labels == 0) & (predicted == 3)).sum()


def test_the_json_is_that_of_the_design(with_other):
    values = json.loads(io.to_json(summary_json(with_other)))
    assert {"n_images", "n_groups", "metrics", "per_class", "confusion"} <= set(values)
    row = number(with_other, "top_1_accuracy")
    assert values["metrics"]["top_1_accuracy"] == {
        field: row[field] for field in ("value", "ci_low", "ci_high", "n_images", "n_groups", "n_undefined")
    }
    assert values["metrics"]["ece"]["ci_low"] is None
    assert values["cases"]["open_top_1_accuracy"]["n_images"] == 100
    assert set(values["per_class"]) == set(NAMES)
    assert values["per_class"]["acne"]["auroc"]["value"] == pytest.approx(
        number(with_other, "auroc", class_name="acne")["value"]
    )
    assert values["confusion"]["class_names"] == list(NAMES[:3])
    assert np.sum(values["open_confusion"]["counts"]) == 200


def test_the_same_seed_gives_the_same_frame_whatever_the_threads(monkeypatch, with_other):
    monkeypatch.setattr("ddeval.metrics.resampling.N_THREADS", 1)
    labels, logits, groups, cases = run_case()
    again = summary_of(labels, softmax(logits), groups, other_class="other", case_ids=cases)
    pd.testing.assert_frame_equal(again.metrics, with_other.metrics, check_exact=True)


def test_without_resamples_there_are_values_alone(with_other):
    labels, logits, groups, cases = run_case()
    arguments = {"other_class": "other", "case_ids": cases, "n_resamples": 0}
    metrics = summary_of(labels, softmax(logits), groups, **arguments).metrics
    is_band = metrics["metric"].str.contains("_floor_|_p_value")
    pd.testing.assert_series_equal(metrics["value"][~is_band], with_other.metrics["value"][~is_band])
    assert metrics[["ci_low", "ci_high"]].isna().all(axis=None)
    assert metrics["value"][is_band].isna().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_names": NAMES[:3]}, r"must name 4 classes \(columns of pred_probs\), got 3"),
        ({"class_names": ("a", "b", "a", "c")}, "must be unique, 'a' stands 2 times"),
        ({"other_class": "rest"}, "other_class 'rest' is not among the class_names eczema, psoriasis"),
        ({"groups": np.arange(3)}, "groups has 3 rows, labels have 200"),
        ({"case_ids": np.arange(3)}, "case_ids has 3 rows, labels have 200"),
        ({"case_ids": np.array([None] * 200)}, "row 0 is empty, 200 in all"),
    ],
    ids=["names", "twice", "other", "groups", "cases", "no case"],
)
def test_what_does_not_fit_is_refused(arguments, message):
    labels, logits, groups, _ = run_case()
    good = {"groups": groups, "class_names": NAMES, "rng": np.random.default_rng(0), "n_resamples": 10}
    with pytest.raises(ValueError, match=message):
        summarise(labels, softmax(logits), **good | arguments)


HAM_MODELS = {
    # accuracy, balanced accuracy and macro AUROC as published with the data
    "predictions_01DataShift00Compare41.csv": (0.7246, 0.676, 0.931),
    "predictions_01DataShift01Threshold41.csv": (0.7421, 0.594, 0.929),
    "predictions_01DataShift02Compare41.csv": (0.7393, 0.693, 0.932),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", HAM_MODELS)
def test_real_predictions_give_their_published_numbers_with_intervals_over_lesions(real_data, name):
    """2,927 dermatoscopic images of three models, joined to their lesions by id."""
    predictions = pd.read_csv(real_data / "ham10000_predictions" / name)
    predictions["image_id"] = predictions["image"].str.removesuffix(".jpg")
    metadata = pd.read_csv(real_data / "ham10000" / "metadata.csv")
    rows = predictions.merge(metadata, on="image_id", validate="one_to_one")
    classes = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]
    probs = rows[classes].to_numpy()
    summary = summarise(
        rows["dx"].str.upper().map(classes.index).to_numpy(),
        probs,
        groups=rows["lesion_id"].to_numpy(),
        class_names=classes,
        rng=np.random.default_rng(0),
        n_resamples=200,
    )
    measured = [number(summary, m) for m in ("top_1_accuracy", "balanced_accuracy", "auroc_macro")]
    assert [row["value"] for row in measured] == pytest.approx(HAM_MODELS[name], abs=0.001)
    assert (summary.n_images, summary.n_groups) == (2927, rows["lesion_id"].nunique())
    assert all(row["ci_low"] < row["value"] < row["ci_high"] for row in measured)


GOLDEN = {
    "top1": "top_1_accuracy",
    "top3": "top_3_accuracy",
    "top5": "top_5_accuracy",
    "balanced_acc": "balanced_accuracy",
    "macro_f1": "macro_f1",
    "mcc": "mcc",
    "auc_ovr_macro": "auroc_macro",
    "ap_macro": "average_precision_macro",
    "nll": "nll",
    "brier": "brier_score",
    "ece15": "ece",
    "msp_error_auroc": "failure_auroc",
    "aurc_fdshifts": "aurc",
    "augrc_fdshifts": "augrc",
    "eaurc_fdshifts": "eaurc",
}
TOLERANCE = {"ece15": 2e-4, "aurc_fdshifts": 2e-4, "augrc_fdshifts": 2e-4, "eaurc_fdshifts": 2e-4}


@pytest.mark.real_data
@pytest.mark.parametrize("name", ["lenet-5-cifar-10", "wideresnet-16-4-cifar-10"])
def test_a_whole_run_gives_the_golden_values(real_data, name):
    folder = real_data / "calibration"
    golden = json.loads((folder / "golden_metrics.json").read_text())[name]
    with np.load(folder / f"{name}.npz") as arrays:
        labels, probs = arrays["ground_truth"], arrays["predictions"].astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    names = [str(k) for k in range(10)]
    arguments = {"groups": np.arange(len(labels)), "class_names": names, "rng": np.random.default_rng(0)}
    summary = summarise(labels, probs, **arguments, n_resamples=0)
    for key, metric in GOLDEN.items():
        measured = number(summary, metric)["value"]
        assert measured == pytest.approx(golden[key], abs=TOLERANCE.get(key, 1e-6)), metric


@pytest.mark.parametrize("seed", range(5))
def test_rows_and_groups_of_each_class_are_those_one_counts_by_hand(seed):
    """A loop over classes and sets of groups; group 0 is empty, and some groups hold one class only."""
    rng = np.random.default_rng(seed)
    labels, groups = rng.integers(4, size=30), rng.integers(1, 12, size=30)
    probs = rng.dirichlet(np.ones(4), size=30)
    names = tuple("abcd")
    (reading,), _ = run_readings(labels, probs, names, None, case_of=None, logits=None)
    predicted = top_class(labels, probs)
    counted = rows_counted(reading, groups)
    for k in range(4):
        for name, is_in in (
            ("labelled", labels == k),
            ("not labelled", labels != k),
            ("predicted", predicted == k),
            ("not predicted", predicted != k),
            ("all", labels >= 0),
        ):
            n_images, n_groups = counted[name]
            assert (n_images[k], n_groups[k]) == (is_in.sum(), len(set(groups[is_in]))), (name, k)
