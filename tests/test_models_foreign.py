"""Artefacts another package wrote: through a key map, through callables, or with a script to go on with."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from ddeval.cli import app
from ddeval.errors import InputError
from ddeval.io import write_parquet
from ddeval.models.checkpoint import load_checkpoint
from ddeval.models.inspect import inspect_checkpoint
from ddeval.score.predictions import read_predictions

THEIR_PACKAGE = '''
"""Written as if by another team: own names, a wrapped state dict, own schema, `other` in the middle."""

import json
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

CLASSES = ["eczema", "acne", "other", "psoriasis", "wart"]
QUESTIONS = [
    {"id": "itch", "type": "radio", "options": ["none", "mild", "severe"]},
    {"id": "fever", "type": "bool"},
]
TOWER = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2)


class GenTwoNet(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.vision = SiglipVisionModel(SiglipVisionConfig(**TOWER, image_size=28, patch_size=14))
        self.tabular = nn.ModuleDict({"fc0": nn.Linear(6, 8), "fc1": nn.Linear(8, 4)})
        self.classifier = nn.Linear(16 + 4, cfg["num_classes"])

    def forward(self, pixels, survey):
        image = self.vision(pixel_values=pixels).pooler_output
        hidden = torch.relu(self.tabular["fc1"](torch.relu(self.tabular["fc0"](survey))))
        return {"logits": self.classifier(torch.cat([image, hidden], dim=1))}


def build(cfg):
    return GenTwoNet(cfg)


def encode(answers):
    rows = np.zeros((len(answers), 6), np.float32)
    for i, (itch, fever) in enumerate(zip(answers["q.itch"], answers["q.fever"])):
        rows[i, ["none", "mild", "severe"].index(itch) if itch in ("none", "mild", "severe") else 3] = 1
        rows[i, 4:] = {"yes": (1, 0), "no": (0, 0)}.get(fever, (0, 1))
    return rows


def save(folder):
    torch.manual_seed(0)
    net = build({"num_classes": 5})
    for p in net.parameters():
        nn.init.normal_(p, std=0.3) if p.ndim > 1 else None
    state = {"module." + k: v for k, v in net.state_dict().items()}
    torch.save({"epoch": 7, "model_state_dict": state, "best_top1": 0.61}, Path(folder) / "best_model.pt")
    config = {"num_classes": 5, "backbone": "medsiglip", "image_norm": "siglip", "tta_views": 4}
    (Path(folder) / "config.json").write_text(json.dumps(config))
    (Path(folder) / "labels.txt").write_text("\\n".join(CLASSES) + "\\n")
    (Path(folder) / "feature_schema.json").write_text(json.dumps(QUESTIONS))
    (Path(folder) / "metrics.json").write_text(json.dumps({"test_top1": 0.61}))
    return net.eval()
'''
THEIR_PREDICTOR = """
class Predictor:
    def __init__(self, folder):
        self.folder = folder

    def predict(self, image, answers):
        assert set(answers) == {"q.itch", "q.fever"}
        self.seen = open(image, "rb").read(4)
        return [0.1, 0.2, 0.3, 0.4, 0.0]
"""
OUR_SCHEMA = {
    "name": "theirs in our words",
    "fields": [
        {"name": "itch", "kind": "single", "answers": ["none", "mild", "severe"]},
        {"name": "fever", "kind": "yes_no"},
    ],
}
KEY_MAP = r"""
wrapper: model_state_dict
keys:
  '^vision\.': backbone.
  '^tabular\.fc(\d)\.': questionnaire.\1.
  '^classifier\.': head.
model:
  backbone: siglip_tiny
  backbone_config: {hidden_size: 16, intermediate_size: 24, num_hidden_layers: 2, num_attention_heads: 2}
  image_size: 28
  image_norm: siglip
  feature_schema: ours.json
  questionnaire_widths: [8, 4]
  activation: relu
