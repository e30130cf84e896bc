"""Preprocessing: how does a backbone want its image?

`Preprocessing` states it, `preprocess` resizes and cuts uint8 to uint8; mean and standard deviation
are applied later, on the device. Decoding files is `ddeval.data.images`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
from PIL import Image

from ddeval.errors import ImageError, InputError

Pixels = npt.NDArray[np.uint8]
Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]

MAX_PIXELS = 50_000_000
"""No image has more, before or after resizing."""

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preprocessing:
    """How a backbone wants its image: resize to `edge`, cut the middle `size`, then x * rescale, -mean, /std.

    `resize` is "squash" (to edge x edge, the shape lost) or "shortest_edge" (shape kept, shorter side
    to `edge`). Where `edge` equals `size` a squashed image is not cut.
    """

    size: int
    """Side S of the square given to the model."""
    resize: Literal["squash", "shortest_edge"] = "squash"
    edge: int = 0
    """Side after resizing; 0 means `size`."""
    resample: Resample = "bicubic"
    rescale: float = 1 / 255
    mean: tuple[float, ...] = HALF
    std: tuple[float, ...] = HALF

    def __post_init__(self) -> None:
        object.__setattr__(self, "edge", self.edge or self.size)
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))
        if self.size < 1 or self.edge < 1:
            raise ValueError(f"size and edge must be positive, got {self.size} and {self.edge}")
        if self.resize not in ("squash", "shortest_edge"):
            raise ValueError(f"resize must be squash or shortest_edge, got {self.resize!r}")
        if self.resample.upper() not in Image.Resampling.__members__:
            raise ValueError(f"resample must be one of {Resample}, got {self.resample!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or not min(self.std) > 0:
            raise ValueError(f"mean and std must be three numbers, std positive; got {self.mean}, {self.std}")

    @classmethod
    def for_norm(cls, image_norm: Literal["siglip", "imagenet"], size: int) -> Self:
        """The defaults of a family by its configured `image_norm`.

        siglip squashes and normalises by one half; imagenet does as ResNet and ConvNeXt-V2 of the
        Hugging Face hub do: below 384 px the middle 7/8, from 384 px the whole image squashed.
        """
        if image_norm == "siglip":
            return cls(size)
        if image_norm == "imagenet":
            return cls._convnext(size, 224 / 256, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        raise ValueError(f"image_norm must be siglip or imagenet, got {image_norm!r}")

    @classmethod
    def from_processor_config(
        cls, config: Mapping[str, Any], *, where: str = "preprocessor_config.json"
    ) -> Self:
        """What a Hugging Face `preprocessor_config.json` says (siglip, clip, bit, convnext, vit, deit).

        Keys the file leaves out take the defaults of the processor's class. Raises an InputError for
        a processor whose steps are not known here, or a file that gives no square image.
        """
        config = config.get("image_processor", config)
        name = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
        family = name
        for ending in ("Fast", "Pil", "ImageProcessor", "FeatureExtractor"):
            family = family.removesuffix(ending)
        if family not in _FAMILIES:
            raise InputError(
                where,
                f"the image processor {name!r}",
                expected=f"one of {', '.join(f + 'ImageProcessor' for f in _FAMILIES)}",
                todo="State `preprocessing:` (size, resize, edge, resample, mean, std) in the config.",
            )
        given = _FAMILIES[family] | {k: v for k, v in config.items() if v is not None}
        norm: dict[str, Any] = {
            "rescale": float(given["rescale_factor"]) if given["do_rescale"] else 1.0,
            "mean": given["image_mean"] if given["do_normalize"] else (0.0, 0.0, 0.0),
            "std": given["image_std"] if given["do_normalize"] else (1.0, 1.0, 1.0),
            "resample": Image.Resampling(int(given["resample"])).name.lower(),
        }
        if given["do_resize"] and given.get("do_pad") is not True:
            resize, edge = _edge(given["size"], is_square=family in ("ViT", "DeiT"))
            if family == "ConvNext" and resize == "shortest_edge" and not given["do_center_crop"]:
                return cls._convnext(edge, float(given["crop_pct"]), **norm)
            cut = _edge(given["crop_size"], is_square=True) if given["do_center_crop"] else (resize, edge)
            if cut[0] == "squash" and edge and cut[1]:
                return cls(cut[1], resize=resize, edge=edge, **norm)
        raise InputError(
            where,
            "steps that do not end in a square image of one size",
            expected="size {height, width} equal, or shortest_edge with do_center_crop",
            todo="State `preprocessing:` (size, resize, edge, resample, mean, std) in the config.",
        )

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`. Raises a ValueError that names an unknown key."""
        unknown = sorted(set(value) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"preprocessing has no {unknown[0]!r}; it has {list(cls.__dataclass_fields__)}")
        return cls(**value)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after resizing, before it is cut."""
        if self.resize == "squash":
            return self.edge, self.edge
        long = int(self.edge * max(height, width) / min(height, width))
        return (long, self.edge) if width <= height else (self.edge, long)

    @classmethod
    def _convnext(cls, size: int, crop_pct: float, **norm: Any) -> Self:
        if size >= 384:  # from here ConvNeXt is evaluated on the whole image, squashed
            return cls(size, **norm)
        return cls(size, resize="shortest_edge", edge=int(size / crop_pct), **norm)


def preprocess(pixels: Pixels, p: Preprocessing) -> Pixels:
    """Resize and cut uint8 (H, W, 3) to uint8 (3, S, S), bit for bit as the Hugging Face processor on PIL.

    An image smaller than the cut is padded with black around its middle. Raises an ImageError where
    a very narrow image would grow past `MAX_PIXELS` (1 x 5000 with the shorter side to 256).
    """
    return preprocess_image(Image.fromarray(pixels), p)


def preprocess_image(image: Image.Image, p: Preprocessing) -> Pixels:
    """`preprocess` of an RGB image that is no array yet."""
    width, height = image.size
    new_height, new_width = p.resized_shape(height, width)
    if new_height * new_width > MAX_PIXELS:
        raise ImageError("too_large", f"{width} x {height} px would be resized to {new_width} x {new_height}")
    image = image.resize((new_width, new_height), Image.Resampling[p.resample.upper()])
    return np.ascontiguousarray(_cut(np.asarray(image), p.size).transpose(2, 0, 1))


def _cut(pixels: Pixels, size: int) -> Pixels:
    short = [max(size - n, 0) for n in pixels.shape[:2]]
    if any(short):  # the extra row of an odd difference goes on top, as in the processors
        pixels = np.pad(pixels, [((n + 1) // 2, n // 2) for n in short] + [(0, 0)])
    top, left = ((n - size) // 2 for n in pixels.shape[:2])
    return pixels[top : top + size, left : left + size]


_COMMON: dict[str, Any] = {
    "do_resize": True,
    "do_rescale": True,
    "do_normalize": True,
    "do_center_crop": False,
    "rescale_factor": 1 / 255,
    "resample": 3,
    "crop_size": {"height": 224, "width": 224},
    "image_mean": HALF,
    "image_std": HALF,
}
_SQUARE = {"size": {"height": 224, "width": 224}}
_CLIP = {"size": {"shortest_edge": 224}, "do_center_crop": True}
_CLIP |= {"image_mean": CLIP_MEAN, "image_std": CLIP_STD}
_DEIT = {"size": {"height": 256, "width": 256}, "do_center_crop": True}
_FAMILIES: dict[str, dict[str, Any]] = {
    "Siglip": _COMMON | _SQUARE,
    "CLIP": _COMMON | _CLIP,
    "Bit": _COMMON | _CLIP,
    "ConvNext": _COMMON | {"size": {"shortest_edge": 384}, "crop_pct": 224 / 256},
    "ViT": _COMMON | _SQUARE | {"resample": 2},
    "DeiT": _COMMON | _DEIT,
}


def _edge(size: Any, *, is_square: bool) -> tuple[Literal["squash", "shortest_edge"], int]:
    """How and to what a `size` entry resizes; 0 where height and width differ or neither is given."""
    if not isinstance(size, Mapping):  # older files hold a number or a pair
        size = {"shortest_edge": size} if not is_square else {"height": size, "width": size}
    if "shortest_edge" in size:
        return "shortest_edge", int(size["shortest_edge"]) if "longest_edge" not in size else 0
    return "squash", int(size["height"]) if size.get("height") == size.get("width", 0) else 0
