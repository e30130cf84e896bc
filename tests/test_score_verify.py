"""`ddeval verify` of a comparison and of pages: one changed digit anywhere is found, and named."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ddeval import io
from tests.test_score_gate import compared, made, run

GATE = [{"name": "better", "metric": "top_1_accuracy", "subset": "all", "kind": "better", "bound": 0.1}]
DIGIT = re.compile(r"(?<=[0-9.])[0-9]|[0-9](?=\.)")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two runs under reports of their own, their comparison, and its page."""
    folder = made(tmp_path_factory.mktemp("verify"), n=120)
    compared(folder, GATE)
    return folder


@pytest.fixture
def copied(home, tmp_path):
    """Beside a copy of the comparison and of the runs' folders, whose inputs stay where they were."""
    for name in ("page", "good", "poor"):
        shutil.copytree(home / name, tmp_path / name)
    for path in (home / "page.html", home / "manifest.csv", home / "gate.yaml"):
        shutil.copy(path, tmp_path / path.name)
    return tmp_path


def verified(path, *, code=0):
    return json.loads(run("verify", path, "--json", code=code).stdout)


@pytest.mark.parametrize("name", ["good", "good/report.html", "page", "page.html"])
def test_what_nobody_changed_is_equal(home, name):
    found = verified(home / name)
    assert (found["differences"], found["texts"]) == ([], [])
    assert found["n_cells"] > 1_000


def test_an_ensemble_has_numbers_but_no_folder_and_verifies(copied):
    run("compare", copied / "poor", copied / "good", "--ensemble", "poor+good", "--n-resamples", 20,
        "--out", copied / "mixed.html")  # fmt: skip
    found = verified(copied / "mixed.html")
    assert (found["differences"], found["texts"]) == ([], [])


def test_a_table_added_by_the_demo_is_held_against_its_twin(copied):
    """Nothing stored gives the planted truth again, so the two copies of it are compared."""
    twin = io.read_json(copied / "page" / "comparison.json")
    frame = pd.DataFrame({"run": ["good"], "planted_value": [0.75]})
    io.write_parquet(copied / "page" / "loop.parquet", frame)
    io.write_json(copied / "page" / "comparison.json", twin | {"loop": frame.to_dict("records")})
    assert verified(copied / "page")["differences"] == []
    io.write_parquet(copied / "page" / "loop.parquet", frame.assign(planted_value=0.76))
    (difference,) = verified(copied / "page", code=1)["differences"]
    assert (difference["file"], difference["cell"]) == ("page/loop.parquet", "planted_value of row 1")
    io.write_parquet(copied / "page" / "stray.parquet", frame)
    assert "stray" in [d["cell"] for d in verified(copied / "page", code=1)["differences"]]


def test_a_run_scored_again_under_other_conditions_leaves_the_comparison_equal(copied):
    run("score", copied / "good", "--n-resamples", 20, "--calibrators", "none", "--seed", 1)
    assert verified(copied / "page.html")["differences"] == []


def test_the_json_twin_holds_every_table_of_the_page(home):
    """Rows and columns; where a photograph lies is no number."""
    twin = io.read_json(home / "page" / "comparison.json")
    tables = {path.stem: io.read_parquet(path)[0] for path in (home / "page").glob("*.parquet")}
    assert {"values", "differences", "flips", "harm"} <= set(tables)
    for name, table in tables.items():
        frame = table.drop(columns="thumbnail", errors="ignore")
        assert len(twin[name]) == len(frame), name
        assert all(set(row) == set(frame) for row in twin[name]), name


def stored_numbers(folder: Path) -> list[tuple[Path, str, int]]:
    """Each number of the Parquet tables in a folder: file, column and row."""
    cells = []
    for path in sorted(folder.rglob("*.parquet")):
        frame = io.read_parquet(path)[0]
        if path.name in ("predictions.parquet", "quarantine.parquet"):
            continue
        for column in frame.columns:
            if frame[column].dtype.kind in "fi":
                cells += [(path, column, row) for row in np.flatnonzero(frame[column].notna())]
    return cells


