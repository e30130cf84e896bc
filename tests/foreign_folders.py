"""Saves Hugging Face folders and what they answer, as a colleague's script would: ddeval is not imported.

Run as `python foreign_folders.py FOLDER`. Writes one folder a model, ten photographs, and expected.npz with
each model's own logits of them (image processor on PIL, then the model's own forward pass).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoImageProcessor,
    CLIPConfig,
    CLIPModel,
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    PreTrainedTokenizerFast,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipForImageClassification,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
)

NAMES = ["eczema", "psoriasis", "acne", "other"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
VISION = {**TOWER, "image_size": 32, "patch_size": 8}
TEXT = {**TOWER, "vocab_size": 40, "max_position_embeddings": 12, "projection_size": 32}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
SENTENCES = [f"a photo of {name} skin" for name in NAMES]
SQUASH = {"size": {"height": 32, "width": 32}, "resample": 3}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
PROCESSORS = {
    "siglip": {"image_processor_type": "SiglipImageProcessor", **SQUASH, **HALF},
    "vit": {"image_processor_type": "ViTImageProcessor", **SQUASH, **HALF, "resample": 2},
    "convnext": {
        "image_processor_type": "ConvNextImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_pct": 0.875,
        "resample": 3,
        **IMAGENET,
    },
    "clip": {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "resample": 3,
        **IMAGENET,
    },
}


def main(root: Path) -> None:
    torch.manual_seed(0)
    photos = save_photos(root / "photos")
    small = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    stages = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
    classifiers = {
        "resnet": (ResNetForImageClassification(ResNetConfig(**small, **LABELS)), "convnext"),
        "convnextv2": (ConvNextV2ForImageClassification(ConvNextV2Config(**stages, **LABELS)), "convnext"),
        "vit": (ViTForImageClassification(ViTConfig(**VISION, **LABELS)), "vit"),
        "siglip": (
            SiglipForImageClassification(SiglipConfig(vision_config=VISION, text_config=TEXT, **LABELS)),
            "siglip",
        ),
    }
    expected = {}
    for name, (model, processor) in classifiers.items():
        spread(model)
        save(root / name, model, processor)
        with torch.no_grad():
            expected[name] = model.eval()(pixel_values=pixels(root / name, photos)).logits.numpy()
    duals = {
        "siglip_dual": (SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT)), "siglip"),
        "clip_dual": (CLIPModel(CLIPConfig(vision_config=VISION, text_config=TEXT)), "clip"),
    }
    for name, (model, processor) in duals.items():
        spread(model)
        save(root / name, model, processor)
        tokenizer().save_pretrained(root / name)
        expected[name] = dual_logits(root / name, model.eval(), photos)
    np.savez(root / "expected.npz", **expected)


def dual_logits(folder: Path, model: torch.nn.Module, photos: list[Image.Image]) -> np.ndarray:
    is_siglip = model.config.model_type == "siglip"
    tokens = tokenizer()(
        SENTENCES,
        return_tensors="pt",
        padding="max_length" if is_siglip else True,
        truncation=True,
        max_length=12,
    )
    mask = {} if is_siglip else {"attention_mask": tokens["attention_mask"]}
    with torch.no_grad():
        output = model(input_ids=tokens["input_ids"], pixel_values=pixels(folder, photos), **mask)
    return output.logits_per_image.numpy()


def tokenizer() -> PreTrainedTokenizerFast:
    words = ["[BOS]", "[EOS]", "[UNK]", "a", "photo", "of", "skin", *NAMES]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 0), ("[EOS]", 1)]
    )
    special = {"bos_token": "[BOS]", "eos_token": "[EOS]", "pad_token": "[EOS]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(tokenizer_object=raw, **special)


def spread(model: torch.nn.Module) -> None:
    """Random weights large enough that photographs differ in their logits."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.2)


def save(folder: Path, model: torch.nn.Module, processor: str) -> None:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[processor]))


def save_photos(folder: Path) -> list[Image.Image]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    photos = []
    for i in range(10):
        height, width = rng.integers(36, 80, 2)
        noise = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        photos.append(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
        photos[-1].save(folder / f"{i}.png")
    return photos


def pixels(folder: Path, photos: list[Image.Image]) -> torch.Tensor:
    return AutoImageProcessor.from_pretrained(folder)(images=photos, return_tensors="pt")["pixel_values"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
