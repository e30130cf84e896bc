"""Artefact folders: a trained system on disk, written by `train` and read by `score` and by serving.

    best_model.pt         state dict in float32: `backbone.*`, `questionnaire.*`, `head.*`
    config.json           architecture, preprocessing, class names, link, and how it was trained
    labels.txt            class names in index order, one a line
    feature_schema.json   the questionnaire; absent for a model of photographs alone
    metrics.json          numbers on the validation split
    README.md             model card; nothing reads it

config.json is written last and holds the hash of the weights, so a folder that a killed process left
half-written is never taken for a checkpoint. docs/deploy.md describes the format for other readers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.initialization import no_init_weights

from ddeval.data.images import Preprocessing
from ddeval.data.questionnaire import FeatureSchema, read_schema
from ddeval.errors import InputError
from ddeval.io import file_sha256, read_json, value_sha256, write_json, write_text
from ddeval.models.fusion import Fusion
from ddeval.models.record import Checkpoint, check_other_class, check_same_classes, read_class_names
from ddeval.models.weights import (
    check_finite,
    read_weights,
    refuse_key_differences,
    state_dict_of,
    write_weights,
)

FORMAT = "ddeval/1"
WEIGHTS, CONFIG, LABELS = "best_model.pt", "config.json", "labels.txt"
SCHEMA, METRICS, CARD = "feature_schema.json", "metrics.json", "README.md"


def write_artefact(
    folder: Path,
    *,
    state: Mapping[str, torch.Tensor],
    name: str,
    model: Mapping[str, Any],
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    other_class: str | None = None,
    schema: FeatureSchema | None = None,
    metrics: Mapping[str, Any] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write an artefact folder, each file whole or not at all; returns the folder.

    Parameters
    ----------
    state : mapping of names to tensors
        The `Fusion`'s state dict; floating-point values are stored in float32.
    model : mapping
        Arguments of `Fusion` but `n_classes`: `backbone_config`, `answers_width`, …, and `backbone`,
        the name it goes by.
    metrics : mapping, optional
        Numbers of the validation split, named as `ddeval score --json` names them.
    provenance : mapping, optional
        How it was made: recipe, seed, hashes of manifest and labels, versions. Kept, never interpreted.
    """
    check_other_class(other_class, tuple(class_names), where=str(folder))
    check_finite(state, where=str(folder / WEIGHTS))
    stored = {k: v.detach().cpu().float() if v.is_floating_point() else v.cpu() for k, v in state.items()}
    digest = write_weights(folder / WEIGHTS, stored)
    write_text(folder / LABELS, "".join(f"{name}\n" for name in class_names))
    if schema is not None:
        write_json(folder / SCHEMA, schema.to_dict())
    write_json(folder / METRICS, dict(metrics or {}))
    config = {
        "format": FORMAT,
        "name": name,
        "model": dict(model),
        "preprocessing": preprocessing.to_dict(),
        "class_names": list(class_names),
        "other_class": other_class,
        "link": "softmax",
        "weights_sha256": digest,
        "provenance": dict(provenance or {}),
    }
    write_json(folder / CONFIG, config)
    return folder


def is_own_artefact(config: Any) -> bool:
    """Whether a config.json was written by `write_artefact`."""
    return isinstance(config, dict) and str(config.get("format", "")).startswith("ddeval/")


def read_artefact(folder: Path, *, name: str | None = None) -> Checkpoint:
    """The checkpoint in a folder that `write_artefact` wrote; called `name`, or as its config says.

    Raises an InputError where a file is missing, damaged, or does not belong to the others: weights of
    another architecture or write, class names in another order, a questionnaire of another width.
    """
    where = str(folder / CONFIG)
    config = read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise InputError(
            where, f"format {config.get('format')!r}", expected=repr(FORMAT), todo="Update ddeval."
        )
    model, names, preprocessing = _described(config, where)
    labels = read_class_names(folder / LABELS)
    check_same_classes(labels, names, where=str(folder / LABELS), other_where=where)
    check_other_class(config["other_class"], names, where=where)
    schema = _read_schema(folder, int(model.get("answers_width", 0)))

    content = read_weights(folder / WEIGHTS)
    if file_sha256(folder / WEIGHTS) != config["weights_sha256"]:
        raise InputError(
            str(folder / WEIGHTS),
            "weights that config.json does not describe (another sha256)",
            expected="both files from one write",
            todo="Wait for the training that is writing here, or copy the whole folder again.",
        )
    state, _ = state_dict_of(content, where=str(folder / WEIGHTS))
    module = _built(model, len(names), where)
    fill(module, state, where=str(folder))
    return Checkpoint(
        name=name or str(config["name"]),
        kind="artefact",
        module=module.eval(),
        class_names=names,
        other_class=config["other_class"],
        link=config["link"],
        preprocessing=preprocessing,
        schema=schema,
        sha256=folder_sha256(folder, (CONFIG, LABELS, SCHEMA)),  # config.json holds that of the weights
        settings={key: config[key] for key in ("model", "provenance")},
        folder=folder,
        reported=read_json(folder / METRICS) if (folder / METRICS).is_file() else {},
    )


def fill(module: torch.nn.Module, state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """Put `state` into `module`; an InputError unless names and shapes agree exactly and all is finite."""
    wanted = module.state_dict()
    mismatched = [
        f"{name} {tuple(state[name].shape)}, wanted {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    missing, unexpected = [k for k in wanted if k not in state], [k for k in state if k not in wanted]
    refuse_key_differences(missing, unexpected, mismatched, where=where)
    check_finite(state, where=where)
    module.load_state_dict(dict(state))


def folder_sha256(folder: Path, files: Sequence[str]) -> str:
    """One hash of those of `files` that are in `folder`."""
    held = [name for name in files if (folder / name).is_file()]
    return value_sha256({name: file_sha256(folder / name) for name in sorted(held)})


def _described(
    config: Mapping[str, Any], where: str
) -> tuple[dict[str, Any], tuple[str, ...], Preprocessing]:
    """Arguments of `Fusion`, class names and preprocessing, as config.json states them."""
    try:
        model = {k: v for k, v in config["model"].items() if k != "backbone"}
        names = tuple(config["class_names"])
        if config["link"] not in ("softmax", "sigmoid"):
            raise ValueError(f"link {config['link']!r}")
        _ = config["other_class"], config["weights_sha256"], config["model"]["backbone"]
        return model, names, Preprocessing.from_dict(config["preprocessing"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            where,
            f"a config that does not describe its model ({type(error).__name__}: {error})",
            expected=f"an artefact of format {FORMAT}",
            todo="Write the artefact again; a hand-made one needs adapter.yaml instead of `format`.",
        ) from None


def _built(model: Mapping[str, Any], n_classes: int, where: str) -> Fusion:
    try:
        with no_init_weights():  # `fill` sets every one of them; drawing 0.4 billion takes 20 s
            return Fusion(n_classes=n_classes, **model)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            where,
            f"a model that cannot be built ({type(error).__name__}: {error})",
            expected="the arguments of ddeval.models.fusion.Fusion",
            todo="Update ddeval, or put back the config.json that came with the weights.",
        ) from None


def _read_schema(folder: Path, width: int) -> FeatureSchema | None:
    if not width:
        return None
    schema = read_schema(folder / SCHEMA)
    if schema.width != width:
        raise InputError(
            str(folder / SCHEMA),
            f"a questionnaire of {schema.width} encoded columns",
            expected=f"{width}, as the model reads",
            todo="Put back the schema this model was trained with.",
        )
    return schema
