"""Checkpoints load exactly as they were written, or end in one line."""

import json
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ddeval.data.images import Preprocessing, decode, preprocess
from ddeval.data.questionnaire import FeatureSchema, Field
from ddeval.errors import InputError
from ddeval.models.backbones import backbone_config
from ddeval.models.checkpoint import Checkpoint, load_checkpoint, write_artefact
from ddeval.models.fusion import Fusion

SCHEMA = FeatureSchema((Field("itch", "single", answers=("none", "mild")), Field("fever", "yes_no")))
NAMES = ("eczema", "other", "psoriasis")


def make_artefact(folder: Path, *, backbone: str = "resnet_tiny", seed: int = 0) -> Fusion:
    """A small artefact with random weights in `folder`, and the network it holds."""
    torch.manual_seed(seed)
    model = {
        "backbone": backbone,
        "backbone_config": backbone_config(backbone),
        "answers_width": SCHEMA.width,
        "questionnaire_widths": [8, 4],
    }
    module = Fusion(n_classes=3, **{k: v for k, v in model.items() if k != "backbone"}).eval()
    write_artefact(
        folder,
        state=module.state_dict(),
        name="small",
        model=model,
        preprocessing=Preprocessing.for_norm("siglip", 56),
        class_names=NAMES,
        other_class="other",
        schema=SCHEMA,
        metrics={"top_1_accuracy": 0.5},
    )
    return module


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders saved, and logits computed, by a process that never imports ddeval."""
    folder = tmp_path_factory.mktemp("foreign")
    script = Path(__file__).parent / "foreign_folders.py"
    subprocess.run([sys.executable, script, folder], check=True, capture_output=True)
    return folder


def logits_of(checkpoint: Checkpoint, photos: Path) -> np.ndarray:
    p = checkpoint.preprocessing
    images = np.stack([preprocess(decode(photos / f"{i}.png"), p) for i in range(10)])
    pixels = torch.from_numpy(images).float() * p.rescale
    pixels = (pixels - torch.tensor(p.mean).view(3, 1, 1)) / torch.tensor(p.std).view(3, 1, 1)
    with torch.inference_mode():
        return checkpoint.module(pixels)[0].numpy()


@pytest.mark.parametrize("backbone", ["resnet_tiny", "convnextv2_tiny", "siglip_tiny"])
def test_an_artefact_answers_as_the_network_that_was_written(tmp_path, backbone):
    """Every weight, batch-norm statistic and name comes back: the logits are equal to the last bit."""
    written = make_artefact(tmp_path, backbone=backbone)
    pixels, features = torch.randn(2, 3, 56, 56), torch.rand(2, SCHEMA.width)

    read = load_checkpoint(tmp_path)
    with torch.inference_mode():
        logits, embeddings = read.module(pixels, features)
        expected = written(pixels, features)

    assert torch.equal(logits, expected[0])
    assert torch.equal(embeddings, expected[1])
    assert (read.kind, read.class_names, read.other_class) == ("artefact", NAMES, "other")
    assert (read.link, read.schema, read.preprocessing.size) == ("softmax", SCHEMA, 56)
    assert read.reported == {"top_1_accuracy": 0.5}


def test_writing_twice_gives_the_same_hash_and_other_weights_another(tmp_path):
    """The hash is of what shapes the logits; where and when it was written does not enter."""
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_artefact(tmp_path / folder, seed=seed)
    a, b, c = (load_checkpoint(tmp_path / name).sha256 for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("kind", ["resnet", "convnextv2", "vit", "siglip"])
def test_a_hugging_face_folder_answers_as_its_own_forward_pass(foreign, kind):
    """Decoder, preprocessing, weights and head together, against another process, to 1e-5."""
    read = load_checkpoint(foreign / kind, other_class="other")
    assert read.class_names == ("eczema", "psoriasis", "acne", "other")
    assert read.kind == "classifier"
    expected = np.load(foreign / "expected.npz")[kind]
    np.testing.assert_allclose(logits_of(read, foreign / "photos"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["siglip_dual", "clip_dual"])
def test_a_dual_encoder_is_asked_by_class_names(foreign, tmp_path, monkeypatch, kind):
    """A config gives classes and sentence; the logits are the model's own logits_per_image."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "asked.yaml").write_text(
        f"name: asked\ncheckpoint: {foreign / kind}\nother_class: other\n"
        "zero_shot:\n  classes: [eczema, psoriasis, acne, other]\n  templates: ['a photo of {} skin']\n"
    )
    monkeypatch.chdir(tmp_path)
    read = load_checkpoint("asked")
    assert (read.name, read.kind, read.other_class) == ("asked", "zero_shot", "other")
    expected = np.load(foreign / "expected.npz")[kind]
    np.testing.assert_allclose(logits_of(read, foreign / "photos"), expected, rtol=0, atol=1e-5)


