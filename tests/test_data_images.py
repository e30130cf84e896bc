"""The one decoder: every file becomes the pixels a person would see, or a reason why not."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddeval.data.images import MAX_PIXELS, ImageError, decode, read_bytes, read_image, thumbnail

RAMP = np.stack(
    [np.tile(np.arange(0, 240, 10), (16, 1)), np.full((16, 24), 90), np.tile(np.arange(16)[:, None], 24)],
    axis=-1,
).astype(np.uint8)
"""16 x 24, different in every corner."""


def encoded(image, format_="PNG", **options):
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, format_, **options)
    return buffer.getvalue()


def png_of_size(width, height):
    """A valid PNG header with one (empty) block of pixels: small on disk, huge in memory."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def reason_of(source):
    with pytest.raises(ImageError) as caught:
        decode(source)
    return caught.value


@pytest.mark.parametrize("format_", ["PNG", "TIFF", "WEBP"])
def test_lossless_formats_give_back_their_pixels(format_):
    options = {"lossless": True} if format_ == "WEBP" else {}
    assert np.array_equal(decode(encoded(RAMP, format_, **options)), RAMP)


def test_an_ordinary_photograph_has_no_notes(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(RAMP, "JPEG", quality=95))
    pixels, notes = read_image(path)
    assert notes == ()
    assert (pixels.shape, pixels.dtype) == ((16, 24, 3), np.uint8)
    assert np.abs(pixels.astype(int) - RAMP).mean() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_ends_in_the_same_upright_pixels(orientation, format_):
    """The stored pixels are the upright ones turned backwards; the tag says how to undo it."""
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format_, {})
    pixels, notes = read_image(encoded(np.ascontiguousarray(undo(RAMP)), format_, exif=exif, **options))
    assert np.abs(pixels.astype(int) - RAMP).max() <= (3 if format_ == "JPEG" else 0)
    assert ("turned upright by EXIF" in notes) == (orientation > 1)


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_by_257_and_not_clipped(format_):
    """32639 = 127 * 257 is mid-grey. Clipping at 255 would show it white."""
    grey = np.array([[0, 257, 32639], [65535, 128, 129]], dtype=np.uint16)
    pixels, notes = read_image(encoded(grey, format_))
    assert pixels[..., 0].tolist() == [[0, 1, 127], [255, 0, 1]]
    assert "16 bits a channel scaled to 8" in notes


def deep_tiff(shape, data, *, bits=16, photometric=2):
    """A bare little-endian TIFF of deep samples, which Pillow cannot write; `shape` is (H, W, channels)."""
    height, width, channels = shape
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 0), (259, 3, 1, 1)]
    tags += [(262, 3, 1, photometric), (273, 4, 1, 0), (277, 3, 1, channels), (278, 3, 1, height)]
    tags += [(279, 4, 1, len(data))]
    after = 8 + 2 + 12 * len(tags) + 4
    bits_at, data_at = after, after + 2 * channels
    body = struct.pack("<H", len(tags))
    for tag, kind, count, value in tags:
        if tag == 258:
            value = bits_at if channels > 2 else bits
        body += struct.pack("<HHII", tag, kind, count, data_at if tag == 273 else value)
    return b"II*\0" + struct.pack("<I", 8) + body + b"\0" * 4 + struct.pack("<H", bits) * channels + data


def test_16_bit_rgb_tiff_is_scaled_too():
    values = np.array([[[0, 32639, 65535], [257, 514, 1028]]])
    pixels, notes = read_image(deep_tiff(values.shape, values.astype("<u2").tobytes()))
    assert pixels.tolist() == [[[0, 127, 255], [1, 2, 4]]]
    assert "16 bits a channel scaled to 8" in notes


def test_16_bit_tiff_where_white_is_zero_is_inverted():
    values = np.array([[[0], [65535], [257]]])
    content = deep_tiff(values.shape, values.astype("<u2").tobytes(), photometric=0)
    assert decode(content)[0, :, 0].tolist() == [255, 0, 254]


def test_12_bit_tiff_is_scaled_by_its_own_depth():
    """Scaled as 16 bits, full white (4095) would be 16, nearly black. Two samples lie in three bytes."""
    pixels, notes = read_image(deep_tiff((1, 2, 1), bytes([0xFF, 0xF8, 0x00]), bits=12, photometric=1))
    assert pixels[0, :, 0].tolist() == [255, 128]  # 0xFFF and 0x800: 2048 * 255 / 4095 = 127.5
    assert "12 bits a channel scaled to 8" in notes


