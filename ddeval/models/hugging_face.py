"""Hugging Face folders: an image classifier of any family, or a dual encoder asked by class names.

Both are read from a local folder, never from a hub, with safetensors and without running code that
the folder brings. What a hub id is, and how it becomes a folder, is `ddeval.models.weights`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModel, AutoModelForImageClassification, AutoTokenizer

from ddeval.data.images import Preprocessing
from ddeval.errors import InputError
from ddeval.io import read_json
from ddeval.models.artefact import folder_sha256
from ddeval.models.record import Checkpoint, check_same_classes, read_class_names
from ddeval.models.weights import from_folder, read_folder_config

DUAL_ENCODERS = ("siglip", "clip")
"""Families (`model_type`) that embed images and sentences into one space."""
TEMPLATES = ("a photo of {}.",)
PROCESSOR = ("preprocessor_config.json", "processor_config.json")


def is_dual_encoder(config: Mapping[str, Any]) -> bool:
    """Whether config.json is that of a dual encoder, not of a classifier built on one."""
    architectures = config.get("architectures") or []
    return config.get("model_type") in DUAL_ENCODERS and not any(
        "Classification" in name for name in architectures
    )


def read_classifier(folder: Path, *, name: str) -> Checkpoint:
    """The image classifier in a folder of `save_pretrained`: ResNet, ConvNeXt, ViT, SigLIP, ….

    Class names are the config's `id2label`; a labels.txt beside it must agree with them by name and
    order, and stands in for names that say nothing (LABEL_0, …). The link is sigmoid where the config
    says `multi_label_classification`, else softmax.
    """
    config = read_folder_config(folder)
    names = _class_names(folder, config)
    preprocessing, processor = _read_preprocessing(folder)
    model = from_folder(AutoModelForImageClassification, folder, trust_remote_code=False)
    _check_size(model, preprocessing, processor)
    if model.config.num_labels != len(names):
        raise InputError(
            str(folder / "config.json"),
            f"{len(names)} class names",
            expected=f"{model.config.num_labels}, as the head has outputs",
            todo="Correct id2label.",
        )
    return Checkpoint(
        name=name,
        kind="classifier",
        module=_Classifier(model).eval(),
        class_names=names,
        other_class=None,
        link="sigmoid" if config.get("problem_type", "").startswith("multi") else "softmax",
        preprocessing=preprocessing,
        schema=None,
        sha256=_sha256(folder),
        settings={"architectures": config.get("architectures"), "model_type": config.get("model_type")},
        folder=folder,
    )


def read_dual_encoder(
    folder: Path,
    *,
    name: str,
    classes: Mapping[str, str],
    templates: Sequence[str] = TEMPLATES,
) -> Checkpoint:
    """A SigLIP or CLIP folder as a zero-shot classifier of `classes`.

    Parameters
    ----------
    classes : mapping
        Class name to the words that stand for it in a sentence.
    templates : sequence of str
        Sentences with `{}` for those words. A class's embedding is the mean over the sentences of their
        unit embeddings, again of unit length.

    Returns
    -------
    Checkpoint
        Its logits are scaled cosines (plus SigLIP's bias), as the model's own `logits_per_image`. The
        link is softmax: exactly one of the classes is asked for, although SigLIP was trained with a
        sigmoid.
    """
    _check_templates(templates, folder)
    config = read_folder_config(folder)
    preprocessing, processor = _read_preprocessing(folder)
    model = from_folder(AutoModel, folder, trust_remote_code=False)
    _check_size(model, preprocessing, processor)
    sentences = [[template.format(words) for template in templates] for words in classes.values()]
    class_embeddings = _embed_sentences(model, _read_tokenizer(folder), sentences)
    names = tuple(classes)
    return Checkpoint(
        name=name,
        kind="zero_shot",
        module=_DualEncoder(model, class_embeddings).eval(),
        class_names=names,
        other_class=None,
        link="softmax",
        preprocessing=preprocessing,
        schema=None,
        sha256=_sha256(folder),
        settings={
            "model_type": config.get("model_type"),
            "classes": dict(classes),
            "templates": list(templates),
        },
        folder=folder,
    )


class _Classifier(nn.Module):
    """Logits of a Hugging Face classifier, with what its last linear layer reads as the embedding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        n_labels = model.config.num_labels
        heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == n_labels]
        if not heads:
            raise InputError(
                str(model.config.model_type),
                f"no linear layer with {n_labels} outputs",
                expected="a classifier that ends in one",
                todo="Export its predictions: ddeval scores a predictions file of any model.",
            )
        self._inputs: list[Tensor] = []
        heads[-1].register_forward_pre_hook(lambda _, inputs: self._inputs.append(inputs[0]))

    def forward(self, pixels: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        self._inputs.clear()
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits.float(), self._inputs.pop().flatten(1).float()


class _DualEncoder(nn.Module):
    """Scaled cosine of an image with each class's sentence; the text tower is no longer needed."""

    class_embeddings: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, model: Any, class_embeddings: Tensor) -> None:
        super().__init__()
        scale, bias = model.logit_scale, getattr(model, "logit_bias", None)
        self.vision_model = model.vision_model
        self.visual_projection = getattr(model, "visual_projection", nn.Identity())
        self.register_buffer("class_embeddings", class_embeddings)
        self.register_buffer("scale", torch.as_tensor(scale).detach().exp())
        self.register_buffer("bias", torch.zeros(()) if bias is None else torch.as_tensor(bias).detach())

    def forward(self, pixels: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        pooled = self.vision_model(pixel_values=pixels).pooler_output
        embeddings = functional.normalize(self.visual_projection(pooled).float(), dim=-1)  # (B, E)
        with torch.autocast(pixels.device.type, enabled=False):
            logits = embeddings @ self.class_embeddings.T * self.scale + self.bias  # (B, K)
        return logits, embeddings


@torch.inference_mode()
def _embed_sentences(model: Any, tokenizer: Any, sentences: list[list[str]]) -> Tensor:
    """Unit embeddings (K, E), one a class, averaged over its sentences."""
    is_siglip = model.config.model_type == "siglip"
    length = model.config.text_config.max_position_embeddings
    rows = []
    for of_one_class in sentences:
        tokens = tokenizer(
            of_one_class,
            return_tensors="pt",
            padding="max_length" if is_siglip else True,  # SigLIP is trained on padded sentences
            truncation=True,
            max_length=length,
        )
        inputs = {k: tokens[k] for k in ("input_ids", "attention_mask") if k in tokens}
        if is_siglip:
            inputs.pop("attention_mask", None)  # as in its own examples: padding is read too
        output = model.get_text_features(**inputs)
        vectors = getattr(output, "pooler_output", output)
        rows.append(functional.normalize(functional.normalize(vectors, dim=-1).mean(dim=0), dim=-1))
    return torch.stack(rows).clone()


def _read_tokenizer(folder: Path) -> Any:
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each tokenizer class raises its own kind for a missing file
        raise InputError(
            str(folder),
            f"no tokenizer that opens ({str(error).splitlines()[0][:120]})",
            expected="tokenizer.json or the model's own vocabulary file",
            todo="Save the tokenizer into the folder (tokenizer.save_pretrained).",
        ) from None


def _check_templates(templates: Sequence[str], folder: Path) -> None:
    for template in templates:
        if template.count("{}") != 1 or template.replace("{}", "").count("{"):
            raise InputError(
                f"zero-shot template for {folder}",
                repr(template),
                expected="a sentence with one {} for the class",
                todo="Correct `zero_shot.templates`.",
            )


def _class_names(folder: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    where = str(folder / "config.json")
    id2label = {int(index): str(label) for index, label in (config.get("id2label") or {}).items()}
    if not id2label:  # left out where transformers would fill in LABEL_0, LABEL_1
        id2label = {i: f"LABEL_{i}" for i in range(int(config.get("num_labels") or 2))}
    if sorted(id2label) != list(range(len(id2label))):
        raise InputError(
            where, f"id2label with the ids {sorted(id2label)[:5]}…", expected="0 to K-1", todo="Correct it."
        )
    names = tuple(id2label[index] for index in range(len(id2label)))
    labels = folder / "labels.txt"
    says_nothing = all(name == f"LABEL_{index}" for index, name in enumerate(names))
    if labels.is_file():
        listed = read_class_names(labels)
        if not (says_nothing and len(listed) == len(names)):
            check_same_classes(listed, names, where=str(labels), other_where=f"id2label of {where}")
        names = listed
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(
            where, f"{twice!r} twice in id2label", expected="each class once", todo="Correct it."
        )
    return names


def _read_preprocessing(folder: Path) -> tuple[Preprocessing, Path]:
    """What the folder's processor file says, and which file that is."""
    path = next((folder / name for name in PROCESSOR if (folder / name).is_file()), None)
    if path is None:
        raise InputError(
            str(folder),
            f"no {PROCESSOR[0]}",
            expected="how the model wants its images",
            todo="Save the image processor into the folder (processor.save_pretrained).",
        )
    return Preprocessing.from_processor_config(read_json(path), where=str(path)), path


def _check_size(model: Any, preprocessing: Preprocessing, path: Path) -> None:
    """A network with a position embedding takes images of one size; others take any."""
    vision = getattr(model.config, "vision_config", model.config)
    has_positions = any("position_embedding" in name for name, _ in model.named_parameters())
    if has_positions and vision.image_size != preprocessing.size:
        raise InputError(
            str(path),
            f"images of {preprocessing.size} px",
            expected=f"{vision.image_size} px as in config.json",
            todo="Put back the processor this model was trained with.",
        )


def _sha256(folder: Path) -> str:
    files = [
        p.name for pattern in ("*.json", "*.safetensors", "*.bin", "*.txt") for p in folder.glob(pattern)
    ]
    return folder_sha256(folder, sorted(files))
