"""Reading and writing files: the one atomic writer, the one CSV reader, the one path resolver.

A reader of a file sees the old one or the new one, never half of it. A file in a bucket (`s3://…`) has a path
like any other, below the cache (`ddeval.cache`): `local` brings it up to date, and what is written there is
written to the bucket. This module does not know what the tables mean (`ddeval.tables`) and opens no image
(`ddeval.data.images`).
"""

import csv
import hashlib
import io
import json
import math
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ddeval import cache
from ddeval.bucket import SCHEME
from ddeval.cache import place, shown
from ddeval.errors import InputError

__all__ = ["place", "shown"]

TMP_PREFIX = ".tmp-"
"""Files with this prefix are unfinished: `sweep` removes them, no reader takes them."""

MAX_COLUMNS = 10_000

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\0", "＝", "＋", "－", "＠")
"""A spreadsheet runs a cell that starts with one of these (OWASP ASVS 5.0, V1.2.10)."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], None]) -> None:
    """Call `write` on a temporary file beside `path`, flush it to the disk, and put it in place.

    On any error `path` is what it was before and the temporary file is gone.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TMP_PREFIX, suffix=f"-{path.name}", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        cache.put(Path(name), path)  # first: what the bucket refused must not look written here
        Path(name).replace(path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # a full disk says so without saying where
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def check_writable(path: Path, *, is_folder: bool = False) -> None:
    """An InputError where a file (or folder) cannot be written, before the work that is to be kept in it."""
    if in_bucket(path):
        return
    above = next(place for place in (path, *path.absolute().parents) if place.exists())
    if above == path and not is_folder and above.is_file():
        above = path.absolute().parent
    is_taken = not above.is_dir() or (above == path and not is_folder)
    if is_taken or not os.access(above, os.W_OK):
        found = "a folder" if above == path and above.is_dir() else f"{above}, a file"
        raise InputError(
            str(path),
            found if is_taken else f"{above}, which may not be written to",
            expected=f"a place for a {'folder' if is_folder else 'file'}",
            todo="Pass another --out.",
        )


def write_bytes(path: Path, content: bytes) -> None:
    write_atomic(path, lambda file: _write_all(file, content))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Indented JSON, keys in the order given, NaN and infinities as null."""
    write_text(path, to_json(value) + "\n")


def to_json(value: Any) -> str:
    return json.dumps(_plain(value), indent=1, ensure_ascii=False, allow_nan=False)


def to_json_line(value: Any) -> str:
    """As `to_json`, on one line."""
    return json.dumps(_plain(value), ensure_ascii=False, allow_nan=False)


def read_json(path: Path) -> Any:
    """The value in a JSON file; an InputError names the line that does not parse."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} line {error.lineno}", error.msg, expected="valid JSON", todo="Correct the file."
        ) from error


def read_text(path: Path, *, encoding: str | None = None) -> str:
    """Text of a file in UTF-8 (with or without a byte-order mark) or UTF-16 (with one), unless stated."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(str(path), "no such file", expected="a file", todo="Check the path.") from None
    except IsADirectoryError:
        raise InputError(str(path), "a folder", expected="a file", todo="Check the path.") from None
    if content.startswith(b"PK\x03\x04"):
        raise InputError(
            str(path), "an Excel workbook or zip", expected="text", todo="Export the sheet as CSV in UTF-8."
        )
    encoding = encoding or ("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    try:
        return content.decode(encoding)
    except LookupError:
        raise InputError(
            str(path), f"the encoding {encoding!r}", expected="one Python knows", todo="Try cp1252 or utf-8."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} byte {error.start}",
            f"a byte {content[error.start]:#04x} that is not {encoding}",
            expected="UTF-8 or UTF-16 text",
            todo="Save the file as UTF-8.",
        ) from error


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that say something, without the spaces around them."""
    return [line.strip() for line in read_text(local(path)).splitlines() if line.strip()]


def append_line(path: Path, line: str) -> None:
    """Add one line to a log in a single write, flushed to the disk; earlier lines are never touched.

    After a torn last line (a machine that lost power) it begins on a line of its own. In a bucket the object
    is written anew, on the condition that nobody else has done so since it was read.
    """
    uri = cache.address(path)
    if uri is not None:
        cache.append(uri, " ".join(line.splitlines()).encode())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        os.write(handle, b"\n" * torn + " ".join(line.splitlines()).encode() + b"\n")
        os.fsync(handle)
    finally:
        os.close(handle)


