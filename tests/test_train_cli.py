"""`ddeval train` from the command line: what it prints, where it writes, how it ends."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ddeval.cli import BAD_INPUT, OK, USAGE, app
from ddeval.cli.train import _data_flags
from ddeval.models.checkpoint import load_checkpoint
from tests.train_fixture import make_config, make_data


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data and configs/small.yaml."""
    make_data(tmp_path)
    (tmp_path / "configs").mkdir()
    values = make_config(tmp_path, epochs=1).model_dump(mode="json", exclude_defaults=True)
    (tmp_path / "configs" / "small.yaml").write_text(yaml.safe_dump(values))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DDEVAL_MANIFEST", raising=False)
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, ["train", *arguments])


def test_a_config_by_name_becomes_an_artefact_and_the_next_command_is_said(folder):
    result = run("small", "--data", "manifest.csv")
    assert result.exit_code == OK, result.output
    assert load_checkpoint("artefacts/small").name == "small"
    assert "artefacts/small: epoch 1, val top-1" in result.stdout
    assert "next: ddeval score artefacts/small --data manifest.csv" in result.stdout
    assert "epoch 1/1  loss" in result.stderr


def test_the_next_command_finds_the_photographs_that_training_found(folder):
    """With --data alone, `ddeval score` looks beside the manifest, not where the project says."""
    (folder / "ddeval.yaml").write_text("manifest: manifest.csv\nimages: photographs\n")
    given, project = Path("manifest.csv"), Path.cwd() / "manifest.csv"
    assert _data_flags(project, None, []) == ""
    assert _data_flags(given, given, []) == " --data manifest.csv"
    assert _data_flags(given, given, [Path("a"), Path("b")]) == " --data manifest.csv --images a --images b"


def test_json_is_all_that_stands_on_stdout(folder):
    result = run("configs/small.yaml", "--data", "manifest.csv", "--out", "here", "--json")
    said = json.loads(result.stdout)
    assert said["artefact"] == "here"
    assert (said["split"], said["n_train"], said["n_val"]) == ("val", 48, 16)
    assert said["best"]["epoch"] == 1


def test_dry_run_writes_nothing_and_says_what_it_would(folder):
    result = run("small", "--data", "manifest.csv", "--dry-run")
    assert result.exit_code == OK
    assert "would train small on manifest.csv -> artefacts/small" in result.stderr
    assert not (folder / "artefacts").exists()


def test_a_knob_is_set_and_kept_with_the_artefact(folder):
    run("small", "--data", "manifest.csv", "--set", "train.focal_gamma=2", "--set", "train.seed=7")
    kept = load_checkpoint("artefacts/small").settings["provenance"]["config"]["train"]
    assert (kept["focal_gamma"], kept["seed"]) == (2.0, 7)


def test_the_manifest_may_come_from_the_variable_or_the_project(folder, monkeypatch):
    (folder / "ddeval.yaml").write_text("manifest: manifest.csv\n")
    assert "on manifest.csv" not in run("small", "--dry-run").stderr
    assert f"on {folder / 'manifest.csv'}" in run("small", "--dry-run").stderr
    monkeypatch.setenv("DDEVAL_MANIFEST", "elsewhere.csv")
    assert "on elsewhere.csv" in run("small", "--dry-run").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["smal", "--data", "manifest.csv"], "'smal', no such config"),
        (["small"], "--data: found no manifest"),
        (["small", "--data", "none.csv"], "none.csv: found no such file"),
        (["small", "--data", "manifest.csv", "--set", "train.epoch=1"], "expected 'epochs'"),
        (["small", "--data", "manifest.csv", "--labels", "v3"], "no overlay labels/train-v3.parquet"),
    ],
)
def test_bad_input_ends_in_one_line_and_exit_3(folder, arguments, said):
    result = run(*arguments)
    assert result.exit_code == BAD_INPUT
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 2  # at most the line of what was begun before it


def test_an_unknown_device_is_a_usage_error(folder):
    assert run("small", "--data", "manifest.csv", "--device", "tpu").exit_code == USAGE