def test_a_dual_encoder_without_class_names_says_where_to_put_them(foreign):
    with pytest.raises(InputError, match=r"no class names; .*zero_shot: \{classes"):
        load_checkpoint(foreign / "siglip_dual")


def test_two_sentences_a_class_are_averaged_on_the_unit_sphere(foreign):
    """Two equal sentences give the embedding of one; the mean of two is again of length 1."""
    words = {"eczema": "eczema", "acne": "acne"}
    once, twice, both = (
        read_dual(foreign / "siglip_dual", words, templates)
        for templates in (["photo {}"], ["photo {}", "photo {}"], ["photo {}", "skin of {}"])
    )
    torch.testing.assert_close(once, twice)
    torch.testing.assert_close(both.norm(dim=1), torch.ones(2))
    assert not torch.allclose(once, both)


def read_dual(folder: Path, classes: dict[str, str], templates: list[str]) -> torch.Tensor:
    from ddeval.models.hugging_face import read_dual_encoder

    read = read_dual_encoder(folder, name="x", classes=classes, templates=templates)
    return read.module.class_embeddings


def test_a_head_that_is_missing_is_refused_not_invented(foreign, tmp_path):
    """transformers fills it with random numbers and goes on: two loads would differ."""
    shutil.copytree(foreign / "vit", tmp_path / "vit")
    drop_weights(tmp_path / "vit", "classifier")
    with pytest.raises(InputError, match=r"2 weights missing \(first classifier\.bias\).*ddeval inspect"):
        load_checkpoint(tmp_path / "vit")


def drop_weights(folder: Path, prefix: str) -> None:
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    kept = {k: v for k, v in state.items() if not k.startswith(prefix)}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_head_of_another_width_is_refused(foreign, tmp_path):
    shutil.copytree(foreign / "resnet", tmp_path / "resnet")
    edit_config(tmp_path / "resnet", id2label={str(i): f"c{i}" for i in range(5)}, label2id={})
    with pytest.raises(InputError, match=r"resnet: found"):
        load_checkpoint(tmp_path / "resnet")


def test_class_names_in_another_order_are_refused_by_name(foreign, tmp_path):
    """The counts agree; only the names show that every class would be scored as another."""
    shutil.copytree(foreign / "resnet", tmp_path / "resnet")
    (tmp_path / "resnet" / "labels.txt").write_text("eczema\nacne\npsoriasis\nother\n")
    with pytest.raises(InputError, match=r"'acne' at index 1, where id2label of .* has 'psoriasis'"):
        load_checkpoint(tmp_path / "resnet")


def test_an_artefact_with_a_reordered_label_list_is_refused_by_name(tmp_path):
    make_artefact(tmp_path)
    (tmp_path / "labels.txt").write_text("other\neczema\npsoriasis\n")
    with pytest.raises(InputError, match=r"'other' at index 0, where .*config\.json has 'eczema'"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("eczema\n\nother\n", r"labels\.txt line 2: found an empty line"),
        ("eczema\nother\neczema\n", r"line 3: found 'eczema', which is also line 1"),
        ("eczema\nother\n", r"'psoriasis' only in .*config\.json \(2 names here, 3 there\)"),
    ],
)
def test_a_label_list_with_a_fault_names_the_line(tmp_path, content, message):
    make_artefact(tmp_path)
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path)


