"""Truth: accuracy against a vetted reference, from a designed sample and imperfect readers."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from ddeval.metrics.reader_error import consensus_error
from ddeval.metrics.truth import Sample, design, estimate, joined
from tests import reference

BENCHMARK = Path(__file__).parents[1] / "benchmarks" / "truth.py"


def drawn_case(seed, *, n_rows=300, n=60):
    rng = np.random.default_rng(seed)
    strata = rng.integers(4, size=n_rows)
    correct = (rng.random(n_rows) < np.array([0.5, 0.8, 0.95, 0.99])[strata]).astype(float)
    return correct, strata, design(strata, n, rng=rng)


def one_stratum(n_hits, n, n_rows=10**9):
    """A simple random sample with `n_hits` of `n` right, from so many rows that none is drawn twice."""
    correct = np.full(n + 1, np.nan)
    correct[:n] = np.arange(n) < n_hits
    return estimate(correct, np.zeros(n + 1), Sample(np.arange(n), np.full(n, n / n_rows)))


def test_the_stratified_mean_is_worked_by_hand():
    """90 sure rows with 9 of 10 right and 10 doubtful ones with 1 of 5: 0.9 x 0.9 + 0.1 x 0.2 = 0.83."""
    strata = np.repeat(["sure", "doubtful"], [90, 10])
    sample = Sample(np.r_[0:10, 90:95], np.r_[np.full(10, 10 / 90), np.full(5, 0.5)])
    correct = np.full(100, np.nan)
    correct[sample.index] = [1] * 9 + [0] + [1] + [0] * 4
    assert estimate(correct, strata, sample).value == pytest.approx(0.83)


@pytest.mark.parametrize("seed", range(10))
def test_the_estimate_equals_the_loop_over_strata(seed):
    correct, strata, sample = drawn_case(seed)
    got = estimate(correct, strata, sample)
    assert got[:3] == pytest.approx(reference.stratified_estimate(correct, strata, sample.index))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("filling", [0.0, 1.0, 0.3])
def test_filling_in_rows_that_were_not_vetted_changes_nothing(seed, filling):
    """Else a guess for the rest would leak into what is called vetted."""
    correct, strata, sample = drawn_case(seed)
    vetted = np.full(len(correct), np.nan)
    vetted[sample.index] = correct[sample.index]
    filled = np.full(len(correct), filling)
    filled[sample.index] = correct[sample.index]
    assert estimate(filled, strata, sample) == estimate(vetted, strata, sample)


def test_names_and_order_of_rows_and_strata_do_not_matter():
    correct, strata, sample = drawn_case(0)
    order = np.random.default_rng(1).permutation(len(strata))
    place = np.argsort(order)
    names = np.array(["d", "b", "a", "c"], dtype=object)
    moved = Sample(place[sample.index], sample.inclusion_probability)
    got = estimate(correct[order], names[strata[order]], moved)
    assert got == pytest.approx(estimate(correct, strata, sample))


def test_a_fully_vetted_split_has_no_interval():
    correct, strata, _ = drawn_case(0)
    got = estimate(correct, strata, design(strata, len(strata), rng=np.random.default_rng(0)))
    assert got.value == got.ci_low == got.ci_high == pytest.approx(correct.mean())


@pytest.mark.parametrize("n", [20, 50, 200, 500])
@pytest.mark.parametrize("share", [0.7, 0.9, 0.97, 0.995])
def test_the_interval_of_one_stratum_covers_nearly_as_often_as_it_says(n, share):
    """Exact sum over all counts. No binomial interval covers 95 % at every share; none falls below 92 %."""
    inside = [k for k in range(n + 1) if (e := one_stratum(k, n)).ci_low <= share <= e.ci_high]
    assert stats.binom.pmf(inside, n, share).sum() >= 0.92


@pytest.mark.parametrize("n_hits", [0, 50])
def test_a_sample_without_a_hit_or_without_a_miss_still_has_a_width(n_hits):
    """The normal interval would be a point; fifty of fifty leave some 3/50 open."""
    got = one_stratum(n_hits, 50)
    assert got.ci_high - got.ci_low == pytest.approx(3 / 50, abs=0.012)
    assert got.ci_low <= got.value <= got.ci_high


def test_the_width_is_that_of_the_normal_interval_where_counts_are_large():
    got = one_stratum(3000, 4000)
    assert got.ci_high - got.ci_low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 4000), rel=0.01)
    assert got.effective_n == pytest.approx(4000, rel=0.01)


def test_half_of_the_draw_is_even_over_strata_and_half_by_size():
    strata = np.repeat([0, 1, 2, 3], [700, 200, 60, 40])
    sample = design(strata, 100, rng=np.random.default_rng(0))
    n = np.bincount(strata[sample.index])
    assert np.abs(n - (12.5 + 50 * np.array([0.7, 0.2, 0.06, 0.04]))).max() < 1  # whole numbers nearby
    assert n.sum() == 100
    np.testing.assert_allclose(sample.inclusion_probability, (n / np.bincount(strata))[strata[sample.index]])


def test_with_a_spread_the_draw_follows_size_times_spread():
    """Neyman: 500 rows of spread 0.1 and 500 of 0.4 share 80 % of 100 as 1 : 4 and 20 % evenly."""
    strata = np.repeat([0, 1], 500)
    sample = design(strata, 100, rng=np.random.default_rng(0), spread=np.where(strata == 0, 0.1, 0.4))
    assert np.bincount(strata[sample.index]).tolist() == [26, 74]


def test_a_stratum_smaller_than_its_share_is_vetted_whole():
    strata = np.repeat([0, 1], [990, 10])
    sample = design(strata, 100, rng=np.random.default_rng(0))
    assert np.bincount(strata[sample.index]).tolist() == [90, 10]
    assert sample.inclusion_probability[-1] == 1.0


def test_every_row_of_a_stratum_is_drawn_equally_often():
    """400 draws of 5 in 20: each row 100 times, binomial sd 8.7."""
    strata = np.repeat([0, 1], [20, 5])
    n_drawn = np.zeros(25)
    for seed in range(400):
        n_drawn[design(strata, 8, rng=np.random.default_rng(seed)).index] += 1
    expected = 400 * np.r_[np.full(20, n_drawn[:20].mean() / 400), np.full(5, n_drawn[20:].mean() / 400)]
    assert np.abs(n_drawn - expected).max() < 4.5 * 9.8


def test_the_same_generator_draws_the_same_rows():
    strata = np.arange(200) % 3
    first, again = (design(strata, 50, rng=np.random.default_rng(3)).index for _ in range(2))
    assert first.tolist() == again.tolist()
    assert first.tolist() != design(strata, 50, rng=np.random.default_rng(4)).index.tolist()


def test_rows_without_a_verdict_are_bounded_and_not_guessed():
    """30 of 100 without verdict, 63 of 70 right: .90 among the others, .63 to .93 whatever the 30 are."""
    correct = np.full(1000, np.nan)
    correct[:100] = np.r_[np.ones(63), np.zeros(7), np.full(30, np.nan)]
    got = estimate(correct, np.zeros(1000), Sample(np.arange(100), np.full(100, 0.1)))
    assert got.value == pytest.approx(0.9)
    assert (got.n_vetted, got.n_without_verdict) == (70, 30)
    assert (got.without_verdict, got.worst_case, got.best_case) == pytest.approx((0.3, 0.63, 0.93))


def test_ungradable_rows_widen_the_interval_as_if_they_had_not_been_drawn():
    correct, few = np.full(10**5, np.nan), np.full(10**5, np.nan)
    correct[:1000] = np.r_[np.tile([1, 1, 1, 0], 175), np.full(300, np.nan)]
    few[:700] = np.tile([1, 1, 1, 0], 175)
    many = estimate(correct, np.zeros(10**5), Sample(np.arange(1000), np.full(1000, 0.01)))
    fewer = estimate(few, np.zeros(10**5), Sample(np.arange(700), np.full(700, 0.007)))
    assert many.std_error == pytest.approx(fewer.std_error, rel=0.01)


def test_per_image_accuracy_of_cases_weighs_a_case_by_its_images():
    """Cases of 1, 2 and 3 images, shares right 1, 1/2 and 0: 2 of 6 images, all cases vetted."""
    got = estimate([1, 0.5, 0], [0, 0, 0], Sample(np.arange(3), np.ones(3)), sizes=[1, 2, 3])
    assert got.value == pytest.approx(2 / 6)


def test_the_interval_of_a_ratio_of_cases_covers_what_it_says():
    """Photographs of a case are right together; the case is the unit drawn, so the width counts cases."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 7, size=4000)
    correct = (rng.random(4000) < 0.8 - 0.04 * sizes).astype(float)
    truth, n_inside = np.average(correct, weights=sizes), 0
    for seed in range(300):
        sample = design(np.zeros(4000), 200, rng=np.random.default_rng(seed))
        got = estimate(correct, np.zeros(4000), sample, sizes=sizes)
        n_inside += got.ci_low <= truth <= got.ci_high
    assert 0.92 <= n_inside / 300 <= 0.98  # binomial sd 1.3 points


