"""Recalibration: how much of the loss goes away when confidence is put right?"""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from ddeval.metrics import calibration
from ddeval.metrics.arrays import softmax
from ddeval.metrics.calibration import brier_score, ece, nll
from ddeval.metrics.recalibration import (
    CALIBRATORS,
    calibrators_table,
    cross_fit,
    loss_parts,
    recalibrate,
)
from ddeval.metrics.scaling import RIDGE, fit_temperature, fit_vector_scaling, logits_of, temperature_scaled


def case(seed, *, n_images=2000, n_classes=5, temperature=2.0):
    """Logits that are honest once divided by `temperature`."""
    rng = np.random.default_rng(seed)
    honest = 1.5 * rng.normal(size=(n_images, n_classes))
    labels = (softmax(honest).cumsum(axis=1) > rng.random((n_images, 1))).argmax(axis=1)
    return labels, honest * temperature


def slow_temperature(labels, logits):
    """The minimum of the NLL itself, looked for without a derivative."""
    fit = minimize_scalar(lambda log_t: nll(labels, softmax(logits / np.exp(log_t))), bounds=(-4, 4))
    return float(np.exp(fit.x))


def test_fit_temperature_is_importable_where_the_design_says():
    assert calibration.fit_temperature is fit_temperature


@pytest.mark.parametrize("odds_right", [1.5, 3.0, 9.0])
def test_the_temperature_brings_stated_odds_to_the_odds_that_came_true(odds_right):
    """Two classes, logits (4, 0), odds of being right r: T = 4 / ln r, in closed form."""
    labels = (np.arange(1000) >= 1000 * odds_right / (1 + odds_right)).astype(int)
    odds = (labels == 0).sum() / (labels == 1).sum()
    logits = np.tile([4.0, 0.0], (1000, 1))
    assert fit_temperature(logits, labels) == pytest.approx(4 / np.log(odds), rel=1e-8)


@pytest.mark.parametrize("seed", range(5))
def test_the_temperature_is_where_the_nll_is_lowest(seed):
    labels, logits = case(seed, n_images=300, temperature=0.5 + seed)
    assert fit_temperature(logits, labels) == pytest.approx(slow_temperature(labels, logits), rel=1e-4)


def test_a_planted_temperature_is_found():
    """20,000 images: the standard error of T = 2 is about .02."""
    labels, logits = case(0, n_images=20_000)
    assert fit_temperature(logits, labels) == pytest.approx(2.0, abs=0.06)


def test_float32_and_float16_logits_are_fitted_in_float64():
    """Optimisers that difference float32 losses return T = 1 for any input: the fit must not be a no-op."""
    labels, logits = case(1)
    in_float64 = fit_temperature(logits.astype(np.float32).astype(np.float64), labels)
    assert fit_temperature(logits.astype(np.float32), labels) == in_float64
    assert in_float64 > 1.8
    assert fit_temperature(logits.astype(np.float16), labels) == pytest.approx(in_float64, rel=1e-3)


def test_doubling_the_logits_doubles_the_temperature_and_an_offset_changes_nothing():
    labels, logits = case(2)
    temperature = fit_temperature(logits, labels)
    assert fit_temperature(2 * logits, labels) == pytest.approx(2 * temperature)
    assert fit_temperature(logits + np.arange(len(labels))[:, None], labels) == pytest.approx(temperature)


def test_a_temperature_without_a_minimum_stays_at_the_end_of_its_range():
    """All right: the surer the better. Worse than chance: the less sure the better."""
    logits = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert fit_temperature(logits, np.array([0, 0])) == 0.01
    assert fit_temperature(logits, np.array([1, 1])) == 100.0


@pytest.mark.parametrize("fit", [lambda y, x: fit_temperature(x, y), fit_vector_scaling], ids=["T", "vector"])
@pytest.mark.parametrize(
    ("labels", "logits", "message"),
    [
        ([], np.empty((0, 2)), "there are no rows to fit"),
        ([0, 1, 0], [[1.0, 0.0]], r"shape \(N,\) and logits \(N, K\), got \(3,\) and \(1, 2\)"),
        ([0, 0], [[1.0, 0.0], [np.nan, 0.0]], "logits must be finite; row 1 is not"),
        ([0], [[0.0, -np.inf]], "pass logits_of"),
        ([2], [[1.0, 0.0]], r"labels must lie in 0\.\.1"),
        ([0.0], [[1.0, 0.0]], "labels must be whole numbers"),
    ],
)
def test_what_cannot_be_fitted_is_refused_with_its_reason(fit, labels, logits, message):
    labels = np.array(labels, dtype=int) if not labels else np.array(labels)
    with pytest.raises(ValueError, match=message):
        fit(labels, np.array(logits))


