"""Hashes: file, pixels, picture."""

import itertools

import numpy as np
import pytest
from PIL import Image

from ddeval.data.hashes import near_pairs, perceptual_hash, pixel_sha256


def picture(seed, shape=(120, 160)):
    """A few smooth blobs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0 : shape[0], 0 : shape[1]] / max(shape)
    grey = sum(
        rng.normal() * np.exp(-((x - rng.random()) ** 2 + (y - rng.random()) ** 2) / 0.03) for _ in range(12)
    )
    grey = 255 * (grey - grey.min()) / np.ptp(grey)
    return np.stack([grey, grey * 0.8, grey * 0.6], axis=-1).astype(np.uint8)


def distance(a, b):
    return (perceptual_hash(a) ^ perceptual_hash(b)).bit_count()


def test_a_smaller_darker_or_recompressed_copy_is_near():
    image = picture(0)
    small = np.asarray(Image.fromarray(image).resize((97, 71)))
    darker = (image * 0.7).astype(np.uint8)
    noisy = np.clip(image + np.random.default_rng(0).normal(0, 6, image.shape), 0, 255).astype(np.uint8)
    assert max(distance(image, copy) for copy in (small, darker, noisy)) <= 4


def test_other_pictures_are_far():
    """63 bits that are fair coins differ in 31.5 of them, standard deviation 4."""
    pictures = [picture(seed) for seed in range(12)]
    distances = [distance(a, b) for a, b in itertools.combinations(pictures, 2)]
    assert min(distances) > 10
    assert 24 < np.mean(distances) < 38


def test_the_hash_fits_64_bits_and_a_flat_picture_hashes_to_zero():
    assert perceptual_hash(np.full((50, 60, 3), 130, np.uint8)) == 0
    assert 0 < perceptual_hash(picture(0)) < 2**63  # the first bit, the mean brightness, is always 0


def test_pixels_hash_alike_only_with_the_same_shape_and_values():
    image = picture(0)
    assert pixel_sha256(image) == pixel_sha256(np.asfortranarray(image))
    assert pixel_sha256(image) != pixel_sha256(image.reshape(160, 120, 3))
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert pixel_sha256(image) != pixel_sha256(other)


@pytest.mark.parametrize("n", [0, 1, 2, 70])
@pytest.mark.parametrize("chunk", [16, 2**22])
def test_near_pairs_are_all_pairs_within_the_distance(monkeypatch, n, chunk):
    monkeypatch.setattr("ddeval.data.hashes._CHUNK", chunk)
    hashes = np.random.default_rng(n).integers(0, 2**63, n, dtype=np.uint64)
    hashes[n // 2 :] = hashes[: n - n // 2] ^ np.uint64(5)
    expected = [
        (i, j, (int(hashes[i]) ^ int(hashes[j])).bit_count())
        for i, j in itertools.combinations(range(n), 2)
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 2
    ]
    found = near_pairs(hashes, max_distance=2)
    assert list(zip(*(part.tolist() for part in found), strict=True)) == expected
    assert n < 70 or len(expected) == 35
