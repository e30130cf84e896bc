"""Files: a reader sees the old one or the new one; text comes back exactly as it was."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ddeval import io
from ddeval.errors import InputError


def table(tmp_path, content, name="t.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("fails", ["write", "flush", "fsync", "replace"])
def test_a_failure_at_any_step_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, fails):
    path = tmp_path / "a.json"
    io.write_text(path, "old")

    def write(file):
        file.write(b"half")
        if fails == "write":
            raise OSError("disk full")

    if fails == "fsync":
        monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("I/O error")))
    if fails == "replace":
        monkeypatch.setattr(Path, "replace", lambda *a: (_ for _ in ()).throw(OSError("no permission")))
    if fails == "flush":
        monkeypatch.setattr(os, "fdopen", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises((OSError, KeyboardInterrupt)):
        io.write_atomic(path, write)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_killed_writer_leaves_a_whole_file_and_what_it_left_is_swept(tmp_path):
    """Old or new, never a mixture: the writer is killed again and again while it writes."""
    path = tmp_path / "a.txt"
    io.write_text(path, "start")
    code = textwrap.dedent(f"""
        from pathlib import Path
        from ddeval import io
        i = 0
        while True:
            i += 1
            io.write_text(Path({str(path)!r}), str(i) * 200000)
    """)
    for wait in (0.6, 0.7, 0.8):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        text = path.read_text()
        assert text == "start" or text == text[: len(text) // 200000] * 200000
    io.sweep(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_sweep_counts_what_it_removes(tmp_path):
    (tmp_path / ".tmp-1-a").write_text("")
    (tmp_path / "kept.json").write_text("")
    assert io.sweep(tmp_path) == 1
    assert io.sweep(tmp_path / "absent") == 0
    assert (tmp_path / "kept.json").exists()


def test_ids_and_words_that_look_like_something_else_stay_text(tmp_path):
    frame = io.read_csv(table(tmp_path, "id,label\n001,NA\n1e5,None\nTRUE,null\n,nan\n"))
    assert frame["id"].tolist() == ["001", "1e5", "TRUE", None]
    assert frame["label"].tolist() == ["NA", "None", "null", "nan"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom"])
@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_a_spreadsheet_exports_is_read(tmp_path, encoding, separator, newline):
    text = newline.join([separator.join(row) for row in (("id", "name"), ("1", "Müller"), ("2", "–"))])
    content = b"\xff\xfe" + text.encode("utf-16-le") if encoding.endswith("bom") else text.encode(encoding)
    frame = io.read_csv(table(tmp_path, content))
    assert frame.to_dict("list") == {"id": ["1", "2"], "name": ["Müller", "–"]}


def test_a_cell_with_a_newline_and_blank_lines_keep_rows_and_line_numbers_right(tmp_path):
    path = table(tmp_path, 'id,note\n1,"two\nlines"\n\n2,x\n')
    assert io.read_csv(path)["note"].tolist() == ["two\nlines", "x"]
    assert [io.line_of_row(path, row) for row in (0, 1)] == [2, 5]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", r"t\.csv: found an empty file; expected a header line"),
        ("a,b,a\n1,2,3\n", r"line 1: found the column 'a' 2 times; expected each column once"),
        ("a,b\n1,2\n1,2,3\n4\n", r"line 3: found 3 cells \(2 such rows\); expected 2 as in the header"),
        ('a,b\n1,"2\n', r"line 2: found .*; expected valid CSV"),
        (b"a,b\n1,\0\n", r"line 2: found a NUL byte"),
        ("a,b\nM\xfcller,1\n".encode("latin-1"), r"byte 5: found a byte 0xfc that is not utf-8"),
        (",".join(map(str, range(20_000))), r"line 1: found 20000 columns; expected at most 10000"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(tmp_path, content, says):
    with pytest.raises(InputError, match=says) as caught:
        io.read_csv(table(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_another_encoding_and_copies_of_a_column_are_read_only_when_asked(tmp_path):
    path = table(tmp_path, "a,b,a,a (2)\nM\xfcller,1,2,3\n".encode("cp1252"))
    frame = io.read_csv(path, encoding="cp1252", number_copies=True)
    assert frame.to_dict("list") == {"a": ["Müller"], "b": ["1"], "a (3)": ["2"], "a (2)": ["3"]}
    with pytest.raises(InputError, match="the encoding 'klingon'"):
        io.read_csv(path, encoding="klingon")


def test_a_workbook_is_named_for_what_it_is(tmp_path):
    with pytest.raises(InputError, match=r"an Excel workbook or zip; expected text\. Export the sheet"):
        io.read_csv(table(tmp_path, b"PK\x03\x04rest"))


def test_a_missing_file_is_refused_by_name(tmp_path):
    for read in (io.read_csv, io.read_parquet, io.read_json):
        with pytest.raises(InputError, match="absent: found no such file"):
            read(tmp_path / "absent")


def test_a_file_that_is_not_parquet_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected a Parquet file"):
        io.read_parquet(table(tmp_path, "a,b\n", "t.parquet"))


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELLS, CELLS | st.none()), min_size=1, max_size=5))
@example(rows=[("=1+1", "'=x"), ("'", "''="), ("a\r\nb", "\r")])
def test_any_text_survives_csv(tmp_path, rows):
    """Also text a spreadsheet would run: it is quoted on the way out and unquoted on the way in."""
    frame = pd.DataFrame(rows, columns=["a", "b"], dtype=object)
    io.write_csv(tmp_path / "t.csv", frame)
    back = io.read_csv(tmp_path / "t.csv", separator=",")
    assert back.to_numpy().tolist() == [list(row) for row in rows]


@pytest.mark.parametrize("start", [s for s in io.FORMULA_STARTS if s != "\0"])  # no CSV holds a NUL
def test_a_formula_is_never_written_bare(tmp_path, start):
    io.write_csv(tmp_path / "t.csv", pd.DataFrame({"a": [start + "cmd|' /C calc'!A0"]}))
    assert (tmp_path / "t.csv").read_bytes().decode().split("\n", 1)[1].lstrip('"').startswith("'")


def test_parquet_is_the_same_bytes_for_the_same_rows_and_keeps_its_metadata(tmp_path):
    frame = pd.DataFrame({"id": ["001", None], "logits": [[1.0, 2.0], [3.0, 4.0]]})
    for name in ("a.parquet", "b.parquet"):
        io.write_parquet(tmp_path / name, frame, metadata={"classes": ["x", "y"], "t": np.float64("nan")})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    back, metadata = io.read_parquet(tmp_path / "a.parquet")
    assert metadata == {"classes": ["x", "y"], "t": None}
    assert back["id"].tolist()[0] == "001"
    assert io.read_parquet(tmp_path / "a.parquet")[0]["logits"][1].tolist() == [3.0, 4.0]


def test_json_holds_null_for_what_is_undefined(tmp_path):
    io.write_json(tmp_path / "a.json", {"value": np.nan, "n": np.int64(3), "all": np.array([1.5, np.inf])})
    assert json.loads((tmp_path / "a.json").read_text()) == {"value": None, "n": 3, "all": [1.5, None]}


def test_bad_json_is_refused_with_its_line(tmp_path):
    with pytest.raises(InputError, match=r"a\.json line 2"):
        io.read_json(table(tmp_path, '{"a": 1,\n b}', "a.json"))


def test_the_hash_of_a_value_does_not_depend_on_the_order_of_its_keys():
    assert io.value_sha256({"a": 1, "b": [2]}) == io.value_sha256({"b": [2], "a": 1})
    assert io.value_sha256([1, 2]) != io.value_sha256([2, 1])


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "sub" / "a.jpg").write_text("a")
    (tmp_path / "secret.jpg").write_text("s")
    (tmp_path / "root" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "root2").mkdir()
    return tmp_path / "root"


def test_a_path_is_found_relative_to_a_root_or_absolute_inside_it(root):
    real = root.resolve() / "sub" / "a.jpg"
    assert io.resolve("sub/a.jpg", [root]) == real
    assert io.resolve(str(real), [root]) == real
    assert io.resolve("sub/../sub/a.jpg", [root]) == real
    assert io.resolve("sub/a.jpg", [root.parent / "root2", root]) == real


@pytest.mark.parametrize(
    "path",
    [
        "../secret.jpg",
        "sub/../../secret.jpg",
        "/etc/passwd",
        "out.jpg",
        "../root2/x.jpg",
        "file:///etc/passwd",
        "s3://bucket/a.jpg",
        "\\\\host\\share\\a.jpg",
        "a\0.jpg",
        "a" * 5000,
    ],
)
def test_a_path_out_of_the_roots_is_refused(root, path):
    """Links are followed first; a neighbour whose name begins like the root is outside."""
    with pytest.raises(InputError, match="expected a p"):
        io.resolve(path, [root])


def test_without_a_root_nothing_is_allowed(root):
    with pytest.raises(InputError, match="none is set"):
        io.resolve(str(root / "sub" / "a.jpg"), [])
