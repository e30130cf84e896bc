"""Health: what `ddeval doctor` looks at, one sentence each.

Every check gives findings and none raises: what cannot be looked at is a finding. Nothing is written, made or
downloaded, but one object's version where a bucket is asked whether it can be reached.
"""

import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from ddeval import io
from ddeval.cache import home
from ddeval.errors import InputError
from ddeval.project import Project, find_project

FLOORS = {
    "torch": ("2.10", "weights files could corrupt memory below it (CVE-2026-24747)"),
    "pillow": ("12.3", "crafted images could exhaust it or run code below it (CVE-2026-40192)"),
    "streamlit": ("1.54", "the vetting app's server could be made to call others below it (CVE-2026-33682)"),
    "starlette": ("1.1", "the server under the vetting app had a hole below it (CVE-2026-48818)"),
    "jinja2": ("3.1.6", "templates could leave their sandbox below it (CVE-2025-27516)"),
    "pyarrow": ("14.0.1", "a table could run code below it (CVE-2023-47248)"),
    "pyyaml": ("5.4", "a YAML file could run code below it (CVE-2020-14343)"),
}
"""Package -> first version without a known hole in what ddeval uses of it, and the hole."""
LEAST_DISK_GB, LEAST_MEMORY_GB = 5.0, 6.0
"""A run of 15,561 images with embeddings and a 1.7 GB checkpoint in the cache; that checkpoint in memory."""
GB = 1e9


class Finding(NamedTuple):
    """One thing that was looked at."""

    what: str
    is_fine: bool
    sentence: str
    """What was found and, where it is not fine, what to do."""


def findings() -> list[Finding]:
    """Everything, in the order in which it would stop somebody."""
    found: list[Finding] = []
    try:
        project = find_project()
    except InputError as error:
        project = None
        found.append(Finding("project", False, str(error)))
    checks: list[Callable[[], Iterator[Finding]]] = [torch_build, versions, memory, lambda: disk(project)]
    if project is None and not found:
        checks.append(no_project)
    elif project is not None:
        here = project
        checks += [lambda: places(here), lambda: store(here), lambda: modes(here)]
    for check in checks:
        try:
            found += check()
        except InputError as error:
            found.append(Finding("project", False, str(error)))
    return found


def torch_build() -> Iterator[Finding]:
    """Which device and number format a run here would use, and why not the GPU."""
    try:
        import torch
    except ImportError:
        yield Finding("torch", True, "is not installed: predictions files are scored without it; for "
                      "checkpoints: pip install 'ddeval[models]'.")  # fmt: skip
        return
    from ddeval.models.device import choose_device, dtype_for

    names = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    chosen = choose_device()
    build = f"torch {torch.__version__}" + (f" (CUDA {torch.version.cuda})" if torch.version.cuda else "")
    if chosen.device.type == "cpu":
        yield Finding(
            "torch", chosen.note is None, chosen.note or f"{build}; no GPU here: runs on the CPU in fp32."
        )
        return
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        card = f"{torch.cuda.get_device_name(index)} (sm_{major}{minor})"
        name = names[dtype_for((major, minor))]
        free, whole = torch.cuda.mem_get_info(index)
        memory = f"{free / GB:.0f} of {whole / GB:.0f} GB free"
        yield Finding("torch", True, f"{build}; GPU {index} is a {card}, {memory}: runs in {name}.")


def versions() -> Iterator[Finding]:
    """Installed packages against their floors."""
    held = []
    for name, (floor, hole) in FLOORS.items():
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if _parts(version) < _parts(floor):
            todo = f"pip install --upgrade '{name}>={floor}'"
            yield Finding("versions", False, f"{name} {version} is below {floor}: {hole}; {todo}.")
        else:
            held.append(f"{name} {version}")
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding("versions", True, f"Python {python}; at or above their security floors: {', '.join(held)}.")


def memory() -> Iterator[Finding]:
    """What may be used here: of the machine, or of the container where that is less."""
    free = _available_memory()
    if free is None:
        yield Finding("memory", True, "could not be read on this system.")
    elif free < LEAST_MEMORY_GB * GB:
        cure = "close other programs, or lower --batch-size and --workers"
        wanted = f"{free / GB:.1f} GB available, and a MedSigLIP checkpoint wants {LEAST_MEMORY_GB:.0f}"
        yield Finding("memory", False, f"{wanted}: {cure}.")
    else:
        yield Finding("memory", True, f"{free / GB:.0f} GB available.")


def disk(project: Project | None) -> Iterator[Finding]:
    """Room where runs, reports and the cache are written; each disk once."""
    wanted = {"runs": project.runs if project else Path("runs"), "the cache": home()}
    seen: dict[int, str] = {}
    for what, path in wanted.items():
        if io.in_bucket(path):
            continue
        there = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
        if there.stat().st_dev in seen:
            continue
        seen[there.stat().st_dev] = what
        free = shutil.disk_usage(there).free
        cure = (
            "free some, or move them" if what == "runs" else "free some, or set $DDEVAL_CACHE to another disk"
        )
        room = f"{free / GB:.0f} GB free for {what} ({there})"
        is_fine = free >= LEAST_DISK_GB * GB
        yield Finding("disk", is_fine, f"{room}." if is_fine else f"only {room}: {cure}.")
        if not os.access(there, os.W_OK):
            yield Finding(
                "disk", False, f"{there} may not be written by you: chown it, or choose another folder."
            )