def test_a_good_guess_narrows_the_interval_and_a_useless_one_costs_nothing():
    rng = np.random.default_rng(0)
    correct = (rng.random(5000) < 0.8).astype(float)
    good = np.where(rng.random(5000) < 0.9, correct, 1 - correct)
    sample = design(np.zeros(5000), 400, rng=rng)
    plain = estimate(correct, np.zeros(5000), sample).std_error
    assert estimate(correct, np.zeros(5000), sample, proxy=good).std_error < 0.75 * plain
    useless = estimate(correct, np.zeros(5000), sample, proxy=rng.random(5000)).std_error
    assert useless == pytest.approx(plain, rel=0.02)


def test_the_prediction_powered_value_is_the_difference_estimator():
    """With verdicts 1, 0 and guesses 1, 0 the slope is 1: the mean guess of the split is the answer."""
    guess = np.array([1.0, 0, 1, 1, 1, 0, 1, 1])
    correct = np.array([1.0, 0] + [np.nan] * 6)
    got = estimate(correct, np.zeros(8), Sample(np.array([0, 1]), np.full(2, 0.25)), proxy=guess)
    assert got.value == pytest.approx(guess.mean())


def test_two_batches_join_to_the_probability_of_being_in_either():
    """10 of 100 and then 18 of the 90 left: 28 of 100, and the union estimates like one draw of 28."""
    strata, rng = np.zeros(100, dtype=int), np.random.default_rng(0)
    first = design(strata, 10, rng=rng)
    left = np.setdiff1d(np.arange(100), first.index)
    more = design(strata[left], 18, rng=rng)
    second = Sample(left[more.index], more.inclusion_probability)
    both = joined([first, second], [np.full(100, 0.1), np.full(100, 0.2)])
    assert len(both.index) == 28
    np.testing.assert_allclose(both.inclusion_probability, 0.28)


