"""Optimiser: who learns how fast, and when.

Head and questionnaire learn at their own rate, each layer of the backbone at `layer_decay` times that of
the layer above; biases and norms are not decayed. The rate of every group follows one schedule.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ddeval.config import TrainConfig

LAYER = re.compile(r"encoder\.(?:stages\.\d+(?:\.layers\.\d+)?|layers\.\d+)")
"""What names a layer in the three families: a block of a stage, or a transformer layer."""


def layer_depths(names: Iterable[str]) -> dict[str, int]:
    """Depth of each backbone parameter: 0 the embedding, then layer by layer; what follows is the top's.

    Examples
    --------
    >>> layer_depths(["embeddings.w", "encoder.layers.0.w", "encoder.layers.1.w", "post_layernorm.w"])
    {'embeddings.w': 0, 'encoder.layers.0.w': 1, 'encoder.layers.1.w': 2, 'post_layernorm.w': 2}
    """
    names = list(names)
    layers = dict.fromkeys(match[0] for name in names if (match := LAYER.search(name)))
    depth_of = {layer: depth for depth, layer in enumerate(layers, start=1)}
    is_below = {name: name.startswith(("embedder", "embeddings")) for name in names}
    return {
        name: depth_of[match[0]] if (match := LAYER.search(name)) else 0 if is_below[name] else len(layers)
        for name in names
    }


def parameter_groups(module: nn.Module, train: TrainConfig) -> list[dict[str, Any]]:
    """Groups for AdamW: `params`, `lr`, `weight_decay`, `is_backbone`, one a rate and decay."""
    inside = [name for name, _ in module.named_parameters() if name.startswith("backbone.")]
    depths = layer_depths(name.removeprefix("backbone.") for name in inside)
    top = max(depths.values(), default=0)
    head_rate = train.head_learning_rate or train.learning_rate
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        inner = name.removeprefix("backbone.")
        is_backbone = name.startswith("backbone.")
        rate = train.learning_rate * train.layer_decay ** (top - depths[inner]) if is_backbone else head_rate
        decay = train.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((rate, decay, is_backbone), []).append(parameter)
    return [
        {"params": params, "lr": rate, "weight_decay": decay, "is_backbone": is_backbone}
        for (rate, decay, is_backbone), params in groups.items()
    ]


def adamw(groups: list[dict[str, Any]], device: torch.device) -> torch.optim.AdamW:
    """AdamW over `groups`; on a GPU one kernel changes all weights, where a loop would launch thousands."""
    return torch.optim.AdamW(groups, fused=device.type == "cuda")


COMPILING_PAYS = (50_000_000, 5_000)
"""Weights of the network and images of the training from which on compiling saves more than its 10 s."""


def compile_layers(
    module: nn.Module, how: Literal["auto", "always", "never"], *, n_images: int, device: torch.device
) -> bool:
    """Compile each transformer layer of the backbone in place; whether there were any and it was done.

    One compiled graph serves all layers, since they have the same shape; the names of the weights stay.
    `auto` compiles on a GPU where `COMPILING_PAYS`; `n_images` are those of the whole training.
    """
    layers = getattr(getattr(getattr(module, "backbone", None), "encoder", None), "layers", ())
    n_weights = sum(parameter.numel() for parameter in module.parameters())
    pays = device.type == "cuda" and n_weights >= COMPILING_PAYS[0] and n_images >= COMPILING_PAYS[1]
    if how == "never" or (how == "auto" and not pays):
        return False
    for layer in layers:
        layer.compile()
    return len(layers) > 0


def rate_factor(step: int, *, n_steps: int, n_frozen: int, n_warmup: int) -> float:
    """Factor of every learning rate at `step` (0 to n_steps - 1), in [0, 1].

    The first `n_frozen` steps fall along a cosine from 1 to 0: only the head learns. Then it rises
    linearly over `n_warmup` steps and falls along a cosine to 0.
    """
    if step < n_frozen:
        return 0.5 * (1 + math.cos(math.pi * step / n_frozen))
    step, n_steps = step - n_frozen, n_steps - n_frozen
    n_warmup = min(n_warmup, n_steps)
    if step < n_warmup:
        return (step + 1) / n_warmup
    return 0.5 * (1 + math.cos(math.pi * (step - n_warmup) / max(1, n_steps - n_warmup)))


class WeightAverage:
    """Running mean of a network's weights: after each step, mean = d mean + (1 - d) weights.

    d starts small, min(decay, (1 + n) / (10 + n)) at step n, so that the random start is soon
    forgotten. Whole numbers (counts of batch norm) are copied.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.n_steps = decay, 0
        self.state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        decay = min(self.decay, (1 + self.n_steps) / (10 + self.n_steps))
        self.n_steps += 1
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                self.state[name].lerp_(tensor, 1 - decay)
            else:
                self.state[name].copy_(tensor)

    def load(self, state: Mapping[str, Tensor], n_steps: int) -> None:
        """Go on from a stored mean."""
        self.n_steps = n_steps
        for name, tensor in state.items():
            self.state[name].copy_(tensor)
