"""`ddeval compare` from files to tables: real predictions, the risk groups found, and input with holes."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest

from ddeval import io
from ddeval.data.importers import IMPORTERS
from ddeval.errors import InputError
from ddeval.score.comparison_folder import read_reported
from ddeval.score.gate import latency
from ddeval.score.joined import _is_same_grouping, join
from tests.command import run

ITA_EDGES = (55.0, 41.0, 28.0, 10.0, -30.0)
"""Degrees between skin types I to VI (Chardon 1991, Del Bino 2006)."""


def scored(folder, frame, answers, *, more=()):
    """One run folder for each of `answers` (name -> probabilities by class) on the manifest `frame`."""
    folder.mkdir(parents=True, exist_ok=True)
    frame.to_csv(folder / "manifest.csv", index=False)
    for name, probs in answers.items():
        probs.assign(image_id=frame["image_id"].to_numpy()).to_csv(folder / f"{name}.csv", index=False)
        run("score", folder / f"{name}.csv", "--data", folder / "manifest.csv", "--out", folder / name,
            "--n-resamples", 20, "--calibrators", "none", *more)  # fmt: skip
    return [folder / name for name in answers]


def compared(folder, runs, *more, n_resamples=50):
    """The JSON twin of a comparison; the page has been written too."""
    found = run(
        "compare", *runs, "--json", "--n-resamples", n_resamples, "--out", folder / "page.html", *more
    )
    assert (folder / "page.html").stat().st_size > 10_000
    return json.loads(found.stdout)


def answers_of(labels, classes, *, accuracy, seed):
    """Probabilities of .8 for an answer that is right as often as `accuracy` says."""
    rng = np.random.default_rng(seed)
    codes = pd.Index(classes).get_indexer(labels)
    answer = np.where(rng.random(len(codes)) < accuracy, codes, (codes + 1) % len(classes))
    probs = np.full((len(codes), len(classes)), 0.2 / (len(classes) - 1))
    probs[np.arange(len(codes)), answer] = 0.8
    return pd.DataFrame(probs, columns=list(classes))


def row_of(rows, **wanted):
    (found,) = [row for row in rows if all(row[name] == value for name, value in wanted.items())]
    return found


@pytest.mark.real_data
def test_three_published_models_of_ham10000_are_compared_on_the_images_they_share(real_data, tmp_path):
    """Two of the files share few images with the third: 262 in all three, and each file says what it left
    out. Intervals are over lesions; skin type is the published ITA estimate and is called a proxy."""
    frame = IMPORTERS["ham10000"](real_data / "ham10000")
    tone = pd.read_csv(real_data / "ham10000_predictions" / "estimated_skin_tone.csv")
    ita = tone.set_index(tone["image"].str.removesuffix(".jpg"))["estimated_ita"]
    of = frame["image_id"].map(ita)
    frame["skin_type"] = np.array(["I", "II", "III", "IV", "V", "VI"])[
        np.searchsorted(-np.array(ITA_EDGES), -of, side="left")
    ]
    frame["skin_type_source"] = "ita"
    frame.drop(columns="group").to_csv(tmp_path / "manifest.csv", index=False)
    runs = []
    for name in ("00Compare", "01Threshold", "02Compare"):
        file = real_data / "ham10000_predictions" / f"predictions_01DataShift{name}41.csv"
        runs.append(tmp_path / name)
        run("score", file, "--id-column", "image", "--data", tmp_path / "manifest.csv", "--out", runs[-1],
            "--n-resamples", 20, "--calibrators", "none")  # fmt: skip
    refused = run("compare", *runs, code=3)
    assert "images that another run has not" in refused.output
    told = compared(tmp_path, runs, "--common", n_resamples=400)

    assert (told["n_images"], told["group_unit"]) == (262, "lesions")
    assert told["n_groups"] < 262
    assert sum("2,665 images that another run has not were left out" in note for note in told["notes"]) == 3
    assert any("conditions_public.yaml" in note for note in told["notes"])
    assert not any("without a risk group" in note for note in told["notes"])

    differences = [d for d in told["differences"] if d["metric"] == "top_1_accuracy" and d["subset"] == "all"]
    assert len(differences) == 2
    assert all(d["ci_low"] <= d["difference"] <= d["ci_high"] for d in differences)
    proxy = [
        g for g in told["subgroups"] if g["attribute"] == "skin type, from the photograph (ITA, a proxy)"
    ]
    by_group = {
        g["group"]: g for g in proxy if g["metric"] == "top_1_accuracy" and g["run"] == told["runs"][0]
    }
    assert sum(g["n_images"] for g in by_group.values()) == 262
    assert any(
        g["value"] is not None and g["ci_low"] <= g["value"] <= g["ci_high"] for g in by_group.values()
    )
    assert all(
        g["value"] is None and "fewer than 20 patients" in g["note"]
        for g in by_group.values()
        if g["n_groups"] < 20
    )
    harm = [h for h in told["harm"] if h["group"] == "malignant" and h["run"] == told["runs"][0]]
    n_malignant = int(frame.set_index("image_id").loc[list(_shared(real_data)), "label"].isin(
        ["mel", "bcc", "akiec"]).sum())  # fmt: skip
    assert sum(h["n_images"] for h in harm) == n_malignant
    assert "proxy" in (tmp_path / "page.html").read_text()


def _shared(real_data):
    files = sorted((real_data / "ham10000_predictions").glob("predictions_*.csv"))
    ids = [set(pd.read_csv(file)["image"].str.removesuffix(".jpg")) for file in files]
    return set.intersection(*ids)


def test_the_codes_of_ham10000_find_their_risk_groups_in_the_shipped_example(tmp_path):
    """mel, bcc and akiec are malignant: a model that answers all of them rightly misses none."""
    classes = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    labels = np.tile(classes, 12)
    frame = pd.DataFrame({"image_id": [f"i{k:03d}" for k in range(84)], "label": labels, "raw_label": labels})
    answers = {
        "right": answers_of(labels, classes, accuracy=1.0, seed=0),
        "poor": answers_of(labels, classes, accuracy=0.5, seed=1),
    }
    told = compared(tmp_path, scored(tmp_path, frame, answers))
    harm = {h["outcome"]: h["n_images"] for h in told["harm"] if h["run"] == "right"}
    assert harm == {"right": 36, "deferred": 0, "missed": 0}
    (note,) = [note for note in told["notes"] if note.startswith("decisions")]
    assert "shipped example conditions_public.yaml, approved by no clinician" in note
    assert "--conditions FILE" in note


def test_classes_that_no_shipped_example_knows_are_told_which_file_to_name(tmp_path):
    labels = np.array(["lump", "bump"] * 12)
    frame = pd.DataFrame({"image_id": [f"i{k:03d}" for k in range(24)], "label": labels})
    answers = {n: answers_of(labels, ("bump", "lump"), accuracy=0.7, seed=i) for i, n in enumerate("ab")}
    told = compared(tmp_path, scored(tmp_path, frame, answers))
    assert "harm" not in told
    assert any("knows none of these classes" in n and "--conditions FILE" in n for n in told["notes"])


def test_a_comparison_is_not_written_over_other_files(tmp_path):
    """`--out data.html` puts its tables into data/, where somebody's own may lie."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.parquet").write_text("mine")
    found = run("compare", tmp_path, tmp_path, "--out", tmp_path / "data.html", code=3)
    assert "a folder with other files in it" in found.output
    assert (tmp_path / "data" / "manifest.parquet").read_text() == "mine"


