"""Fusion: a photograph and the answers of a questionnaire become logits.

The backbone reads the photograph, a few small layers read the encoded answers, and a head in float32
reads both. Without a questionnaire it is a plain image classifier.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddeval.models.backbones import build_backbone, embedding_width, pooled

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": functional.gelu, "relu": functional.relu}


class Fusion(nn.Module):
    """Backbone embedding joined with the encoded questionnaire, then a head.

    Parameters
    ----------
    backbone_config : mapping
        Of `ddeval.models.backbones.backbone_config`.
    n_classes : int
        K.
    answers_width : int
        D, columns of the encoded questionnaire; 0 is none.
    questionnaire_widths : sequence of int
        Widths of the layers that read the answers.
    head_width : int
        Width of a hidden layer of the head; 0 is none.
    activation : "gelu" or "relu"
        After each layer of the questionnaire and the hidden one of the head.
    backbone : module, optional
        A backbone with weights already in it; built with random ones where empty.
    """

    def __init__(
        self,
        backbone_config: Mapping[str, Any],
        *,
        n_classes: int,
        answers_width: int = 0,
        questionnaire_widths: Sequence[int] = (128, 64),
        head_width: int = 0,
        activation: str = "gelu",
        dropout: float = 0.0,
        backbone: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone if backbone is not None else build_backbone(backbone_config)
        widths = [answers_width, *questionnaire_widths] if answers_width else []
        self.questionnaire = nn.ModuleList(itertools.starmap(nn.Linear, itertools.pairwise(widths)))
        joined = embedding_width(backbone_config) + (widths[-1] if widths else 0)
        self.hidden = nn.Linear(joined, head_width) if head_width else None
        self.head = nn.Linear(head_width or joined, n_classes)
        self.dropout = nn.Dropout(dropout)
        self.activation = ACTIVATIONS[activation]
        self.answers_width = answers_width

    def forward(self, pixels: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and image embeddings (B, E), both float32.

        `pixels` are normalised, (B, 3, S, S), or embeddings (B, E) that the backbone gave before;
        `features` are the encoded answers (B, D), None for a model without a questionnaire.
        """
        embeddings = pixels if pixels.ndim == 2 else pooled(self.backbone, pixels).float()  # (B, E)
        return self.classify(embeddings, features), embeddings

    def classify(self, embeddings: Tensor, features: Tensor | None = None) -> Tensor:
        """Logits (B, K) from embeddings (B, E) and answers (B, D), in float32 whatever runs around it."""
        if (features is None) == bool(self.answers_width):
            given = "none" if features is None else f"{features.shape[-1]}"
            raise ValueError(f"the model reads {self.answers_width} columns of answers, got {given}")
        with torch.autocast(embeddings.device.type, enabled=False):
            joined = embeddings
            if features is not None:
                answers = features.float()
                for layer in self.questionnaire:
                    answers = self.dropout(self.activation(layer(answers)))
                joined = torch.cat([embeddings, answers], dim=1)  # (B, E + Q)
            if self.hidden is not None:
                joined = self.activation(self.hidden(joined))
            logits: Tensor = self.head(self.dropout(joined))
            return logits
