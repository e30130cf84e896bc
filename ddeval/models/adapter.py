"""Foreign artefacts: a trained system that another package wrote, read through adapter.yaml.

The adapter says in a page what the folder does not say itself: which network the weights belong to and
what they are called there. Where the network is one of ours, a map of names is enough; where it is not,
two callables of the user's own installed package build it and encode the answers.

    # adapter.yaml, beside the artefact's config.json or in the project
    wrapper: model_state_dict            # the key the weights lie under
    keys:                                # theirs -> ours, regular expressions, in this order
      '^vision\\.': backbone.
      '^tabular\\.fc(\\d)\\.': questionnaire.\\1.
      '^classifier\\.': head.
    model: {backbone: medsiglip_448, feature_schema: trimmed_feature_schema.json}
    other_class: other

    # or
    model: their_package.models:build        # build(config: dict) -> torch module
    features: their_package.survey:encode    # encode(answers: DataFrame) -> (N, D)
"""

import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
import torch
from pydantic import Field
from torch import Tensor, nn
from transformers.initialization import no_init_weights

from ddeval.config import Architecture, Section, config_file, read_config
from ddeval.data.images import Preprocessing
from ddeval.data.questionnaire import Features, FeatureSchema, read_schema
from ddeval.errors import InputError
from ddeval.io import read_json
from ddeval.models.artefact import fill, folder_sha256
from ddeval.models.build import arguments, preprocessing_of
from ddeval.models.fusion import Fusion
from ddeval.models.record import Checkpoint, check_other_class, read_class_names
from ddeval.models.weights import StateDict, check_finite, read_weights, state_dict_of

ADAPTER = "adapter.yaml"
CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Adapter(Section):
    """What adapter.yaml says of a foreign artefact."""

    model: Architecture | str
    """One of our networks, or `package.module:build` of an installed package."""
    features: str | None = None
    """`package.module:encode`, which turns the answers into columns; our own schema where empty."""
    answers_width: Annotated[int, Field(ge=0)] = 0
    """With `features` and one of our networks: how many columns it gives."""
    weights: str = "best_model.pt"
    """File of the weights in the artefact."""
    wrapper: str | None = None
    """Key under which the weights lie in that file; found by itself where its name is a usual one."""
    prefix: str = ""
    """What stands before every name and is taken off."""
    keys: dict[str, str] = Field(default_factory=dict)
    """Regular expression in their names -> replacement, applied in this order, to give ours."""
    drop: tuple[str, ...] = ()
    """Regular expressions of their names that scoring has no use for, such as an auxiliary head."""
    labels: str = "labels.txt"
    """File of the class names in index order, in the artefact."""
    other_class: str | None = None
    link: Literal["softmax", "sigmoid"] = "softmax"
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    """With a callable `model`: size, resize, edge, resample, mean, std of its images."""
    image_norm: Literal["imagenet", "siglip"] = "imagenet"
    """With a callable `model`: what `preprocessing` does not say is as usual for this norm."""


def find_adapter(folder: Path, project: Path | None) -> Path | None:
    """adapter.yaml of an artefact: in its folder, else in the project's; None if there is none."""
    places = [folder / ADAPTER, *([project / ADAPTER] if project else [])]
    return next((path for path in places if path.is_file()), None)


def read_foreign(folder: Path, adapter_path: Path, *, name: str) -> Checkpoint:
    """The checkpoint in `folder` as its adapter describes it.

    Raises an InputError where the adapter names something that is not there, or where after all its
    renaming the weights do not fill the network exactly.
    """
    adapter: Adapter = read_config(adapter_path, Adapter)
    config = read_json(folder / "config.json") if (folder / "config.json").is_file() else {}
    names = read_class_names(folder / adapter.labels)
    check_other_class(adapter.other_class, names, where=str(adapter_path))
    where = str(folder / adapter.weights)
    state, steps = state_dict_of(read_weights(folder / adapter.weights), where=where, wrapper=adapter.wrapper)
    state = renamed(state, adapter, where=str(adapter_path))
    encode = imported(adapter.features, where=f"{adapter_path} features") if adapter.features else None

    schema: FeatureSchema | None = None
    if isinstance(adapter.model, Architecture):
        schema = _schema(adapter.model, adapter_path)
        width = schema.width if schema else adapter.answers_width
        model = arguments(adapter.model, answers_width=width, where=f"{adapter_path} model")
        with no_init_weights():
            module: nn.Module = Fusion(
                n_classes=len(names), **{k: v for k, v in model.items() if k != "backbone"}
            )
        preprocessing = preprocessing_of(adapter.model)
        fill(module, state, where=str(folder))
    else:
        build = imported(adapter.model, where=f"{adapter_path} model")
        inner = called(build, config, where=f"{adapter_path} model: {adapter.model}")
        if not isinstance(inner, nn.Module):
            raise InputError(
                f"{adapter_path} model", f"{adapter.model} gave {type(inner).__name__}",
                expected="a torch module", todo="Return the network from it.",
            )  # fmt: skip
        fill(inner, state, where=str(folder))
        module, preprocessing = Foreign(inner, len(names)), _preprocessing(adapter, adapter_path)
    return Checkpoint(
        name=name,
        kind="foreign",
        module=module.eval(),
        class_names=names,
        other_class=adapter.other_class,
        link=adapter.link,
        preprocessing=preprocessing,
        schema=schema,
        sha256=folder_sha256(folder, (adapter.weights, "config.json", adapter.labels))
        + folder_sha256(adapter_path.parent, (adapter_path.name,)),
        settings={"config": config, "adapter": adapter.model_dump(mode="json"), "adapted": steps},
        folder=folder,
        reported=read_json(folder / "metrics.json") if (folder / "metrics.json").is_file() else {},
        encode=_checked(encode, str(adapter_path)) if encode else None,
    )


