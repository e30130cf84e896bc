"""JPEG files by their markers: where the pixels begin, and is this one every decoder reads alike?

Nothing is decoded here. `plain` tells the ordinary photograph, which a decoder other than libjpeg may be
given, from all that decoders disagree on: progressive, CMYK, RGB, several images in one file, cut short.
The file alone decides, so the same file always takes the same way.
"""

import io
from typing import Any, NamedTuple

from PIL import Image, JpegImagePlugin

from ddeval.data.preprocessing import MAX_PIXELS

START, END = b"\xff\xd8\xff", b"\xff\xd9"
BASELINE, SCAN = 0xC0, b"\xda"
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
"""Markers that begin a frame, one for each kind of compression; the three others are tables."""
SAMPLINGS = ((1, 1), (2, 1), (2, 2))
"""Of the brightness, across and down, while each colour has one: 4:4:4, 4:2:2 and 4:2:0."""
ORIENTATION = 0x0112


class Plain(NamedTuple):
    """An ordinary photograph: baseline, three components of 8 bits (YCbCr) in one scan, one image."""

    width: int
    """Pixels as stored, before it is turned."""
    height: int
    orientation: int
    """EXIF's, 1 to 8; 1 is upright, and what is unreadable counts as upright."""


def markers(content: bytes) -> tuple[list[int], int]:
    """Codes of the markers before the first scan, and where that begins; where they end if there is none."""
    codes, at = [], 2
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] != SCAN:
        code = int.from_bytes(content[at + 1 : at + 2])
        codes.append(code)
        at += 1 if code == 0xFF else 2 + int.from_bytes(content[at + 2 : at + 4])  # 0xff fills up
    return codes, at


def ends_early(content: bytes) -> bool:
    """Whether the end marker is missing, even if all pixels could still be shown.

    After the first scan begins these two bytes can only be the end: inside it 0xff is escaped.
    """
    return content.rfind(END, markers(content)[1]) < 0


def plain(content: bytes) -> Plain | None:
    """Size and orientation of an ordinary photograph; None for every other file, sound or not."""
    if not content.startswith(START) or not content.endswith(END):
        return None  # what follows the end is another image, or damage
    codes, scan = markers(content)
    if FRAMES.intersection(codes) != {BASELINE} or content[scan + 4 : scan + 5] != b"\x03":
        return None
    try:
        image = Image.open(io.BytesIO(content), formats=("JPEG",))
    except Exception:  # any type at all; `ddeval.data.images` names what is wrong with it
        return None
    if image.format != "JPEG" or not isinstance(image, JpegImagePlugin.JpegImageFile):
        return None
    ids, across, down = zip(*(layer[:3] for layer in image.layer), strict=True)
    is_ycbcr = ids == (1, 2, 3) and image.info.get("adobe_transform", 1) == 1
    is_known = (across[0], down[0]) in SAMPLINGS and across[1:] == down[1:] == (1, 1)
    if not is_ycbcr or not is_known or image.bits != 8 or image.width * image.height > MAX_PIXELS:
        return None
    try:
        turned: Any = image.getexif().get(ORIENTATION)
    except Exception:  # damaged EXIF: the pixels are sound
        turned = None
    return Plain(*image.size, turned if turned in range(1, 9) else 1)