def test_a_comparison_and_its_runs_say_the_same_of_what_is_missed(tmp_path):
    """One seed, one stream of draws: no number of a page has two intervals."""
    rng = np.random.default_rng(3)
    names = ["Eczema", "Melanoma", "Acne"]
    labels = rng.integers(3, size=300)
    frame = pd.DataFrame(
        {
            "image_id": [f"i{k:03d}" for k in rng.permutation(300)],
            "label": np.array(names)[labels],
            "patient_id": [f"p{k // 3}" for k in range(300)],
        }
    )
    frame.to_csv(tmp_path / "manifest.csv", index=False)
    for name in ("a", "b"):
        probs = rng.dirichlet(np.ones(3), size=300)
        pd.DataFrame(probs, columns=names).assign(image_id=frame["image_id"]).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
        run("score", tmp_path / f"{name}.csv", "--data", tmp_path / "manifest.csv", "--out", tmp_path / name,
            "--n-resamples", 50, "--calibrators", "none")  # fmt: skip
    told = run("compare", tmp_path / "a", tmp_path / "b", "--json", "--n-resamples", 50, "--out",
               tmp_path / "page.html")  # fmt: skip
    values = pd.DataFrame(json.loads(told.stdout)["values"])
    for name in ("a", "b"):
        own = io.read_parquet(tmp_path / name / "labels-v0" / "metrics.parquet")[0]
        own = own[own["class_name"].isna()].set_index(["subset", "metric"])
        for row in values[values["run"] == name].to_dict("records"):
            if row["metric"] == "ece":
                continue  # without an interval here
            alone = own.loc[(row["subset"], row["metric"])]
            for column in ("value", "ci_low", "ci_high", "n_images", "n_groups"):
                assert row[column] == pytest.approx(alone[column], nan_ok=True), (row["metric"], column)

    (tmp_path / "page" / "run-1" / "labels-v0" / "curves" / "old.parquet").write_bytes(b"of before")
    run("compare", tmp_path / "a", tmp_path / "b", "--n-resamples", 50, "--out", tmp_path / "page.html")
    run("verify", tmp_path / "page.html")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Runs a and b over 30 photographs, in a folder."""
    folder, classes = tmp_path_factory.mktemp("two"), ("Eczema", "Melanoma", "Acne")
    frame = pd.DataFrame({"image_id": [f"i{k}" for k in range(30)], "label": list(classes) * 10})
    scored(folder, frame, {n: answers_of(frame["label"], classes, accuracy=0.7, seed=i)
                           for i, n in enumerate("ab")})  # fmt: skip
    return folder


def test_a_page_without_an_ending_is_html_and_its_tables_lie_beside_it(two):
    """`--out cmp` and `--out cmp.v2`; a run may be named by its folder, with the slash a shell completes."""
    for name in ("cmp", "cmp.v2"):
        told = json.loads(run("compare", two / "a", two / "b", "--out", two / name, "--n-resamples", 5,
                              "--baseline", f"{two / 'b'}/", "--ensemble", "a+b", "--ensemble", "a+b",
                              "--json").stdout)  # fmt: skip
        assert told["report"] == str(two / f"{name}.html")
        assert (two / f"{name}.html").is_file()
        assert (two / name / "comparison.json").is_file()
        assert told["baseline"] == "b"
        assert len(told["ensembles"]) == 4  # once, not twice


@pytest.mark.parametrize(
    ("more", "line"),
    [(("--out", "."), "--out .: found no name"),
     (("--out", "manifest.csv/page"), "manifest.csv, a file; expected a place for a folder"),
     (("--gate", "."), "found a folder; expected a file"),
     (("a",), "a: found the run twice"),
     (("./x/../b",), "found the run twice")],
)  # fmt: skip
def test_what_cannot_be_compared_or_written_is_one_line(two, monkeypatch, more, line):
    (two / "x").mkdir(exist_ok=True)
    monkeypatch.chdir(two)
    found = run("compare", "a", "b", *more, "--n-resamples", 5, code=3).stderr
    assert line in found
    assert len(found.splitlines()) == 1


def test_an_ensemble_is_not_called_like_a_run(two):
    (two / "a+b.csv").write_bytes((two / "a.csv").read_bytes())
    run("score", two / "a+b.csv", "--data", two / "manifest.csv", "--out", two / "ab", "--n-resamples", 5,
        "--calibrators", "none")  # fmt: skip
    found = run("compare", two / "a", two / "b", two / "ab", "--ensemble", "a+b", code=3).stderr
    assert "--ensemble a+b: found a run called a+b" in found


@pytest.mark.parametrize(
    ("rows", "line"),
    [("prod,top_1_accuracy,67", "line 2: found value '67'; expected a number, a share"),
     ("prod,top_1_accuracy,inf", "line 2: found value 'inf'"),
     ("prod,,.5", "line 2: found no run or metric"),
     ("prod,nll,1.2\nprod,nll,1.3", "line 3: found nll of 'prod' again")],
)  # fmt: skip
def test_typed_in_numbers_that_cannot_be_meant_are_refused(tmp_path, rows, line):
    (tmp_path / "reported.csv").write_text(f"run,metric,value\n{rows}\n")
    with pytest.raises(InputError, match=line):
        read_reported(tmp_path / "reported.csv")


def test_a_typed_in_metric_that_nothing_shows_is_said(two, tmp_path):
    (tmp_path / "reported.csv").write_text("run,metric,value\nprod,top1,.67\nprod,nll,1.2\n")
    told = compared(two, [two / "a", two / "b"], "--reported", tmp_path / "reported.csv", n_resamples=5)
    assert "typed-in numbers of no metric of this comparison: top1" in told["notes"]


@pytest.mark.parametrize(
    "told",
    [
        {"latencies_ms": ["x"]},
        {"latencies_ms": [1, None]},
        {"latencies_ms": [-1]},
        {"latency_p95_ms": "fast"},
    ],
)
def test_a_latency_that_is_no_number_is_refused(tmp_path, told):
    io.write_json(tmp_path / "bench.json", {"checkpoint": "a", **told})
    with pytest.raises(InputError, match="no number of milliseconds"):
        latency("a", [tmp_path / "bench.json"])


def test_runs_whose_manifests_group_the_images_otherwise_say_whose_groups_are_taken(two):
    """Fifteen patients there, thirty images here: every interval hangs on it. Other names do not matter."""
    frame = pd.read_csv(two / "manifest.csv").assign(patient_id=[f"p{k // 2}" for k in range(30)])
    (other,) = scored(two / "pairs", frame, {"c": pd.read_csv(two / "a.csv").drop(columns="image_id")})
    line = "c: its manifest groups the images otherwise; intervals are over those of a"
    assert line in join([two / "a", other]).notes
    assert line not in join([two / "a", two / "b"]).notes
    for theirs, is_same in ((["p", "q", "q"], True), (["p", "p", "q"], False), (["p", "q", "r"], False)):
        assert _is_same_grouping(pd.Series(["x", "y", "y"]), pd.Series(theirs)) == is_same


@pytest.mark.parametrize(
    ("file", "text", "line"),
    [("run.json", "{}", "found no checkpoint in it"), ("run.json", "[]", "found no checkpoint in it"),
     ("labels-v0 copy/metrics.json", "{}", "under which this run was not scored")],
)  # fmt: skip
def test_a_folder_that_is_no_run_any_more_is_one_line(two, tmp_path, file, text, line):
    """Edited by hand, or with a copy of its numbers put beside them."""
    shutil.copytree(two / "a", tmp_path / "a")
    (tmp_path / "a" / file).parent.mkdir(exist_ok=True)
    (tmp_path / "a" / file).write_text(text)
    found = run("verify", tmp_path / "a", code=3).stderr
    assert line in found
    assert len(found.splitlines()) == 1