def test_spaces_and_empty_lines_at_the_end_of_a_label_list_do_not_count(tmp_path):
    make_artefact(tmp_path)
    (tmp_path / "labels.txt").write_text("eczema \r\nother\r\npsoriasis\r\n\n")
    assert load_checkpoint(tmp_path).class_names == NAMES


def resave(folder: Path, content: object) -> None:
    """Replace the weights and let config.json agree, so that the later checks are reached."""
    from ddeval.io import file_sha256

    torch.save(content, folder / "best_model.pt")
    edit_config(folder, weights_sha256=file_sha256(folder / "best_model.pt"))


def test_one_nan_weight_is_refused_by_name(tmp_path):
    """Softmax of NaN is NaN, argmax of NaN is class 0, and an accuracy would still be printed."""
    state = make_artefact(tmp_path).state_dict()
    state["head.weight"][1, 2] = torch.nan
    resave(tmp_path, state)
    with pytest.raises(InputError, match=r"1 values of head\.weight that are NaN or infinite"):
        load_checkpoint(tmp_path)


def test_missing_unexpected_and_misshapen_weights_are_counted_and_named(tmp_path):
    state = make_artefact(tmp_path).state_dict()
    state["head.bias"] = torch.zeros(7)
    state["aux.weight"] = state.pop("head.weight")
    resave(tmp_path, state)
    with pytest.raises(
        InputError,
        match=r"1 weights missing \(first head\.weight\), 1 weights unexpected \(first aux\.weight\), "
        r"1 weights of another shape \(first head\.bias \(7,\), wanted \(3,\)\).*ddeval inspect",
    ):
        load_checkpoint(tmp_path)


def test_weights_and_config_of_two_writes_are_not_taken_for_one_checkpoint(tmp_path):
    """A training run killed between two files, or a folder copied while it is written."""
    make_artefact(tmp_path / "a")
    make_artefact(tmp_path / "b", seed=1)
    shutil.copy(tmp_path / "b" / "best_model.pt", tmp_path / "a" / "best_model.pt")
    with pytest.raises(InputError, match=r"weights that config\.json does not describe"):
        load_checkpoint(tmp_path / "a")


class _Canary:
    """A pickle that makes a file when it is opened carelessly."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_malicious_pickle_is_refused_and_nothing_in_it_runs(tmp_path):
    """Whether a torch archive, a raw pickle or a dict around one: no file appears, one line is said."""
    make_artefact(tmp_path)
    canary = tmp_path / "canary"
    weights = tmp_path / "best_model.pt"
    for save in (
        lambda: torch.save(_Canary(canary), weights),
        lambda: torch.save({"state_dict": {}, "optimizer": _Canary(canary)}, weights),
        lambda: weights.write_bytes(pickle.dumps(_Canary(canary))),
    ):
        save()
        with pytest.raises(InputError, match=r"best_model\.pt: found a pickle with more than weights"):
            load_checkpoint(tmp_path)
        assert not canary.exists()


def test_a_malicious_pytorch_model_bin_in_a_hugging_face_folder_is_refused(foreign, tmp_path):
    shutil.copytree(foreign / "vit", tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    torch.save(_Canary(tmp_path / "canary"), tmp_path / "vit" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: found a pickle with more than weights"):
        load_checkpoint(tmp_path / "vit")
    assert not (tmp_path / "canary").exists()


def test_an_honest_pytorch_model_bin_is_read_as_numbers_only(foreign, tmp_path):
    from safetensors.torch import load_file

    shutil.copytree(foreign / "vit", tmp_path / "vit")
    torch.save(load_file(foreign / "vit" / "model.safetensors"), tmp_path / "vit" / "pytorch_model.bin")
    (tmp_path / "vit" / "model.safetensors").unlink()
    expected = np.load(foreign / "expected.npz")["vit"]
    found = logits_of(load_checkpoint(tmp_path / "vit"), foreign / "photos")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def torchscript(path: Path) -> None:
    """An archive laid out as TorchScript writes it."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", b"\x80\x02).")
        archive.writestr("model/data.pkl", b"\x80\x02N.")
        archive.writestr("model/code/__torch__.py", "class M: pass")
        archive.writestr("model/version", "3\n")


