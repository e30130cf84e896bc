"""Which JPEGs are ordinary, told by their markers, and where a file ends early."""

import io

import numpy as np
import pytest
from PIL import Image

from ddeval.data.images import ImageError, decode
from ddeval.data.jpeg import Plain, ends_early, markers, plain

SIZE = (40, 24)


def encoded(mode="RGB", size=SIZE, format_="JPEG", **options):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8))
    buffer = io.BytesIO()
    image.convert(mode).save(buffer, format_, **options)
    return buffer.getvalue()


def with_exif(orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(exif=exif, **options)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"restart_marker_blocks": 2}])
def test_an_ordinary_photograph_is_plain(subsampling, options):
    assert plain(encoded(subsampling=subsampling, **options)) == Plain(*SIZE, 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_its_size_is_as_stored_and_its_orientation_exif_s(orientation):
    assert plain(with_exif(orientation)) == Plain(*SIZE, orientation)


@pytest.mark.parametrize("orientation", [0, 9, 700])
def test_an_orientation_that_does_not_exist_is_upright(orientation):
    assert plain(with_exif(orientation)).orientation == 1


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tail", [b"\xff\xff\xff\xff", b"\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x01A\0\0\0"])
def test_damaged_exif_leaves_the_pixels_upright(tail):
    """A list that lies past the end, and an orientation that is a letter."""
    assert plain(encoded(exif=b"Exif\0\0MM\0*" + tail)).orientation == 1


def two_scans(content):
    """The header of the first scan says that it holds one component of the three."""
    at = markers(content)[1]
    return content[: at + 4] + b"\x01" + content[at + 5 :]


def as_frame(content, code):
    """The same file under another kind of compression."""
    at = content.index(b"\xff\xc0")
    return content[: at + 1] + bytes([code]) + content[at + 2 :]


def with_ids(content, ids):
    """Other names of the three components; R, G and B say that they are no YCbCr."""
    at = content.index(b"\xff\xc0") + 10
    changed = bytearray(content)
    for i, name in enumerate(ids):
        changed[at + 3 * i] = name
    return bytes(changed)


def adobe(content, transform):
    segment = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return content[:2] + segment + content[2:]


NOT_PLAIN = {
    "progressive": lambda: encoded(progressive=True),
    "grey": lambda: encoded("L"),
    "CMYK": lambda: encoded("CMYK"),
    "RGB kept": lambda: encoded(keep_rgb=True),
    "RGB by Adobe's marker": lambda: adobe(encoded(), 0),
    "RGB by its names": lambda: with_ids(encoded(), b"RGB"),
    "extended": lambda: as_frame(encoded(), 0xC1),
    "arithmetic": lambda: as_frame(encoded(), 0xC9),
    "lossless": lambda: as_frame(encoded(), 0xC3),
    "several scans": lambda: two_scans(encoded()),
    "several images": lambda: encoded(format_="MPO", save_all=True, append_images=[Image.new("RGB", SIZE)]),
    "something after its end": lambda: encoded() + b"\0\0",
    "cut short": lambda: encoded()[:-40],
    "without its end": lambda: encoded()[:-2],
    "only a start": lambda: b"\xff\xd8\xff\xd9",
    "no frame": lambda: encoded().replace(b"\xff\xc0", b"\xff\xfe"),
    "a PNG": lambda: encoded(format_="PNG"),
    "empty": lambda: b"",
    "words": lambda: b"not a photograph",
}


@pytest.mark.parametrize("kind", NOT_PLAIN)
def test_whatever_decoders_may_read_differently_is_not_plain(kind):
    assert plain(NOT_PLAIN[kind]()) is None


def test_adobe_s_marker_may_say_what_is_so_anyway():
    assert plain(adobe(encoded(), 1)) == Plain(*SIZE, 1)


def test_a_photograph_of_more_than_the_limit_is_not_plain():
    """50 megapixels; the size alone is changed, so nothing as large is made."""
    content = bytearray(encoded())
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = (9000).to_bytes(2) + (9000).to_bytes(2)
    assert plain(bytes(content)) is None
    content[at : at + 4] = (7000).to_bytes(2) + (7000).to_bytes(2)
    assert plain(bytes(content)) == Plain(7000, 7000, 1)


@pytest.mark.parametrize("cut", [2, 40, 200])
def test_a_file_without_its_end_ends_early_though_a_thumbnail_in_it_has_one(cut):
    """The thumbnail of a camera lies before the first scan, with an end marker of its own."""
    thumbnail = b"\xff\xe1" + (len(encoded()) + 2).to_bytes(2) + encoded()
    content = encoded()[:2] + thumbnail + encoded()[2:]
    assert not ends_early(content)
    assert ends_early(content[:-cut])
    with pytest.raises(ImageError, match="ends early"):
        decode(content[:-cut])
    assert ends_early(content[: 100 + len(thumbnail) // 2])


def test_what_stands_after_the_end_does_not_make_a_file_end_early():
    assert not ends_early(encoded() + b"\0" * 100)
    assert decode(encoded() + b"\0" * 100).shape == (*SIZE[::-1], 3)