class Foreign(nn.Module):
    """A network of another package, made to answer as ours do.

    Its forward may take (pixels, features) or pixels alone, and may return logits, (logits, embeddings),
    a mapping with `logits`, or an object with `.logits`. Without embeddings the input of its last layer
    with K outputs stands for them.
    """

    def __init__(self, inner: nn.Module, n_classes: int) -> None:
        super().__init__()
        self.inner, self.n_classes = inner, n_classes
        self._inputs: list[Tensor] = []
        heads = [m for m in inner.modules() if isinstance(m, nn.Linear) and m.out_features == n_classes]
        if heads:
            heads[-1].register_forward_pre_hook(lambda _, inputs: self._inputs.append(inputs[0]))

    def forward(self, pixels: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._inputs.clear()
        output = self.inner(pixels) if features is None else self.inner(pixels, features)
        logits, embeddings = _parts(output)
        if logits.ndim != 2 or logits.shape[1] != self.n_classes:
            raise InputError(
                "the foreign network",
                f"an answer of shape {tuple(logits.shape)}",
                expected=f"logits (B, {self.n_classes}), one a class",
                todo="Let its `build` return a network that gives logits.",
            )
        if embeddings is None:
            embeddings = self._inputs[-1] if self._inputs else logits
        return logits.float(), embeddings.flatten(1).float()


def renamed(state: Mapping[str, Tensor], adapter: Adapter, *, where: str) -> StateDict:
    """The weights under our names; an InputError where two of theirs become one of ours."""
    found: StateDict = {}
    for name, tensor in state.items():
        ours = name.removeprefix(adapter.prefix)
        if any(re.search(pattern, ours) for pattern in adapter.drop):
            continue
        for pattern, replacement in adapter.keys.items():
            ours = re.sub(pattern, replacement, ours)
        if ours in found:
            raise InputError(
                where, f"two weights that become {ours!r} (the second is {name!r})",
                expected="a name each", todo="Correct `keys:`.",
            )  # fmt: skip
        found[ours] = tensor
    check_finite(found, where=where)
    return found


def imported(spec: str, *, where: str) -> Callable[..., Any]:
    """The callable `package.module:name` of an installed package of the user's.

    Modules of Python itself are refused: an adapter that came with an artefact must not reach them.
    """
    module_name, _, attribute = spec.partition(":")
    if not CALLABLE.fullmatch(spec) or module_name.split(".")[0] in sys.stdlib_module_names:
        raise InputError(
            where, repr(spec), expected="package.module:function of your package", todo="Correct the line."
        )
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(
            where, f"{spec}, which does not import ({error})", expected="a function of an installed package",
            todo="Install the package into this environment.",
        ) from error  # fmt: skip
    if not callable(found):
        raise InputError(
            where, f"{spec}, a {type(found).__name__}", expected="a function", todo="Correct it."
        )
    return found  # type: ignore[no-any-return]


def called(function: Callable[..., Any], argument: Any, *, where: str) -> Any:
    """What the user's function gives; whatever it raises is said in one line, with its own traceback kept."""
    try:
        return function(argument)
    except Exception as error:
        raise InputError(
            where, f"{type(error).__name__}: {error}", expected="an answer", todo="Correct your function."
        ) from error


def _checked(encode: Callable[..., Any], where: str) -> Callable[[pd.DataFrame], Features]:
    def features(answers: pd.DataFrame) -> Features:
        raw = called(encode, answers, where=f"{where} features")
        found = torch.as_tensor(np.asarray(raw)).float().numpy()
        if found.ndim != 2 or len(found) != len(answers):
            raise InputError(
                f"{where} features",
                f"an array of shape {found.shape} for {len(answers)} images",
                expected="one row an image",
                todo="Let `encode` keep the rows and their order.",
            )
        return found

    return features


def _parts(output: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(output, Tensor):
        return output, None
    if isinstance(output, Mapping):
        return output["logits"], output.get("embeddings")
    if isinstance(output, tuple | list):
        return output[0], output[1] if len(output) > 1 and isinstance(output[1], Tensor) else None
    return output.logits, None


def _schema(model: Architecture, adapter_path: Path) -> FeatureSchema | None:
    if model.feature_schema is None:
        return None
    where = f"{adapter_path} model.feature_schema"
    return read_schema(config_file(model.feature_schema, beside=adapter_path, where=where))


def _preprocessing(adapter: Adapter, path: Path) -> Preprocessing:
    size = adapter.preprocessing.get("size")
    if not isinstance(size, int):
        raise InputError(
            f"{path} preprocessing", f"size {size!r}", expected="the side of its images in pixels",
            todo="Write `preprocessing: {size: 448}`.",
        )  # fmt: skip
    standard = Preprocessing.for_norm(adapter.image_norm, size).to_dict()
    try:
        return Preprocessing.from_dict(standard | adapter.preprocessing)
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{path} preprocessing", str(error), expected="size, resize, edge, …", todo="Correct it."
        ) from None
