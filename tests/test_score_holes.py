"""Labels and answers with holes, through score, compare and abstain: NaN with its n and a sentence.

Never a crash, never a silent 0: one class only, a class without an image, one image, a subgroup of one
patient, ties everywhere, everything answered `other`.
"""

import json
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from tests.command import run

CLASSES = ("Eczema", "Melanoma", "Acne", "other")


def answers(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 4))


def of_classes(n, classes=CLASSES):
    return [classes[k % len(classes)] for k in range(n)]


ALL_OTHER = [0.0, 0.0, 0.0, 30.0]
HOLES = {
    "one class only": (["Eczema"] * 40, answers(40)),
    "an absent class": (of_classes(60, ("Eczema", "Acne", "other")), answers(60)),
    "one image": (["Eczema"], [[3.0, 0, 0, 0]]),
    "a subgroup of one patient": (of_classes(40, CLASSES[:3]), answers(40)),
    "ties": (of_classes(40), np.zeros((40, 4))),
    "all abstained": (of_classes(40), np.tile(ALL_OTHER, (40, 1)) + 0.01 * answers(40)),
    "other only": (["other"] * 40, answers(40)),
}


class Told(NamedTuple):
    """What was written and said about one hole."""

    folder: Path
    one: dict
    """JSON of run a."""
    two: dict
    """JSON of the comparison with run b, whose first two classes are swapped."""
    said: str
    """Everything a person reads: terminal and pages."""

    def value(self, metric, run="a"):
        wanted = (run, metric, "all")
        (found,) = [v["value"] for v in self.two["values"] if (v["run"], v["metric"], v["subset"]) == wanted]
        return found


def scored(folder, labels, logits, *, split=None, names=("a", "b")):
    """Runs of these logits, one patient an image, half of the images calibration where `split` is given."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(labels)
    frame = pd.DataFrame(
        {
            "image_id": [f"i{k:03d}" for k in range(n)],
            "label": labels,
            "patient_id": [f"p{k}" for k in range(n)],
            "sex": ["male"] + ["female"] * (n - 1),
            "split": ["test"] * n if split is None else split,
        }
    )
    frame.to_csv(folder / "manifest.csv", index=False)
    for name, columns in (("a", [0, 1, 2, 3]), ("b", [1, 0, 2, 3])):
        if name in names:
            table = pd.DataFrame(np.asarray(logits, dtype=float)[:, columns], columns=list(CLASSES))
            table.assign(image_id=frame["image_id"]).to_csv(folder / f"{name}.csv", index=False)
            run("score", folder / f"{name}.csv", "--values", "logits", "--other-class", "other", "--data",
                folder / "manifest.csv", "--out", folder / name, "--n-resamples", 20, "--calibrators",
                "none")  # fmt: skip


def text_of(page):
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page.read_text()))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The runs and the comparison of a hole, made once."""
    kept = {}

    def of(hole):
        if hole not in kept:
            folder = tmp_path_factory.mktemp("hole")
            scored(folder, *HOLES[hole])
            quick = ("--n-resamples", 20, "--calibrators", "none")
            score = run("score", folder / "a", *quick, "--report", folder / "run.html")
            compare = run("compare", folder / "a", folder / "b", *quick[:2], "--out", folder / "page.html")
            said = score.output + compare.output
            said += text_of(folder / "run.html") + text_of(folder / "page.html")
            files = (folder / "a" / "labels-v0" / "metrics.json", folder / "page" / "comparison.json")
            kept[hole] = Told(folder, *(json.loads(file.read_text()) for file in files), said)
        return kept[hole]

    return of


@pytest.mark.parametrize("hole", HOLES)
def test_every_hole_is_said_in_words_and_verifies(told, hole):
    """No `nan` reaches a reader, in the terminal or on a page, and every stored number is made again."""
    found = told(hole)
    assert not re.search(r"(?i)\bnan\b", found.said)
    run("verify", found.folder / "a")
    run("verify", found.folder / "page.html")


def test_one_class_only_has_no_auroc_and_no_correlation(told):
    """Every image is Eczema: accuracy stands, what needs a second class is NaN with n."""
    found = told("one class only")
    assert found.one["metrics"]["top_1_accuracy"]["value"] is not None
    for metric in ("auroc_macro", "mcc", "cohen_kappa"):
        assert found.one["metrics"][metric]["value"] is None, metric
        assert found.one["metrics"][metric]["n_images"] == 40
    assert found.one["per_class"]["Melanoma"]["sensitivity"]["value"] is None
    assert found.value("auroc_macro") is None
    (lost,) = [d for d in found.two["differences"] if (d["metric"], d["subset"]) == ("auroc_macro", "all")]
    assert (lost["difference"], lost["p_value"], lost["ci_low"]) == (None, None, None)
    assert "n/a" in text_of(found.folder / "page.html")


def test_a_class_without_an_image_is_in_no_mean_and_named(told):
    found = told("an absent class")
    assert "classes without an image, in no mean over classes: Melanoma" in found.said
    per_class = found.one["per_class"]
    assert per_class["Melanoma"]["sensitivity"]["value"] is None
    assert per_class["Melanoma"]["auroc"]["value"] is None
    held = [per_class[name]["sensitivity"]["value"] for name in ("Eczema", "Acne")]
    assert found.one["metrics"]["balanced_accuracy"]["value"] == pytest.approx(np.mean(held))
    assert found.value("balanced_accuracy") == pytest.approx(np.mean(held))
    assert not [h for h in found.two["harm"] if h["group"] == "malignant"]


