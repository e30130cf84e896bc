"""Inspect: what is in this checkpoint, what was understood of it, and what is the first thing that fits not?

Nothing is scored. Where the folder is another package's, a first draft of its adapter.yaml is proposed;
where no adapter can help, the error of `load_checkpoint` ends in a script that exports its predictions.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from ddeval.errors import InputError
from ddeval.io import read_json, read_lines
from ddeval.models.adapter import ADAPTER, find_adapter
from ddeval.models.artefact import LABELS, METRICS, SCHEMA, is_own_artefact
from ddeval.models.checkpoint import load_checkpoint, locate, project_folder
from ddeval.models.weights import read_weights, state_dict_of

WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
KNOWN_KEYS = (
    "format", "name", "model", "preprocessing", "class_names", "other_class", "link", "weights_sha256",
    "provenance",
)  # fmt: skip
"""Keys of a config.json that ddeval itself reads."""


@dataclass
class Inspection:
    """What was found in a checkpoint, in the order in which a person asks for it."""

    where: str
    kind: str = "unknown"
    """artefact, classifier, zero_shot, foreign (with an adapter), onnx or unknown."""
    problem: str | None = None
    """The first thing that does not fit, in one line; None where all does."""
    groups: pd.DataFrame = field(default_factory=pd.DataFrame)
    """Of `parameter_groups`."""
    steps: list[str] = field(default_factory=list)
    """What was taken off to reach them."""
    classes: tuple[str, ...] = ()
    other_class: str | None = None
    head: str | None = None
    """The last weight with one row a class, and its shape."""
    questionnaire: str | None = None
    """Encoded width against what the network reads."""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    """Keys of config.json that ddeval does not read, kept as they are."""
    reported: dict[str, Any] = field(default_factory=dict)
    """Numbers its makers wrote beside it."""
    adapter: str | None = None
    """A draft of adapter.yaml for a folder of another package."""


def inspect_checkpoint(spec: str | Path) -> Inspection:
    """What is in the checkpoint that `spec` names. Only a `spec` that names nothing is an InputError."""
    folder, _ = locate(spec)
    found = Inspection(where=str(folder))
    if folder.is_dir():
        _files(found, folder)
    try:
        checkpoint = load_checkpoint(spec)
    except InputError as error:
        found.problem = str(error).split("\n")[0]
    else:
        found.kind = checkpoint.kind
        found.classes, found.other_class = checkpoint.class_names, checkpoint.other_class
        found.preprocessing = checkpoint.preprocessing.to_dict()
        state = checkpoint.module.state_dict()
        if state:  # an ONNX file holds its weights for onnxruntime alone
            found.groups, found.head = parameter_groups(state), head_of(state, len(found.classes))
        width = getattr(checkpoint.module, "answers_width", None)
        if checkpoint.schema is not None:
            fields = len(checkpoint.schema.fields)
            found.questionnaire = (
                f"{fields} fields, {checkpoint.schema.width} columns; the network reads {width}"
            )
    return found


def parameter_groups(state: Mapping[str, Tensor]) -> pd.DataFrame:
    """Tensors of a state dict by the first two parts of their names, numbers of layers folded.

    Columns: `group`, `n_tensors`, `n_parameters`, `first` (a name) and its `shape`.
    """
    rows = [
        (_group(name), tensor.numel(), name, "×".join(map(str, tensor.shape)) or "one number")
        for name, tensor in state.items()
    ]
    table = pd.DataFrame(rows, columns=["group", "n_parameters", "first", "shape"])
    grouped = table.groupby("group", sort=False)
    return grouped.agg(
        n_tensors=("first", "size"), n_parameters=("n_parameters", "sum"), first=("first", "first"),
        shape=("shape", "first"),
    ).reset_index()  # fmt: skip


def head_of(state: Mapping[str, Tensor], n_classes: int) -> str | None:
    """The last matrix with one row a class: its name and shape, or None."""
    heads = [name for name, t in state.items() if t.ndim == 2 and t.shape[0] == n_classes]
    return f"{heads[-1]} {tuple(state[heads[-1]].shape)}" if heads else None


def draft_adapter(state: Mapping[str, Tensor], classes: tuple[str, ...]) -> str:
    """A first adapter.yaml for weights of unknown make: what their names and shapes give away.

    The backbone is known by the names its family gives its layers, the head by its rows. What cannot
    be known from shapes (`num_attention_heads`, `image_norm`, which class is `other`) is left to fill in.
    """
    lines = [f"# {ADAPTER}: a draft. Correct it, then: ddeval inspect FOLDER", "keys:"]
    backbone = _backbone_prefix(state)
    if backbone is not None:
        prefix, name, config = backbone
        lines.append(f"  '^{re.escape(prefix)}': backbone.")
    head = (head_of(state, len(classes)) or "").split(" ")[0]
    if head:
        lines.append(f"  '^{re.escape(head.rsplit('.', 1)[0])}\\.': head.")
    taken = tuple(p for p in (backbone[0] if backbone else None, head.rsplit(".", 1)[0] or None) if p)
    others = [n for n, t in state.items() if t.ndim == 2 and not (taken and n.startswith(taken))]
    for number, matrix in enumerate(others[:4]):
        lines.append(f"  '^{re.escape(matrix.rsplit('.', 1)[0])}\\.': questionnaire.{number}.")
    lines.append("model:")
    if backbone is not None:
        lines += [f"  backbone: {name}", f"  backbone_config: {config}"]
    else:
        lines.append("  backbone: resnet50 | convnextv2_base | medsiglip_448, or model: package.module:build")
    if others:
        lines += [
            f"  questionnaire_widths: {[state[n].shape[0] for n in others[:4]]}",
            f"  feature_schema: a schema of {state[others[0]].shape[1]} columns, or features: package:encode",
        ]
    if "other" in classes:
        lines.append("other_class: other")
    return "\n".join(lines) + "\n"


def _files(found: Inspection, folder: Path) -> None:
    """What the files say before anything is built."""
    config = _quietly(read_json, folder / "config.json") or {}
    found.config = {k: v for k, v in config.items() if not (is_own_artefact(config) and k in KNOWN_KEYS)}
    found.reported = _quietly(read_json, folder / METRICS) or {}
    labels = folder / LABELS
    if labels.is_file():
        found.classes = tuple(read_lines(labels))
    weights = [path for path in sorted(folder.iterdir()) if path.suffix in WEIGHTS]
    content = _quietly(read_weights, weights[0]) if weights else None
    if content is None:
        return
    try:
        state, found.steps = state_dict_of(content, where=str(weights[0]))
    except InputError as error:
        found.problem = str(error)
        return
    found.groups, found.head = parameter_groups(state), head_of(state, len(found.classes))
    is_described = is_own_artefact(config) or "model_type" in config
    if not is_described and find_adapter(folder, project_folder()) is None:
        found.adapter = draft_adapter(state, found.classes)
    if (folder / SCHEMA).is_file():
        schema = _quietly(read_json, folder / SCHEMA)
        held = f"keys {list(schema)[:6]}" if isinstance(schema, dict) else f"a {type(schema).__name__}"
        found.questionnaire = f"{SCHEMA} holds {held}"


def _group(name: str) -> str:
    """First parts of a name without the numbers of layers: `backbone.encoder`."""
    parts = [part for part in name.split(".")[:-1] if not part.isdigit()]
    return ".".join(parts[:2]) or name


MARKS = {  # a weight only this family has -> the name of one of its backbones
    "embeddings.patch_embedding.weight": "medsiglip_448",
    "embedder.embedder.convolution.weight": "resnet50",
    "embeddings.patch_embeddings.weight": "convnextv2_base",
}


def _backbone_prefix(state: Mapping[str, Tensor]) -> tuple[str, str, dict[str, Any]] | None:
    """What stands before the backbone's names, its likely name here, and what its shapes say of it."""
    for mark, name in MARKS.items():
        for key, tensor in state.items():
            if key.endswith(mark):
                prefix = key.removesuffix(mark)
                return prefix, name, _siglip_shapes(state, prefix, tensor) if name == "medsiglip_448" else {}
    return None


def _siglip_shapes(state: Mapping[str, Tensor], prefix: str, patches: Tensor) -> dict[str, Any]:
    positions = state.get(f"{prefix}embeddings.position_embedding.weight")
    layers = {m[1] for k in state if (m := re.search(r"encoder\.layers\.(\d+)\.", k.removeprefix(prefix)))}
    wide = state.get(f"{prefix}encoder.layers.0.mlp.fc1.weight")
    found = {
        "hidden_size": patches.shape[0],
        "patch_size": patches.shape[-1],
        "num_hidden_layers": len(layers),
    }
    if positions is not None:
        found["image_size"] = round(positions.shape[0] ** 0.5) * patches.shape[-1]
    if wide is not None:
        found["intermediate_size"] = wide.shape[0]
    return found


def _quietly(read: Any, path: Path) -> Any:
    """What a reader gives, or None where it refuses: the reason comes up again when the whole is loaded."""
    try:
        return read(path)
    except InputError:
        return None
