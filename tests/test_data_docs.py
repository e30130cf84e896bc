"""docs/data.md: what it lists is what there is, and its walk to a first score works as written."""

import re
import shlex
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from ddeval import tables
from ddeval.cli import app
from ddeval.config import parse_config
from ddeval.data.checks import CHECKS
from ddeval.data.images import Preprocessing
from ddeval.data.importers import IMPORTERS
from ddeval.data.manifest import read_manifest
from ddeval.data.mapping import Mapping
from ddeval.data.questionnaire import FeatureSchema, Field
from ddeval.models.backbones import backbone_config
from ddeval.models.checkpoint import write_artefact
from ddeval.models.fusion import Fusion
from ddeval.project import Settings
from tests.buckets import BUCKET, store
from tests.score_fixture import SMALLER

__all__ = ["store"]

PAGE = (Path(__file__).parents[1] / "docs" / "data.md").read_text()


def section(title):
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rows(title):
    return [line.split("|")[1:-1] for line in section(title).splitlines() if line.startswith("|")][2:]


def test_every_check_is_on_the_page_with_its_title():
    assert {code.strip(): title.strip() for code, title in rows("Data checks")} == {
        code: title for code, (title, _) in CHECKS.items()
    }


def test_every_importer_is_on_the_page():
    assert [row[0].strip(" `") for row in rows("Published data sets")] == list(IMPORTERS)


def test_every_column_of_the_manifest_and_key_of_the_project_is_on_the_page():
    columns = set(re.findall(r"`(\w+)`", "".join(row[0] for row in rows("The manifest"))))
    assert columns == set(tables.MANIFEST.names)
    keys = set(re.findall(r"`(\w+)`", "".join(row[0] for row in rows("The project file"))))
    assert keys == set(Settings.model_fields)


def test_the_mapping_on_the_page_is_one():
    text = section("The mapping file").split("```yaml\n")[1].split("```")[0]
    mapping = parse_config(yaml.safe_load(text), Mapping, where="docs/data.md")
    assert set(mapping.answers) == {"itch", "size", "site", "signs", "doctor_said"}


CLASSES = ("eczema", "psoriasis")


def put_team(store, folder):
    """What the page says a team has: 80 cases and an artefact in a bucket, predictions here."""
    rng = np.random.default_rng(0)
    cases, predictions = ["consultation,photo,diagnosis,gender,age,itch"], ["image_id,eczema,psoriasis"]
    for i in range(80):
        share = rng.uniform(0.3, 0.9)
        photo = BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(photo, "PNG")
        store.put(f"photos/p{i}.png", photo.getvalue())
        cases.append(f"K{i},p{i}.png,{CLASSES[i % 2]},{'mf'[i % 2]},{20 + i % 50},{'yes' if i % 3 else 'no'}")
        predictions.append(f"p{i},{share if i % 2 == 0 else 1 - share},{share if i % 2 else 1 - share}")
    store.put("cases.csv", "\n".join(cases))
    (folder / "predictions.csv").write_text("\n".join(predictions))
    schema = FeatureSchema((Field("itch", "yes_no"),))
    model = {
        "backbone": "resnet_tiny",
        "backbone_config": backbone_config("resnet_tiny", changes=SMALLER),
        "answers_width": schema.width,
        "questionnaire_widths": [4],
    }
    torch.manual_seed(0)
    module = Fusion(n_classes=2, **{k: v for k, v in model.items() if k != "backbone"})
    artefact = write_artefact(
        folder.parent / "their_disk" / "gen2a", state=module.state_dict(), name="gen2a", model=model,
        preprocessing=Preprocessing.for_norm("siglip", 32), class_names=CLASSES, schema=schema,
        metrics={"test_top1": 0.5},
    )  # fmt: skip
    store.put_folder(artefact, "models/gen2a")


def test_the_walk_from_bucket_to_first_score_works_as_written(store, tmp_path, monkeypatch):
    """Every command is the page's own, in its order, in an empty folder; `data check` may find something."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    put_team(store, tmp_path / "empty")
    commands = re.findall(r"^\$ ddeval (.+)$", section("From your tables to a first score"), re.MULTILINE)
    assert len(commands) == 9
    printed = []
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        allowed = (0, 1) if command.startswith("data check") else (0,)
        assert result.exit_code in allowed, f"{command}\n{result.output}{result.stderr}"
        printed.append(result.stdout)
    assert "EDIT" not in printed[0]
    frame = read_manifest("manifest.csv", image_roots=[f"s3://{BUCKET}/photos"])
    assert frame["split"].value_counts().to_dict() == {"train": 48, "test": 16, "val": 8, "calibration": 8}
    assert frame["q.itch"].notna().all()
    assert "encoded width 2, the checkpoint's 2" in printed[7]
    for scored in (printed[5], printed[8]):
        assert "top-1" in scored
    assert "metrics.json: " in printed[8]
    store.clear()
    assert CliRunner().invoke(app, shlex.split(commands[8])).exit_code == 0
    assert store.downloads() == []


def test_the_walk_works_with_folders_of_this_machine_as_the_page_says(store, tmp_path, monkeypatch):
    """The same commands with `s3://team` replaced by a folder."""
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    put_team(store, tmp_path / "empty")
    for key in store.keys():  # noqa: SIM118
        path = tmp_path / "team" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.content(key))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    text = section("From your tables to a first score").replace("s3://team", "../team")
    for command in re.findall(r"^\$ ddeval (.+)$", text, re.MULTILINE):
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code in (0, 1), f"{command}\n{result.output}{result.stderr}"
    assert "top-1" in result.stdout