@pytest.mark.parametrize(
    "values", [np.array([[0.0, 0.5, 1.0]], np.float32), np.array([[0, 9, 99]], np.int32)]
)
def test_float_and_32_bit_tiff_are_refused_because_their_range_is_not_stated(values):
    """Scaled as if 0..255, a float image in [0, 1] would be all black."""
    error = reason_of(encoded(values, "TIFF"))
    assert error.code == "mode"
    assert "range is not stated" in error.reason


def test_cmyk_tiff_and_adobe_inverted_cmyk_jpeg_show_the_same_colour():
    """Full cyan is (0, 255, 255). Adobe stores CMYK inverted in JPEG; read as stored it would be red."""
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    for content in (encoded(cyan, "TIFF"), encoded(cyan, "JPEG", quality=100)):
        pixels, notes = read_image(content)
        assert np.abs(pixels.astype(int) - [0, 255, 255]).max() <= 2
        assert "CMYK converted to RGB" in notes


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[[200, 10, 10, 255], [1, 2, 3, 0]]], np.uint8)),
        Image.fromarray(np.array([[[200, 10, 10, 255], [1, 2, 3, 0]]], np.uint8)).quantize(),
    ],
    ids=["RGBA", "palette with alpha"],
)
def test_what_is_transparent_shows_as_white(image):
    """The colour under full transparency is arbitrary, often black."""
    pixels, notes = read_image(encoded(image))
    assert pixels.tolist() == [[[200, 10, 10], [255, 255, 255]]]
    assert "transparency laid on white" in notes


def test_grey_with_alpha_one_bit_and_opaque_alpha():
    assert decode(encoded(Image.new("LA", (1, 1), (50, 255))))[0, 0].tolist() == [50, 50, 50]
    assert decode(encoded(Image.new("LA", (1, 1), (50, 0))))[0, 0].tolist() == [255, 255, 255]
    assert decode(encoded(Image.new("1", (1, 1), 1)))[0, 0].tolist() == [255, 255, 255]
    pixels, notes = read_image(encoded(np.dstack([RAMP, np.full(RAMP.shape[:2], 255, np.uint8)])))
    assert np.array_equal(pixels, RAMP)
    assert notes == ()


@pytest.mark.parametrize("format_", ["WEBP", "TIFF", "PNG"])
def test_the_first_of_several_frames_is_taken_and_noted(format_):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    content = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    pixels, notes = read_image(content)
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert "the first of 3 frames" in notes


def test_content_decides_and_a_wrong_name_is_noted(tmp_path):
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(RAMP))
    pixels, notes = read_image(path)
    assert np.array_equal(pixels, RAMP)
    assert notes == ("PNG content under the name *.jpg",)


def test_a_colour_profile_is_noted_and_one_flat_colour_is_noted():
    _, notes = read_image(encoded(Image.new("RGB", (9, 9), "black"), icc_profile=b"\0" * 200))
    assert notes == ("colour profile ignored", "one colour throughout")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"<html><body>404</body></html>", "text (HTML"),
        (b"  <svg xmlns='http://www.w3.org/2000/svg'/>", "text (HTML"),
        (b"%PDF-1.7 ...", "a PDF"),
        (b"GIF89a" + b"\0" * 40, "a GIF"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 40, "HEIC"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-LFS"),
        (b"hello there", "not an image"),
    ],
)
def test_a_file_that_is_no_image_is_named_for_what_it_is(content, says):
    error = reason_of(content)
    assert error.code == "format"
    assert says in error.reason


