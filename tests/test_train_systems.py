"""The five systems of Round 1 learn, each from its own shipped config, only narrower."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ddeval.config import find_config, read_config
from ddeval.data.demo import make_demo
from ddeval.io import read_csv, write_csv
from ddeval.models.checkpoint import load_checkpoint
from ddeval.train.loop import train
from tests.independent_reader import read_folder

NARROW = {
    "gen2a_port": "{embedding_size: 8, hidden_sizes: [16, 16, 32, 32], depths: [1, 1, 1, 1]}",
    "convnextv2_base": "{hidden_sizes: [8, 8, 16, 16], depths: [1, 1, 1, 1]}",
}
SMALL_TOWER = "{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2}"
SYSTEMS = ["gen2a_port", "convnextv2_base", "medsiglip_frozen", "medsiglip_standalone", "gen2a_medsiglip"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 training and 16 validation images of the embedded data set, every class of them in train."""
    folder = tmp_path_factory.mktemp("drawn")
    manifest = make_demo(folder, n_patients=40)
    frame = read_csv(manifest)
    frame = frame[frame["image"].notna() & frame["label"].notna()].head(80).reset_index(drop=True)
    frame["split"] = ["train"] * 64 + ["val"] * 16
    frame = frame[frame["label"].isin(frame["label"][:64])]
    frame["patient_id"] = frame["lesion_id"] = frame["case_id"] = frame["image_id"]
    write_csv(manifest, frame)
    return manifest


def changes_for(name: str) -> list[str]:
    """Width and image size are reduced, and 50 steps are the whole schedule.

    A narrow head on random weights wants a higher rate than a wide one on pretrained weights.
    """
    size = 28 if "medsiglip" in name else 32
    stored = name == "medsiglip_frozen"
    return [
        "model.weights=random",
        f"model.backbone_config={NARROW.get(name, SMALL_TOWER)}",
        f"model.image_size={size}",
        f"train.epochs={50 if stored else 25}",
        f"train.frozen_epochs={50 if stored else 1}",
        f"train.batch_size={64 if stored else 32}",
        "train.warmup_epochs=1",
        "train.head_learning_rate=4.0e-3",
        "train.other_ratio=null",
        "train.cpu_threads=1",
    ]


@pytest.mark.parametrize("name", SYSTEMS)
def test_fifty_steps_halve_the_loss_on_64_images(drawn, tmp_path, name):
    """Backbone, questionnaire and head of each system, its own recipe: rates, augmentation, frozen epoch."""
    path = find_config(name)
    config = read_config(path, changes=changes_for(name))
    losses = train(config, drawn, tmp_path, config_path=path).curve["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0] / 2


def test_an_artefact_is_read_by_code_that_knows_only_the_written_format(drawn, tmp_path):
    """As the serving code would: 30 lines on torch, transformers and json answer as ddeval does."""
    path = find_config("gen2a_medsiglip")
    config = read_config(path, changes=[*changes_for("gen2a_medsiglip"), "train.epochs=2"])
    train(config, drawn, tmp_path, config_path=path)

    read = load_checkpoint(tmp_path)
    pixels, features = torch.rand(3, 3, 28, 28), torch.rand(3, 159)
    with torch.inference_mode():
        logits, _ = read.module(pixels, features)
        theirs, class_names = read_folder(tmp_path, pixels, features)
    np.testing.assert_allclose(theirs, logits, rtol=0, atol=1e-5)
    assert class_names == list(read.class_names)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["answers_width"] == 159


def test_the_independent_reader_is_short_and_knows_nothing_of_us():
    source = Path(__file__).with_name("independent_reader.py").read_text()
    assert len([line for line in source.splitlines() if line.strip()]) <= 30
    assert "ddeval" not in source.split('"""')[2]
