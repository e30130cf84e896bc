"""Preprocessing equals the Hugging Face processors: bit for bit on PIL, within 2/255 on torchvision."""

import importlib
import importlib.util

import numpy as np
import pytest
from PIL import Image

from ddeval.data.images import Preprocessing, preprocess
from ddeval.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ddeval.errors import ImageError, InputError

SHAPES = [(300, 400), (400, 300), (224, 224), (97, 61), (450, 600), (33, 500), (385, 384), (1, 1)]
PROCESSORS = {
    # as in the preprocessor_config.json of the hub's google/siglip, openai/clip, microsoft/resnet-50,
    # facebook/convnextv2 and google/vit repositories
    "siglip": {"image_processor_type": "SiglipImageProcessor", "size": {"height": 64, "width": 64}},
    "siglip-448": {
        "image_processor_type": "SiglipImageProcessor",
        "size": {"height": 448, "width": 448},
        "resample": 2,
    },
    "clip": {
        "feature_extractor_type": "CLIPFeatureExtractor",
        "size": 224,
        "crop_size": 224,
        "do_center_crop": True,
        "resample": 3,
    },
    "resnet50": {
        "feature_extractor_type": "ConvNextFeatureExtractor",
        "crop_pct": 0.875,
        "size": 224,
        "resample": 3,
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    },
    "convnextv2": {
        "image_processor_type": "ConvNextImageProcessor",
        "crop_pct": 0.95,
        "size": {"shortest_edge": 224},
        "image_mean": list(IMAGENET_MEAN),
        "image_std": list(IMAGENET_STD),
    },
    "convnextv2-384": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    "convnext-odd": {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 63}},
    "vit": {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}},
    "vit-old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 192, "resample": 3},
    "deit": {"image_processor_type": "DeiTImageProcessor", "size": 248, "crop_size": 224},
    "bit": {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 101}, "crop_size": 128},
}
# where an odd number of rows is to be padded, the two kinds of processor disagree on which side: 101 to 128
ON_TORCHVISION = PROCESSORS | {"bit": PROCESSORS["bit"] | {"size": {"shortest_edge": 100}}}
MODULES = {
    "Siglip": "siglip",
    "CLIP": "clip",
    "ConvNext": "convnext",
    "ViT": "vit",
    "DeiT": "deit",
    "Bit": "bit",
}