def test_an_empty_file_is_refused():
    assert reason_of(b"").code == "empty"


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("kept", [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_refused(format_, kept):
    """Half a photograph with grey below would be scored as if it were one."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    content = encoded(noise, format_)
    assert reason_of(content[: int(len(content) * kept)]).code in ("truncated", "corrupt", "format")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
def test_two_missing_bytes_are_enough_to_be_refused(format_):
    assert reason_of(encoded(RAMP, format_)[:-2]).code == "truncated"


def test_bytes_after_the_end_of_a_jpeg_are_no_reason_to_refuse_it():
    """Phones append a video or a second picture; its bytes may look like the start of a scan."""
    content = encoded(RAMP, "JPEG")
    assert np.array_equal(decode(content + b"\xff\xda" + b"trailer" * 9), decode(content))


def test_the_end_of_an_embedded_preview_is_not_the_end_of_the_photograph():
    content = encoded(RAMP, "JPEG", comment=b"a preview: \xff\xda \xff\xd9")
    assert decode(content).shape == RAMP.shape
    assert reason_of(content[:-2]).code == "truncated"


@pytest.mark.parametrize("format_", ["JPEG", "TIFF"])
def test_another_library_allowing_truncated_images_does_not_change_the_answer(monkeypatch, format_):
    """Pillow's switch is global: a data loader elsewhere in the process may have thrown it."""
    monkeypatch.setattr("PIL.ImageFile.LOAD_TRUNCATED_IMAGES", True)
    content = encoded(np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8), format_)
    assert reason_of(content[: len(content) * 3 // 4]).code == "truncated"


def test_the_first_picture_of_a_phones_double_photograph_is_taken():
    """Phones write two JPEGs into one file (MPO); Pillow calls that a format of its own."""
    second = Image.new("RGB", (24, 16), "lime")
    content = encoded(RAMP, "MPO", save_all=True, append_images=[second], quality=95)
    pixels, notes = read_image(content)
    assert np.abs(pixels.astype(int) - RAMP).mean() < 6
    assert "the first of 2 frames" in notes


def test_text_is_neither_a_path_nor_the_content_of_a_file():
    with pytest.raises(TypeError, match="a Path or bytes, got str"):
        decode("photo.jpg")


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_damaged_bytes_end_as_an_image_or_an_image_error(format_):
    """200 files, 60 random bytes changed in each; nothing else may come out."""
    rng = np.random.default_rng(1)
    content = encoded(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8), format_)
    outcomes = []
    for _ in range(50):
        damaged = bytearray(content)
        for at in rng.integers(0, len(content), 60):
            damaged[at] = rng.integers(0, 256)
        try:
            outcomes.append(decode(bytes(damaged)).ndim)
        except ImageError as error:
            outcomes.append(error.code)
    assert len(outcomes) == 50
    assert set(outcomes) <= {3, "truncated", "corrupt", "format", "mode", "too_large"}


@pytest.mark.parametrize("size", [(12_000, 12_000), (30_000, 30_000), (7_100, 7_100)])
def test_a_bomb_is_refused_from_its_header(size):
    started = time.monotonic()
    assert reason_of(png_of_size(*size)).code == "too_large"
    assert time.monotonic() - started < 1


def test_the_limit_is_on_pixels_and_includes_its_edge(monkeypatch):
    assert MAX_PIXELS == 50_000_000
    monkeypatch.setattr("ddeval.data.images.MAX_PIXELS", 16 * 24)
    assert decode(encoded(RAMP)).shape == (16, 24, 3)
    monkeypatch.setattr("ddeval.data.images.MAX_PIXELS", 16 * 24 - 1)
    assert reason_of(encoded(RAMP)).code == "too_large"


def test_an_unpacking_text_chunk_is_refused():
    """A PNG comment of 50 MB packs into 50 kB."""
    comment = b"zTXt" + b"a\0\0" + zlib.compress(b"x" * 50_000_000)
    chunk = struct.pack(">I", len(comment) - 4) + comment + struct.pack(">I", zlib.crc32(comment))
    content = encoded(RAMP)
    assert reason_of(content[:33] + chunk + content[33:]).code == "corrupt"


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 5000, 3), (5000, 1, 3)])
def test_extreme_shapes_are_decoded(shape):
    assert decode(encoded(np.zeros(shape, np.uint8))).shape == shape


def test_what_is_not_a_regular_file_is_refused_without_waiting(tmp_path):
    """Opening a pipe that nobody writes to would wait for ever."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    started = time.monotonic()
    assert reason_of(tmp_path).reason == "a directory, not a file"
    assert reason_of(tmp_path / "pipe.jpg").reason == "a pipe, socket or device, not a file"
    assert reason_of(Path("/dev/zero")).code == "not_a_file"
    assert reason_of(tmp_path / "broken.jpg").reason == "no such file (a link to nowhere)"
    assert reason_of(tmp_path / "absent.jpg").reason == "no such file"
    assert time.monotonic() - started < 2


def test_a_file_beyond_the_limit_is_refused_unread(tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(500 * 2**20)  # sparse: takes no space
    with pytest.raises(ImageError, match="500 MB; at most 400 MB"):
        read_bytes(path)


def test_a_thumbnail_is_small_webp_without_metadata():
    pixels = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    content = thumbnail(pixels)
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.size) == ("WEBP", (160, 80))
        assert not image.getexif()
        assert "icc_profile" not in image.info
    assert thumbnail(pixels) == content
    assert decode(thumbnail(RAMP)).shape == RAMP.shape


def test_an_image_error_survives_the_way_back_from_a_worker_process():
    import pickle

    error = pickle.loads(pickle.dumps(ImageError("empty", "an empty\nfile")))
    assert (error.code, error.reason, str(error)) == ("empty", "an empty file", "an empty file")


@pytest.mark.real_data
def test_real_dermatoscopic_images_decode_to_what_pillow_shows(real_data):
    paths = sorted((real_data / "ham10000" / "images").iterdir())[:50]
    for path in paths:
        pixels, notes = read_image(path)
        assert notes == ()
        assert np.array_equal(pixels, np.asarray(Image.open(path).convert("RGB")))
