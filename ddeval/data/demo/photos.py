"""Photographs of a case: the same lesions close, at an angle and from afar; and what is no skin at all."""

import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from ddeval.data.demo.cases import Case
from ddeval.data.demo.diseases import read_tables
from ddeval.data.demo.lesions import arrange, paint
from ddeval.data.demo.skin import SIZE, Canvas, Noise, Setting, photograph

LIMBS = frozenset({"upper arm", "elbow", "forearm", "hand", "thigh", "knee", "lower leg", "foot"})
HAIRY = {"scalp": 2.2, "chest": 0.5, "lower leg": 0.6, "thigh": 0.4, "forearm": 0.5, "back": 0.2,
         "upper arm": 0.25, "armpit": 0.7, "belly": 0.25, "face": 0.15, "neck": 0.15}  # fmt: skip
"""Strength of hair on a hairy man."""
VIEWS = ((0.92, 1.18, 1.0), (0.72, 0.95, 0.78), (0.45, 0.58, 0.95))
"""Close, at an angle, from a distance: lowest and highest zoom, and how far one axis is squashed."""


def photo_of(
    case: Case, photo: int, *, is_ungradable: bool, noise: Noise, seeds: tuple[int, int, int]
) -> Image.Image:
    """Photograph `photo` (0 is close) of a case.

    `seeds` are those of the data set, the case and the photograph; the lesions follow from the first two, so
    that they are the same in every photograph of the case.
    """
    lesions_rng = np.random.default_rng([*seeds[:2], 0])
    look = read_tables().diseases[case.looks_like].drawn()
    spots = arrange(look, lesions_rng)
    hairiness = float(lesions_rng.beta(1.2, 2.5) * (1.6 if case.patient.sex == "male" else 0.5))

    rng = np.random.default_rng([*seeds, 1])
    view = _view(photo, rng)
    zoom = math.sqrt(abs(np.linalg.det(view[:, :2]))) / SIZE
    site = case.sites[0]
    setting = Setting(
        skin_type=case.patient.skin_type,
        limb_width=1.45 * zoom if site in LIMBS else 0.0,
        angle=float(rng.uniform(-0.5, 0.5)),
        hair=hairiness * HAIRY.get(site, 0.0) * (case.patient.age > 14 or site == "scalp"),
        blur=int(rng.choice([0, 1, 2, 4], p=(0.35, 0.35, 0.22, 0.08))),
        exposure=float(rng.uniform(0.86, 1.10)),
    )
    canvas = Canvas()
    paint(canvas, look, spots, view, noise, rng)
    image = photograph(canvas, setting, noise, rng)
    return _spoilt(image, rng) if is_ungradable else image


def off_topic(rng: np.random.Generator) -> Image.Image:
    """Something a phone photographs by mistake: a letter, tiles, a cup, the inside of a pocket, a screen."""
    return (_letter, _tiles, _cup, _pocket, _screen)[rng.integers(5)](rng)


def near_copy(content: bytes, rng: np.random.Generator) -> bytes:
    """The same photograph sent again: cut a little, a little brighter or darker, compressed once more."""
    cut = rng.uniform(0.005, 0.03, size=4) * SIZE
    box = (cut[0], cut[1], SIZE - cut[2], SIZE - cut[3])
    again = Image.open(io.BytesIO(content)).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
    return to_jpeg(ImageEnhance.Brightness(again).enhance(float(rng.uniform(0.94, 1.06))), quality=72)


def to_jpeg(image: Image.Image, *, quality: int = 90) -> bytes:
    """The bytes of a JPEG file."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _view(photo: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Map from skin to pixels, (2, 3)."""
    low, high, squash = VIEWS[photo]
    zoom, turn = rng.uniform(low, high) * SIZE, rng.uniform(-0.5, 0.5)
    turned = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    middle = SIZE / 2 + rng.normal(0, 0.04 * SIZE, size=2)
    return np.column_stack([zoom * np.diag([1.0, squash]) @ turned, middle])


