"""Backbones: three families of vision networks, each turning pixels (B, 3, S, S) into (B, E).

The networks are those of transformers. `build_backbone` makes one from its configuration alone, without
asking any hub; `load_backbone` also reads pretrained weights, from a hub id or a local folder alike.
Whole checkpoints with a head are `ddeval.models.checkpoint`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn
from transformers import (
    ConvNextV2Config,
    ConvNextV2Model,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from ddeval.errors import InputError
from ddeval.models.weights import from_folder, hub_folder, read_folder_config

FAMILIES: dict[str, tuple[type[Any], type[PreTrainedModel]]] = {
    "resnet": (ResNetConfig, ResNetModel),
    "convnextv2": (ConvNextV2Config, ConvNextV2Model),
    "siglip_vision_model": (SiglipVisionConfig, SiglipVisionModel),
}
"""Configuration and network of each family, by the `model_type` of transformers."""

NOT_THE_BACKBONE = ("text_model.", "logit_scale", "logit_bias", "classifier.")
"""Weights of a whole model that its backbone does not need: text tower and classification head."""


@dataclass(frozen=True)
class BackboneSpec:
    """What a backbone's name stands for."""

    model_type: str
    size: int
    """Side of the images it is trained on, in pixels."""
    image_norm: Literal["imagenet", "siglip"]
    config: Mapping[str, Any] = field(default_factory=dict)
    """Where it differs from the defaults of its family."""


BACKBONES = {
    "resnet50": BackboneSpec("resnet", 224, "imagenet"),
    "convnextv2_base": BackboneSpec(
        "convnextv2", 224, "imagenet", {"depths": [3, 3, 27, 3], "hidden_sizes": [128, 256, 512, 1024]}
    ),
    "medsiglip_448": BackboneSpec(
        "siglip_vision_model",
        448,
        "siglip",
        {
            "hidden_size": 1152,
            "intermediate_size": 4304,
            "num_hidden_layers": 27,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 448,
        },
    ),
    "resnet_tiny": BackboneSpec(
        "resnet",
        64,
        "imagenet",
        {
            "embedding_size": 16,
            "hidden_sizes": [16, 32, 64, 128],
            "depths": [1, 1, 1, 1],
            "layer_type": "basic",
        },
    ),
    "convnextv2_tiny": BackboneSpec(
        "convnextv2", 64, "imagenet", {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 64, 128]}
    ),
    "siglip_tiny": BackboneSpec(
        "siglip_vision_model",
        56,
        "siglip",
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "patch_size": 14,
            "image_size": 56,
        },
    ),
}
"""The three of Round 1 at their real size, and a small one of each family for demo and tests."""


def backbone_config(
    name: str, *, image_size: int | None = None, changes: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The complete transformers configuration of backbone `name`, as plain values.

    Parameters
    ----------
    image_size : int, optional
        Side S of its images. Only SigLIP's weights depend on it, through the position embedding.
    changes : mapping, optional
        Values that replace those of the named backbone. Raises a ValueError for a key the family lacks.
    """
    spec = BACKBONES[name]
    config_class, _ = FAMILIES[spec.model_type]
    values = dict(spec.config) | dict(changes or {})
    if image_size and spec.model_type == "siglip_vision_model":
        values["image_size"] = image_size
    known = config_class().to_dict()
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"{spec.model_type} has no {unknown[0]!r}; it has {', '.join(sorted(known))}")
    return plain_config(config_class(**values))


def plain_config(config: Any) -> dict[str, Any]:
    """A transformers configuration as the plain values that rebuild it, without version or host."""
    values: dict[str, Any] = config.to_diff_dict()
    for key in ("transformers_version", "_name_or_path", "architectures", "dtype"):
        values.pop(key, None)
    return values


def build_backbone(config: Mapping[str, Any]) -> PreTrainedModel:
    """The network of a configuration of `backbone_config`, with random weights and no hub request."""
    config_class, model_class = FAMILIES[config["model_type"]]
    network: PreTrainedModel = model_class(config_class(**config))
    return network


def load_backbone(
    config: Mapping[str, Any], weights: str, *, revision: str | None = None, where: str = "model.weights"
) -> PreTrainedModel:
    """The network of `config` with pretrained `weights`: a hub id, a local folder, or `random`.

    A whole model's folder serves too (the vision tower of a dual encoder, the body of a classifier).
    Raises an InputError where the weights cannot be had, belong to another architecture, or do not
    fill the backbone exactly.
    """
    if weights == "random":
        return build_backbone(config)
    folder = Path(weights) if Path(weights).is_dir() else hub_folder(weights, revision=revision, where=where)
    config_class, model_class = FAMILIES[config["model_type"]]
    _check_architecture(folder, config_class, config)
    network: PreTrainedModel = from_folder(
        model_class, folder, ignored=NOT_THE_BACKBONE, config=config_class(**config)
    )
    return network


def pooled(backbone: nn.Module, pixels: Tensor) -> Tensor:
    """The backbone's pooled output (B, E) for normalised `pixels` (B, 3, S, S)."""
    output: Tensor = backbone(pixel_values=pixels).pooler_output
    return output.flatten(1)  # ResNet's is (B, E, 1, 1)


def embedding_width(config: Mapping[str, Any]) -> int:
    """E, the width of the pooled output."""
    built = FAMILIES[config["model_type"]][0](**config)
    widths = getattr(built, "hidden_sizes", None)
    return int(widths[-1] if widths else built.hidden_size)


def _check_architecture(folder: Path, config_class: type[Any], config: Mapping[str, Any]) -> None:
    """The folder's configuration must agree with ours wherever it shapes a weight."""
    found = read_folder_config(folder)
    held = found.get("vision_config", found) if config["model_type"].startswith("siglip") else found
    wanted, theirs = config_class(**config), config_class(**{k: v for k, v in held.items() if v is not None})
    if (found.get("model_type") or "").split("_")[0] != config["model_type"].split("_")[0]:
        raise InputError(
            str(folder),
            f"weights of a {found.get('model_type')} model",
            expected=f"a {config['model_type']} model",
            todo="Name other weights, or the backbone they belong to.",
        )
    for key in ("hidden_size", "hidden_sizes", "depths", "num_hidden_layers", "patch_size", "image_size"):
        if getattr(wanted, key, None) != getattr(theirs, key, None):
            raise InputError(
                str(folder),
                f"{key} {getattr(theirs, key)}",
                expected=f"{key} {getattr(wanted, key)} as in the config",
                todo="Name other weights, or set `backbone_config` (and image_size) to theirs.",
            )
