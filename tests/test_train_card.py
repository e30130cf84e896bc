"""The model card says what the artefact is for, made from, worth and bound by; Hugging Face can read it."""

import re

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard

from ddeval.config import Config
from ddeval.train.card import card
from ddeval.train.loop import train
from tests.train_fixture import make_config, make_data

INPUTS = {"manifest_sha256": "ab" * 32, "labels": {"version": "train-v3"}}


def text_of(config: Config, rows: pd.DataFrame, **changes: object) -> str:
    """The card of 40 images of two classes, the first 30 of them right."""
    n = len(rows)
    right = np.arange(n) < 0.75 * n
    labels = np.arange(n) % 2
    probs = np.where((np.arange(2) == labels[:, None]) == right[:, None], 0.8, 0.2)
    counts = pd.DataFrame({"train": [70, 30], "val": [20, 20]}, index=["acne", "wart"])
    given = {
        "labels": labels,
        "pred_probs": probs,
        "rows": rows,
        "counts": counts,
        "left_out": {},
        "best_epoch": 3,
        "inputs": INPUTS,
        "class_names": ("acne", "other", "wart"),
    }
    return card(config, **(given | changes))


def rows_of(n: int = 40, **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"group": [f"p{i}" for i in range(n)], **columns})


@pytest.fixture
def config(tmp_path) -> Config:
    return make_config(tmp_path)


def test_hugging_face_reads_the_model_index(config):
    """Their own reader: task, data set, and each metric with its value."""
    read = ModelCard(text_of(config, rows_of())).data
    results = {result.metric_name: result for result in read.eval_results}
    assert results["top-1 accuracy"].metric_value == 0.75
    assert results["top-1 accuracy"].task_type == "image-classification"
    assert results["top-1 accuracy"].dataset_split == "val"
    assert set(results) == {"top-1 accuracy", "top-3 accuracy", "balanced accuracy"}
    assert read.license == "other"


def test_every_headline_number_stands_with_its_interval_and_its_bias(config):
    text = text_of(config, rows_of())
    low, high = re.search(r"\| top-1 accuracy \| 75\.0 % \| ([\d.]+) – ([\d.]+) \|", text).groups()
    assert 55 < float(low) < 68  # 1.96 standard errors are 13.4 points
    assert 82 < float(high) < 95
    assert "Epoch 3 was chosen by top-1 on these same images, so the values lean upwards" in text


def test_subgroups_have_numbers_or_are_too_few(config):
    """30 patients of type II, all right, and 10 of type VI: fewer than 20 patients show no number.

    All of 30 right is no proof that all patients are: the exact lower bound is .025 ** (1 / 30) = .884.
    """
    types = ["II"] * 30 + ["VI"] * 10
    text = text_of(config, rows_of(skin_type=types, age=[30.0] * 25 + [70.0] * 15))
    assert "| skin type | II | 30 | 30 | 100.0 % | 88.4 – 100.0 |" in text
    assert "| skin type | VI | 10 | 10 | too few |  |" in text
    assert "| age | 18 to 39 | 25 | 25 | 100.0 %" in text
    assert "| age | 65 to 120 | 15 | 15 | too few |  |" in text


def test_without_any_such_column_the_card_says_so(config):
    assert "names no skin type, sex or age" in text_of(config, rows_of())


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ("google/medsiglip-448", "Health AI Developer Foundations terms of use.*clinical use reviewed"),
        ("random", "No pretrained weights"),
        ("someone/else", "pretrained weights `someone/else`: their licence applies, and is not known here"),
    ],
)
def test_the_licence_follows_the_weights_it_started_from(config, weights, said):
    model = config.model.model_copy(update={"weights": weights})
    text = text_of(config.model_copy(update={"model": model}), rows_of())
    assert re.search(said, text.partition("## Licence")[2])
    assert ("health-ai-developer-foundations" in text) == (weights == "google/medsiglip-448")


def test_a_class_name_cannot_break_the_table_or_bring_markup(config):
    counts = pd.DataFrame({"train": [1], "val": [1]}, index=["a|b ![x](http://evil) <script>"])
    line = next(line for line in text_of(config, rows_of(), counts=counts).splitlines() if "evil" in line)
    assert line.count(" | ") == 2
    assert r"a\|b \!\[x\](http://evil) \<script\>" in line


def test_synthetic_training_data_are_named_at_the_top(config):
    assert "SYNTHETIC" in text_of(config, rows_of(source="synthetic"))
    assert "SYNTHETIC" not in text_of(config, rows_of(source="clinic"))


def test_a_trained_artefact_comes_with_its_card(tmp_path):
    """Numbers are those of the best epoch, computed again from the artefact's own weights."""
    make_data(tmp_path)
    (tmp_path / "images" / "000-0.png").write_bytes(b"no image")
    result = train(make_config(tmp_path, epochs=2), tmp_path / "manifest.csv", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    index = yaml.safe_load(text.split("---")[1])["model-index"][0]["results"][0]["metrics"]
    assert index[0]["value"] == pytest.approx(result.best["top_1_accuracy"], abs=1e-4)
    assert "Left out: 1 (unreadable)." in text
    assert "| acne | 12 | 4 |" in text
    assert "labels v0" in text
