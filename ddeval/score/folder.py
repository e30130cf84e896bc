"""The run folder: its name, its `run.json`, and the ledger of looks at a test split.

    runs/<checkpoint>-<split>-<manifest hash>/
        run.json              every input's sha256, settings, versions, device, seed
        predictions.parquet   embeddings.npy   quarantine.parquet   thumbnails/
        labels-<version>/     metrics.parquet   metrics.json   curves/*.parquet   checks.json

`run.json` and the ledger may name the time and the machine; nothing else in the folder does.
"""

import datetime
import functools
import json
import platform
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import ddeval
from ddeval import io
from ddeval.errors import InputError

RUN_FILE = "run.json"
PREDICTIONS_FILE = "predictions.parquet"
EMBEDDINGS_FILE = "embeddings.npy"
QUARANTINE_FILE = "quarantine.parquet"
MANIFEST_FILE = "manifest.csv"
"""Only in runs of a predictions file that brought its own labels."""
VERSIONED = ("numpy", "pandas", "pyarrow", "scipy", "scikit-learn", "torch", "transformers", "pillow")


def run_name(checkpoint: str, splits: Sequence[str], manifest_sha256: str) -> str:
    """`<checkpoint>-<split>-<manifest hash>`, safe as the name of a folder."""
    split = splits[0] if splits else "all"
    name = re.sub(r"[^A-Za-z0-9._+-]+", "_", checkpoint).strip("._") or "run"
    return f"{name}-{split}-{manifest_sha256[:8]}"


def is_run(path: Path) -> bool:
    """Whether a folder is a run; one in a bucket is then here."""
    found = io.local(io.place(path) / RUN_FILE, missing_ok=True).is_file()
    if found:
        io.local_folder(path)
    return found


def read_run(run: Path) -> dict[str, Any]:
    """The `run.json` of a run folder."""
    if not is_run(run):
        raise InputError(
            str(run),
            "no run.json",
            expected="a run folder",
            todo="Make one with: ddeval score CHECKPOINT --data MANIFEST.",
        )
    facts: dict[str, Any] = io.read_json(run / RUN_FILE)
    if not isinstance(facts, dict) or "checkpoint" not in facts:
        raise InputError(
            str(run / RUN_FILE), "no checkpoint in it", expected="the run.json of a run", todo="Score again."
        )
    return facts


def update_run(run: Path, **facts: Any) -> None:
    """Add facts to `run.json`."""
    io.write_json(run / RUN_FILE, {**read_run(run), **facts})


@functools.cache
def versions() -> dict[str, str]:
    """Version of ddeval, Python and each library that a number may depend on, where installed."""
    found = {"ddeval": ddeval.__version__, "python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def utc_now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def ledger_path(manifest: Path) -> Path:
    """The ledger of looks at a manifest's test split lies beside it: `<manifest>.looks.jsonl`."""
    return manifest.with_name(f"{manifest.stem}.looks.jsonl")


def record_look(manifest: Path, look: Mapping[str, Any]) -> str | None:
    """Append one look at the labels of a split to the ledger; a sentence where that is not possible.

    Each line is a JSON object with `time` and what `look` holds. A test split that is looked at often
    is slowly fitted to: the count stands in the report.
    """
    path = io.place(ledger_path(manifest))
    try:
        io.append_line(path, json.dumps({"time": utc_now(), **look}, ensure_ascii=False))
    except OSError as error:
        return f"this look was not entered in the ledger: {path}: {error.strerror}"
    except InputError as error:  # a bucket that may be read and not written
        return f"this look was not entered in the ledger: {error}"
    return None


def record_retirement(manifest: Path, line: Mapping[str, Any]) -> None:
    """Append to the ledger that a split of this manifest is learnt from now; errors are raised."""
    io.append_line(io.place(ledger_path(manifest)), io.to_json_line({"time": utc_now(), **line}))


def retirements(manifest: Path, splits: Sequence[str]) -> list[str]:
    """A sentence for each retirement of one of these splits in the ledger beside a manifest."""
    return [
        f"split {line['retired']} of {manifest.name} was retired into {line.get('to')} on "
        f"{str(line.get('time'))[:10]} by {line.get('by')} ({line.get('reason')}): a checkpoint trained "
        "since has learnt what it is judged on here"
        for line in _ledger(manifest)
        if line.get("retired") in splits and line.get("manifest") == manifest.name
    ]


def read_looks(manifest: Path) -> list[dict[str, Any]]:
    """The looks recorded beside a manifest, oldest first; [] where there are none.

    A line that does not parse (torn by a loss of power, or edited) keeps its place and says so.
    """
    return [line for line in _ledger(manifest) if "retired" not in line]


def _ledger(manifest: Path) -> list[dict[str, Any]]:
    path = io.local(ledger_path(manifest), missing_ok=True)
    if not path.is_file():
        return []
    looks = []
    for number, line in enumerate(io.read_text(path).splitlines(), start=1):
        try:
            looks.append(dict(json.loads(line)))
        except ValueError:
            looks.append({"time": None, "run": f"(line {number} is unreadable)"})
    return looks


def first_look(manifest: Path, *, gate_sha256: str, look: Mapping[str, Any]) -> str:
    """When this gate was first asked of this test split: the time in the ledger, where it is now entered."""
    before = [seen for seen in read_looks(manifest) if seen.get("gate_sha256") == gate_sha256]
    if before:
        return str(before[0]["time"])
    record_look(manifest, {**look, "gate_sha256": gate_sha256})
    entered = [seen for seen in read_looks(manifest) if seen.get("gate_sha256") == gate_sha256]
    return str(entered[0]["time"]) if entered else "not entered: the ledger cannot be written"