def test_a_joined_sample_of_uneven_batches_is_unbiased():
    """The second batch looks at one half only, where the model is worse: its rows must not count more."""
    rng = np.random.default_rng(0)
    half = np.repeat([0, 1], 500)
    correct = (rng.random(1000) < np.where(half == 0, 0.9, 0.4)).astype(float)
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        whole = np.zeros(1000, dtype=int)
        first = design(whole, 100, rng=rng)
        left = np.setdiff1d(np.arange(500, 1000), first.index)
        more = design(np.ones(len(left)), 100, rng=rng)
        second = Sample(left[more.index], more.inclusion_probability)
        both = joined([first, second], [np.full(1000, 0.1), np.where(half == 1, 100 / len(left), 0.0)])
        found.append(estimate(correct, whole, both).value)
    assert np.mean(found) == pytest.approx(correct.mean(), abs=4 * np.std(found) / 20)


def test_reader_error_is_solved_from_disagreement():
    """Error .08 and coincidence 1/2: readers differ in .16 - 1.5 x .0064 = .1504 of cases."""
    error = consensus_error(np.r_[np.ones(1504), np.zeros(8496)])
    assert error.reader == pytest.approx(0.08, abs=1e-9)
    assert error.miss == pytest.approx(0.5 * 0.0064 + 0.1504 * 0.08)