def test_probabilities_come_back_from_their_logits():
    probs = np.array([[0.7, 0.3, 0.0], [0.2, 0.2, 0.6]])
    np.testing.assert_allclose(softmax(logits_of(probs)), probs, atol=2e-15)


def test_planted_vector_scaling_is_found():
    """Honest logits are distorted by a slope and an offset a class; the fit undoes both."""
    labels, honest = case(3, n_images=20_000, n_classes=3, temperature=1.0)
    slope, offset = np.array([2.0, 0.5, 1.0]), np.array([1.0, -1.0, 0.0])
    fit = fit_vector_scaling(labels, (honest - offset) / slope)
    np.testing.assert_allclose(fit.scale, slope, rtol=0.06)
    np.testing.assert_allclose(fit.offset, offset, atol=0.06)
    assert fit.offset.sum() == pytest.approx(0.0, abs=1e-3)


def test_vector_scaling_rests_where_loss_and_ridge_balance():
    """There the mean of (probability - label) of a class is -2 RIDGE times its offset; without the ridge
    it would be 0, and a class without images would run off to minus infinity."""
    labels, logits = case(5, n_images=300)
    held = labels != 2
    fit = fit_vector_scaling(labels[held], logits[held])
    residuals = fit.probs(logits[held]) - np.eye(5)[labels[held]]
    np.testing.assert_allclose(residuals.mean(axis=0), -2 * RIDGE * fit.offset, atol=1e-5)
    assert fit.offset[2] < -2


def test_vector_scaling_fits_no_worse_than_its_temperature():
    labels, logits = case(4, n_images=400)
    by_vector = nll(labels, fit_vector_scaling(labels, logits).probs(logits))
    assert by_vector <= nll(labels, temperature_scaled(logits, fit_temperature(logits, labels)))


def test_recalibrate_uses_the_other_split_and_says_so():
    fit_labels, fit_logits = case(6)
    _, logits = case(7, n_images=10)
    scaled = recalibrate(logits, fit_labels=fit_labels, fit_logits=fit_logits, basis="half of val")
    temperature = fit_temperature(fit_logits, fit_labels)
    np.testing.assert_array_equal(scaled.pred_probs, softmax(logits / temperature))
    assert (scaled.temperatures.tolist(), scaled.basis) == ([temperature], "half of val")


def test_a_cross_fitted_row_never_saw_its_own_patient():
    """Wrong labels for one patient move the other folds' temperatures, not that patient's own."""
    labels, logits = case(8, n_images=200)
    patients = np.arange(200) // 4
    mine = patients == 7
    changed = np.where(mine, (labels + 1) % 5, labels)
    before, after = (
        cross_fit(y, logits, groups=patients, rng=np.random.default_rng(0)) for y in (labels, changed)
    )
    np.testing.assert_array_equal(before.pred_probs[mine], after.pred_probs[mine])
    assert (before.pred_probs[~mine] != after.pred_probs[~mine]).any()
    assert (before.temperatures != after.temperatures).sum() == 4
    assert before.basis == "cross-fitted over 5 folds of groups"


def test_cross_fitting_brings_an_overconfident_model_near_its_floor():
    labels, logits = case(9, n_images=4000)
    scaled = cross_fit(labels, logits, groups=np.arange(4000), rng=np.random.default_rng(0))
    assert ece(labels, softmax(logits)) > 0.15
    assert ece(labels, scaled.pred_probs) < 0.03
    np.testing.assert_allclose(scaled.temperatures, 2.0, atol=0.15)


def test_fewer_patients_than_folds_are_refused():
    labels, logits = case(10, n_images=20)
    with pytest.raises(ValueError, match="over 5 folds needs as many groups, got 4"):
        cross_fit(labels, logits, groups=np.arange(20) % 4, rng=np.random.default_rng(0))


def mean_parts(labels, probs, scaled):
    return {name: values.mean() for name, values in loss_parts(labels, probs, scaled).items()}


