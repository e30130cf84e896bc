"""The project file is found upward, names places relative to itself, and refuses what it does not know."""

from pathlib import Path

import pytest

from ddeval.errors import InputError
from ddeval.project import find_project, read_project, the_project, write_project

FULL = """
manifest: data/manifest.csv
mapping: mapping.yaml
images: [photos, /mnt/photos]
splits: {train: [training, dev], test: test}
artefacts: s3://bucket/models
store: sqlite:///readings.db
"""


def project(tmp_path, text=FULL):
    (tmp_path / "ddeval.yaml").write_text(text)
    return read_project(tmp_path / "ddeval.yaml")


def test_the_nearest_project_upward_is_found(tmp_path, monkeypatch):
    write_project(tmp_path, "manifest: outer.csv\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    write_project(tmp_path / "a", "manifest: inner.csv\n")
    monkeypatch.chdir(tmp_path / "a" / "b")
    assert find_project().manifest == tmp_path / "a" / "inner.csv"
    assert find_project(tmp_path).manifest == tmp_path / "outer.csv"


def test_without_a_project_there_is_none_or_one_line_that_says_how_to_make_one(tmp_path):
    assert find_project(tmp_path) is None
    with pytest.raises(InputError, match="Make one with: ddeval init DATA"):
        the_project(tmp_path)


def test_paths_are_relative_to_the_file_and_uris_stay(tmp_path):
    found = project(tmp_path)
    assert found.manifest == tmp_path / "data" / "manifest.csv"
    assert found.image_roots == (tmp_path / "photos", Path("/mnt/photos"))
    assert found.runs == tmp_path / "runs"
    assert found.location("s3://bucket/x") == "s3://bucket/x"
    assert found.settings.artefacts == ("s3://bucket/models",)
    assert found.store == f"sqlite:///{tmp_path}/readings.db"


def test_images_may_lie_beside_the_manifest_when_no_folder_is_named(tmp_path):
    assert project(tmp_path, "manifest: data/m.csv\n").image_roots == (tmp_path / "data",)
    assert project(tmp_path, "{}\n").image_roots == (tmp_path,)


def test_another_database_is_left_as_its_url_says(tmp_path):
    for url in ("postgresql://h/db", "sqlite:////abs/r.db"):
        assert project(tmp_path, f"store: {url}\n").store == url


def test_the_teams_words_for_splits(tmp_path):
    assert project(tmp_path).split_words == {"training": "train", "dev": "train", "test": "test"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("manifst: m.csv\n", "found the unknown key 'manifst'; expected 'manifest'"),
        ("splits: {training: train}\n", "'training' is none of them"),
        ("splits: {train: a, test: a}\n", "the word 'a' stands for two splits"),
        ("images: 3\n", "ddeval.yaml key images"),
        ("- a\n", "ddeval.yaml"),
        ("a: [\n", "line"),
        ("manifest: !!python/object/apply:os.system [x]\n", "ddeval.yaml"),
    ],
)
def test_a_wrong_project_is_refused_in_one_line(tmp_path, text, says):
    with pytest.raises(InputError, match=says) as caught:
        project(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_project_is_never_overwritten(tmp_path):
    write_project(tmp_path, "manifest: a.csv\n")
    with pytest.raises(InputError, match="already there"):
        write_project(tmp_path, "manifest: b.csv\n")
    assert find_project(tmp_path).settings.manifest == "a.csv"