def _spoilt(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Too blurred or too dark to tell anything."""
    if rng.random() < 0.6:
        return image.filter(ImageFilter.GaussianBlur(float(rng.uniform(9, 13))))
    return ImageEnhance.Brightness(image).enhance(float(rng.uniform(0.06, 0.12)))


def _letter(rng: np.random.Generator) -> Image.Image:
    paper = int(rng.integers(205, 245))
    image = Image.new("RGB", (SIZE, SIZE), (paper, paper - 3, paper - 12))
    pen = ImageDraw.Draw(image)
    line = int(rng.integers(7, 14))
    for y in range(int(rng.integers(4, 40)), SIZE - 8, line):
        x = 10.0
        while x < rng.uniform(70, SIZE - 12):
            word = rng.uniform(5, 20)
            pen.rectangle([x, y, x + word, y + line // 3], fill=(70, 72, 80))
            x += word + 4
    return _snapped(image, rng)


def _tiles(rng: np.random.Generator) -> Image.Image:
    tone, side = rng.integers(140, 215), int(rng.integers(24, 46))
    image = Image.new("RGB", (SIZE, SIZE), (int(tone) - 50,) * 3)
    pen = ImageDraw.Draw(image)
    warm = int(rng.integers(-4, 26))
    for x in range(-int(rng.integers(side)), SIZE, side):
        for y in range(-int(rng.integers(side)), SIZE, side):
            shade = int(tone + rng.normal(0, 7))
            pen.rectangle([x, y, x + side - 3, y + side - 3], fill=(shade, shade - warm // 3, shade - warm))
    return _snapped(image, rng)


def _cup(rng: np.random.Generator) -> Image.Image:
    table: Any = tuple(int(c) for c in np.array([146, 104, 70]) * rng.uniform(0.5, 1.5))
    colour: Any = tuple(int(c) for c in rng.integers(40, 220, size=3))
    image = Image.new("RGB", (SIZE, SIZE), table)
    pen = ImageDraw.Draw(image)
    x, y, wide, high = (int(v) for v in rng.uniform([12, 16, 44, 44], [36, 34, 70, 76]))
    right, low = x + wide, y + high
    pen.ellipse([right - 10, y + high // 5, right + 20, low - high // 5], outline=colour, width=7)
    pen.rectangle([x, y + 8, right, low], fill=colour)
    pen.ellipse([x, low - 12, right, low + 12], fill=colour)
    pen.ellipse([x, y - 4, right, y + 20], fill=tuple(min(255, c + 30) for c in colour))
    pen.ellipse([x + 5, y, right - 5, y + 16], fill=(58, 36, 24))
    return _snapped(image, rng)


def _pocket(rng: np.random.Generator) -> Image.Image:
    """Nearly black, with a little light from one side."""
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE - rng.uniform(-0.3, 1.3, size=2)[:, None, None]
    glow = np.exp(-(x**2 + y**2) / rng.uniform(0.02, 0.25))[..., None] * rng.uniform(20, 120, size=3)
    return _snapped(Image.fromarray(np.clip(glow + 6, 0, 255).astype(np.uint8)), rng)


def _screen(rng: np.random.Generator) -> Image.Image:
    image = Image.new("RGB", (SIZE, SIZE), (24, 26, 32))
    pen = ImageDraw.Draw(image)
    for row in range(4):
        for column in range(4):
            colour: Any = tuple(int(c) for c in rng.integers(60, 240, size=3))
            pen.rounded_rectangle(
                [10 + 29 * column, 12 + 29 * row, 31 + 29 * column, 33 + 29 * row], 5, fill=colour
            )
    return _snapped(image, rng)


def _snapped(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Held askew, a little soft, with the grain of a phone."""
    turned = image.rotate(
        float(rng.uniform(-14, 14)), Image.Resampling.BICUBIC, fillcolor=image.getpixel((2, 2))
    )
    soft = np.asarray(turned.filter(ImageFilter.GaussianBlur(0.7)), np.float32)
    return Image.fromarray(np.clip(soft + rng.normal(0, 3, size=soft.shape), 0, 255).astype(np.uint8))
