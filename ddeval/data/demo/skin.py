"""Drawn skin: layers of what lies in and on it, and the light that turns them into a photograph.

A lesion paints into the layers of a `Canvas` (blood, melanin, scale, height ...); `photograph` adds the
skin under it, absorbs light through the layers and shades their relief. Pigments absorb by multiplying,
so the same redness looks pink on skin type I and maroon on skin type VI, as it does on people.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

Plane = npt.NDArray[np.float32]

SIZE = 128
"""Side of a photograph in pixels."""
TILE = 512
"""Side of a noise tile; a photograph uses a random piece of it."""

TONES = {"I": (247, 216, 200), "II": (236, 199, 175), "III": (218, 174, 143), "IV": (184, 135, 101),
         "V": (134, 91, 66), "VI": (90, 60, 47)}  # fmt: skip
"""sRGB of the six skin types in even light."""

ABSORBED = {"blood": (0.06, 0.80, 0.66), "melanin": (0.60, 0.92, 1.15), "violet": (0.45, 0.75, 0.32),
            "dark": (1.5, 1.45, 1.35)}  # fmt: skip
"""How strongly each pigment takes red, green and blue away, per unit of the layer."""
COVERS = {"pale": (0.97, 0.90, 0.85), "pus": (0.96, 0.90, 0.66), "crust": (0.82, 0.60, 0.24),
          "scab": (0.33, 0.13, 0.09), "scale": (0.95, 0.93, 0.90)}  # fmt: skip
"""Colour of what covers the skin, from below to above; the layer is its opacity."""
LAYERS = (*ABSORBED, *COVERS, "height", "gloss")


@dataclass(frozen=True)
class Noise:
    """Tiles of noise with mean 0 and standard deviation 1, made once a data set."""

    fine: Plane
    """Grain of a pixel or two: scale, pores."""
    middle: Plane
    """Blotches of a tenth of a photograph: ragged edges, mottling."""
    coarse: Plane
    """Uneven light and complexion."""
    lines: Plane
    """The criss-cross of skin."""

    def piece(self, kind: str, rng: np.random.Generator) -> Plane:
        """A random piece of a tile, (SIZE, SIZE)."""
        y, x = rng.integers(0, TILE - SIZE, size=2)
        piece: Plane = getattr(self, kind)[y : y + SIZE, x : x + SIZE]
        return piece[::-1] if rng.random() < 0.5 else piece


@dataclass
class Canvas:
    """Layers that lesions paint into, all (SIZE, SIZE) and 0 where there is only skin."""

    layers: dict[str, Plane] = field(
        default_factory=lambda: {name: np.zeros((SIZE, SIZE), np.float32) for name in LAYERS}
    )


@dataclass(frozen=True)
class Setting:
    """What surrounds the lesions in one photograph."""

    skin_type: str
    limb_width: float
    """Width of the arm or leg in photographs; 0 where skin fills the frame."""
    angle: float
    """Direction of the limb, in radians."""
    hair: float
    """How hairy, 0 to 1."""
    blur: int
    """Passes of a small blur."""
    exposure: float
    """Brightness, 1 is even."""


def make_noise(rng: np.random.Generator) -> Noise:
    """Noise tiles by filtering white noise in the frequency domain."""
    fy, fx = np.meshgrid(np.fft.fftfreq(TILE), np.fft.rfftfreq(TILE), indexing="ij")
    radius = np.hypot(fy, fx) + 1e-6
    direction = np.arctan2(fy, fx)
    crossed = sum(np.exp(-(((direction - a) / 0.35) ** 2)) for a in (0.9, -0.7))
    return Noise(
        fine=_filtered(np.exp(-((radius / 0.22) ** 2)) * radius**0.3, rng),
        middle=_filtered(np.exp(-((radius / 0.06) ** 2)) / (0.012 + radius), rng),
        coarse=_filtered(np.exp(-((radius / 0.012) ** 2)), rng),
        lines=_filtered(crossed * np.exp(-(((radius - 0.14) / 0.06) ** 2)), rng),
    )


def photograph(canvas: Canvas, setting: Setting, noise: Noise, rng: np.random.Generator) -> Image.Image:
    """The canvas as an RGB photograph of SIZE x SIZE."""
    used = {name: layer for name, layer in canvas.layers.items() if layer.any()}
    colour = _skin(setting, noise, rng)  # (3, SIZE, SIZE), as every colour here
    absorbed = np.zeros_like(colour)
    for name in ABSORBED.keys() & used.keys():
        absorbed += _rgb(ABSORBED[name]) * used[name]
    colour *= np.exp(-absorbed)
    for name in [name for name in COVERS if name in used]:
        colour += np.clip(used[name], 0, 1) * (_rgb(COVERS[name]) - colour)
    _light(colour, canvas, noise, rng)
    if setting.hair > 0:
        colour *= 1 - _hair(setting, rng)
    _shape_body(colour, setting, noise, rng)
    for _ in range(setting.blur):
        _soften(colour)
    colour += rng.normal(0, 0.008, size=(SIZE, SIZE)).astype(np.float32)  # grain of the sensor
    pixels = np.clip(colour * np.float32(255 * setting.exposure), 0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0)))


def _rgb(colour: tuple[float, float, float]) -> Plane:
    """A colour that multiplies planes: (3, 1, 1)."""
    return np.array(colour, np.float32)[:, None, None]


def _skin(setting: Setting, noise: Noise, rng: np.random.Generator) -> Plane:
    """Bare skin: the tone of its type, a person's own shade, blotches, pores."""
    tone = _rgb(TONES[setting.skin_type]) / 255
    tone = tone * np.exp(rng.normal(0, 0.05) * _rgb((0.6, 1.0, 1.2)))
    blotches = 0.022 * noise.piece("coarse", rng) + 0.014 * noise.piece("middle", rng)
    pores = 0.016 * noise.piece("fine", rng)
    skin: Plane = tone * (1 + blotches * _rgb((0.3, 1.0, 0.9)) + pores)  # blotches are blood, mostly
    return skin