other_class: other
"""
CALLABLES = """
model: their_package:build
features: their_package:encode
image_norm: siglip
preprocessing: {size: 28}
other_class: other
"""
ANSWERS = pd.DataFrame({"q.itch": ["none", "severe", None, "mild"], "q.fever": ["yes", "no", "yes", None]})
PIXELS = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Their package installed, their artefact saved in `artefact`; returns the folder above it."""
    (tmp_path / "their_package.py").write_text(THEIR_PACKAGE)
    (tmp_path / "artefact").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_package", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def expected(folder: Path) -> np.ndarray:
    """Their own forward pass on their own encoding."""
    import their_package

    net = their_package.save(folder / "artefact")
    with torch.no_grad():
        return net(PIXELS, torch.from_numpy(their_package.encode(ANSWERS)))["logits"].numpy()


def found(folder: Path) -> np.ndarray:
    read = load_checkpoint(folder / "artefact")
    features = torch.from_numpy(read.features(ANSWERS))
    with torch.inference_mode():
        logits, embeddings = read.module(PIXELS, features)
    assert embeddings.shape == (4, 16) or embeddings.shape == (4, 20)
    return logits.numpy()


def test_a_key_map_gives_their_own_logits(theirs):
    """Renamed into our network: weights, questionnaire columns and head all have to agree for 1e-5."""
    logits = expected(theirs)
    (theirs / "artefact" / "adapter.yaml").write_text(KEY_MAP)
    (theirs / "artefact" / "ours.json").write_text(json.dumps(OUR_SCHEMA))
    np.testing.assert_allclose(found(theirs), logits, rtol=0, atol=1e-5)

    read = load_checkpoint(theirs / "artefact")
    assert (read.kind, read.other_class, read.class_names[2]) == ("foreign", "other", "other")
    assert read.settings["config"]["tta_views"] == 4  # unknown to us, kept
    assert read.settings["adapted"][-1] == "prefix 'module.' taken off every name"
    assert read.reported == {"test_top1": 0.61}


def test_two_callables_of_their_package_give_their_own_logits(theirs):
    """Their network and their encoder, called as the adapter names them."""
    logits = expected(theirs)
    (theirs / "artefact" / "adapter.yaml").write_text(CALLABLES)
    np.testing.assert_allclose(found(theirs), logits, rtol=0, atol=1e-5)


def test_the_adapter_may_lie_in_the_project(theirs):
    """The artefact's folder is often read-only, or in a bucket."""
    logits = expected(theirs)
    (theirs / "ddeval.yaml").write_text("runs: runs\n")
    (theirs / "adapter.yaml").write_text(CALLABLES)
    np.testing.assert_allclose(found(theirs), logits, rtol=0, atol=1e-5)


def test_another_adapter_is_another_checkpoint(theirs):
    """A changed map changes the logits, so it changes the hash that runs are kept by."""
    expected(theirs)
    path = theirs / "artefact" / "adapter.yaml"
    path.write_text(CALLABLES)
    before = load_checkpoint(theirs / "artefact").sha256
    path.write_text(CALLABLES.replace("image_norm: siglip", "image_norm: imagenet"))
    assert load_checkpoint(theirs / "artefact").sha256 != before


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            r"  '^classifier\.': head." + "\n",
            "",
            r"2 weights missing \(first head\.\w+\), 2 weights unexpected",
        ),
        ("model_state_dict", "weights", r"no 'weights' \(it holds epoch, model_state_dict, best_top1\)"),
        ("questionnaire_widths: [8, 4]", "questionnaire_widths: [8, 5]", "of another shape"),
        ("other_class: other", "other_class: misc", "other_class 'misc'; expected one of eczema"),
        ("feature_schema: ours.json", "feature_schema: none.json", "none.json, no such file"),
        (r"questionnaire.\1.", "questionnaire.0.", "two weights that become 'questionnaire.0.weight'"),
        ("activation: relu", "activations: relu", "unknown key 'model.*activations'; expected 'activation'"),
    ],
    ids=["unmapped", "wrapper", "width", "other", "schema", "collision", "misspelt"],
)
def test_a_key_map_that_does_not_fit_says_where(theirs, old, new, message):
    expected(theirs)
    assert old in KEY_MAP
    (theirs / "artefact" / "adapter.yaml").write_text(KEY_MAP.replace(old, new))
    (theirs / "artefact" / "ours.json").write_text(json.dumps(OUR_SCHEMA))
    with pytest.raises(InputError, match=message):
        load_checkpoint(theirs / "artefact")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("their_package:build", "not_there:build", "not_there:build, which does not import"),
        ("their_package:build", "their_package:bild", "has no attribute 'bild'"),
        ("their_package:build", "os:system", r"'os:system'; expected package\.module:function"),
        ("their_package:build", "subprocess.run", "'subprocess.run'; expected package"),
        ("their_package:build", "their_package:CLASSES", "a list; expected a function"),
        ("their_package:build", "their_package:encode", r"encode: found KeyError: 'q\.itch'"),
        ("preprocessing: {size: 28}", "preprocessing: {}", "size None; expected the side of its images"),
    ],
)
def test_a_callable_that_cannot_be_used_says_why(theirs, old, new, message):
    """Functions of Python itself are out of an adapter's reach: it may have come with the artefact."""
    expected(theirs)
    (theirs / "artefact" / "adapter.yaml").write_text(CALLABLES.replace(old, new))
    with pytest.raises(InputError, match=message):
        load_checkpoint(theirs / "artefact")


