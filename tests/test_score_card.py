"""Photographs decoded on the card stand where they belong, and which go there follows from the file alone.

Everything but the card's own decoder runs here, on a decoder of the CPU; the decoder itself is tested
where there is a card (skipped by name elsewhere).
"""

import io
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from ddeval.data.images import Preprocessing, fewest_large, read_resized
from ddeval.errors import ImageError
from ddeval.score import card, feed
from ddeval.score.card import decoder_of, suits
from tests.score_fixture import make_photos

P = Preprocessing.for_norm("siglip", 24)
CPU = torch.device("cpu")
LARGE = fewest_large(P)

needs_card = pytest.mark.skipif(
    not torch.cuda.is_available() or decoder_of(torch.device("cuda")) is None,
    reason="no GPU with a JPEG decoder that torchvision can ask",
)


def soft(width, height, seed=0, *, colours=8):
    """A photograph in the sense of JPEG: soft blocks under grain; `colours`: pixels a side of one of them."""
    rng = np.random.default_rng(seed)

    def blocks(side, *channels):
        shape = (height // side + 2, width // side + 2, *channels)
        small = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=float)

    pixels = blocks(colours, 3)
    if colours > 8:  # brightness in blocks of 8 still
        pixels = pixels * 0.6 + blocks(8)[..., None] * 0.4
    return Image.fromarray((pixels + rng.normal(0, 4, (height, width, 1))).clip(0, 255).astype(np.uint8))


def encoded(width=LARGE + 20, height=LARGE, *, seed=0, orientation=1, mode="RGB", colours=8, **options):
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    soft(width, height, seed, colours=colours).convert(mode).save(
        buffer, "JPEG", quality=95, exif=exif, **options
    )
    return buffer.getvalue()


def on_cpu(contents):
    """Stored pixels by libjpeg, not turned: what the card's decoder gives, to its own rounding."""
    images = [Image.open(io.BytesIO(content.numpy().tobytes())) for content in contents]
    return [torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous() for image in images]


def mixed_folder(root):
    """Every other file is one for the card; the others are small, of other kinds, damaged or absent."""
    others = [p.read_bytes() for p in sorted(make_photos(root / "small", 3).glob("*.jpg"))]
    others += [
        encoded(progressive=True),
        encoded(mode="L"),
        encoded(mode="CMYK"),
        encoded()[:-30],
        b"",
        b"words",
    ]
    sources = []
    for i, content in enumerate(others):
        (root / f"{i}-card.jpg").write_bytes(encoded(LARGE + i, LARGE + 2 * i, seed=i, orientation=i % 8 + 1))
        (root / f"{i}-other.jpg").write_bytes(content)
        sources += [root / f"{i}-card.jpg", root / f"{i}-other.jpg"]
    return [*sources, root / "absent.jpg", ImageError("missing", "the manifest names no image")]


def batches(sources, decode_, *, batch_size=4, p=P, monkeypatch):
    monkeypatch.setattr(feed, "decode_on", lambda device: decode_)
    slices = [range(i, min(i + batch_size, len(sources))) for i in range(0, len(sources), batch_size)]
    return feed.batches(
        sources, slices, preprocessing=p, batch_size=batch_size, workers=2, fast=True, card=CPU
    )


def test_each_image_of_a_mixed_batch_stands_in_its_place(tmp_path, monkeypatch):
    sources = mixed_folder(tmp_path)
    asked = []

    def decoding(contents):
        asked.extend(content.numpy().tobytes() for content in contents)
        return on_cpu(contents)

    found = list(batches(sources, decoding, monkeypatch=monkeypatch))
    failed = {row: error.code for batch in found for row, error in batch.failures.items()}
    assert failed == {13: "truncated", 15: "empty", 17: "format", 18: "missing", 19: "missing"}
    for batch in found:
        assert not batch.pixels[len(batch.rows) :].any()
        for place, row in enumerate(batch.rows):
            pixels = batch.pixels[place].numpy().astype(int)
            if row in failed:
                assert not pixels.any()
            else:
                exact = read_resized(sources[row], P, fast="other" in sources[row].name)
                assert np.abs(pixels - exact).max() <= ("card" in sources[row].name)
    assert sorted(asked) == sorted(sources[row].read_bytes() for row in range(0, 18, 2))


