"""Resizing on a GPU: what Pillow's resize does to a photograph, as two matrix products.

Each output pixel is a weighted sum of the input's rows and columns; the weights of an axis are a matrix
that depends on its two lengths alone. As Pillow does: the filter is widened by the scale, cut at the
edges and made to sum to one, columns come first, and both results are rounded to 8 bits. Sums are those
of the number format, so a value may lie one level off Pillow's (tests/test_score_resizing.py).
"""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from ddeval.data.images import Preprocessing


def _triangle(x: Tensor) -> Tensor:
    return (1 - x).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    """Keys' filter with a = -1/2."""
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0))


FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (_cubic, 2),
}
"""Weight at a distance of x >= 0, and from where on it is zero."""
TURNS: dict[int, tuple[bool, tuple[int, ...]]] = {
    2: (False, (2,)),
    3: (False, (1, 2)),
    4: (False, (1,)),
    5: (True, ()),
    6: (True, (2,)),
    7: (True, (1, 2)),
    8: (True, (1,)),
}
"""EXIF orientation -> whether rows become columns, and the axes that are mirrored after that."""


def can_resize(p: Preprocessing) -> bool:
    """Whether `resized` gives what the backbone wants: a filter known here, and nothing to fill up."""
    return p.resample in FILTERS and p.edge >= p.size


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """(3, H, W) turned as its EXIF orientation says."""
    is_swapped, mirrored = TURNS.get(orientation, (False, ()))
    return (pixels.transpose(1, 2) if is_swapped else pixels).flip(mirrored)


def resized(pixels: Tensor, p: Preprocessing, *, dtype: torch.dtype) -> Tensor:
    """uint8 (3, H, W), upright, to the uint8 (3, S, S) of `ddeval.data.images.preprocess`.

    Parameters
    ----------
    dtype : torch.dtype
        Of weights and results; float16 holds pixels exactly, and its products sum in float32.
    """
    _, height, width = pixels.shape
    shape = p.resized_shape(height, width)
    down, across = (
        _weights(n, new, (new - p.size) // 2, p.size, p.resample, pixels.device, dtype)
        for n, new in zip((height, width), shape, strict=True)
    )
    columns = _rounded(pixels.to(dtype) @ across.T)  # (3, H, S)
    return _rounded(down @ columns).to(torch.uint8)


def _rounded(x: Tensor) -> Tensor:
    """To the 256 levels, halves up as Pillow does."""
    return x.clamp_(0, 255).add_(0.5).floor_()


@lru_cache(maxsize=64)  # of 4 MB each on the device for a photograph of 12 megapixels
def _weights(
    n: int, new: int, start: int, size: int, resample: str, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """(size, n): rows `start` and on of the matrix that resizes an axis of n pixels to `new`."""
    weight, reach = FILTERS[resample]
    scale = n / new
    wide = max(scale, 1.0)
    at = torch.arange(n, dtype=torch.float64, device=device)
    centre = ((torch.arange(start, start + size, dtype=torch.float64, device=device) + 0.5) * scale)[:, None]
    first = (centre - reach * wide + 0.5).trunc()
    last = (centre + reach * wide + 0.5).trunc()
    weights = weight(((at - centre + 0.5) / wide).abs())
    weights = torch.where((at >= first) & (at < last), weights, 0)
    return (weights / weights.sum(dim=1, keepdim=True)).to(dtype)
