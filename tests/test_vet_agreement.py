"""Agreement coefficients: worked by hand, against slow definitions, against published data."""

import numpy as np
import pandas as pd
import pytest

from ddeval.vet.agreement import (
    agreement_table,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
    raw_agreement,
    self_consistency,
)
from ddeval.vet.batches import open_batch
from ddeval.vet.consensus import Answer
from ddeval.vet.outcomes import ratings
from ddeval.vet.reading import answer_json
from ddeval.vet.store import Store
from tests import reference

COEFFICIENTS = {
    "krippendorff_alpha": (krippendorff_alpha, reference.krippendorff_alpha),
    "fleiss_kappa": (fleiss_kappa, reference.fleiss_kappa),
    "gwet_ac1": (gwet_ac1, reference.gwet_ac1),
}


def random_ratings(seed, *, missing=0.3):
    rng = np.random.default_rng(seed)
    truth = rng.integers(4, size=(40, 1))
    ratings = np.where(rng.random((40, 5)) < 0.6, truth, rng.integers(4, size=(40, 5))).astype(float)
    ratings[rng.random(ratings.shape) < missing] = np.nan
    return ratings


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize("seed", range(20))
def test_coefficients_equal_their_slow_definition(name, seed):
    fast, slow = COEFFICIENTS[name]
    ratings = random_ratings(seed)
    assert fast(ratings) == pytest.approx(slow(ratings.tolist()), abs=1e-12)


def test_fleiss_kappa_matches_statsmodels_where_every_unit_has_all_readers():
    inter_rater = pytest.importorskip("statsmodels.stats.inter_rater")
    ratings = random_ratings(3, missing=0.0)
    counts, _ = inter_rater.aggregate_raters(ratings.astype(int))
    assert fleiss_kappa(ratings) == pytest.approx(inter_rater.fleiss_kappa(counts), abs=1e-12)


def test_alpha_of_krippendorffs_own_example():
    """Krippendorff (2011), example C: four observers, twelve units, missing values, nominal alpha .743."""
    nan = np.nan
    observers = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, nan, nan, nan],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, nan, 3],
        [nan, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, nan],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, nan],
    ]
    assert krippendorff_alpha(np.array(observers).T) == pytest.approx(0.743, abs=5e-4)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_when_all_readers_name_one_category_agreement_is_not_defined_and_raw_is_one(name):
    """Nothing could have been disagreed about, so chance correction is 0/0; raw agreement is 100 %."""
    ratings = np.ones((10, 3))
    assert np.isnan(COEFFICIENTS[name][0](ratings))
    assert raw_agreement(ratings) == 1.0


def test_a_rare_category_ruins_alpha_but_not_ac1():
    """Two readers, 100 units, each calls one (different) unit positive: raw .98, alpha just below 0."""
    ratings = np.zeros((100, 2))
    ratings[0, 0] = ratings[1, 1] = 1
    assert raw_agreement(ratings) == 0.98
    assert krippendorff_alpha(ratings) == pytest.approx(1 - 0.02 / (2 * 2 * 198 / (200 * 199)), abs=1e-12)
    assert gwet_ac1(ratings) > 0.97


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_no_pair_of_ratings_is_nan(name):
    ratings = np.array([[1.0, np.nan], [np.nan, 2.0]])
    assert np.isnan(COEFFICIENTS[name][0](ratings))
    assert np.isnan(raw_agreement(ratings))


def test_names_serve_as_ratings_as_well_as_numbers():
    names = np.array([["acne", "acne"], ["acne", None], ["eczema", "acne"]], dtype=object)
    numbers = np.array([[0, 0], [0, np.nan], [1, 0]])
    assert krippendorff_alpha(names) == krippendorff_alpha(numbers)


def test_ratings_of_one_dimension_are_refused():
    with pytest.raises(ValueError, match=r"shape \(units, readers\), got \(3,\)"):
        krippendorff_alpha([1, 2, 3])


