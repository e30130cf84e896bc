"""ONNX: the exported file answers as the checkpoint does, and a file that is another's is refused."""

import builtins
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from ddeval import cli
from ddeval.data.images import Preprocessing
from ddeval.errors import InputError
from ddeval.models.artefact import read_artefact, write_artefact
from ddeval.models.backbones import backbone_config
from ddeval.models.checkpoint import load_checkpoint
from ddeval.models.fusion import Fusion
from ddeval.models.onnx import OnnxNetwork, write_onnx
from ddeval.score.folder import read_run
from ddeval.score.predictions import read_predictions
from ddeval.score.run import score
from tests.score_fixture import CLASSES, SMALL, make_artefact, make_manifest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def invoke(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


QUICK = ("--n-resamples", "20", "--calibrators", "none")


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    """Commands write reports/ into the working directory."""
    monkeypatch.chdir(tmp_path)
    for name in ("DDEVAL_ARTEFACTS", "DDEVAL_MANIFEST", "DDEVAL_CACHE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    make_manifest(folder)
    write_onnx(load_checkpoint(make_artefact(folder / "tiny")), folder / "tiny.onnx")
    return folder


def test_the_file_says_what_the_checkpoint_says(home):
    ours, theirs = load_checkpoint(home / "tiny"), load_checkpoint(home / "tiny.onnx")
    for name in ("class_names", "other_class", "link", "preprocessing", "schema", "n_parameters", "reported"):
        assert getattr(ours, name) == getattr(theirs, name), name
    assert theirs.settings["made_from"] == {"name": "tiny", "kind": "artefact", "sha256": ours.sha256}
    assert (theirs.kind, theirs.name) == ("onnx", "tiny")


def test_a_run_of_the_file_has_the_answers_of_the_checkpoint(home, tmp_path):
    """The same class for every image, logits within rounding, the same files in the folder."""
    one, other = (
        score(load_checkpoint(home / name), home / "manifest.csv", settings=SMALL, out=tmp_path / name)
        for name in ("tiny", "tiny.onnx")
    )
    torch_run, onnx_run = (read_predictions(run / "predictions.parquet") for run in (one, other))
    assert onnx_run.frame.equals(torch_run.frame)
    classes = [run.logits.argmax(axis=1).tobytes() for run in (torch_run, onnx_run)]
    assert classes[0] == classes[1]
    np.testing.assert_allclose(onnx_run.logits, torch_run.logits, atol=1e-4)
    embeddings = [np.load(run / "embeddings.npy") for run in (one, other)]
    np.testing.assert_allclose(*embeddings, atol=1e-4)
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    facts = read_run(other)
    assert facts["kernel"] == "onnxruntime CPUExecutionProvider"
    assert facts["machine"]["onnxruntime"] == pytest.importorskip("onnxruntime").__version__


def test_the_command_exports_and_scores_and_says_the_parity(home, tmp_path):
    """Flips and differences of the file are those that the two runs show."""
    file, run = tmp_path / "of-tiny.onnx", tmp_path / "run"
    told = invoke("export", home / "tiny", "--onnx", file)
    assert (told.exit_code, "on four drawn inputs" in told.stdout) == (0, True)
    options = ("--data", home / "manifest.csv", "--out", run, *QUICK)
    result = invoke("score", file, "--against", home / "tiny", *options)
    assert result.exit_code == 0, result.stderr
    assert "onnxruntime against tiny in fp32, the first 30 images: 0 answers changed" in result.stdout
    parity = read_run(run)["parity"]
    assert (parity["n_images"], parity["n_flips"]) == (30, 0)
    assert 0 < parity["largest_logit_difference"] < 1e-4
    again = invoke("score", run, *QUICK)
    assert "0 answers changed" in again.stdout, "kept with the run"


def test_without_the_checkpoint_the_parity_is_said_to_be_unknown(home, tmp_path):
    options = ("--data", home / "manifest.csv", "--out", tmp_path / "run", *QUICK)
    result = invoke("score", home / "tiny.onnx", *options, "--json")
    assert "parity with tiny is not measured; --against CHECKPOINT measures it" in result.stderr
    assert json.loads(result.stdout)["parity"] is None


def test_another_checkpoint_is_no_reference(home, tmp_path):
    make_artefact(tmp_path / "other", seed=1)
    options = ("--data", home / "manifest.csv", "--out", tmp_path / "run", "--against", tmp_path / "other")
    result = invoke("score", home / "tiny.onnx", *options)
    assert result.exit_code == cli.BAD_INPUT
    assert "expected tiny of sha256" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", [("--dtype", "bf16"), ("--precision", "fp8"), ("--device", "cuda")])
def test_what_onnxruntime_does_not_do_here_is_refused(home, flag):
    result = invoke("score", home / "tiny.onnx", "--data", home / "manifest.csv", *flag)
    assert result.exit_code == cli.BAD_INPUT
    assert f"{' '.join(flag)}: found the ONNX file tiny; expected fp32 on the CPU" in result.stderr


@pytest.mark.parametrize("backbone", ["resnet_tiny", "convnextv2_tiny", "siglip_tiny"])
def test_every_family_is_the_same_network(tmp_path, backbone):
    """Without a questionnaire, for any batch; the tiny artefact has one."""
    torch.manual_seed(0)
    config = backbone_config(backbone)
    size = 64
    model = {"backbone": backbone, "backbone_config": config, "answers_width": 0}
    module = Fusion(config, n_classes=len(CLASSES), answers_width=0)
    folder = write_artefact(
        tmp_path / backbone, state=module.state_dict(), name=backbone, model=model,
        preprocessing=Preprocessing.for_norm("siglip", size), class_names=CLASSES, other_class="other",
    )  # fmt: skip
    checkpoint = read_artefact(folder)
    assert write_onnx(checkpoint, tmp_path / "file.onnx") < 1e-4
    exported = load_checkpoint(tmp_path / "file.onnx")
    pixels = torch.randn(7, 3, size, size)
    with torch.inference_mode():
        for ours, theirs in zip(checkpoint.module(pixels), exported.module(pixels), strict=True):
            torch.testing.assert_close(theirs, ours.float(), atol=1e-4, rtol=1e-4)


def flipped(content, at):
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize("part", ["weights", "classes", "cut", "text"])
def test_a_damaged_file_is_named_in_one_line(home, tmp_path, part):
    content = (home / "tiny.onnx").read_bytes()
    bad = {
        "weights": flipped(content, content.index(b"backbone") + 400),
        "classes": content.replace(b'"eczema", "psoriasis"', b'"psoriasis", "eczema"'),
        "cut": content[: len(content) // 2],
        "text": b"no protobuf at all",
    }[part]
    assert bad != content
    (tmp_path / "bad.onnx").write_bytes(bad)
    with pytest.raises(
        InputError, match=r"bad\.onnx: found a damaged ONNX file \(.*export it again\.$"
    ) as told:
        load_checkpoint(tmp_path / "bad.onnx")
    assert "\n" not in str(told.value)


def test_a_file_of_another_program_is_named_in_one_line(tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1]) for n in "xy")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "identity", [x], [y])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), tmp_path / "foreign.onnx")
    result = invoke("score", tmp_path / "foreign.onnx", "--data", tmp_path / "none.csv")
    assert result.exit_code == cli.BAD_INPUT
    assert "an ONNX file that says neither classes nor preprocessing" in result.stderr


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_without_the_extra_one_line_says_what_to_install(home, tmp_path, monkeypatch, package):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == package:
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=rf"no package {package}; .*pip install 'ddeval\[models,onnx\]'"):
        write_onnx(load_checkpoint(home / "tiny"), tmp_path / "file.onnx")
    assert not (tmp_path / "file.onnx").exists()


def test_a_network_that_answers_otherwise_is_not_written(home, tmp_path, monkeypatch):
    real = OnnxNetwork.forward

    def off(self, *inputs):
        logits, embeddings = real(self, *inputs)
        return logits + 0.1, embeddings

    monkeypatch.setattr(OnnxNetwork, "forward", off)
    with pytest.raises(InputError, match=r"found logits that are 0\.1 off under onnxruntime"):
        write_onnx(load_checkpoint(home / "tiny"), tmp_path / "file.onnx")
    assert not (tmp_path / "file.onnx").exists()


def test_an_onnx_file_is_not_exported_again(home, tmp_path):
    result = invoke("export", home / "tiny.onnx", "--onnx", tmp_path / "again.onnx")
    assert (result.exit_code, "It is exported already" in result.stderr) == (cli.BAD_INPUT, True)


def test_inspect_says_what_is_in_the_file(home):
    result = invoke("inspect", home / "tiny.onnx")
    assert (result.exit_code, "onnx" in result.stdout, "eczema" in result.stdout) == (0, True, True)
