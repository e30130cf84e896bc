"""`ddeval doctor`: one sentence on each thing, with its cure, and nothing is changed by looking."""

import json
import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddeval.cli import app, health
from ddeval.vet.store import Store
from tests.buckets import BUCKET, store

__all__ = ["store"]

PROJECT = """
manifest: manifest.csv
images: [photos]
artefacts: [artefacts]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A sound project in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DDEVAL_CACHE", str(tmp_path / "cache"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "artefacts").mkdir()
    (tmp_path / "manifest.csv").write_text("image_id\na\n")
    written(tmp_path, PROJECT)
    return tmp_path


def written(folder, text):
    (folder / "ddeval.yaml").write_text(text)


def doctor(code):
    """The sentences that call for something, after a look at all."""
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == code, result.output + result.stderr
    found = json.loads(result.stdout)
    for one in found:
        assert "\n" not in one["sentence"]
    return [f"{one['what']}: {one['sentence']}" for one in found if not one["is_fine"]]


def test_a_sound_project_leaves_nothing_to_put_right(project):
    before = sorted(path.name for path in project.rglob("*"))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "torch" in result.stdout
    assert "nothing to put right   ·   next  ddeval data check" in result.stdout
    assert f"ok     images    {project}/photos can be read." in result.stdout
    assert "is made by the first `ddeval vet open`" in result.stdout
    assert sorted(path.name for path in project.rglob("*")) == before


def test_outside_a_project_it_looks_at_the_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["doctor"])
    assert (result.exit_code, "make one with: ddeval init DATA" in result.stdout) == (0, True)


def test_what_is_not_there_is_named_with_the_line_to_correct(project):
    written(project, "manifest: gone.csv\nimages: [nowhere]\nartefacts: [none]\nconditions: c.yaml\n")
    found = doctor(code=1)
    assert [line.split(": ")[0] for line in found] == ["manifest", "images", "project"]
    assert f"{project}/gone.csv is not there: make it with: ddeval data import mapping" in found[0]
    assert "nowhere is not there: correct `images:` in ddeval.yaml" in found[1]


def test_a_project_file_that_does_not_parse_is_a_finding(project):
    written(project, "manifst: m.csv\n")
    assert "found the unknown key 'manifst'; expected 'manifest'" in doctor(code=1)[0]


@pytest.mark.parametrize("name", ["torch", "pillow"])
def test_a_version_below_its_floor_is_named_with_the_hole_and_the_upgrade(project, monkeypatch, name):
    monkeypatch.setitem(health.FLOORS, name, ("999.1", "a hole"))
    (line,) = doctor(code=1)
    assert " is below 999.1: a hole; pip install --upgrade '" + name + ">=999.1'." in line


@pytest.mark.parametrize(
    ("version", "floor", "is_below"),
    [
        ("2.9.1", "2.10", True),
        ("2.10.0+cu130", "2.10", False),
        ("12.3.0", "12.3", False),
        ("3.1.6rc1", "3.1.6", False),
    ],
)
def test_versions_are_compared_as_numbers(version, floor, is_below):
    """As text, 2.9 would be above 2.10."""
    assert (health._parts(version) < health._parts(floor)) == is_below


def test_little_memory_and_a_full_disk_are_named(project, monkeypatch):
    monkeypatch.setattr(health, "LEAST_MEMORY_GB", 1e6)
    monkeypatch.setattr(health, "LEAST_DISK_GB", 1e9)
    memory, disk = doctor(code=1)
    assert "GB available, and a MedSigLIP checkpoint wants 1000000: close other programs" in memory
    assert "disk: only " in disk
    assert "free some, or move them" in disk


def test_a_store_others_may_read_and_an_adapter_anyone_may_write_are_named(project):
    Store(project / "readings.db").engine.dispose()
    (project / "readings.db").chmod(0o644)
    (project / "adapter.yaml").write_text("model: package:build\n")
    (project / "adapter.yaml").chmod(0o666)
    assert doctor(code=1) == [
        f"modes: {project}/readings.db may be read by others: chmod 600 {project}/readings.db",
        f"modes: {project}/adapter.yaml names code that is run and may be written by anyone: "
        f"chmod o-w {project}/adapter.yaml",
    ]


def test_a_password_in_the_project_file_must_be_the_owners_alone(project):
    written(project, PROJECT + "store: postgresql://reader:secret@127.0.0.1:1/readings\n")
    found = doctor(code=1)
    assert any("ddeval.yaml may be read by others: chmod 600" in line for line in found)
    assert not any("secret" in line for line in found)


def test_a_damaged_store_is_named_and_not_touched(project):
    Store(project / "readings.db").engine.dispose()
    with sqlite3.connect(project / "readings.db") as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = (project / "readings.db").read_bytes()
    (project / "readings.db").write_bytes(content[: len(content) // 2])
    before = (project / "readings.db").read_bytes()
    (line,) = doctor(code=1)
    assert line.startswith(f"store: {project}/readings.db: ")
    assert "put back the last copy" in line
    assert (project / "readings.db").read_bytes() == before


def test_a_database_that_does_not_answer_is_named_without_its_password(project):
    written(project, PROJECT + "store: postgresql://reader:secret@127.0.0.1:1/readings\n")
    (project / "ddeval.yaml").chmod(0o600)
    (line,) = doctor(code=1)
    assert line.startswith("store: postgresql+psycopg://reader:***@127.0.0.1:1/readings does not answer (")


@pytest.mark.e2e
def test_a_database_that_answers_is_fine(project, postgresql):
    written(project, PROJECT + f"store: {postgresql}\n")
    assert doctor(code=0) == []


def test_buckets_are_asked_and_nothing_is_downloaded(store, project):
    store.put("data/manifest.csv", "image_id\na\n")
    store.put("photos/a.jpg", "x")
    store.clear()
    written(project, f"manifest: s3://{BUCKET}/data/manifest.csv\nimages: [s3://{BUCKET}/photos]\n")
    assert doctor(code=0) == []
    assert store.downloads() == []
    store.fault = lambda method, key: "403"
    manifest, images = doctor(code=1)
    assert f"s3://{BUCKET}/data/manifest.csv: found 403" in manifest
    assert f"s3://{BUCKET}/photos: found 403" in images
    store.fault = lambda method, key: None
    written(project, f"images: [s3://{BUCKET}/nothing]\n")
    assert f"s3://{BUCKET}/nothing: found no such object" in doctor(code=1)[0]
    assert Path.cwd() == project
