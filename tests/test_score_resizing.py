"""Resizing by two matrix products is Pillow's resizing, to a level."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddeval.data.images import Preprocessing, preprocess
from ddeval.score.resizing import FILTERS, can_resize, resized, upright

SHAPES = [(448, 448), (449, 447), (97, 1000), (1000, 97), (1345, 1500), (2000, 1344), (120, 120), (20, 33)]
"""Shrunk, made larger; odd, even, very narrow, and halved, where sums end in one half."""


def noise(height, width, seed=0):
    """The worst there is: neighbours that have nothing in common, all levels, black and white."""
    return np.random.default_rng(seed).choice(
        np.array([0, 1, 127, 128, 254, 255], np.uint8), (height, width, 3)
    )


def photograph(height, width):
    """Soft blocks under grain."""
    rng = np.random.default_rng(1)
    blocks = Image.fromarray(rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3), dtype=np.uint8))
    soft = np.asarray(blocks.resize((width, height), Image.Resampling.BICUBIC))
    return (soft + rng.normal(0, 6, (height, width, 1))).clip(0, 255).astype(np.uint8)


def columns_first(pixels, p):
    """Pillow's own two steps. In one call it may take rows first; clipped in between, noise then differs."""
    height, width = p.resized_shape(*pixels.shape[:2])
    filter_ = Image.Resampling[p.resample.upper()]
    image = Image.fromarray(pixels).resize((width, pixels.shape[0]), filter_).resize((width, height), filter_)
    top, left = (height - p.size) // 2, (width - p.size) // 2
    return np.asarray(image)[top : top + p.size, left : left + p.size].transpose(2, 0, 1)


def difference(pixels, expected, p, dtype):
    found = resized(torch.from_numpy(pixels).permute(2, 0, 1), p, dtype=dtype)
    assert (found.dtype, found.shape) == (torch.uint8, (3, p.size, p.size))
    return np.abs(found.numpy().astype(int) - expected)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("resize", ["squash", "shortest_edge"])
@pytest.mark.parametrize("edge", [60, 71])
def test_it_is_pillow_s_resize_of_columns_then_rows(shape, resample, resize, edge):
    p = Preprocessing(60, resize=resize, edge=edge, resample=resample)
    pixels = noise(*shape)
    error = difference(pixels, columns_first(pixels, p), p, torch.float32)
    assert error.max() <= 1
    assert (error > 0).mean() <= 0.02


@pytest.mark.parametrize("shape", [(400, 300), (300, 400), (900, 200), (190, 1000)])
@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_on_photographs_it_is_the_preprocessing_of_a_run_within_three_levels(shape, resample, dtype):
    """Where Pillow takes rows first (900 x 200), blocks of saturated colours differ by up to three."""
    p = Preprocessing(60, resample=resample)
    pixels = photograph(*shape)
    error = difference(pixels, preprocess(pixels, p), p, dtype)
    assert error.max() <= 3
    assert error.mean() <= 0.15


@pytest.mark.parametrize("level", [0, 1, 128, 254, 255])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_colour_stays_that_colour(level, dtype):
    pixels = torch.full((3, 333, 777), level, dtype=torch.uint8)
    assert (resized(pixels, Preprocessing(56), dtype=dtype) == level).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_turns_as_pillow_does(orientation):
    transpose = Image.Transpose
    turns = [None, None, transpose.FLIP_LEFT_RIGHT, transpose.ROTATE_180, transpose.FLIP_TOP_BOTTOM]
    turns += [transpose.TRANSPOSE, transpose.ROTATE_270, transpose.TRANSVERSE, transpose.ROTATE_90]
    image = Image.fromarray(noise(5, 7))
    turned = image if orientation == 1 else image.transpose(turns[orientation])
    found = upright(torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1), orientation)
    np.testing.assert_array_equal(found.permute(1, 2, 0).numpy(), np.asarray(turned))


@pytest.mark.parametrize("resample", ["nearest", "box", "hamming", "lanczos"])
def test_filters_that_no_backbone_here_asks_for_are_left_to_pillow(resample):
    assert not can_resize(Preprocessing(56, resample=resample))


def test_an_image_that_would_have_to_be_filled_up_is_left_to_pillow():
    assert can_resize(Preprocessing(56, resize="shortest_edge", edge=56))
    assert not can_resize(Preprocessing(56, resize="shortest_edge", edge=55))
