"""Augmentation: each image of a batch changed at random, on the device it is on.

Steps are those of the config's `augment:` list, in its order. Pixels are float (B, 3, S, S) in [0, 1],
before mean and standard deviation. Every draw comes from the generator that is passed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional

from ddeval.config import ColourJitter, Erase, Flip, Mixup, RandomResizedCrop, Rotate90, Section

GREY = (0.299, 0.587, 0.114)
"""Luma of red, green and blue (ITU-R BT.601)."""


def augment(
    pixels: Tensor, targets: Tensor, steps: Sequence[Section], *, generator: Generator
) -> tuple[Tensor, Tensor]:
    """The batch after every step: pixels (B, 3, S, S) in [0, 1] and targets (B, K).

    Only mixup changes the targets.
    """
    for step in steps:
        match step:
            case Flip():
                pixels = flip(pixels, step.kind, generator=generator)
            case Rotate90():
                pixels = rotate90(pixels, generator=generator)
            case RandomResizedCrop():
                pixels = random_resized_crop(pixels, step, generator=generator)
            case ColourJitter():
                pixels = colour_jitter(pixels, step, generator=generator)
            case Erase():
                pixels = erase(pixels, step, generator=generator)
            case Mixup():
                pixels, targets = mixup(pixels, targets, step.alpha, generator=generator)
            case _:
                raise TypeError(f"no such augmentation: {step!r}")
    return pixels, targets


def flip(pixels: Tensor, kind: str, *, generator: Generator) -> Tensor:
    """Mirror each image with probability 1/2."""
    chosen = _uniform(pixels, generator) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), pixels.flip(3 if kind == "hflip" else 2), pixels)


def rotate90(pixels: Tensor, *, generator: Generator) -> Tensor:
    """Turn each image by 0, 1, 2 or 3 quarters, equally often."""
    quarters = torch.randint(4, (len(pixels),), generator=generator, device=pixels.device)
    turned = pixels.clone()
    for k in (1, 2, 3):
        chosen = quarters == k
        turned[chosen] = torch.rot90(pixels[chosen], k, (2, 3))
    return turned


def random_resized_crop(pixels: Tensor, step: RandomResizedCrop, *, generator: Generator) -> Tensor:
    """A random part of each image, turned, at the size of the whole; beyond the edge it is mirrored.

    The part's area is uniform in `scale`, its ratio log-uniform in `ratio`, and its place uniform among
    those inside the image.
    """
    area = _uniform(pixels, generator, *step.scale)
    ratio = _uniform(pixels, generator, *np.log(step.ratio)).exp()
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    x = _uniform(pixels, generator, -1, 1) * (1 - width)
    y = _uniform(pixels, generator, -1, 1) * (1 - height)
    angle = torch.deg2rad(_uniform(pixels, generator, -step.degrees, step.degrees))
    cos, sin = angle.cos(), angle.sin()
    rows = [torch.stack([width * cos, -height * sin, x], 1), torch.stack([width * sin, height * cos, y], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    return functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )


def colour_jitter(pixels: Tensor, step: ColourJitter, *, generator: Generator) -> Tensor:
    """Brightness, then contrast about the image's mean grey, then saturation, then a tint a channel."""
    grey = torch.tensor(GREY, device=pixels.device, dtype=pixels.dtype).view(1, 3, 1, 1)
    brightness, contrast, saturation = (
        _uniform(pixels, generator, 1 - amount, 1 + amount).view(-1, 1, 1, 1)
        for amount in (step.brightness, step.contrast, step.saturation)
    )
    pixels = pixels * brightness
    mean = (pixels * grey).sum(1, keepdim=True).mean((2, 3), keepdim=True)
    pixels = mean + (pixels - mean) * contrast
    luma = (pixels * grey).sum(1, keepdim=True)
    pixels = luma + (pixels - luma) * saturation
    if step.tint:
        tint = torch.rand(len(pixels), 3, 1, 1, generator=generator, device=pixels.device)
        pixels = pixels * (1 + step.tint * (2 * tint - 1))
    return pixels.clamp(0, 1)


def erase(pixels: Tensor, step: Erase, *, generator: Generator) -> Tensor:
    """In `share` of the images, a square of up to `scale` of the area takes the image's mean colour."""
    chosen = _uniform(pixels, generator) < step.share
    half = _uniform(pixels, generator, 0, step.scale).sqrt() / 2  # of the side
    x, y = _uniform(pixels, generator), _uniform(pixels, generator)
    size = pixels.shape[-1]
    centres = (torch.arange(size, device=pixels.device) + 0.5) / size
    across = (centres - x[:, None]).abs() < half[:, None]  # (B, S)
    down = (centres - y[:, None]).abs() < half[:, None]
    inside = (down[:, :, None] & across[:, None, :] & chosen[:, None, None])[:, None]  # (B, 1, S, S)
    return torch.where(inside, pixels.mean((2, 3), keepdim=True), pixels)


def mixup(pixels: Tensor, targets: Tensor, alpha: float, *, generator: Generator) -> tuple[Tensor, Tensor]:
    """Each image and target blended with another of the batch, the first keeping the larger share.

    References
    ----------
    Zhang et al. (2018), mixup, arXiv:1710.09412.
    """
    share = _beta(len(pixels), alpha, generator).to(pixels)
    share = torch.maximum(share, 1 - share)
    partner = torch.randperm(len(pixels), generator=generator, device=pixels.device)
    wide = share.view(-1, 1, 1, 1)
    mixed = wide * pixels + (1 - wide) * pixels[partner]
    return mixed, share[:, None] * targets + (1 - share[:, None]) * targets[partner]


def _uniform(pixels: Tensor, generator: Generator, low: float = 0.0, high: float = 1.0) -> Tensor:
    """One number an image (B,)."""
    return low + (high - low) * torch.rand(len(pixels), generator=generator, device=pixels.device)


def _beta(n: int, alpha: float, generator: Generator) -> Tensor:
    """Beta(alpha, alpha) draws (n,): torch has no generator argument for them, numpy has."""
    seed = int(torch.randint(2**31, (1,), generator=generator, device=generator.device).item())
    return torch.from_numpy(np.random.default_rng(seed).beta(alpha, alpha, n))