def test_a_changed_number_in_every_table_of_a_comparison_is_found(copied):
    """One number of each file that has one, all at once: the list of differences names every file."""
    folder, changed = copied / "page", {}
    for path, column, row in stored_numbers(folder):
        changed.setdefault(path, (column, row))
    names = {path.stem for path in changed}
    assert {"values", "differences", "mcnemar", "best", "flips", "harm", "net_benefit", "subgroups"} <= names
    for path, (column, row) in changed.items():
        frame, metadata = io.read_parquet(path)
        value = frame[column].iloc[row]
        frame.loc[frame.index[row], column] = type(value)(value + 1)
        io.write_parquet(path, frame, metadata=metadata)
    said = {d["file"] for d in verified(folder, code=1)["differences"]}
    for path in changed:
        place = path.relative_to(folder).parts
        of_run = {f for f in said if f.startswith(place[0]) and f.endswith(path.name)}
        assert of_run or f"page/{path.name}" in said, (path, said)


def a_changed_cell_is_found(folder, rng):
    path, column, row = (cells := stored_numbers(folder))[rng.integers(len(cells))]
    before = path.read_bytes()
    frame, metadata = io.read_parquet(path)
    value = frame[column].iloc[row]
    frame.loc[frame.index[row], column] = type(value)(
        value + (1 if frame[column].dtype.kind == "i" else 1e-4)
    )
    io.write_parquet(path, frame, metadata=metadata)
    differences = verified(folder, code=1)["differences"]
    path.write_bytes(before)
    wanted = path.relative_to(folder).as_posix().removeprefix("run-1/").removeprefix("run-2/")
    assert any(d["file"].endswith(wanted) for d in differences), (path, column, row, differences[:3])


def a_changed_digit_of_the_page_is_found(page, rng):
    text = page.read_text()
    body = text.index("<main")
    shown = [m.start() for m in DIGIT.finditer(text, body) if is_text(text, m.start())]
    at = shown[rng.integers(len(shown))]
    page.write_text(text[:at] + str((int(text[at]) + 1) % 10) + text[at + 1 :])
    texts = verified(page, code=1)["texts"]
    page.write_text(text)
    assert texts, text[at - 40 : at + 10]


def is_text(page: str, at: int) -> bool:
    """Whether a character stands between tags, and so is seen."""
    return page.rfind(">", 0, at) > page.rfind("<", 0, at)


def changed_everywhere(copied, n):
    rng = np.random.default_rng(3)
    for _ in range(n):
        for folder in ("page", "good"):
            a_changed_cell_is_found(copied / folder, rng)
        for page in ("page.html", "good/report.html"):
            a_changed_digit_of_the_page_is_found(copied / page, rng)


def test_a_changed_digit_of_a_table_or_page_is_found(copied):
    changed_everywhere(copied, 2)


@pytest.mark.slow
def test_fifty_changed_digits_of_tables_and_pages_are_found(copied):
    changed_everywhere(copied, 50)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("page/comparison.json", '"n_images": 120', '"n_images": 121'),
        ("page/run-1/run.json", '"n_images": 120', '"n_images": 121'),
        ("page/run-2/labels-v0/metrics.json", '"n_images": 120', '"n_images": 121'),
        ("page/run-2/labels-v0/checks.json", '"passed"', '"failed"'),
    ],
)
def test_a_changed_digit_of_a_json_file_is_found(copied, file, old, new):
    text = (copied / file).read_text()
    (copied / file).write_text(text.replace(old, new, 1))
    differences = verified(copied / "page", code=1)["differences"]
    assert len(differences) == 1
    assert file.removeprefix("page/") in differences[0]["file"] or differences[0]["file"] in file


def test_changed_predictions_are_found_through_the_page(home, copied):
    """The tables still say what the page says; both no longer follow from the predictions."""
    twin = copied / "page" / "comparison.json"
    twin.write_text(twin.read_text().replace(f'"{home}', f'"{copied}'))
    assert verified(copied / "page.html")["differences"] == []
    path = copied / "good" / "predictions.parquet"
    table, metadata = io.read_table(path)
    frame = table.to_pandas()
    frame["pred_probs"] = frame["pred_probs"].sample(frac=1, random_state=0).to_numpy()
    io.write_parquet(path, frame, metadata=metadata)
    found = verified(copied / "page.html", code=1)
    assert found["texts"] == []
    assert found["differences"]


def test_a_page_without_its_tables_says_where_they_were_looked_for(home, tmp_path):
    shutil.copy(home / "page.html", tmp_path / "page.html")
    result = run("verify", tmp_path / "page.html", code=3)
    assert str(tmp_path / "page") in result.stderr
