"""The project file: where do this team's data, models, runs and readings lie?

`ddeval.yaml` is found upward from the working directory, so that a command needs no flags inside a
project; a flag overrides it. Paths in it are relative to its folder. How foreign columns become the
manifest is another file, `mapping.yaml` (`ddeval.data.mapping`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from ddeval.config import Section, read_config
from ddeval.errors import InputError
from ddeval.io import place, write_text
from ddeval.tables import SPLITS

FILE = "ddeval.yaml"


def _several(value: object) -> object:
    return [value] if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_several)]
"""One text or a list of them."""


class Settings(Section):
    """The keys of `ddeval.yaml`; each may be left out."""

    manifest: str | None = None
    """The manifest every command reads."""
    mapping: str | None = None
    """How the team's own tables become that manifest."""
    images: Texts = ()
    """Folders images may lie in, and nowhere else; the manifest's own folder where empty."""
    splits: dict[str, Texts] = Field(default_factory=dict)
    """The team's words for train, val, calibration and test."""
    artefacts: Texts = ()
    """Folders or URIs in which a model's name is looked up."""
    runs: str = "runs"
    reports: str = "reports"
    store: str = "sqlite:///readings.db"
    """Where readings are kept: a database URL."""
    conditions: str | None = None
    """What each diagnosis means; the shipped one where empty."""
    feature_schema: str | None = None
    """The questionnaire; a checkpoint's own always comes first."""

    @model_validator(mode="after")
    def _splits_are_ours_and_each_word_means_one(self) -> "Settings":
        strangers = sorted(set(self.splits) - set(SPLITS))
        if strangers:
            raise ValueError(f"splits are {', '.join(SPLITS)}; {strangers[0]!r} is none of them")
        words = [word for names in self.splits.values() for word in names]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise ValueError(f"the word {twice[0]!r} stands for two splits")
        return self


@dataclass(frozen=True)
class Project:
    """A project file and the folder it lies in."""

    folder: Path
    settings: Settings

    def location(self, value: str) -> str:
        """A path of the file as an absolute path; a URI as it is."""
        return value if "://" in value else str(self.folder / Path(value).expanduser())

    @property
    def manifest(self) -> Path | None:
        return place(self.location(self.settings.manifest)) if self.settings.manifest else None

    @property
    def mapping(self) -> Path | None:
        return place(self.location(self.settings.mapping)) if self.settings.mapping else None

    @property
    def image_roots(self) -> tuple[Path, ...]:
        """The allow-list; the manifest's folder where the file names none."""
        if self.settings.images:
            return tuple(place(self.location(root)) for root in self.settings.images)
        return (self.manifest.parent if self.manifest else self.folder,)

    @property
    def runs(self) -> Path:
        return place(self.location(self.settings.runs))

    @property
    def reports(self) -> Path:
        return place(self.location(self.settings.reports))

    @property
    def store(self) -> str:
        """The database URL; the path of an SQLite file is made absolute."""
        url = self.settings.store
        if url.startswith("sqlite:///"):
            return f"sqlite:///{self.folder / url.removeprefix('sqlite:///')}"
        return url

    @property
    def shown_photographs(self) -> Path:
        """Where the vetting app keeps the copies it shows: beside the store, where that is a file."""
        path = Path(self.store.removeprefix("sqlite:///")).parent if "sqlite:" in self.store else Path.cwd()
        return path / ".ddeval" / "photographs"

    @property
    def split_words(self) -> dict[str, str]:
        """Word of the team's tables -> our split."""
        return {word: split for split, words in self.settings.splits.items() for word in words}


def find_project(start: Path | None = None) -> Project | None:
    """The nearest `ddeval.yaml` from `start` (the working directory) upward; None where there is none."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / FILE).is_file():
            return read_project(folder / FILE)
    return None


def read_project(path: Path) -> Project:
    """The project in a file; an InputError names an unknown key and the nearest known one."""
    return Project(path.parent.resolve(), read_config(path, Settings))


def the_project(start: Path | None = None) -> Project:
    """`find_project`, or an InputError that says how to make one."""
    project = find_project(start)
    if project is None:
        raise InputError(
            str(start or Path.cwd()),
            f"no {FILE} here or above",
            expected="a project",
            todo="Make one with: ddeval init DATA, or pass the file as a flag.",
        )
    return project


def image_roots(given: Iterable[Path] | None, manifest: Path | None) -> list[Path]:
    """Folders the photographs of a manifest may lie in; [] is the manifest's own.

    Those given; else the project's, where the manifest is the project's (None), and those with its own
    folder where it lies beside it, as what a split or a retirement wrote.
    """
    project = find_project()
    if given or project is None:
        return list(given or ())
    if manifest is None or project.manifest is None:
        return list(project.image_roots) if manifest is None else []
    asked, own = (place(path).resolve() for path in (manifest, project.manifest))
    if asked.parent != own.parent:
        return []
    return [*project.image_roots, *([asked.parent] if asked != own else [])]


def output_folder(name: Literal["runs", "reports"]) -> Path:
    """Folder of runs or reports: the project's, else in the working directory."""
    project = find_project()
    return Path(name) if project is None else project.runs if name == "runs" else project.reports


def conditions_path(given: Path | None = None) -> Path | None:
    """The conditions.yaml that somebody chose: the one given, else the project's, else None."""
    if given is not None:
        return given
    project = find_project()
    if project is not None and project.settings.conditions:
        return Path(project.location(project.settings.conditions))
    return None


def write_project(folder: Path, text: str) -> Path:
    """Write a new `ddeval.yaml`; an existing one is never overwritten."""
    path = folder / FILE
    if path.exists():
        raise InputError(
            str(path), "a project that is already there", expected="none", todo="Edit it, or remove it first."
        )
    write_text(path, text)
    return path
