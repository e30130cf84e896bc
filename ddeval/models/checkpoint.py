"""Checkpoints: from what the user types to a network that is ready to score.

`load_checkpoint` takes the name of a config, an artefact folder or URI, an ONNX file of `ddeval export`, a
Hugging Face folder or a hub id, and finds out which it is by what lies there. A predictions file needs no
network and is not handled here (`ddeval.score.predictions`).
"""

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ddeval.config import Config, artefact_location, config_folders, config_names, find_config, read_config
from ddeval.errors import InputError
from ddeval.io import in_bucket, local, local_folder, read_json, shown
from ddeval.models.adapter import find_adapter, read_foreign
from ddeval.models.artefact import CONFIG, is_own_artefact, read_artefact, write_artefact
from ddeval.models.hugging_face import TEMPLATES, is_dual_encoder, read_classifier, read_dual_encoder
from ddeval.models.onnx import SUFFIX, read_onnx
from ddeval.models.record import Checkpoint, check_other_class, read_class_names
from ddeval.models.weights import hub_folder
from ddeval.project import find_project

__all__ = ["Checkpoint", "load_checkpoint", "locate", "write_artefact"]

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def load_checkpoint(
    spec: str | Path,
    *,
    class_names: Sequence[str] | Mapping[str, str] | None = None,
    other_class: str | None = None,
) -> Checkpoint:
    """The checkpoint that `spec` names, checked and ready to score, in float32 on the CPU.

    Parameters
    ----------
    spec : str or Path
        Name of a config (in ./configs, then in the package), a folder, or a hub id.
    class_names : sequence or mapping, optional
        Classes of a dual encoder that no config describes; a mapping gives the words for each.
    other_class : str, optional
        Which class means none of the others, where the checkpoint does not say so itself.

    Raises
    ------
    InputError
        Where nothing is found, or what is found is incomplete, damaged, unsafe or contradicts itself.
    """
    folder, config = locate(spec)
    name = config.name if config else Path(spec).resolve().name
    checkpoint = _read(folder, config, class_names, name)
    stated = other_class or (config.other_class if config else None)
    check_other_class(stated, checkpoint.class_names, where=str(spec))
    if stated is None or stated == checkpoint.other_class:
        return checkpoint
    if checkpoint.other_class is not None:
        raise InputError(
            str(folder),
            f"other_class {checkpoint.other_class!r}",
            expected=f"{stated!r}, as stated for it",
            todo="Leave the flag or the line of the config out; the artefact says it itself.",
        )
    return dataclasses.replace(checkpoint, other_class=stated)


def _read(
    folder: Path, config: Config | None, class_names: Sequence[str] | Mapping[str, str] | None, name: str
) -> Checkpoint:
    """The checkpoint in `folder`, by what lies there: ours, described by an adapter, or Hugging Face's."""
    if folder.suffix == SUFFIX and folder.is_file():
        return read_onnx(folder, name=folder.stem)
    described = read_json(folder / CONFIG) if (folder / CONFIG).is_file() else None
    if is_own_artefact(described):
        return read_artefact(folder, name=name)
    adapter = find_adapter(folder, project_folder())
    if adapter is not None:
        return read_foreign(folder, adapter, name=name)
    if described is None:
        raise _no_config(folder)
    if not isinstance(described, dict) or "model_type" not in described:
        raise UnknownArtefactError(folder)
    if not is_dual_encoder(described):
        return read_classifier(folder, name=name)
    zero_shot = config.zero_shot if config else None
    classes = _classes(zero_shot.classes if zero_shot else class_names, folder)
    templates = zero_shot.templates if zero_shot else TEMPLATES
    return read_dual_encoder(folder, name=name, classes=classes, templates=templates)


class UnknownArtefactError(InputError):
    """An artefact of another package that nothing describes; its text ends in a script to go on with."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            str(folder / CONFIG),
            "neither a `format` of ddeval nor a `model_type` of transformers",
            expected="an artefact of ddeval, a Hugging Face folder, or adapter.yaml beside it",
            todo=f"`ddeval inspect {folder}` drafts that; or export its predictions with the script below.",
        )
        self.folder = folder
        self.manifest, self.images = Path("manifest.csv"), Path()
        """The manifest whose photographs are to be predicted, and the folder below which they lie."""

    def __str__(self) -> str:
        return f"{super().__str__()}\n\n{self.script}"

    @property
    def script(self) -> str:
        """Twenty lines around the user's own predictor, for a model that cannot be described."""
        address = shown(str(self.folder)) if in_bucket(self.folder) else ""
        copy = f"  # first: aws s3 cp --recursive {address} {self.folder.name}" if address else ""
        reader = "read_parquet" if self.manifest.suffix == ".parquet" else "read_csv"
        text = ', sep=None, engine="python", dtype=str, keep_default_na=False'
        return EXPORT.format(
            folder=self.folder.name if address else self.folder,
            copy=copy,
            manifest=shown(str(self.manifest)),
            images=shown(str(self.images)),
            reader=reader,
            options=text if reader == "read_csv" else "",
        )