def pt2(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/archive_format", "pt2")
        archive.writestr("model/models/model.json", "{}")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(b""), "a file that does not open"),
        (lambda path: path.write_bytes(path.read_bytes()[:-900]), "a file that does not open"),
        (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"), "git-LFS pointer"),
        (lambda path: path.unlink(), "no such file"),
        (torchscript, r"best_model\.pt: found a (file that does not open|pickle with more)"),
        (pt2, "a file that does not open"),
        (lambda path: torch.save(torch.nn.Linear(2, 2), path), "a pickle with more than weights"),
        (lambda path: resave(path.parent, [1, 2]), "found list; expected a state dict"),
    ],
    ids=["empty", "truncated", "lfs", "missing", "torchscript", "pt2", "whole-module", "list"],
)
def test_a_weights_file_that_is_none_ends_in_one_line(tmp_path, spoil, message):
    make_artefact(tmp_path)
    spoil(tmp_path / "best_model.pt")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "weights that do not load"),
        (lambda path: path.write_bytes((2**40).to_bytes(8, "little") + b"{}"), "weights that do not load"),
        (lambda path: path.unlink(), r"no model\.safetensors"),
    ],
    ids=["truncated", "huge-header", "missing"],
)
def test_a_damaged_safetensors_file_ends_in_one_line(foreign, tmp_path, spoil, message):
    shutil.copytree(foreign / "vit", tmp_path / "vit")
    spoil(tmp_path / "vit" / "model.safetensors")
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "vit")


@pytest.mark.parametrize("part", ["model-00002-of-00002.safetensors", "../outside.safetensors"])
def test_a_sharded_folder_needs_every_part_inside_it(foreign, tmp_path, part):
    shutil.copytree(foreign / "vit", tmp_path / "vit")
    (tmp_path / "outside.safetensors").write_bytes((tmp_path / "vit" / "model.safetensors").read_bytes())
    (tmp_path / "vit" / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"classifier.bias": part}})
    )
    with pytest.raises(InputError, match="no such file in the folder"):
        load_checkpoint(tmp_path / "vit")


def test_a_model_that_brings_its_own_code_is_refused_unrun(foreign, tmp_path):
    shutil.copytree(foreign / "vit", tmp_path / "vit")
    edit_config(tmp_path / "vit", auto_map={"AutoModelForImageClassification": "evil.Model"})
    (tmp_path / "vit" / "evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    with pytest.raises(InputError, match="brings its own code"):
        load_checkpoint(tmp_path / "vit")
    assert not (tmp_path / "canary").exists()


def test_a_processor_of_another_size_than_the_network_is_refused(foreign, tmp_path):
    shutil.copytree(foreign / "vit", tmp_path / "vit")
    path = tmp_path / "vit" / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"size": {"height": 64, "width": 64}}))
    with pytest.raises(InputError, match="images of 64 px; expected 32 px"):
        load_checkpoint(tmp_path / "vit")


def test_a_folder_without_a_processor_says_how_to_save_one(foreign, tmp_path):
    shutil.copytree(foreign / "vit", tmp_path / "vit")
    (tmp_path / "vit" / "preprocessor_config.json").unlink()
    with pytest.raises(InputError, match=r"no preprocessor_config\.json.*processor\.save_pretrained"):
        load_checkpoint(tmp_path / "vit")


def test_multi_label_heads_are_read_with_a_sigmoid(foreign, tmp_path):
    """One checkpoint's scores once changed with the library's version; the link is written down."""
    shutil.copytree(foreign / "vit", tmp_path / "vit")
    assert load_checkpoint(tmp_path / "vit").link == "softmax"
    edit_config(tmp_path / "vit", problem_type="multi_label_classification")
    assert load_checkpoint(tmp_path / "vit").link == "sigmoid"


def test_the_other_class_is_what_the_caller_says_never_a_name_that_looks_like_it(foreign):
    assert load_checkpoint(foreign / "resnet").other_class is None
    assert load_checkpoint(foreign / "resnet", other_class="acne").other_class == "acne"
    with pytest.raises(InputError, match="other_class 'misc'; expected one of eczema, psoriasis"):
        load_checkpoint(foreign / "resnet", other_class="misc")