def no_project() -> Iterator[Finding]:
    """Without ddeval.yaml there are no roots and no store to look at."""
    yield Finding(
        "project", True, f"no ddeval.yaml at {Path.cwd()} or above; make one with: ddeval init DATA."
    )


def places(project: Project) -> Iterator[Finding]:
    """Whether what ddeval.yaml names can be reached."""
    manifest = project.manifest
    if manifest is not None:
        make = "make it with: ddeval data import mapping mapping.yaml"
        yield _reached("manifest", manifest, make, is_folder=False)
    for root in project.image_roots:
        yield _reached("images", root, "correct `images:` in ddeval.yaml")
    for name in project.settings.artefacts:
        folder = io.place(project.location(name))
        if folder.is_dir() or io.in_bucket(folder):
            yield _reached("artefacts", folder, "correct `artefacts:` in ddeval.yaml")
        else:
            yield Finding(
                "artefacts", True, f"{folder} is not there yet; models are looked up in it by name."
            )
    named = project.settings
    for line in (named.mapping, named.conditions, named.feature_schema):
        path = io.place(project.location(line)) if line else None
        if path is not None and not io.there([path])[path]:
            cure = f"correct its line in {project.folder}/ddeval.yaml"
            yield Finding("project", False, f"{path} is not there: {cure}.")


def store(project: Project) -> Iterator[Finding]:
    """Whether the readings can be reached, without making a store or changing its schema."""
    url = project.store
    if url.startswith("sqlite:///"):
        path = Path(url.removeprefix("sqlite:///"))
        if not path.exists():
            yield Finding("store", True, f"{path} is made by the first `ddeval vet open`.")
            return
        import sqlite3

        try:
            with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                answer = connection.execute("PRAGMA quick_check").fetchone()[0]
        except sqlite3.Error as error:
            answer = str(error)
        cure = "keep the file, and put back the last copy (docs/deploy.md)"
        yield Finding(
            "store", answer == "ok", f"{path} is sound." if answer == "ok" else f"{path}: {answer}; {cure}."
        )
        return
    try:
        import sqlalchemy as sa

        address = sa.make_url(url.replace("postgresql://", "postgresql+psycopg://", 1))
        shown = address.render_as_string(hide_password=True)
        engine = sa.create_engine(address, poolclass=sa.NullPool, connect_args={"connect_timeout": 5})
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT 1"))
    except ImportError as error:
        yield Finding("store", False, f"{error.name} is not installed: pip install 'ddeval[app,postgres]'.")
    except sa.exc.ArgumentError:
        yield Finding(
            "store",
            False,
            "`store:` is no database URL: sqlite:///readings.db or postgresql://user@host/name.",
        )
    except sa.exc.SQLAlchemyError as error:
        said = str(getattr(error, "orig", error)).strip().splitlines()[0]
        yield Finding("store", False, f"{shown} does not answer ({said}): start it, or correct `store:`.")
    else:
        yield Finding("store", True, f"{shown} answers.")


def modes(project: Project) -> Iterator[Finding]:
    """Files that others may read or write and should not."""
    private = [home() / "objects", home() / "s3"]
    if project.store.startswith("sqlite:///"):
        private.append(Path(project.store.removeprefix("sqlite:///")))
    if "@" in project.settings.store and ":" in project.settings.store.partition("://")[2].partition("@")[0]:
        private.append(project.folder / "ddeval.yaml")  # holds a password
    open_to_all = [path for path in private if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in open_to_all:
        yield Finding(
            "modes", False, f"{path} may be read by others: chmod {'700' if path.is_dir() else '600'} {path}"
        )
    guarded = [
        project.folder,
        *(project.folder / name for name in ("ddeval.yaml", "mapping.yaml", "adapter.yaml")),
    ]
    if project.manifest is not None and not io.in_bucket(project.manifest):
        guarded.append(project.manifest)
    loose = [path for path in guarded if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o002]
    for path in loose:
        why = "names code that is run" if path.name == "adapter.yaml" else "decides what is measured"
        yield Finding("modes", False, f"{path} {why} and may be written by anyone: chmod o-w {path}")
    if not open_to_all and not loose:
        yield Finding(
            "modes", True, "readings and cached photographs are yours alone; nobody else writes the project."
        )


def _reached(what: str, path: Path, cure: str, *, is_folder: bool = True) -> Finding:
    if io.in_bucket(path):
        try:
            io.reach(path, is_folder=is_folder)
        except InputError as error:
            return Finding(what, False, str(error))
        return Finding(what, True, f"{io.shown(str(path))} can be read.")
    is_there = path.is_dir() if is_folder else path.is_file()
    if not is_there:
        return Finding(what, False, f"{path} is not there: {cure}.")
    if not os.access(path, os.R_OK | (os.X_OK if is_folder else 0)):
        return Finding(what, False, f"{path} may not be read by you: chmod or chown it.")
    return Finding(what, True, f"{path} can be read.")


def _available_memory() -> int | None:
    """Bytes; of the container's limit where it has one."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        return free if limit == "max" else min(free, int(limit) - used)
    except (OSError, ValueError):
        return free


def _parts(version: str) -> tuple[int, ...]:
    """Numbers of a version, for comparison: 2.13.0+cpu is (2, 13, 0)."""
    numbers = []
    for part in version.partition("+")[0].split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