def test_without_an_adapter_the_error_ends_in_a_script_that_exports_predictions(theirs):
    """Pasted and run beside their package, it writes a file with one row an image, one column a class."""
    expected(theirs)
    with pytest.raises(InputError) as refused:
        load_checkpoint(theirs / "artefact")
    line, _, script = str(refused.value).partition("\n\n")
    assert "adapter.yaml" in line
    assert len(script.strip().splitlines()) <= 20

    (theirs / "their_predictor.py").write_text(THEIR_PREDICTOR)
    (theirs / "export.py").write_text(script.replace("your_package", "their_predictor"))
    for name in "1234":
        (theirs / f"{name}.png").write_bytes(b"a file")
    manifest = ANSWERS.assign(image_id=["001", "NA", "c", "d"], image=["1.png", "2.png", "3.png", "4.png"])
    manifest.to_csv(theirs / "manifest.csv", index=False)
    subprocess.run([sys.executable, "export.py"], check=True, cwd=theirs, capture_output=True)
    written = pd.read_csv(theirs / "predictions.csv", dtype=str, keep_default_na=False)
    assert list(written.columns) == ["image_id", "eczema", "acne", "other", "psoriasis", "wart"]
    assert list(written["image_id"]) == ["001", "NA", "c", "d"]
    np.testing.assert_allclose(written.iloc[:, 1:].astype(float).sum(axis=1), 1.0)


def test_inspect_shows_what_is_there_before_anything_fits(theirs):
    """Groups with shapes, wrapper, classes, head, unknown keys, and the first thing that does not fit."""
    expected(theirs)
    seen = inspect_checkpoint(theirs / "artefact")
    assert seen.kind == "unknown"
    assert "adapter.yaml" in seen.problem
    assert "\n" not in seen.problem
    assert seen.steps == [
        "taken out of the wrapper 'model_state_dict'",
        "prefix 'module.' taken off every name",
    ]
    assert seen.classes == ("eczema", "acne", "other", "psoriasis", "wart")
    assert seen.head == "classifier.weight (5, 20)"
    groups = seen.groups.set_index("group")
    assert groups.loc["tabular.fc0", ["n_tensors", "n_parameters", "shape"]].tolist() == [2, 8 * 6 + 8, "8×6"]
    assert seen.config == {"num_classes": 5, "backbone": "medsiglip", "image_norm": "siglip", "tta_views": 4}
    assert seen.reported == {"test_top1": 0.61}


def test_the_drafted_adapter_needs_only_what_shapes_do_not_tell(theirs):
    """The draft names every weight; heads of attention, schema and activation are the user's to fill in."""
    logits = expected(theirs)
    draft = inspect_checkpoint(theirs / "artefact").adapter
    assert "feature_schema: a schema of 6 columns" in draft
    lines = [line for line in draft.splitlines() if "feature_schema" not in line]
    text = "\n".join(lines).replace("'hidden_size'", "'num_attention_heads': 2, 'hidden_size'")
    text = text.replace(
        "  questionnaire_widths", "  feature_schema: ours.json\n  activation: relu\n  questionnaire_widths"
    )
    (theirs / "artefact" / "adapter.yaml").write_text(text)
    (theirs / "artefact" / "ours.json").write_text(json.dumps(OUR_SCHEMA))
    np.testing.assert_allclose(found(theirs), logits, rtol=0, atol=1e-5)