def test_interval_of_raw_agreement_is_two_standard_errors_each_way():
    """Two readers: raw agreement is a share over 400 units, so its interval is 1.96 binomial sd."""
    rng = np.random.default_rng(0)
    first = rng.integers(3, size=400)
    second = np.where(rng.random(400) < 0.8, first, (first + 1) % 3)
    table = agreement_table(np.c_[first, second], rng=rng, n_resamples=4000).set_index("coefficient")
    raw = table.loc["raw_agreement"]
    half = (raw["ci_high"] - raw["ci_low"]) / 2
    assert half == pytest.approx(1.96 * np.sqrt(raw["value"] * (1 - raw["value"]) / 400), rel=0.06)
    assert (table["n_units"] == 400).all()
    assert (table["n_ratings"] == 800).all()


def test_ten_cases_of_ten_agreed_on_are_no_certainty():
    """Raw agreement has the exact bound .025 ** (1 / 10); what every resample repeats bounds nothing."""
    first = np.arange(10) % 3
    table = agreement_table(np.c_[first, first], rng=np.random.default_rng(0)).set_index("coefficient")
    assert (table["value"] == 1).all()
    assert table.loc["raw_agreement", ["ci_low", "ci_high"]].tolist() == pytest.approx([0.025**0.1, 1])
    assert table.drop("raw_agreement")[["ci_low", "ci_high"]].isna().all(axis=None)


def test_agreement_table_without_a_pair_says_nan_with_its_n():
    table = agreement_table(np.array([[1.0, np.nan]]), rng=np.random.default_rng(0))
    assert table[["value", "ci_low", "ci_high"]].isna().all().all()
    assert (table["n_units"] == 0).all()


def test_self_consistency_counts_only_repeats_read_twice():
    share, n = self_consistency(["acne", "acne", None, "wart"], ["acne", "wart", "wart", None])
    assert (share, n) == (0.5, 2)
    assert self_consistency([], [])[1] == 0


@pytest.mark.real_data
def test_dermx_votes_imported_as_readings_give_the_published_kappa(real_data, tmp_path):
    """Eight dermatologists, real mess: 256 of 5,040 votes are empty, 205 name two or more diagnoses.

    Images with a diagnosis in the metadata and eight votes, a vote being what was written, "a|b" a category
    of its own: 420 images, kappa .759, 53.6 % unanimous. Only votes of one diagnosis each: 340 images, .887.
    """
    votes = pd.read_csv(real_data / "dermx" / "annotations.csv", dtype=str, keep_default_na=False)
    votes = votes[(votes["metadata_diagnosis"] != "") & (votes["diagnosis_tags"] != "")]
    store = Store(tmp_path / "vet.db")
    queue = pd.DataFrame({"case_id": votes["image"].unique(), "kind": "random", "stratum": "all"})
    queue["inclusion_probability"] = 1.0
    batch = open_batch(
        store, queue, name="dermx", split="test", seed=0, manifest_sha256="m", readings_per_case=8
    )
    with store.write() as connection:
        for vote in votes.itertuples():
            store.append(
                connection,
                actor=vote.rater,
                role="reader",
                batch="dermx",
                case_id=vote.image,
                reading_no=1,
                revision=0,
                kind="reading",
                new=answer_json(Answer(tuple(vote.diagnosis_tags.split("|"))), {}),
                blind_level="blind",
                nonce=f"{vote.rater}|{vote.image}",
            )
    table, _ = ratings(store, batch, name_of=lambda answer: "|".join(answer.diagnoses))
    assert store.verify().n_events == len(votes)
    store.close()

    complete = table.dropna().to_numpy()
    assert complete.shape == (420, 8)
    assert fleiss_kappa(complete) == pytest.approx(0.759, abs=5e-4)
    assert fleiss_kappa(complete) == pytest.approx(reference.fleiss_kappa(complete.tolist()), abs=1e-12)
    assert (complete == complete[:, :1]).all(axis=1).mean() == pytest.approx(0.536, abs=5e-4)

    every = pd.read_csv(real_data / "dermx" / "annotations.csv", dtype=str, keep_default_na=False)
    single = every[~every["diagnosis_tags"].str.contains("|", regex=False) & (every["diagnosis_tags"] != "")]
    strict = single.pivot_table(index="image", columns="rater", values="diagnosis_tags", aggfunc="first")
    assert strict.dropna().shape == (340, 8)
    assert fleiss_kappa(strict.dropna().to_numpy()) == pytest.approx(0.8873, abs=5e-5)