def test_a_third_reading_that_stands_alone_carries_a_readers_error():
    """Readers err on .08 and differ on .1504; a fifth of the classes are a third reader's.

    miss = .8 x (.5 x .0064 / .8496) + .2 x .08; where no two classes are compared (NaN) nothing is learnt.
    """
    differ = np.r_[np.ones(1504), np.zeros(8496), np.full(700, np.nan)]
    third = np.r_[np.ones(2000), np.zeros(8000), np.full(700, np.nan)]
    error = consensus_error(differ, third=third)
    assert (error.n_pairs, error.disagreement) == (10_000, pytest.approx(0.1504))
    assert error.miss == pytest.approx(0.8 * 0.0032 / 0.8496 + 0.2 * 0.08)
    as_before = consensus_error(differ, third=differ)
    assert as_before == consensus_error(differ)


@pytest.mark.parametrize(("wrong", "untold"), [(0.0, 0.15), (0.08, 0.15), (0.08, 0.30)])
def test_readers_who_cannot_always_tell_leave_the_planted_accuracy_in_the_interval(wrong, untold):
    """Each of three readers names another class on `wrong` and none on `untold` of cases.

    Of 200 intervals 186 to 198 hold the planted value (95 %: sd of the count is 3.1), and the mean error is
    below .004 (its sd is .0012).
    """
    errors, held = [], 0
    for repeat in range(200):
        rng = np.random.default_rng([7, repeat])
        chance = np.repeat([0.97, 0.85, 0.5], [2000, 700, 300])
        strata = np.repeat([0, 1, 2], [2000, 700, 300])
        is_right = rng.random(3000) < chance
        sample = design(strata, 400, rng=rng)
        n = len(sample.index)
        # 0 is the true class, 1 to 4 are others, -1 is "cannot tell"; a wrong model answers 1
        said = np.where(rng.random((3, n)) < wrong, rng.choice([1, 1, 2, 3], (3, n)), 0)
        said = np.where(rng.random((3, n)) < untold, -1, said)
        one, two, last = said
        stands = np.where(one == two, one, last)
        third = np.where(stands >= 0, (one != two).astype(float), np.nan)
        differ = np.where((one >= 0) & (two >= 0), (one != two).astype(float), np.nan)
        error = consensus_error(differ, third=third, weights=1 / sample.inclusion_probability)
        verdict = np.where(is_right[sample.index], stands == 0, stands == 1).astype(float)
        correct = np.full(3000, np.nan)
        correct[sample.index] = np.where(stands >= 0, verdict, np.nan)
        got = estimate(correct, strata, sample, reader_error=error)
        errors.append(got.value - is_right.mean())
        held += got.ci_low <= is_right.mean() <= got.ci_high
    assert 186 <= held <= 198
    assert abs(np.mean(errors)) < 0.004