def _light(colour: Plane, canvas: Canvas, noise: Noise, rng: np.random.Generator) -> None:
    """Shade the relief by light from above, and add the shine of wet and tight skin."""
    relief = canvas.layers["height"] + np.float32(0.010) * noise.piece("lines", rng)
    angle = rng.uniform(-2.4, -0.7)
    facing = np.zeros((SIZE, SIZE), np.float32)
    facing[:, 1:-1] = (relief[:, 2:] - relief[:, :-2]) * np.float32(np.cos(angle) / 2)
    facing[1:-1] += (relief[2:] - relief[:-2]) * np.float32(np.sin(angle) / 2)
    colour *= np.clip(1 - 1.6 * facing, 0.62, 1.30)
    shine = canvas.layers["gloss"] * np.clip(-2.6 * facing - 0.10, 0, 1) ** 2 * 3
    colour += np.clip(shine, 0, 0.7)


def _shape_body(colour: Plane, setting: Setting, noise: Noise, rng: np.random.Generator) -> None:
    """Roundness of the body part, the cloth behind a limb, uneven and coloured light."""
    steps = ((np.arange(SIZE) + 0.5) / SIZE - 0.5).astype(np.float32)
    x, y = steps[None, :], steps[:, None]
    if setting.limb_width:
        across = (x * np.sin(setting.angle) + y * np.cos(setting.angle) + rng.uniform(-0.05, 0.05)) * 2
        across = np.abs(across / setting.limb_width + 0.03 * noise.piece("coarse", rng)).astype(np.float32)
        inside = np.clip((1 - across) * np.float32(SIZE * setting.limb_width / 3), 0, 1)
        weave = 1 + 0.03 * noise.piece("fine", rng) + 0.10 * noise.piece("coarse", rng)
        weave *= 1 - 0.35 * np.exp(-6 * np.clip(across - 1, 0, None))  # the shadow the limb throws
        colour *= 0.5 + 0.5 * np.sqrt(np.clip(1 - across**2, 0, 1))
        colour += (1 - inside) * (_rgb(CLOTHS[rng.integers(len(CLOTHS))]) / 255 * weave - colour)
    fall = rng.normal(0, 0.10) * x + rng.normal(0, 0.10) * y - 0.30 * (x * x + y * y)
    colour *= np.exp(fall).astype(np.float32)
    colour *= np.exp(rng.normal(0, 0.018, size=(3, 1, 1))).astype(np.float32)


CLOTHS = ((94, 112, 138), (150, 152, 156), (196, 190, 178), (88, 120, 108), (64, 68, 82), (168, 140, 128))
"""sRGB of what lies behind a limb."""


def _soften(colour: Plane) -> None:
    """One pass of a small blur: every pixel takes a fifth from its four neighbours, in place."""
    colour[:, 1:-1] += 0.2 * (colour[:, 2:] + colour[:, :-2] - 2 * colour[:, 1:-1])
    colour[:, :, 1:-1] += 0.2 * (colour[:, :, 2:] + colour[:, :, :-2] - 2 * colour[:, :, 1:-1])


def _hair(setting: Setting, rng: np.random.Generator) -> Plane:
    """Opacity of fine dark strokes along one direction, drawn at twice the size so that they are thin."""
    mask = Image.new("L", (2 * SIZE, 2 * SIZE))
    pen = ImageDraw.Draw(mask)
    n = int(setting.hair * 60)
    starts = rng.uniform(0, 2 * SIZE, size=(n, 2))
    turns = setting.angle + rng.normal(0, 0.3) + rng.normal(0, 0.25, size=n)
    bends, halves = rng.normal(0, 0.25, size=n), rng.uniform(7, 23, size=n)
    for (x, y), turn, bend, half in zip(starts.tolist(), turns, bends, halves, strict=True):
        middle = (x + math.cos(turn) * half, y + math.sin(turn) * half)
        end = (middle[0] + math.cos(turn + bend) * half, middle[1] + math.sin(turn + bend) * half)
        pen.line([(x, y), middle, end], fill=120, width=1)
    return np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / np.float32(255)


def _filtered(gain: npt.NDArray[np.float64], rng: np.random.Generator) -> Plane:
    spectrum = np.fft.rfft2(rng.normal(size=(TILE, TILE))) * gain
    spectrum[0, 0] = 0
    tile = np.fft.irfft2(spectrum, s=(TILE, TILE))
    return np.asarray(tile / tile.std(), np.float32)
