"""A config is frozen and complete; a wrong line is answered with its place and the nearest right one."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from ddeval.config import (
    Config,
    artefact_location,
    config_file,
    config_names,
    find_config,
    manifest_location,
    read_config,
)
from ddeval.errors import InputError

SYSTEMS = ["convnextv2_base", "demo", "gen2a_medsiglip", "gen2a_port", "ham10000", "medsiglip_frozen"]
SYSTEMS += ["medsiglip_standalone"]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_shipped_system_reads_and_goes_by_its_file_name(name):
    config = read_config(find_config(name))
    assert config.name == name
    assert config.model.backbone
    assert config.train.epochs >= 1


def test_the_shipped_systems_are_the_ones_that_are_listed():
    assert set(SYSTEMS) <= set(config_names())
    assert not {"conditions", "conditions_public"} & set(config_names())


def test_the_converged_recipe_is_that_of_round_one():
    """1 frozen + 6 fine-tune epochs, AdamW, cosine, bf16, batch 64, gradient checkpointing, 448 px."""
    config = read_config(find_config("gen2a_medsiglip"))
    train, model = config.train, config.model
    assert (train.frozen_epochs, train.epochs, train.batch_size, train.amp_dtype) == (1, 7, 64, "bf16")
    assert (model.backbone, model.image_norm, model.gradient_checkpointing) == (
        "medsiglip_448",
        "siglip",
        True,
    )
    assert model.feature_schema.endswith("trimmed_feature_schema.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: a\ntrain: {epochs: 1, lerning_rate: 1}", r"'train\.lerning_rate'; expected 'learning_rate'"),
        ("name: a\nmodle: {}", "'modle'; expected 'model'"),
        ("name: a\nzzz: 1", "'zzz'; expected one of artefact, checkpoint"),
        (
            "name: a\ntrain: {epochs: 1, augment: [hflip, {kind: colour_jitter, brigthness: 1}]}",
            r"augment\.1\.colour_jitter\.brigthness'; expected 'brightness'",
        ),
        ("artefact: a", "key name: found no value; expected a value"),
        (
            "name: a\nmodel: {backbone: resnet51, weights: random}",
            r"model\.backbone: found 'resnet51'; .*resnet50",
        ),
        ("name: a\nmodel: {backbone: resnet50}", r"model\.weights: found no value"),
        ("name: a\ntrain: {epochs: 0}", r"train\.epochs: found 0; expected greater than or equal to 1"),
        ("name: a\ntrain: {epochs: 1, frozen_epochs: 2}", "frozen_epochs 2 is more than epochs 1"),
        ("- a", "found .'a'.; expected keys and values"),
        ("", "found None; expected keys and values"),
        ("name: a\nname: b", r"line 2: found the key 'name' twice"),
        ("name: &x a\nartefact: *x", r"line 2: found alias \*x"),
        ("name: !!python/object/apply:os.getcwd []", "could not determine a constructor"),
        ("name: [a", "expected plain YAML"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_config(written(tmp_path, text))


def test_a_file_too_long_to_be_a_config_is_refused_unparsed(tmp_path):
    with pytest.raises(InputError, match="1000008 characters"):
        read_config(written(tmp_path, "name: a\n" + "#" * 1_000_000))


def test_a_config_cannot_be_changed_after_it_is_read():
    with pytest.raises(ValidationError, match="frozen"):
        Config(name="a").name = "b"


def test_a_knob_set_on_the_command_line_comes_after_the_file(tmp_path):
    path = written(tmp_path, "name: a\ntrain: {epochs: 5, seed: 3}")
    config = read_config(path, changes=["train.epochs=2", "train.augment=[vflip]", "other_class=other"])
    assert (config.train.epochs, config.train.seed, config.other_class) == (2, 3, "other")
    assert config.train.augment[0].kind == "vflip"


def test_a_misspelt_knob_on_the_command_line_is_named(tmp_path):
    path = written(tmp_path, "name: a\ntrain: {epochs: 5}")
    with pytest.raises(InputError, match=r"--set train\.epoch=2: found .*expected 'epochs'"):
        read_config(path, changes=["train.epoch=2"])
    with pytest.raises(InputError, match=r"--set: found 'train\.epochs 2'; expected key=value"):
        read_config(path, changes=["train.epochs 2"])


def test_a_config_of_the_working_directory_comes_before_the_shipped_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = find_config("demo")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "demo.yaml").write_text("name: mine")
    assert find_config("demo").resolve() == tmp_path / "configs" / "demo.yaml"
    assert shipped.resolve() != tmp_path / "configs" / "demo.yaml"
    assert find_config("../configs/demo") is None


def test_the_schema_a_config_names_is_found_from_any_folder(tmp_path, monkeypatch):
    """An installed package in an empty folder still finds configs/trimmed_feature_schema.json."""
    monkeypatch.chdir(tmp_path)
    path = find_config("gen2a_medsiglip")
    named = read_config(path).model.feature_schema
    assert config_file(named, beside=path, where="x").name == "trimmed_feature_schema.json"
    with pytest.raises(InputError, match=r"model: found none\.json, no such file"):
        config_file("none.json", beside=path, where="model")


def test_variables_point_elsewhere(tmp_path, monkeypatch):
    config = Config(name="a", artefact="s3://bucket/models/gen2a/", manifest="m.csv")
    monkeypatch.delenv("DDEVAL_ARTEFACTS", raising=False)
    monkeypatch.delenv("DDEVAL_MANIFEST", raising=False)
    assert (artefact_location(config), manifest_location(config)) == ("s3://bucket/models/gen2a/", "m.csv")
    monkeypatch.setenv("DDEVAL_ARTEFACTS", str(tmp_path))
    monkeypatch.setenv("DDEVAL_MANIFEST", "other.csv")
    assert artefact_location(config) == f"{tmp_path}/gen2a"
    assert manifest_location(config) == "other.csv"
    (tmp_path / "config.json").write_text("{}")
    assert artefact_location(config) == str(tmp_path)