@pytest.mark.parametrize(("n_sure", "untold"), [(450, 0.0), (450, 0.3), (900, 0.15), (900, 0.3)])
def test_a_stratum_read_whole_carries_doubt_where_readers_cannot_tell(n_sure, untold):
    """The doubtful stratum is drawn whole: which of its rows end without verdict is chance, and counts.

    400 repeats: coverage is known to .011, the seen standard deviation to 4 %. With both strata drawn whole
    that chance is all there is, and an interval that leaves it out is a point.
    """
    strata = np.repeat([0, 1], [900, 100])
    errors, said, held = [], [], 0
    for repeat in range(400):
        rng = np.random.default_rng([11, repeat])
        is_right = rng.random(1000) < np.where(strata == 0, 0.95, 0.5)
        sure = rng.choice(900, size=n_sure, replace=False)
        drawn = np.repeat([n_sure / 900, 1.0], [n_sure, 100])
        sample = Sample(np.r_[np.sort(sure), 900:1000], drawn)
        correct = np.full(1000, np.nan)
        correct[sample.index] = np.where(rng.random(len(drawn)) < untold, np.nan, is_right[sample.index])
        got = estimate(correct, strata, sample)
        errors.append(got.value - is_right.mean())
        said.append(got.std_error)
        held += got.ci_low <= is_right.mean() <= got.ci_high
    assert abs(np.mean(errors)) < 0.002
    assert 0.9 <= np.sqrt(np.mean(np.square(said))) / np.std(errors) <= 1.1
    assert 372 <= held <= 394


def test_rows_outside_the_number_are_not_without_verdict():
    """All drawn: 60 right of 90, and 10 are no part of it. Nothing is left to doubt, and nothing to bound."""
    correct = np.r_[np.ones(60), np.zeros(30), np.full(10, np.nan)]
    sample = Sample(np.arange(100), np.ones(100))
    got = estimate(correct, np.zeros(100), sample, outside=np.isnan(correct))
    assert got.value == got.ci_low == got.ci_high == got.worst_case == got.best_case == pytest.approx(2 / 3)
    assert (got.n_vetted, got.n_without_verdict, got.without_verdict) == (90, 0, 0)
    untold = estimate(correct, np.zeros(100), sample)
    assert untold.ci_low < untold.value == pytest.approx(2 / 3)
    assert (untold.n_without_verdict, untold.without_verdict) == (10, pytest.approx(0.1))


def test_reader_error_without_a_double_reading_is_undefined():
    assert np.isnan(consensus_error([np.nan, np.nan]).miss)
    assert consensus_error([]).n_pairs == 0


def test_readers_who_never_differ_are_not_thereby_perfect():
    assert consensus_error(np.zeros(50)).miss_se > 0


def test_readers_who_differ_more_than_equally_good_ones_can_have_no_error_that_can_be_told():
    """With coincidence 1/2 they differ in at most 2/3 of cases; three of three may be chance."""
    refuted = consensus_error(np.r_[np.ones(32), np.zeros(3)])
    assert (refuted.n_pairs, refuted.disagreement) == (35, pytest.approx(32 / 35))
    assert np.isnan([refuted.reader, refuted.miss, refuted.false_hit, refuted.miss_se]).all()
    assert consensus_error(np.ones(3)).reader == pytest.approx(2 / 3)
    assert np.isfinite(consensus_error(np.r_[np.ones(25), np.zeros(10)]).miss)


def test_reader_error_moves_the_value_up_and_widens_the_interval():
    """A consensus that misses 1.5 % of right answers makes .90 of what is .906."""
    correct, strata, sample = drawn_case(0, n_rows=3000, n=600)
    error = consensus_error(np.r_[np.ones(90), np.zeros(510)])
    plain, with_error = (
        estimate(correct, strata, sample),
        estimate(correct, strata, sample, reader_error=error),
    )
    gain = 1 - error.miss - error.false_hit
    assert with_error.value == pytest.approx((plain.value - error.false_hit) / gain)
    assert with_error.std_error > plain.std_error