def test_padding_is_black_though_an_image_of_the_card_lay_there_before(tmp_path, monkeypatch):
    """Thirteen batches of three through six buffers, the last one of a single image."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded())
    found = [b.pixels.clone() for b in batches([path] * 37, on_cpu, batch_size=3, monkeypatch=monkeypatch)]
    assert all((pixels == found[0]).all() for pixels in found[:-1])
    assert found[0].any()
    assert (found[-1][0] == found[0][0]).all()
    assert not found[-1][1:].any()


def test_batches_are_right_though_their_buffers_are_used_again(tmp_path, monkeypatch):
    sources = mixed_folder(tmp_path)[:8] * 8
    expected = [b.pixels.clone() for b in batches(sources[:8], on_cpu, batch_size=2, monkeypatch=monkeypatch)]
    held = []
    for batch in batches(sources, on_cpu, batch_size=2, monkeypatch=monkeypatch):
        held.append(batch)
        if len(held) > feed.HELD:
            old = held[-1 - feed.HELD]
            torch.testing.assert_close(old.pixels, expected[old.rows.start // 2 % 4], rtol=0, atol=0)
    assert len(held) == 32


def test_a_file_the_card_cannot_decode_goes_to_libjpeg_and_its_neighbours_do_not(tmp_path, monkeypatch):
    """The decoder fails for a whole call; asked one by one, it fails for that file alone."""
    sources = [tmp_path / f"{i}.jpg" for i in range(8)]
    for i, path in enumerate(sources):
        path.write_bytes(encoded(seed=i))
    bad = sources[3].read_bytes()
    decoded = []

    def decoding(contents):
        if any(content.numpy().tobytes() == bad for content in contents):
            raise RuntimeError("Error while decoding JPEG images")
        decoded.extend(contents)
        return on_cpu(contents)

    (batch,) = batches(sources, decoding, batch_size=8, monkeypatch=monkeypatch)
    assert not batch.failures
    assert len(decoded) == 7
    for i, path in enumerate(sources):
        exact = read_resized(path, P, fast=i == 3)
        assert np.abs(batch.pixels[i].numpy().astype(int) - exact).max() <= (i != 3)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("out of memory"), ValueError("our fault")])
def test_what_is_no_file_s_fault_ends_the_run(tmp_path, monkeypatch, error):
    """A card short of memory must not change who decodes: the answers would depend on its neighbours."""
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded())

    def decoding(contents):
        raise error

    with pytest.raises(type(error), match=str(error)):
        list(batches([path] * 4, decoding, monkeypatch=monkeypatch))


def test_no_more_than_so_many_are_decoded_in_one_call_and_all_of_them_once(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded())
    monkeypatch.setattr(card, "TOGETHER", 3)
    calls = []

    def decoding(contents):
        calls.append(len(contents))
        time.sleep(0.02)
        return on_cpu(contents)

    list(batches([path] * 40, decoding, batch_size=8, monkeypatch=monkeypatch))
    assert sum(calls) == 40
    assert max(calls) == 3


def test_leaving_early_waits_for_no_image_and_leaves_no_thread(tmp_path, monkeypatch):
    sources = mixed_folder(tmp_path) * 3
    before = set(threading.enumerate())
    feeding = batches(sources, on_cpu, monkeypatch=monkeypatch)
    next(feeding)
    feeding.close()
    deadline = time.monotonic() + 30
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


def test_large_is_where_libjpeg_begins_to_shrink():
    """Both decoders of --fast-decode take the same files: the shorter side counts."""
    content = {side: encoded(LARGE + 200, side) for side in (LARGE, LARGE - 1)}
    exact, fast = ({s: read_resized(c, P, fast=f) for s, c in content.items()} for f in (False, True))
    assert suits(content[LARGE], P)
    assert not suits(content[LARGE - 1], P)
    assert not np.array_equal(exact[LARGE], fast[LARGE])
    np.testing.assert_array_equal(exact[LARGE - 1], fast[LARGE - 1])


def test_what_the_products_cannot_resize_stays_with_pillow():
    content = encoded()
    assert suits(content, P)
    assert not suits(content, Preprocessing(24, resample="lanczos"))
    assert not suits(content, Preprocessing(24, resize="shortest_edge", edge=20))


def test_without_a_gpu_there_is_no_decoder_of_the_card():
    assert decoder_of(CPU) is None


CUDA = torch.device("cuda")


@needs_card
@pytest.mark.parametrize("size", [(1344, 1344), (2560, 1920), (1500, 3001)])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize(("colours", "bound"), [(64, 3), (8, 12)])
def test_the_card_s_pixels_are_within_three_levels_of_the_exact_ones(size, subsampling, colours, bound):
    """The card repeats colours where libjpeg interpolates; pure ones that change within 8 pixels show it."""
    p = Preprocessing.for_norm("siglip", 448)
    contents = [
        encoded(*size, seed=i, orientation=i % 8 + 1, colours=colours, subsampling=subsampling)
        for i in range(8)
    ]
    images = card.decode_on(CUDA)([card._tensor(content) for content in contents])
    for i, (content, image) in enumerate(zip(contents, images, strict=True)):
        found = card.resized(card.upright(image, i % 8 + 1), p, dtype=torch.float16).cpu().numpy()
        error = np.abs(found.astype(int) - read_resized(content, p))
        assert error.max() <= bound
        assert error.mean() < bound / 3


@needs_card
def test_the_card_gives_the_same_bytes_alone_and_in_company_today_and_again():
    contents = [card._tensor(encoded(1400 + 8 * i, 1400, seed=i)) for i in range(9)]
    decoding = card.decode_on(CUDA)
    together = decoding(contents)
    for _ in range(3):
        for content, image in zip(reversed(contents), reversed(together), strict=True):
            assert torch.equal(decoding([content])[0], image)


@needs_card
def test_batches_of_the_card_are_those_of_its_decoder_under_a_busy_gpu(tmp_path):
    """Forty batches while the model's stream is full; none is read before it is written, or after."""
    sources = mixed_folder(tmp_path)[:16] * 20
    slices = [range(i, i + 8) for i in range(0, len(sources), 8)]
    busy = torch.randn(4096, 4096, device=CUDA)
    found = []
    for batch in feed.batches(
        sources, slices, preprocessing=P, batch_size=8, workers=2, gpu=True, fast=True, card=CUDA
    ):
        assert batch.pixels.is_cuda
        busy = torch.tanh(busy @ busy)
        found.append(batch.pixels * 1)
        torch.cuda.current_stream().synchronize()
    for i, pixels in enumerate(found):
        assert torch.equal(pixels, found[i % 2])
    decoding = card.decode_on(CUDA)
    for place, row in enumerate(slices[0][::2]):  # the ones of the card
        content = sources[row].read_bytes()
        image = card.upright(decoding([card._tensor(content)])[0], suits(content, P).orientation)
        assert torch.equal(found[0][2 * place], card.resized(image, P, dtype=torch.float16))
