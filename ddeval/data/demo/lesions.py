"""Lesions: where the spots of a disease stand, and how each of them paints the skin.

A `Look` says in a few numbers what a clinician says in a few words: one or many, how large, in which
arrangement, with which edge, and what lies in it. `arrange` places the spots of a case once; `paint`
draws them into each of its photographs.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ddeval.data.demo.skin import SIZE, Canvas, Noise, Plane

Layout = Literal["one", "few", "scattered", "group", "band", "lines", "wide"]
Where = Literal["disc", "dome", "ring", "centre", "halo", "mottled", "flakes", "edge_flakes", "dots", "net"]


@dataclass(frozen=True)
class Paint:
    """One thing a spot consists of."""

    layer: str
    amount: float
    """Strength at its strongest point."""
    where: Where = "disc"


@dataclass(frozen=True)
class Look:
    """What a disease looks like. Lengths are shares of the width of a close-up."""

    layout: Layout
    count: tuple[int, int]
    """Fewest and most spots."""
    radius: tuple[float, float]
    paints: tuple[Paint, ...]
    softness: float = 0.25
    """Width of the edge as a share of the radius: 0.1 is sharp, 0.8 fades out."""
    ragged: float = 0.15
    """How far the edge strays from an ellipse, as a share of the radius."""
    stretch: tuple[float, float] = (1.0, 1.35)
    """Length over width."""


@dataclass(frozen=True)
class Spot:
    """One lesion in the coordinates of the skin; (0, 0) is the middle of a close-up."""

    x: float
    y: float
    radius: float
    stretch: float
    angle: float
    strength: float


def arrange(look: Look, rng: np.random.Generator) -> list[Spot]:
    """Places, sizes and strengths of the spots of one case."""
    n = int(rng.integers(look.count[0], look.count[1] + 1))
    centres = _centres(look.layout, n, rng)
    strength = rng.uniform(0.75, 1.2)
    return [
        Spot(
            x=float(x),
            y=float(y),
            radius=float(rng.uniform(*look.radius)),
            stretch=float(rng.uniform(*look.stretch)),
            angle=float(rng.uniform(0, np.pi)),
            strength=float(strength * rng.uniform(0.85, 1.15)),
        )
        for x, y in centres
    ]


def paint(
    canvas: Canvas,
    look: Look,
    spots: list[Spot],
    view: npt.NDArray[np.float64],
    noise: Noise,
    rng: np.random.Generator,
) -> None:
    """Draw `spots` as seen through `view`, a 2 x 3 map from skin to pixels."""
    pieces = {kind: noise.piece(kind, rng) for kind in ("fine", "middle")}
    inverse = np.asarray(np.linalg.inv(view[:, :2]), np.float64)
    zoom = float(np.sqrt(abs(np.linalg.det(view[:, :2]))))
    for spot in spots:
        middle = view @ (spot.x, spot.y, 1.0)
        reach = spot.radius * spot.stretch * zoom * (1.7 + look.softness)
        box = _window(middle, reach)
        if box is None:
            continue
        distance = _distance(spot, look, middle, inverse, box, pieces)
        for part in look.paints:
            held = canvas.layers[part.layer][box]
            added = part.amount * spot.strength * _shape(part.where, distance, look, pieces, box)
            if part.layer == "height":
                held += added * spot.radius * zoom * 0.17
            else:
                np.maximum(held, added, out=held)


def _centres(layout: Layout, n: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """(n, 2) places by the arrangement's name."""
    if layout == "one":
        return rng.normal(0, 0.04, size=(n, 2))
    if layout == "few":
        return _apart(rng.uniform(-0.38, 0.38, size=(6 * n, 2)), n, 0.24)
    if layout == "scattered":
        return _apart(rng.uniform(-0.75, 0.75, size=(6 * n, 2)), n, 0.09)
    if layout == "wide":
        return _apart(rng.uniform(-0.55, 0.55, size=(6 * n, 2)), n, 0.20)
    if layout == "group":
        return _apart(rng.normal(0, 0.13, size=(6 * n, 2)), n, 0.06)
    turn = rng.uniform(-0.5, 0.5)
    along = rng.uniform(-0.65, 0.65, size=n)
    if layout == "band":
        across = rng.normal(0, 0.09, size=n)
    else:
        across = rng.choice([-0.14, 0.0, 0.14], size=n) + rng.normal(0, 0.015, size=n)
    turned = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    places: npt.NDArray[np.float64] = np.stack([along, across], axis=1) @ turned
    return places