EXPORT = """\
# export.py: the probabilities of your own predictor as a file that ddeval scores
import csv
import os
import pandas as pd
from your_package import Predictor  # your code: predict(image_path, answers) -> one probability a class

FOLDER, MANIFEST, IMAGES = "{folder}", "{manifest}", "{images}"{copy}
predictor = Predictor(FOLDER)
with open(f"{{FOLDER}}/labels.txt") as file:
    class_names = [line.strip() for line in file if line.strip()]
manifest = pd.{reader}(MANIFEST{options})
with open("predictions.csv", "w", newline="") as file:
    out = csv.writer(file)
    out.writerow(["image_id", *class_names])
    for row in manifest.to_dict("records"):
        answers = {{name: cell for name, cell in row.items() if name.startswith("q.")}}
        probabilities = predictor.predict(os.path.join(IMAGES, row["image"]), answers)
        out.writerow([row["image_id"], *(float(p) for p in probabilities)])
# ddeval score predictions.csv --data {manifest}
"""


def project_folder() -> Path | None:
    """Folder of the nearest ddeval.yaml."""
    project = find_project()
    return project.folder if project else None


def locate(spec: str | Path) -> tuple[Path, Config | None]:
    """Folder (or ONNX file) of the checkpoint `spec` names, and the config that names it, if one does.

    A bare name is a config before it is a folder (`./name` is the folder). A hub id is downloaded on
    first use; nothing else asks a network.
    """
    text = str(spec)
    if text.endswith(SUFFIX):
        file = local(text, missing_ok=True)
        if file.is_file():
            return file, None
    is_yaml = text.endswith((".yaml", ".yml"))
    path = Path(text) if is_yaml else find_config(text)
    if path is None:
        return _folder(text), None
    config: Config = read_config(path)
    if config.checkpoint and not Path(config.checkpoint).is_dir():
        return hub_folder(config.checkpoint, revision=config.revision, where=f"{path}: checkpoint"), config
    places = [config.checkpoint] if config.checkpoint else _places(config)
    refused = None
    for place in places:
        try:
            folder = local_folder(place, deep=False)
        except InputError as error:  # a bucket that cannot be asked: the artefact may lie in the next place
            refused = error
            continue
        if folder.is_dir():
            return folder, config
    raise _unreachable(places, config.name, path, refused)


def _folder(text: str) -> Path:
    """The folder that a path, a name in the project's artefacts, or a hub id stands for."""
    found = [text, *(f"{root.rstrip('/')}/{text}" for root in _artefact_roots() if "://" not in text)]
    for place in found:
        folder = local_folder(place, deep=False)
        if folder.is_dir():
            return folder
    if Path(text).is_file():
        raise _is_a_file(Path(text))
    if "://" in text:
        raise _unreachable([text], text.rstrip("/").rsplit("/", 1)[-1])
    if HUB_ID.fullmatch(text) and not Path(text).parent.is_dir():
        return hub_folder(text, revision=None, where="checkpoint")
    raise _unknown(text)


def _places(config: Config) -> list[str]:
    """Where its artefact may lie: $DDEVAL_ARTEFACTS alone, else the project's roots, then its own line."""
    location = artefact_location(config)
    if os.environ.get("DDEVAL_ARTEFACTS"):
        return [location]
    name = location.rstrip("/").rsplit("/", 1)[-1]
    return [*(f"{root.rstrip('/')}/{name}" for root in _artefact_roots()), location]


def _artefact_roots() -> list[str]:
    project = find_project()
    return [project.location(root) for root in project.settings.artefacts] if project else []


def _classes(classes: Sequence[str] | Mapping[str, str] | None, folder: Path) -> dict[str, str]:
    if classes is None and (folder / "labels.txt").is_file():
        classes = read_class_names(folder / "labels.txt")
    if not classes:
        raise InputError(
            str(folder),
            "a dual encoder and no class names",
            expected="the classes to ask it for",
            todo="Pass --class-names a,b,c (or a labels.txt); for sentences of your own, name this folder as"
            " `checkpoint:` in a config with `zero_shot: {classes: {class: its words}, templates: [...]}`.",
        )
    return dict(classes) if isinstance(classes, Mapping) else {name: name for name in classes}


def _unknown(text: str) -> InputError:
    names = config_names()
    near = difflib.get_close_matches(text, names, n=1)
    folders = " or ".join(str(folder) for folder in config_folders())
    return InputError(
        "checkpoint",
        f"{text!r}, no such folder, and no config of that name in {folders}",
        expected=f"{near[0]!r}" if near else f"a folder, a hub id, or one of {', '.join(names)}",
        todo="`ddeval score demo` works without network or data.",
    )


def _unreachable(
    places: Sequence[str], name: str, config: Path | None = None, refused: InputError | None = None
) -> InputError:
    held = f"nothing at {' or '.join(places)}"
    return InputError(
        f"checkpoint {name}{f' ({config})' if config else ''}",
        f"{held} ({refused.found})" if refused else held,
        expected="an artefact folder",
        todo=f"Set $DDEVAL_ARTEFACTS to the folder that holds {name}/, or pass the artefact's own path; "
        "`ddeval score demo` works without network or data.",
    )


def _no_config(folder: Path) -> InputError:
    held = sorted(path.name for path in folder.iterdir())[:6]
    return InputError(
        str(folder),
        f"no {CONFIG} (it holds {', '.join(held) or 'nothing'})",
        expected="an artefact folder or a Hugging Face folder",
        todo="Name the folder that holds best_model.pt and config.json.",
    )


def _is_a_file(path: Path) -> InputError:
    if path.suffix in (".csv", ".parquet", ".npz"):
        return InputError(
            str(path), "a predictions file", expected="a model", todo="`ddeval score` scores it directly."
        )
    return InputError(
        str(path),
        "a single file",
        expected="the folder that holds it, with config.json and labels.txt",
        todo=f"Name {path.parent} instead; weights alone say neither classes nor preprocessing.",
    )
