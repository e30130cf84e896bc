"""The page of an audit: the command leaves it, it tells what its tables hold, and twice the same bytes."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ddeval import io
from ddeval.cli import app
from ddeval.cli.auditing import agreement, audit_runs, draw
from ddeval.errors import InputError
from ddeval.report.audit_page import read_audit, readers_section, write_audit_report
from ddeval.report.components import DotPlot, Text
from ddeval.report.measures import DOUBTS
from ddeval.vet.store import Store
from tests.audit_fixture import CLASS_OF, planted_run, read_queue

DATE = "2026-07-01"


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audit whose manifest names photographs, one of them twice."""
    planted = planted_run(tmp_path_factory.mktemp("audit"), n_cases=120, has_pictures=True)
    folder = audit_runs([planted.run], n_queue=40).folder
    draw(folder, date=DATE)
    return folder


def test_the_command_leaves_a_page_and_names_it(tmp_path: Path) -> None:
    planted = planted_run(tmp_path, n_cases=60)
    done = CliRunner().invoke(app, ["audit", str(planted.run)])
    assert done.exit_code == 0, done.output
    page = planted.run / "audit" / "report.html"
    assert str(page) in done.output
    assert "readers say." in page.read_text()


def test_the_same_tables_give_the_same_bytes_and_ask_for_nothing(audit: Path, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_audit_report(audit, tmp_path / name, date=DATE)
    text = (tmp_path / "a.html").read_bytes()
    assert text == (tmp_path / "b.html").read_bytes() == (audit / "report.html").read_bytes()
    assert re.findall(rb"""(?:src|href)=["'](?!#|data:)""", text) == []
    assert b"default-src &#39;none&#39;" in text
    assert str(audit.parent).encode() not in text


def test_photographs_are_left_out_unless_asked_for(audit: Path, tmp_path: Path) -> None:
    without, with_them = tmp_path / "a.html", tmp_path / "b.html"
    write_audit_report(audit, without, date=DATE)
    write_audit_report(audit, with_them, date=DATE, photos=True)
    n_pairs = len(read_audit(audit).duplicates)
    assert without.read_text().count("<img ") == 0
    assert with_them.read_text().count("<img ") == 60 + 2 * n_pairs


def test_the_page_shows_the_doubtful_worst_first_and_the_pair(audit: Path) -> None:
    text = (audit / "report.html").read_text()
    issues = io.read_parquet(audit / "issues.parquet")[0]
    shown = [text.index(f"<dd>{image_id}</dd>") for image_id in issues["image_id"][:60]]
    assert shown == sorted(shown)
    assert f"of {len(issues)}" in text
    pair = io.read_parquet(audit / "duplicates.parquet")[0].iloc[0]
    assert f"{pair['image_id_a']} | {pair['image_id_b']}" in text
    assert pair["kind"] == "file"


def test_every_class_stands_in_the_table_of_health(audit: Path) -> None:
    health = io.read_parquet(audit / "health.parquet")[0]
    table = (audit / "report.html").read_text().split('id="health-table"')[1].split("</table>")[0]
    for row in health.to_dict("records"):
        assert row["class_name"] in table
        assert f"{100 * row['label_noise']:.1f}\N{NO-BREAK SPACE}%" in table


def test_readers_of_a_closed_batch_are_drawn_beside_the_model(audit: Path, tmp_path: Path) -> None:
    planted = planted_run(tmp_path, n_cases=60)
    folder = audit_runs([planted.run], n_queue=20).folder
    url = str(tmp_path / "readings.db")
    read_queue(planted, folder / "queue.parquet", Store(url))
    found = agreement(url, "queue", class_of=CLASS_OF)
    page = draw(folder, date=DATE, readers=found)
    assert found["who"].tolist() == ["ann", "bob", "the model"]
    assert found.set_index("who").loc["ann", "agrees"] == 1.0  # both always answer the truth
    (plot, note) = readers_section(found).blocks
    assert isinstance(plot, DotPlot)
    assert isinstance(note, Text)
    assert [row.name for row in plot.rows] == ["ann", "bob"]
    assert not plot.keys  # no mark of a model that is not drawn
    assert "without the model’s answers" in note.text
    answered = found.assign(n=24, agrees=0.9, ci_low=0.8, ci_high=1.0)
    (plot,) = readers_section(answered).blocks
    assert isinstance(plot, DotPlot)
    assert [row.name for row in plot.rows] == ["ann", "bob", "the model"]
    assert "No readings yet" not in page.read_text()


def test_an_audit_without_readings_says_how_to_get_them(audit: Path) -> None:
    assert "No readings yet" in (audit / "report.html").read_text()


def test_a_payload_in_a_class_or_an_id_stays_text(audit: Path, tmp_path: Path) -> None:
    folder, evil = tmp_path / "audit", "<script>alert(1)</script>"
    for path in audit.glob("*.parquet"):
        io.write_parquet(folder / path.name, io.read_parquet(path)[0].replace("eczema", evil))
    io.write_json(folder / "audit.json", io.read_json(audit / "audit.json"))
    write_audit_report(folder, tmp_path / "page.html", date=evil)
    assert evil not in (tmp_path / "page.html").read_text()


def test_a_folder_that_is_no_audit_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no audit\.json"):
        read_audit(tmp_path)


def test_docs_define_every_number_of_the_page() -> None:
    docs = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    defined = re.findall(r"^\*\*`(\w+)`\*\* ([^.]+)\.", docs, flags=re.M)
    assert {(name, about.title) for name, about in DOUBTS.items()} <= set(defined)