def write_parquet(
    path: Path, frame: pd.DataFrame | pa.Table, *, metadata: Mapping[str, Any] | None = None
) -> None:
    """A Parquet file with JSON `metadata` under the key `ddeval`; same rows, same bytes."""
    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    table = table.replace_schema_metadata({"ddeval": to_json(dict(metadata))} if metadata else None)
    write_atomic(path, lambda file: pq.write_table(table, file, compression="zstd"))


def read_parquet(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The frame and the `ddeval` metadata of a Parquet file ({} where it has none)."""
    table, metadata = read_table(path)
    return table.to_pandas(), metadata


def read_table(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    """As `read_parquet`, without the cost of turning list columns into Python objects."""
    if not path.is_file():
        raise InputError(str(path), "no such file", expected="a Parquet file", todo="Check the path.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            str(path), f"an unreadable file ({error})", expected="a Parquet file", todo="Make it again."
        ) from error
    raw = (table.schema.metadata or {}).get(b"ddeval")
    return table.replace_schema_metadata(None), json.loads(raw) if raw else {}


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    """UTF-8 CSV; a text cell a spreadsheet would run gets a leading quote (`read_csv` takes it off)."""
    safe = frame.copy()
    texts = safe.columns[[not pd.api.types.is_numeric_dtype(d) for d in safe.dtypes]]
    for name in texts:
        safe[name] = safe[name].map(_quoted, na_action="ignore")
    # the csv module quotes a line feed, but not a carriage return alone, which ends a row for readers
    has_return = any("\r" in str(cell) for name in texts for cell in safe[name])
    quoting: Literal[0, 2] = csv.QUOTE_NONNUMERIC if has_return else csv.QUOTE_MINIMAL
    write_text(path, safe.to_csv(index=False, lineterminator="\n", quoting=quoting))


def read_csv(
    path: Path,
    *,
    separator: str | None = None,
    encoding: str | None = None,
    number_copies: bool = False,
) -> pd.DataFrame:
    """Every cell as text exactly as written ("001" and "NA" stay); an empty cell is None.

    Comma, semicolon, tab or bar is found from the header unless `separator` is given, UTF-8 or UTF-16
    from the first bytes unless `encoding` is. Blank lines are passed over. Raises an InputError for an
    empty file, two columns of one name (with `number_copies` the second becomes `name (2)`), or a row
    of another width than the header.
    """
    names, body = _csv_rows(path, separator, encoding)
    if number_copies:
        names = _numbered(names)
    _check_header(path, names)
    wrong = [line for line, row in body if len(row) != len(names)]
    if wrong:
        width = next(len(row) for line, row in body if line == wrong[0])
        raise InputError(
            f"{path} line {wrong[0]}",
            f"{width} cells ({len(wrong)} such rows)",
            expected=f"{len(names)} as in the header",
            todo="Quote cells that hold the separator.",
        )
    cells = [[None if c == "" else _unquoted(c) for c in row] for _, row in body]
    return pd.DataFrame(cells, columns=names, dtype=object)


def line_of_row(path: Path, row: int) -> int:
    """The line of a CSV file on which row `row` (from 0) of its frame begins."""
    return _csv_rows(path, None, None)[1][row][0]


def _csv_rows(
    path: Path, separator: str | None, encoding: str | None
) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, and each row that is not blank with the line it begins on (a cell may hold newlines)."""
    text = read_text(path, encoding=encoding)
    if "\0" in text:
        raise InputError(
            f"{path} line {text[: text.index(chr(0))].count(chr(10)) + 1}",
            "a NUL byte",
            expected="text",
            todo="Export the table again as CSV in UTF-8.",
        )
    header = text.split("\n", 1)[0]
    if not header.strip():
        raise InputError(str(path), "an empty file", expected="a header line", todo="Check the export.")
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator or max(",;\t|", key=header.count), strict=True
    )
    rows, line = [], 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        raise InputError(
            f"{path} line {line}", str(error), expected="valid CSV", todo="Export the table again."
        ) from error
    return rows[0][1], rows[1:]


def sweep(folder: Path) -> int:
    """Remove the unfinished files a killed process left in `folder`; how many there were."""
    stale = list(folder.glob(f"{TMP_PREFIX}*")) if folder.is_dir() else []
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def local(path: Path | str, *, missing_ok: bool = False) -> Path:
    """The path of a file on this machine; an object of a bucket is fetched if it changed.

    Raises an InputError for an object that is not there, unless `missing_ok`, or may not be read.
    """
    return cache.pull(place(path), missing_ok=missing_ok)


def local_folder(path: Path | str, *, deep: bool = True, again: bool = False) -> Path:
    """As `local`, a folder with everything in it and (`deep`) below it; once a command, or `again`."""
    return cache.pull_folder(place(path), deep=deep, again=again)