def test_inspect_of_our_own_artefact_finds_nothing_wrong(tmp_path):
    from tests.test_models_checkpoint import make_artefact

    make_artefact(tmp_path)
    seen = inspect_checkpoint(tmp_path)
    assert (seen.kind, seen.problem, seen.config) == ("artefact", None, {})
    assert seen.questionnaire == "2 fields, 5 columns; the network reads 5"
    assert seen.head == "head.weight (3, 132)"
    assert seen.groups["n_parameters"].sum() == sum(
        p.numel() for p in load_checkpoint(tmp_path).module.state_dict().values()
    )


def photographs(folder: Path) -> Path:
    """A manifest over eight photographs with answers and labels of their classes."""
    (folder / "photos").mkdir()
    rng = np.random.default_rng(5)
    rows = []
    for i in range(8):
        noise = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "photos" / f"{i}.png")
        itch, fever = (["none", "mild", "severe", ""][i % 4], ["yes", "no", ""][i % 3])
        rows.append([f"00{i}", f"photos/{i}.png", ["eczema", "acne", "wart"][i % 3], itch, fever])
    frame = pd.DataFrame(rows, columns=["image_id", "image", "label", "q.itch", "q.fever"])
    frame.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def their_own_logits(folder: Path, manifest: Path) -> np.ndarray:
    """Their network on images they prepared themselves: squashed to 28 px, scaled to -1 .. 1."""
    import their_package

    net = their_package.save(folder / "artefact")
    frame = pd.read_csv(manifest, dtype=str)
    pixels = [
        np.asarray(Image.open(manifest.parent / name).resize((28, 28), Image.Resampling.BICUBIC))
        for name in frame["image"]
    ]
    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        return net((batch - 0.5) / 0.5, torch.from_numpy(their_package.encode(frame)))["logits"].numpy()


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to connect fails the test."""

    def refused(*args, **kwargs):
        raise AssertionError(f"a connection was tried: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)


@pytest.mark.parametrize("how", [KEY_MAP, CALLABLES], ids=["key map", "callables"])
def test_their_artefact_is_scored_to_their_own_forward_pass_without_a_network(theirs, no_network, how):
    """From photographs to predictions.parquet, through decoding, encoding and the command line."""
    manifest = photographs(theirs)
    logits = their_own_logits(theirs, manifest)
    (theirs / "artefact" / "adapter.yaml").write_text(how)
    (theirs / "artefact" / "ours.json").write_text(json.dumps(OUR_SCHEMA))
    arguments = ["score", "artefact", "--data", "manifest.csv", "--out", "run", "--n-resamples", "20"]
    done = CliRunner().invoke(app, [*arguments, "--calibrators", "none"])
    assert done.exit_code == 0, done.stderr
    said = read_predictions(theirs / "run" / "predictions.parquet")
    assert said.class_names == ("eczema", "acne", "other", "psoriasis", "wart")
    np.testing.assert_allclose(said.logits, logits, rtol=0, atol=1e-5)
    assert "metrics.json: " in done.stdout  # their test_top1 is compared


@pytest.mark.parametrize("is_parquet", [False, True], ids=["csv", "parquet"])
def test_the_script_of_the_error_pasted_and_run_makes_a_file_that_is_scored(theirs, no_network, is_parquet):
    """The message as the command prints it; only the import names their package. The data lie elsewhere."""
    (theirs / "data").mkdir()
    manifest = photographs(theirs / "data")
    their_own_logits(theirs, manifest)
    if is_parquet:
        write_parquet(theirs / "data" / "m.parquet", pd.read_csv(manifest, dtype=str))
        manifest = theirs / "data" / "m.parquet"
    refused = CliRunner().invoke(app, ["score", "artefact", "--data", str(manifest)])
    assert refused.exit_code == 3
    script = refused.stderr.partition("\n\n")[2]
    (theirs / "their_predictor.py").write_text(THEIR_PREDICTOR)
    (theirs / "export.py").write_text(script.replace("your_package", "their_predictor"))
    subprocess.run([sys.executable, "export.py"], check=True, cwd=theirs, capture_output=True)
    command = script.strip().splitlines()[-1].removeprefix("# ddeval ").split()
    done = CliRunner().invoke(app, [*command, "--n-resamples", "20"])
    assert done.exit_code == 0, done.stderr
    assert "top-1" in done.stdout
