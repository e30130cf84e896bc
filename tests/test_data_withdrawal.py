"""Withdrawal: the patient goes and stays gone; whatever still holds them is named."""

import base64
import datetime as dt
import json
import logging

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from ddeval import io
from ddeval.cli import app
from ddeval.data.images import shown_name, thumbnail, thumbnail_name
from ddeval.data.manifest import read_manifest, withdraw_patient
from ddeval.data.withdrawal import TOMBSTONES
from ddeval.errors import InputError

DAY = dt.date(2026, 7, 1)


@pytest.fixture
def workplace(tmp_path):
    """Two patients; a run with thumbnails of both; a report that names one image and one that shows one."""
    (tmp_path / "m.csv").write_text("image_id,image,patient_id\na,a.jpg,7\nb<1>,b.jpg,7\nc,c.jpg,8\n")
    frame = pd.DataFrame({"image_id": ["a", "b<1>", "c"]})
    io.write_parquet(tmp_path / "runs" / "both" / "predictions.parquet", frame)
    io.write_parquet(tmp_path / "runs" / "deep" / "labels-v0" / "issues.parquet", frame[:1])
    io.write_parquet(tmp_path / "runs" / "other" / "predictions.parquet", frame[2:])
    io.write_parquet(tmp_path / "runs" / "other" / "curves.parquet", pd.DataFrame({"risk": [0.1]}))
    for number, image_id in enumerate(frame["image_id"]):
        picture = thumbnail(np.full((8, 8, 3), 80 * number, np.uint8))
        io.write_bytes(tmp_path / "runs" / "both" / "thumbnails" / thumbnail_name(image_id), picture)
    shown = (tmp_path / "runs" / "both" / "thumbnails" / thumbnail_name("a")).read_bytes()
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "named.html").write_text("<td>b&lt;1&gt;</td>")
    (tmp_path / "reports" / "shown.html").write_text(
        f"data:image/webp;base64,{base64.b64encode(shown).decode()}"
    )
    (tmp_path / "reports" / "free.html").write_text("<td>a</td>".replace("a", "c"))
    return tmp_path


def withdrawn(workplace, patient="7", **options):
    return withdraw_patient(
        workplace / "m.csv",
        patient,
        runs=workplace / "runs",
        reports=workplace / "reports",
        on=DAY,
        **options,
    )


def test_rows_and_thumbnails_go_and_what_still_holds_the_patient_is_named(workplace):
    found = withdrawn(workplace)
    assert (found.n_images, found.files) == (2, ["a.jpg", "b.jpg"])
    assert [path.split("/")[-1] for path in found.runs] == ["both", "deep"]
    assert (workplace / "m.csv").read_text() == "image_id,image,patient_id\nc,c.jpg,8\n"
    left = [path.name for path in (workplace / "runs" / "both" / "thumbnails").iterdir()]
    assert left == [thumbnail_name("c")]
    assert len(found.purged) == 2


def test_reports_are_found_by_name_and_by_embedded_picture(workplace):
    """An id as short as "a" would name every page: too many rather than too few."""
    frame = read_manifest(workplace / "m.csv").replace({"image_id": {"a": "img-0001"}})
    io.write_csv(workplace / "m.csv", frame.drop(columns="group"))
    old = workplace / "runs" / "both" / "thumbnails" / thumbnail_name("a")
    old.rename(old.with_name(thumbnail_name("img-0001")))
    found = withdrawn(workplace)
    assert [path.split("/")[-1] for path in found.reports] == ["named.html", "shown.html"]


def test_the_tombstone_holds_no_id_and_keeps_the_patient_out_of_later_tables(workplace, caplog):
    withdrawn(workplace)
    tombstones = (workplace / TOMBSTONES).read_text()
    assert json.loads(tombstones)["withdrawn"][0]["on"] == "2026-07-01"
    assert '"7"' not in tombstones
    (workplace / "later.csv").write_text("image_id,patient_id\nx,7\ny,8\n")
    with caplog.at_level(logging.WARNING):
        assert read_manifest(workplace / "later.csv")["image_id"].tolist() == ["y"]
    assert "1 images of 1 withdrawn patients left out" in caplog.text


def test_an_import_writes_no_row_of_a_withdrawn_patient(workplace, monkeypatch):
    withdrawn(workplace)
    (workplace / "t.csv").write_text("id,who\nx,7\ny,8\n")
    (workplace / "map.yaml").write_text("tables: [{path: t.csv}]\nimage_id: id\ncolumns: {patient_id: who}\n")
    monkeypatch.chdir(workplace)
    assert CliRunner().invoke(app, ["data", "import", "mapping", "map.yaml", "--out", "n.csv"]).exit_code == 0
    assert (workplace / "n.csv").read_text() == "image_id,patient_id\ny,8\n"


def test_twice_is_as_good_as_once(workplace):
    withdrawn(workplace)
    assert withdrawn(workplace).n_images == 0
    assert len(json.loads((workplace / TOMBSTONES).read_text())["withdrawn"]) == 1


def test_a_dry_run_changes_nothing(workplace):
    before = {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()}
    found = withdrawn(workplace, dry_run=True)
    assert len(found.purged) == 2
    assert {path: path.read_bytes() for path in workplace.rglob("*") if path.is_file()} == before


def test_an_unknown_patient_is_refused(workplace):
    with pytest.raises(InputError, match="no image of patient '07'"):
        withdrawn(workplace, patient="07")


def test_a_manifest_without_patients_cannot_withdraw_one(tmp_path):
    (tmp_path / "m.csv").write_text("image_id\na\n")
    with pytest.raises(InputError, match="no column patient_id"):
        withdraw_patient(tmp_path / "m.csv", "7", runs=tmp_path, reports=tmp_path, on=DAY)


def test_a_damaged_tombstone_file_stops_everything(workplace):
    """Read as empty, it would let withdrawn patients back in."""
    (workplace / TOMBSTONES).write_text("[]")
    with pytest.raises(InputError, match="withdrawn patients would come back"):
        read_manifest(workplace / "m.csv")


def test_the_command_names_what_is_left_and_exits_1(workplace, monkeypatch):
    (workplace / "ddeval.yaml").write_text("manifest: m.csv\n")
    monkeypatch.chdir(workplace)
    result = CliRunner().invoke(app, ["data", "withdraw", "7"])
    assert result.exit_code == 1
    assert "2 images of the patient were taken out of the manifest" in result.stdout
    assert f"run that still holds them (delete it, or score again): {workplace}/runs/both" in result.stdout
    assert CliRunner().invoke(app, ["data", "withdraw", "8", "--json", "--dry-run"]).exit_code == 1
    assert CliRunner().invoke(app, ["data", "withdraw", "9"]).exit_code == 3


def test_the_copies_that_the_vetting_app_keeps_go_too(workplace, monkeypatch):
    """The command finds them beside the store of the project."""
    monkeypatch.chdir(workplace)
    (workplace / "ddeval.yaml").write_text("manifest: m.csv\n")
    kept = workplace / ".ddeval" / "photographs"
    for image_id in ("a", "c"):
        for is_full in (True, False):
            io.write_bytes(kept / shown_name(image_id, is_full=is_full), b"x")
    result = CliRunner().invoke(app, ["data", "withdraw", "7"])
    assert "2 other copies were deleted" in result.stdout
    left = {path.relative_to(kept).as_posix() for path in kept.rglob("*.jpg")}
    assert left == {shown_name("c", is_full=True), shown_name("c", is_full=False)}
