"""docs/data.md: what it lists is what there is, and its walk to a first score works as written."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from ddeval import tables
from ddeval.cli import app
from ddeval.config import parse_config
from ddeval.data.checks import CHECKS
from ddeval.data.importers import IMPORTERS
from ddeval.data.manifest import read_manifest
from ddeval.data.mapping import Mapping
from ddeval.project import Settings

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


@pytest.fixture
def team(tmp_path, monkeypatch):
    """What the page says a team has: 80 cases of two classes."""
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    cases, predictions = ["consultation,photo,diagnosis,gender,age,itch"], ["image_id,eczema,psoriasis"]
    for i in range(80):
        label = ("eczema", "psoriasis")[i % 2]
        share = rng.uniform(0.3, 0.9)
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(
            tmp_path / "photos" / f"p{i}.png"
        )
        cases.append(f"K{i},p{i}.png,{label},{'mf'[i % 2]},{20 + i % 50},{'yes' if i % 3 else 'no'}")
        predictions.append(f"p{i},{share if i % 2 == 0 else 1 - share},{share if i % 2 else 1 - share}")
    (tmp_path / "cases.csv").write_text("\n".join(cases))
    (tmp_path / "predictions.csv").write_text("\n".join(predictions))
    (tmp_path / "labels.txt").write_text("eczema\npsoriasis\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_walk_from_tables_to_a_first_score_works_as_written(team):
    """Every command is the page's own, in its order; only `data check` may find something."""
    commands = re.findall(r"^\$ ddeval (.+)$", section("From your tables to a first score"), re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        allowed = (0, 1) if command.startswith("data check") else (0,)
        assert result.exit_code in allowed, f"{command}\n{result.output}{result.stderr}"
    frame = read_manifest("manifest.csv", image_roots=[team / "photos"])
    assert frame["split"].value_counts().to_dict() == {"train": 56, "test": 24}
    assert frame["q.itch"].notna().all()
    assert "top-1" in result.stdout