def test_a_stratum_nobody_has_vetted_leaves_the_value_undefined():
    sample = Sample(np.array([0, 1]), np.full(2, 0.5))
    got = estimate([1, 0, np.nan, np.nan], [0, 0, 1, 1], sample)
    assert np.isnan(got.value)
    assert got.n_vetted == 2
    assert np.isnan(estimate([np.nan] * 4, [0] * 4, sample).value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"correct": [1, 0]}, r"correct must have shape \(4,\)"),
        ({"correct": [2, 0, 0, 0]}, "verdicts must lie in 0 to 1"),
        ({"strata": [0, None, 1, 1]}, "strata must name one for every row; row 1 has none, 1 in all"),
        ({"sample": Sample(np.array([0, 0]), np.ones(2))}, "sampled twice"),
        ({"sample": Sample(np.array([0, 9]), np.ones(2))}, r"must lie in 0\.\.3"),
        ({"sample": Sample(np.array([0, 1]), np.zeros(2))}, r"must lie in \(0, 1\]"),
        ({"sizes": [1, 1, 1, 0]}, "sizes must be positive"),
        ({"outside": [0, 0, 1, 0]}, r"outside must be bool and of shape \(4,\), got int64"),
        ({"proxy": [1, 1, 1, np.nan]}, "proxy must be finite"),
        ({"confidence_level": 95}, "confidence_level must lie between 0 and 1"),
    ],
)
def test_a_wrong_argument_is_named(change, message):
    given = {
        "correct": [1, 0, 0, 0],
        "strata": [0, 0, 1, 1],
        "sample": Sample(np.array([0, 2]), np.full(2, 0.5)),
    }
    with pytest.raises(ValueError, match=message):
        estimate(**{**given, **change})


@pytest.mark.parametrize("n", [1, 5])
def test_a_draw_that_cannot_be_made_is_refused(n):
    with pytest.raises(ValueError, match=r"number of strata and of rows \(2 to 4\)"):
        design([0, 0, 1, 1], n, rng=np.random.default_rng(0))


def truth_benchmark():
    spec = importlib.util.spec_from_file_location("truth_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def cifar10n(real_data):
    return truth_benchmark().load(real_data)


def held_to(table, design, *, repeats):
    """Bias, coverage and width of a design; the margins are four standard errors at this many repeats."""
    row = table.set_index("design").loc[design]
    margin = 4 * np.sqrt(0.95 * 0.05 / repeats)
    assert abs(row["bias"]) < max(0.001, 4 * 0.0062 / np.sqrt(repeats))
    assert 0.95 - margin <= row["coverage"] <= min(0.95 + margin, 1)
    return row["width"]


@pytest.mark.real_data
def test_truth_on_crowd_noise_is_unbiased_covered_and_narrow_20_repeats(cifar10n):
    """A tenth of the guard below."""
    bench = truth_benchmark()
    table = bench.repeated(bench.DESIGNS, cifar10n, repeats=20, seed=1)
    assert held_to(table, "strata of equal doubt, Neyman", repeats=20) <= 0.025
    assert held_to(table, "strata of equal doubt", repeats=20) <= 0.025
    assert held_to(table, "four strata: agreement x low confidence", repeats=20) <= 0.0285


@pytest.mark.slow
@pytest.mark.real_data
def test_truth_on_crowd_noise_is_unbiased_covered_and_narrow_200_repeats(cifar10n):
    bench = truth_benchmark()
    table = bench.repeated(bench.DESIGNS, cifar10n, repeats=200, seed=1)
    for name in ("strata of equal doubt, Neyman", "strata of equal doubt"):
        assert held_to(table, name, repeats=200) <= 0.025


@pytest.mark.slow
@pytest.mark.real_data
def test_readers_who_err_are_inside_the_interval_200_repeats(cifar10n):
    bench = truth_benchmark()
    table = bench.repeated(bench.READINGS, cifar10n, repeats=200, seed=1)
    held_to(table, "reader error corrected and inside the interval", repeats=200)


def test_a_large_stratum_with_rare_errors_is_covered():
    """70 % of rows hold 0.5 % errors; every fourth draw sees none of them, and a normal interval fails."""
    row = truth_benchmark().rare_errors(repeats=400, seed=0).iloc[0]
    assert 0.93 <= row["coverage"] <= 0.985