def test_a_config_finds_its_artefact_where_the_variable_points(tmp_path, monkeypatch):
    """$DDEVAL_ARTEFACTS is the folder of artefacts, or the one artefact folder itself."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("name: mine\nartefact: s3://bucket/models/gen2a\n")
    make_artefact(tmp_path / "elsewhere" / "gen2a")
    monkeypatch.chdir(tmp_path)
    for root in ("elsewhere", "elsewhere/gen2a"):
        monkeypatch.setenv("DDEVAL_ARTEFACTS", root)
        assert load_checkpoint("mine").name == "mine"


def test_a_project_names_the_folders_its_artefacts_lie_in(tmp_path, monkeypatch):
    """A config's artefact, or a bare name, is looked up there; the variable comes before."""
    (tmp_path / "ddeval.yaml").write_text("artefacts: [models]\n")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("name: mine\nartefact: s3://bucket/models/gen2a\n")
    make_artefact(tmp_path / "models" / "gen2a")
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    monkeypatch.delenv("DDEVAL_ARTEFACTS", raising=False)
    assert load_checkpoint("gen2a").name == "gen2a"
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint("mine").name == "mine"
    monkeypatch.setenv("DDEVAL_ARTEFACTS", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"nothing at .*none/gen2a; expected an artefact folder"):
        load_checkpoint("mine")


def test_a_bare_name_is_a_config_before_it_is_a_folder(tmp_path, monkeypatch):
    """`ddeval data demo` makes a folder called demo; `ddeval score demo` still means the system."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "twice.yaml").write_text(f"name: twice\nartefact: {tmp_path / 'a'}\n")
    make_artefact(tmp_path / "a")
    make_artefact(tmp_path / "twice", seed=1)
    monkeypatch.chdir(tmp_path)
    assert load_checkpoint("twice").folder == tmp_path / "a"
    assert load_checkpoint("./twice").folder == Path("twice")


def test_an_other_class_may_be_stated_where_the_artefact_does_not_but_not_against_it(tmp_path):
    make_artefact(tmp_path)
    with pytest.raises(InputError, match="other_class 'other'; expected 'eczema', as stated"):
        load_checkpoint(tmp_path, other_class="eczema")
    edit_config(tmp_path, other_class=None)
    assert load_checkpoint(tmp_path).other_class is None
    assert load_checkpoint(tmp_path, other_class="eczema").other_class == "eczema"


def test_an_artefact_that_cannot_be_reached_names_the_uri_and_the_way_out(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").write_text("name: mine\nartefact: /nowhere/gen2a\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"/nowhere/gen2a.*DDEVAL_ARTEFACTS.*score demo"):
        load_checkpoint("mine")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("gen2a_medsigli", r"no such folder, and no config of that name.*score demo"),
        ("empty", r"no config\.json \(it holds nothing\)"),
        ("weights.pt", r"a single file; expected the folder that holds it"),
        ("probs.csv", r"a predictions file.*scores it directly"),
        ("strange", r"neither a `format` of ddeval nor a `model_type`.*adapter\.yaml"),
    ],
)
def test_what_is_no_checkpoint_is_named(tmp_path, monkeypatch, spec, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "strange").mkdir()
    (tmp_path / "strange" / "config.json").write_text('{"num_classes": 26}')
    for name in ("weights.pt", "probs.csv"):
        (tmp_path / name).write_text("x")
    with pytest.raises(InputError, match=message):
        load_checkpoint(spec)


def test_a_hub_id_goes_through_the_same_code_as_a_folder(foreign, tmp_path, monkeypatch):
    """A repository in the hub's local cache is a folder of snapshots; no request is made for it."""
    snapshot = tmp_path / "hub" / "models--team--vit" / "snapshots" / ("0" * 40)
    shutil.copytree(foreign / "vit", snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    read = load_checkpoint("team/vit")
    assert (read.name, read.kind) == ("vit", "classifier")
    with pytest.raises(InputError, match="'team/other', neither a local folder nor to be had from the hub"):
        load_checkpoint("team/other")