def test_the_two_parts_add_up_to_the_loss():
    labels, logits = case(11)
    probs, scaled = softmax(logits), softmax(logits / 2)
    parts = mean_parts(labels, probs, scaled)
    assert parts["nll_calibration"] + parts["nll_refinement"] == pytest.approx(nll(labels, probs))
    brier = parts["brier_score_calibration"] + parts["brier_score_refinement"]
    assert brier == pytest.approx(brier_score(labels, probs))


def test_refinement_does_not_depend_on_how_overconfident_the_logits_are():
    """Tripled logits lose by calibration alone."""
    labels, logits = case(12, temperature=1.0)
    groups = np.arange(len(labels)) // 2
    one, three = (
        mean_parts(
            labels,
            softmax(x),
            cross_fit(labels, x, groups=groups, rng=np.random.default_rng(0)).pred_probs,
        )
        for x in (logits, 3 * logits)
    )
    assert three["nll_refinement"] == pytest.approx(one["nll_refinement"], abs=1e-8)
    assert abs(one["nll_calibration"]) < 0.002
    assert three["nll_calibration"] > 0.3


def test_the_table_judges_on_test_what_was_fitted_on_calibration():
    fit_labels, fit_logits = case(14)
    labels, logits = case(15)
    table = calibrators_table(
        fit_labels, fit_logits, labels, logits, calibrators=["none", "temperature", "vector"]
    ).set_index("calibrator")
    scaled = softmax(logits / fit_temperature(fit_logits, fit_labels))
    assert table.loc["none", "nll"] == pytest.approx(nll(labels, softmax(logits)))
    assert table.loc["temperature", ["nll", "ece"]].tolist() == pytest.approx(
        [nll(labels, scaled), ece(labels, scaled)]
    )
    assert table.loc["vector", "nll"] < table.loc["none", "nll"] - 0.1
    assert table[["n_fit", "n_test"]].to_numpy().tolist() == [[2000, 2000]] * 3


@pytest.mark.parametrize("name", [c for c in CALIBRATORS[3:] if c != "beta calibration"])
def test_netcal_improves_an_overconfident_model_given_as_float32(name):
    """Handed float32, netcal's scaling silently returns its input: our table always asks in float64."""
    pytest.importorskip("netcal")
    fit_labels, fit_logits = case(16, n_classes=3)
    labels, logits = case(17, n_classes=3)
    table = calibrators_table(
        fit_labels,
        fit_logits.astype(np.float32),
        labels,
        logits.astype(np.float32),
        calibrators=["none", "temperature", name],
    ).set_index("calibrator")
    assert table.loc[name, "note"] == ""
    assert table.loc[name, "ece"] < 0.5 * table.loc["none", "ece"]
    if name == "temperature (netcal)":
        assert table.loc[name, "nll"] == pytest.approx(table.loc["temperature", "nll"], abs=1e-4)


@pytest.mark.slow
def test_beta_calibration_improves_an_overconfident_model_too():
    """Half a minute of netcal's optimiser for a few hundred rows."""
    pytest.importorskip("netcal")
    (fit_labels, fit_logits), (labels, logits) = case(18, n_classes=3), case(19, n_classes=3)
    table = calibrators_table(
        fit_labels, fit_logits, labels, logits, calibrators=["none", "beta calibration"]
    )
    assert table.loc[1, "ece"] < 0.5 * table.loc[0, "ece"]


def test_a_calibrator_that_fails_keeps_its_row_and_says_why():
    """A calibration split of another class list: netcal's own error is shown, the other rows stay."""
    pytest.importorskip("netcal")
    labels, logits = case(20, n_images=50)
    table = calibrators_table(
        np.zeros(5, dtype=int),
        np.zeros((5, 1)),
        labels,
        logits,
        calibrators=["temperature (netcal)"],
    )
    assert np.isnan(table.loc[0, "nll"])
    assert ": " in table.loc[0, "note"]


def test_netcal_prints_nothing(capfd):
    """It prints a warning about absent classes and bars of progress; both would spoil `--json`."""
    pytest.importorskip("netcal")
    labels, logits = case(22, n_images=200)
    held = labels != 4
    calibrators_table(labels[held], logits[held], labels, logits, calibrators=["BBQ"])
    assert capfd.readouterr() == ("", "")


def test_an_unknown_calibrator_is_refused_by_name():
    labels, logits = case(21, n_images=20)
    with pytest.raises(ValueError, match="calibrator 'platt' is not one of none, temperature, vector"):
        calibrators_table(labels, logits, labels, logits, calibrators=["platt"])
