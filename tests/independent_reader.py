"""Reads an artefact folder by what docs/deploy.md says of it; ddeval is not imported."""

import json
from pathlib import Path

import torch
from torch.nn.functional import gelu, linear, relu
from transformers import AutoConfig, AutoModel


def read_folder(folder, pixels, features=None):
    """Logits of normalised pixels (B, 3, S, S) and encoded answers (B, D), and the class names."""
    config = json.loads((Path(folder) / "config.json").read_text())
    class_names = (Path(folder) / "labels.txt").read_text().split("\n")[:-1]
    weights = torch.load(Path(folder) / "best_model.pt", weights_only=True)
    model, activation = config["model"], {"gelu": gelu, "relu": relu}[config["model"]["activation"]]
    backbone = AutoModel.from_config(AutoConfig.for_model(**model["backbone_config"])).eval()
    backbone.load_state_dict(
        {key[len("backbone.") :]: value for key, value in weights.items() if key.startswith("backbone.")}
    )
    joined = backbone(pixel_values=pixels).pooler_output.flatten(1)
    if model["answers_width"]:
        for i in range(len(model["questionnaire_widths"])):
            name = f"questionnaire.{i}"
            features = activation(linear(features, weights[f"{name}.weight"], weights[f"{name}.bias"]))
        joined = torch.cat([joined, features], dim=1)
    if model["head_width"]:
        joined = activation(linear(joined, weights["hidden.weight"], weights["hidden.bias"]))
    return linear(joined, weights["head.weight"], weights["head.bias"]), class_names