def _apart(offered: npt.NDArray[np.float64], n: int, gap: float) -> npt.NDArray[np.float64]:
    """The first n offered places, those too near to a place already taken coming last."""
    taken: list[int] = [0]
    for i in range(1, len(offered)):
        if len(taken) == n:
            break
        if np.hypot(*(offered[taken] - offered[i]).T).min() > gap:
            taken.append(i)
    spare = [i for i in range(len(offered)) if i not in taken]
    return offered[[*taken, *spare][:n]]


def _window(middle: npt.NDArray[np.float64], reach: float) -> tuple[slice, slice] | None:
    """Pixels a spot can touch; None where it lies outside the photograph."""
    low = np.clip(np.floor(middle - reach), 0, SIZE).astype(int)
    high = np.clip(np.ceil(middle + reach), 0, SIZE).astype(int)
    if (high - low < 2).any():
        return None
    return slice(low[1], high[1]), slice(low[0], high[0])


def _distance(
    spot: Spot,
    look: Look,
    middle: npt.NDArray[np.float64],
    inverse: npt.NDArray[np.float64],
    box: tuple[slice, slice],
    pieces: dict[str, Plane],
) -> Plane:
    """Distance of each pixel from the middle of the spot in radii: 1 is its edge."""
    rows, columns = box
    py = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] - np.float32(middle[1])
    px = np.arange(columns.start, columns.stop, dtype=np.float32)[None, :] - np.float32(middle[0])
    turned = np.array([[np.cos(spot.angle), np.sin(spot.angle)], [-np.sin(spot.angle), np.cos(spot.angle)]])
    root = np.sqrt(spot.stretch)
    to_spot = (np.diag([1 / root, root]) @ turned @ inverse / spot.radius).astype(np.float32)
    u = to_spot[0, 0] * px + to_spot[0, 1] * py
    v = to_spot[1, 0] * px + to_spot[1, 1] * py
    strays: Plane = np.float32(0.6 * look.ragged) * pieces["middle"][box]
    distance: Plane = np.sqrt(u * u + v * v) + strays
    return distance


def _shape(
    where: Where, distance: Plane, look: Look, pieces: dict[str, Plane], box: tuple[slice, slice]
) -> Plane:
    """Share of the amount at each pixel, 0 to 1."""
    disc: Plane = np.clip((1 - distance) / look.softness + 0.5, 0, 1)
    fine, middle = pieces["fine"][box], pieces["middle"][box]
    shape: Plane
    match where:
        case "disc":
            shape = disc
        case "dome":
            shape = np.sqrt(np.clip(1 - distance * distance, 0, 1))
        case "centre":
            shape = np.clip(1.6 - distance / 0.28, 0, 1)
        case "halo":
            shape = np.clip(1.7 - distance, 0, 1) ** 2
        case "ring":
            shape = disc * np.exp(-(((distance - 0.86) / 0.17) ** 2))
        case "edge_flakes":
            edge = np.exp(-(((distance - 0.82) / 0.15) ** 2))
            shape = edge * np.clip(0.6 + 0.4 * fine + 0.3 * middle, 0, 1)
        case "mottled":
            shape = disc * np.clip(0.55 + 0.5 * middle, 0, 1.4)
        case "flakes":
            shape = disc * np.clip(0.45 + 0.35 * fine + 0.40 * middle, 0, 1)
        case "dots":
            shape = disc * np.clip(4 * (fine - 1.15), 0, 1)
        case "net":  # fine lines where the noise crosses zero
            shape = disc * np.clip(1 - 4.5 * np.abs(middle), 0, 1)
    return shape