def test_one_image_has_numbers_without_a_spread(told):
    """One of one is right: no standard error, no gap, nothing that needs a second image; and no 0."""
    found = told("one image")
    top_1 = found.one["metrics"]["top_1_accuracy"]
    assert (top_1["value"], top_1["n_images"], top_1["n_groups"]) == (1.0, 1, 1)
    assert found.one["metrics"]["auroc_macro"]["value"] is None
    mcnemar = found.two["mcnemar"][0]
    assert (mcnemar["se_paired"], mcnemar["se_unpaired"]) == (None, None)
    for row in found.two["differences"]:
        assert row["ci_low"] is row["ci_high"] is row["se"] is row["p_value"] is None, row["metric"]
    page = text_of(found.folder / "page.html")
    assert "no interval (n = 1)" in page
    assert "1 photograph, 1 patient" in page
    assert not re.search(r"\b1 (photographs|patients|images|cases|checkpoints)\b", page)
    assert (found.two["n_images"], found.two["n_groups"]) == (1, 1)
    assert all(row["value"] is None for row in found.two["subgroups"])


def test_a_subgroup_of_one_patient_is_named_and_not_shown(told):
    found = told("a subgroup of one patient")
    rows = {row["group"]: row for row in found.two["subgroups"] if row["metric"] == "top_1_accuracy"}
    male, female = rows["male"], rows["female"]
    assert (male["value"], male["n_images"], male["n_groups"]) == (None, 1, 1)
    assert male["note"] == "fewer than 20 patients (1): not shown"
    assert female["value"] is not None
    assert female["gap"] is None
    assert female["note"] == "gap: cannot tell, the rest has fewer than 20 patients (1)"
    for page in ("run.html", "page.html"):
        assert "Too few patients to be shown: male (1)" in text_of(found.folder / page)


def test_ties_count_against_the_model_and_rank_nothing(told):
    """Equal logits everywhere: nobody is right, every AUROC is .5, the runs cannot be told apart."""
    found = told("ties")
    assert found.one["metrics"]["top_1_accuracy"]["value"] == 0.0
    assert found.one["metrics"]["auroc_macro"]["value"] == 0.5
    (same,) = [d for d in found.two["differences"] if (d["metric"], d["subset"]) == ("top_1_accuracy", "all")]
    assert (same["difference"], same["p_holm"], same["n_images"]) == (0.0, None, 30)
    assert found.two["mcnemar"][0]["p_value"] == 1.0
    best = {b["run"]: b["is_in_best_set"] for b in found.two["best"] if b["metric"] == "top_1_accuracy"}
    assert best == {"a": True, "b": True}


def test_where_everything_is_answered_other_no_target_is_answered(told):
    """Deferred is 1, not missing: the malignant ones are deferred too, and `other` alone is right."""
    found = told("all abstained")
    metrics = found.one["metrics"]
    assert metrics["target_deferred"]["value"] == 1.0
    assert metrics["open_top_1_accuracy"]["value"] == 0.25
    assert metrics["other_sensitivity"]["value"] == 1.0
    rows = [h for h in found.two["harm"] if (h["run"], h["group"]) == ("a", "malignant")]
    assert {h["outcome"]: h["share"] for h in rows} == {"right": 0.0, "deferred": 1.0, "missed": 0.0}


def test_a_split_of_other_only_has_no_target_to_be_right_about(told):
    found = told("other only")
    top_1 = found.one["metrics"]["top_1_accuracy"]
    assert (top_1["value"], top_1["n_images"]) == (None, 0)
    assert found.value("top_1_accuracy") is None
    assert found.one["metrics"]["other_sensitivity"]["value"] is not None


@pytest.mark.parametrize("hole", HOLES)
def test_a_rule_that_cannot_be_shown_defers_everything_and_says_so(tmp_path, hole):
    """The same images to calibrate and to judge: too few, tied, or never answered, so nothing is promised."""
    labels, logits = HOLES[hole]
    n = len(labels)
    scored(tmp_path, list(labels) * 2, np.vstack([logits, logits]), split=["calibration"] * n + ["test"] * n,
           names="a")  # fmt: skip
    for rule in ("max_probability", "energy"):
        asked = ("abstain", tmp_path / "a", "--risk", 0.02, "--rule", rule, "--out", tmp_path / "rule.json",
                 "--n-resamples", 20)  # fmt: skip
        found = run(*asked, "--json", code=1)
        told = json.loads(found.stdout)
        assert (told["answers_nothing"], told["n_answered"], told["risk_upper"]) == (True, 0, None)
        assert told["n_rows"] + told["n_rows_temperature"] == n
        assert (told["judged"]["coverage"], told["judged"]["risk"]) == (0.0, None)
        assert "the rule defers everything" in found.stderr
        vectors = json.loads((tmp_path / "rule_vectors.json").read_text())["vectors"]
        assert {vector["decision"] for vector in vectors} == {"defer"}
    assert not re.search(r"(?i)nan", run(*asked, code=1).output)


def test_a_rule_that_is_never_asked_has_no_risk_where_it_is_judged(tmp_path):
    """It answers on the calibration split; every photograph of the judged one is answered `other`."""
    right = 12.0 * np.eye(4)[np.arange(600) % 3] + answers(600)
    right[560:] = ALL_OTHER
    scored(tmp_path, of_classes(600, CLASSES[:3]), right, split=["calibration"] * 560 + ["test"] * 40,
           names="a")  # fmt: skip
    said = run("abstain", tmp_path / "a", "--risk", 0.05, "--out", tmp_path / "r.json", "--n-resamples", 20)
    assert "answers 0.0% of 40, risk n/a, at most n/a" in said.output