def photograph(shape, seed=0):
    """Smooth waves and a sharp edge, so that every filter shows."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width]
    waves = [127 + 120 * np.sin(x / (7 + 3 * c) + y / (5 + 2 * c) + seed) for c in range(3)]
    pixels = np.stack(waves, axis=-1)
    pixels[: height // 3, : width // 2] = 255 - pixels[: height // 3, : width // 2]
    return pixels.astype(np.uint8)


def hugging_face_processor(config, *, backend="Pil"):
    """The real class, loaded from its own module: "Pil" runs on Pillow, "" on torchvision."""
    family = next(
        f
        for f in MODULES
        if (config.get("image_processor_type") or config["feature_extractor_type"]).startswith(f)
    )
    name = MODULES[family]
    suffix = "pil_" if backend else ""
    module = importlib.import_module(f"transformers.models.{name}.image_processing_{suffix}{name}")
    kwargs = {k: v for k, v in config.items() if not k.endswith("_type")}
    return getattr(module, f"{family}ImageProcessor{backend}")(**kwargs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", PROCESSORS)
def test_pixels_equal_the_pil_backed_hugging_face_processor_exactly(name, shape):
    """Before mean and std: the processor is asked neither to rescale nor to normalise."""
    config = PROCESSORS[name]
    image = photograph(shape)
    expected = hugging_face_processor(config)(
        Image.fromarray(image), do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"][0]
    found = preprocess(image, Preprocessing.from_processor_config(config))
    assert found.dtype == np.uint8
    assert found.flags["C_CONTIGUOUS"]
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("name", PROCESSORS)
def test_rescale_mean_and_std_are_the_processors(name):
    config = PROCESSORS[name]
    p = Preprocessing.from_processor_config(config)
    image = photograph((90, 120))
    expected = hugging_face_processor(config)(Image.fromarray(image), return_tensors="np")["pixel_values"][0]
    mean, std = np.array(p.mean)[:, None, None], np.array(p.std)[:, None, None]
    np.testing.assert_allclose((preprocess(image, p) * p.rescale - mean) / std, expected, atol=1e-5)


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("name", ON_TORCHVISION)
def test_pixels_are_within_two_levels_of_the_torchvision_backed_processor(name):
    config = ON_TORCHVISION[name]
    image = photograph((300, 400))
    expected = hugging_face_processor(config, backend="")(
        Image.fromarray(image), do_rescale=False, do_normalize=False, return_tensors="np"
    )["pixel_values"][0]
    found = preprocess(image, Preprocessing.from_processor_config(config))
    assert np.abs(found.astype(float) - np.asarray(expected, dtype=float)).max() <= 2


@pytest.mark.parametrize(("norm", "name"), [("siglip", "siglip"), ("imagenet", "resnet50")])
def test_the_configured_norm_is_that_of_the_hub_processor(norm, name):
    from_hub = Preprocessing.from_processor_config(PROCESSORS[name])
    assert Preprocessing.for_norm(norm, from_hub.size) == from_hub


def test_imagenet_norm_squashes_from_384_px():
    """ConvNeXt is evaluated on the whole image from 384 px, on the middle 7/8 below."""
    assert Preprocessing.for_norm("imagenet", 384).resize == "squash"
    assert Preprocessing.for_norm("imagenet", 383).edge == 437  # int(383 / .875)


def test_the_nested_processor_config_of_newer_files_is_understood():
    nested = {"processor_class": "SiglipProcessor", "image_processor": PROCESSORS["siglip"]}
    assert Preprocessing.from_processor_config(nested) == Preprocessing.for_norm("siglip", 64)


def test_fast_and_pil_class_names_mean_the_same_steps():
    config = PROCESSORS["siglip"]
    fast = config | {"image_processor_type": "SiglipImageProcessorFast"}
    assert Preprocessing.from_processor_config(fast) == Preprocessing.from_processor_config(config)


def test_switched_off_steps_become_neutral_numbers():
    config = PROCESSORS["siglip"] | {"do_rescale": False, "do_normalize": False}
    p = Preprocessing.from_processor_config(config)
    assert (p.rescale, p.mean, p.std) == (1.0, (0.0,) * 3, (1.0,) * 3)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"height": 64, "width": 32}},
        {"do_resize": False},
        {"size": {"shortest_edge": 64}},
        {"size": {"shortest_edge": 64, "longest_edge": 99}, "do_center_crop": True},
        {"do_pad": True},
    ],
)
def test_steps_without_one_square_size_are_refused(change):
    with pytest.raises(InputError, match="do not end in a square image"):
        Preprocessing.from_processor_config(PROCESSORS["siglip"] | change)


def test_an_unknown_processor_is_named_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"'Siglip2ImageProcessor'; expected one of SiglipImageProcessor, CLIP"
    ):
        Preprocessing.from_processor_config({"image_processor_type": "Siglip2ImageProcessor"})


@pytest.mark.parametrize("name", PROCESSORS)
def test_a_dictionary_and_back_is_the_same_preprocessing(name):
    p = Preprocessing.from_processor_config(PROCESSORS[name])
    assert Preprocessing.from_dict(p.to_dict()) == p


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"size": 64, "meen": [0.5]}, "has no 'meen'"),
        ({"size": 0}, "must be positive"),
        ({"size": 64, "resize": "stretch"}, "squash or shortest_edge"),
        ({"size": 64, "resample": "cubic"}, "resample must be one of"),
        ({"size": 64, "std": [0.5, 0.5, 0.0]}, "std positive"),
        ({"size": 64, "mean": [0.5]}, "three numbers"),
    ],
)
def test_a_wrong_dictionary_is_refused_by_name(value, says):
    with pytest.raises(ValueError, match=says):
        Preprocessing.from_dict(value)


def test_a_needle_is_refused_before_it_grows():
    """1 x 5000 with the shorter side to 256 would be 256 x 1,280,000 = 328 megapixels."""
    p = Preprocessing.for_norm("imagenet", 224)
    with pytest.raises(ImageError, match="5000 x 1 px would be resized to 1280000 x 256"):
        preprocess(np.zeros((1, 5000, 3), np.uint8), p)
    assert preprocess(np.zeros((1, 5000, 3), np.uint8), Preprocessing(64)).shape == (3, 64, 64)
