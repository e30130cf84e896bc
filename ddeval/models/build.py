"""Build: the network and the preprocessing that a config's `model:` section describes."""

from typing import Any, NamedTuple

from ddeval.config import Architecture, ModelConfig
from ddeval.data.images import Preprocessing
from ddeval.errors import InputError
from ddeval.models.backbones import BACKBONES, backbone_config, load_backbone
from ddeval.models.fusion import Fusion


class Built(NamedTuple):
    """A network that has learnt nothing of the task yet, and what `write_artefact` needs to say of it."""

    module: Fusion
    model: dict[str, Any]
    """The `model` of an artefact's config.json."""
    preprocessing: Preprocessing


def build(config: ModelConfig, *, n_classes: int, answers_width: int) -> Built:
    """The network of `config`, with pretrained weights unless it says `random`, and its preprocessing.

    Raises an InputError for a key the backbone lacks, weights that cannot be had or do not fit, or
    gradient checkpointing of a family that has none.
    """
    model = arguments(config, answers_width=answers_width) | {"dropout": config.dropout}
    backbone = model["backbone_config"]
    network = load_backbone(backbone, config.weights, revision=config.revision, where="model.weights")
    if config.gradient_checkpointing:
        if not network.supports_gradient_checkpointing:
            raise InputError(
                "model.gradient_checkpointing",
                f"true for {config.backbone}",
                expected="a SigLIP backbone; the others have none in transformers",
                todo="Set it to false.",
            )
        enable_checkpointing(network)
    module = Fusion(
        n_classes=n_classes, backbone=network, **{k: v for k, v in model.items() if k != "backbone"}
    )
    return Built(module, model, preprocessing_of(config))


def arguments(config: Architecture, *, answers_width: int, where: str = "model") -> dict[str, Any]:
    """The `model` of an artefact's config.json: the backbone's name and the arguments of `Fusion`."""
    try:
        backbone = backbone_config(
            config.backbone, image_size=config.image_size, changes=config.backbone_config
        )
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{where}.backbone_config", str(error), expected="keys of the family", todo="Correct the key."
        ) from None
    return {
        "backbone": config.backbone,
        "backbone_config": backbone,
        "answers_width": answers_width,
        "questionnaire_widths": list(config.questionnaire_widths) if answers_width else [],
        "head_width": config.head_width,
        "activation": config.activation,
    }


def enable_checkpointing(network: Any) -> None:
    """Recompute activations in the backward pass; transformers renamed the switch in 5.2x."""
    kwargs = {"use_reentrant": False}
    if hasattr(network, "activation_checkpointing_enable"):
        network.activation_checkpointing_enable(kwargs)
    else:
        network.gradient_checkpointing_enable(kwargs)


def preprocessing_of(config: Architecture) -> Preprocessing:
    """How the network wants its images: the defaults of its norm, and what `preprocessing:` changes."""
    spec = BACKBONES[config.backbone]
    size = config.image_size or config.backbone_config.get("image_size") or spec.size
    standard = Preprocessing.for_norm(config.image_norm or spec.image_norm, size)
    try:
        return Preprocessing.from_dict(standard.to_dict() | config.preprocessing)
    except (ValueError, TypeError) as error:
        raise InputError(
            "model.preprocessing", str(error), expected="size, resize, edge, resample, …", todo="Correct it."
        ) from None