def remove(path: Path) -> None:
    """Remove a file, from the bucket too where it lies in one; nothing happens where there is none."""
    uri = cache.address(path)
    if uri is not None:
        cache.delete(uri)
    path.unlink(missing_ok=True)


def there(paths: Iterable[Path]) -> dict[Path, bool]:
    """Whether each file is there; objects of buckets are asked for many at once."""
    paths = list(dict.fromkeys(paths))
    in_bucket = cache.sizes(paths)
    return {path: in_bucket[path] is not None if path in in_bucket else path.is_file() for path in paths}


def in_bucket(path: Path) -> bool:
    """Whether this is the path of an object."""
    return cache.address(path) is not None


def reach(path: Path, *, is_folder: bool) -> None:
    """An InputError where an object, or a folder of a bucket, cannot be reached; nothing is fetched."""
    cache.reach(path, is_folder=is_folder)


def copies(path: Path) -> list[Path]:
    """Files of this machine that hold some version of an object; [] for a path that is no object's."""
    return cache.copies(path)


def fetched_ahead(paths: Iterable[Path]) -> AbstractContextManager[None]:
    """While the body runs, those of `paths` in buckets are fetched in their order, many at once."""
    return cache.ahead(paths)


def resolve(path: str, roots: Iterable[Path], *, where: str = "image") -> Path:
    """The real path of `path` (absolute, or relative to a root) if it lies under an allowed root.

    Links are followed before the check, so a link out of a root is refused. A root may be a folder of a
    bucket: below it lie its keys, and `..` in one is refused. The file itself need not exist; of several
    roots that could hold it the first that does is taken. Raises an InputError for anything outside, another
    bucket, any other URL, a NUL or an over-long path.
    """
    allowed = [place(root).resolve() for root in roots]
    steps = path.removeprefix(SCHEME).split("/")
    is_address = path.startswith(SCHEME)
    is_odd = "\0" in path or len(path) > 4096 or "://" in path.removeprefix(SCHEME)
    if is_odd or path.startswith("\\\\") or (is_address and {"", ".", ".."} & set(steps)):
        raise InputError(
            where, f"the path {path[:80]!r}", expected="a plain local path or s3://bucket/key",
            todo="Correct the manifest.",
        )  # fmt: skip
    if is_address or Path(path).is_absolute():
        candidates = [place(path)]
    else:
        candidates = [root / path for root in allowed if ".." not in steps or not cache.address(root)]
    inside = [real for real in (c.resolve() for c in candidates) if _is_under(real, allowed, is_address)]
    if not inside:
        listed = ", ".join(shown(str(root)) for root in allowed)
        raise InputError(
            where,
            f"the path {path[:200]!r}",
            expected=f"a path under {listed or 'an allowed root (none is set)'}",
            todo="Pass --images ROOT, or add its folder to `images:` in ddeval.yaml.",
        )
    return (
        inside[0] if len(inside) == 1 else next((c for c, held in there(inside).items() if held), inside[0])
    )


def _is_under(path: Path, roots: Iterable[Path], is_address: bool) -> bool:
    """Whether a root holds the path; an address only one in a bucket, even if a folder holds the cache."""
    holders = [root for root in roots if path.is_relative_to(root)]
    return any(cache.address(root) for root in holders) if is_address else bool(holders)


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_sha256(value: Any) -> str:
    """Hash of anything JSON can hold, whatever the order of its keys."""
    text = json.dumps(_plain(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _write_all(file: IO[bytes], content: bytes) -> None:
    file.write(content)


def _check_header(path: Path, names: list[str]) -> None:
    if len(names) > MAX_COLUMNS:
        raise InputError(
            f"{path} line 1",
            f"{len(names)} columns",
            expected=f"at most {MAX_COLUMNS}",
            todo="Is the table on its side, or the separator another one?",
        )
    twice = [(name, n) for name, n in Counter(names).items() if n > 1]
    if twice:
        raise InputError(
            f"{path} line 1",
            f"the column {twice[0][0]!r} {twice[0][1]} times",
            expected="each column once",
            todo="Rename or remove the copies.",
        )


def _numbered(names: list[str]) -> list[str]:
    """Each name once: its copies get a number no other column has."""
    taken, seen, result = set(names), set(), []
    for name in names:
        is_copy = name in seen
        seen.add(name)
        if is_copy:
            copy = 2
            while f"{name} ({copy})" in taken:
                copy += 1
            name = f"{name} ({copy})"
            taken.add(name)
        result.append(name)
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return _plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _quoted(cell: Any) -> Any:
    return "'" + cell if isinstance(cell, str) and cell.startswith((*FORMULA_STARTS, "'")) else cell


def _unquoted(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*FORMULA_STARTS, "'")) else cell
