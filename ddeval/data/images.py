"""Images: which pixels does everyone see? The one decoder for model, app, report and duplicate search.

`read_image` turns a file into upright 8-bit RGB and notes what it had to do, `thumbnail` makes a
small copy without metadata; how a backbone wants its image is `ddeval.data.preprocessing`, offered
here too. Where an image may lie is decided elsewhere (`ddeval.io.resolve`).
"""

import hashlib
import io
import math
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from ddeval import cache
from ddeval.data import jpeg
from ddeval.data.preprocessing import MAX_PIXELS, Pixels, Preprocessing, preprocess, preprocess_image
from ddeval.errors import ImageError

__all__ = [
    "DecodedImage",
    "ImageError",
    "Pixels",
    "Preprocessing",
    "decode",
    "fewest_large",
    "preprocess",
    "read_bytes",
    "read_image",
    "read_resized",
    "shown_name",
    "thumbnail",
    "thumbnail_name",
]

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF")
MAX_FILE_BYTES = 400 * 2**20
"""50 megapixels of 16-bit RGB are 300 MB."""
SPARE = 1.5
"""Shrunk to just above the size wanted, photographs under strong grain were 4 levels off; from here on 3."""

_SUFFIXES = {"JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png",), "WEBP": (".webp",)}
_SUFFIXES |= {"TIFF": (".tif", ".tiff"), "MPO": (".jpg", ".jpeg", ".mpo")}
_MODES_8_BIT = ("1", "L", "P", "LA", "PA", "La", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_STRANGERS = (  # what files named .jpg turn out to be
    (b"%PDF", "a PDF document"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"version https://git-lfs", "a git-LFS pointer, not the file itself"),
    (b"<", "text (HTML, SVG or XML)"),
)


class DecodedImage(NamedTuple):
    """Pixels and what was done to get them."""

    pixels: Pixels
    """(H, W, 3), upright, RGB."""
    notes: tuple[str, ...]
    """E.g. "16 bits a channel scaled to 8"; () for an ordinary photograph."""


def decode(source: Path | bytes) -> Pixels:
    """The pixels of `read_image`, uint8 of shape (H, W, 3)."""
    return read_image(source).pixels


def read_image(source: Path | bytes) -> DecodedImage:
    """Upright 8-bit RGB of a JPEG, PNG, WebP or TIFF, judged by content and not by name.

    EXIF orientation is applied. 16 bits a channel are scaled (65535 -> 255), never clipped. Alpha is
    composited on white. A colour profile is ignored, as the backbones' own processors do, and noted.
    Of several frames or pages the first is taken and noted. A truncated file is refused, whatever
    could still be shown of it; so are float and 32-bit integer images, whose range is not stated.

    Parameters
    ----------
    source : Path or bytes
        A regular file (a directory, pipe or device is refused without reading) or its content.

    Raises
    ------
    ImageError
    """
    if not isinstance(source, Path | bytes):
        raise TypeError(f"source must be a Path or bytes, got {type(source).__name__}")
    image, notes = _load(source)
    pixels = np.asarray(image)
    if (pixels[::8, ::8] == pixels[0, 0]).all() and (pixels == pixels[0, 0]).all():
        notes.append("one colour throughout")
    return DecodedImage(pixels, tuple(notes))


def read_resized(source: Path | bytes, p: Preprocessing, *, fast: bool = False) -> Pixels:
    """What a backbone sees of a file, uint8 (3, S, S): `preprocess(decode(source), p)`, bit for bit.

    The full-size pixels never become an array, which is half of the time.

    Parameters
    ----------
    fast : bool
        Let libjpeg shrink a JPEG while decoding, to no less than `SPARE` times the side it is resized
        to. Pixels of photographs then stay within 3 of 255 of the exact ones (docs/log.md).
    """
    image, _ = _load(source, draft=_draft(p) if fast else 0)
    return preprocess_image(image, p)


def fewest_large(p: Preprocessing) -> int:
    """Pixels a side from which on fast decoding changes an image: there libjpeg begins to shrink it."""
    return 2 * _draft(p)


def _draft(p: Preprocessing) -> int:
    """The fewest pixels a side that an image may be shrunk to before it is resized."""
    return math.ceil(SPARE * p.edge)


def _load(source: Path | bytes, *, draft: int = 0) -> tuple[Image.Image, list[str]]:
    """The checked, upright RGB image, and what was done to it."""
    content = source if isinstance(source, bytes) else read_bytes(source)
    if not content:
        raise ImageError("empty", "an empty file (0 bytes)")
    if _ends_early(content):
        raise ImageError("truncated", "the file ends early: its end marker is missing")
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # global in Pillow; another library may have thrown it
    image = _open(content)
    notes = list(_notes(image, "" if isinstance(source, bytes) else source.name))
    if draft and image.mode in ("RGB", "L"):
        image.draft(image.mode, (draft, draft))
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged files
        raise _damaged(error) from error
    return _rgb(_upright(image, notes), notes), notes


def read_bytes(path: Path) -> bytes:
    """Content of a regular file of at most `MAX_FILE_BYTES`; never waits on a pipe or a device.

    An object of a bucket comes through the cache; one that may not be read is an InputError, not one
    photograph's fault.
    """
    uri = cache.address(path)
    if uri is not None:
        size = cache.sizes([path])[path]
        if size is None:
            raise ImageError("missing", "no such file")
        _refuse_size(size)
        return cache.read(uri)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except FileNotFoundError:
        link = " (a link to nowhere)" if path.is_symlink() else ""
        raise ImageError("missing", f"no such file{link}") from None
    except OSError as error:
        raise ImageError("not_a_file", f"cannot be opened: {error.strerror}") from None
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        kind = "a directory" if stat.S_ISDIR(status.st_mode) else "a pipe, socket or device"
        raise ImageError("not_a_file", f"{kind}, not a file")
    with os.fdopen(handle, "rb") as file:
        _refuse_size(status.st_size)
        try:
            return file.read()
        except OSError as error:
            raise ImageError("corrupt", f"cannot be read: {error.strerror}") from error


def _refuse_size(n_bytes: int) -> None:
    if n_bytes > MAX_FILE_BYTES:
        raise ImageError("too_large", f"{n_bytes / 2**20:.0f} MB; at most {MAX_FILE_BYTES >> 20} MB")


def thumbnail(pixels: Pixels, *, edge: int = 160) -> bytes:
    """WebP (quality 70) whose longer side is at most `edge`; holds pixels and no metadata."""
    image = Image.fromarray(pixels)
    image.thumbnail((edge, edge), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=70, method=4)
    return buffer.getvalue()


def thumbnail_name(image_id: str) -> str:
    """File name of an image's thumbnail in a run folder: a hash, since an id may be no file name."""
    return f"{hashlib.sha256(image_id.encode()).hexdigest()[:24]}.webp"


def shown_name(image_id: str, *, is_full: bool) -> str:
    """File name, below its folder, of the copy of an image that the vetting app shows."""
    key = hashlib.sha256(f"{image_id}|{is_full}".encode()).hexdigest()
    return f"{key[:2]}/{key}.jpg"


def _open(content: bytes) -> ImageFile.ImageFile:
    """The header, allow-listed by content and small enough."""
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except UnidentifiedImageError:
        raise ImageError("format", f"{_stranger(content)}; expected JPEG, PNG, WebP or TIFF") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError("too_large", f"more than {MAX_PIXELS / 1e6:.0f} megapixels") from None
    except Exception as error:  # as in read_image: any type at all
        raise _damaged(error) from error
    if image.width * image.height > MAX_PIXELS:  # a 0.4 MB PNG can unpack to gigabytes
        size = f"{image.width} x {image.height} px"
        raise ImageError("too_large", f"{size}; at most {MAX_PIXELS / 1e6:.0f} megapixels")
    return image


def _stranger(content: bytes) -> str:
    if content[4:8] == b"ftyp" and content[8:12] in (b"heic", b"heix", b"mif1", b"hevc", b"msf1"):
        return "a HEIC photograph, which is not supported (export it as JPEG)"
    head = content.lstrip()[:24]
    return next((kind for start, kind in _STRANGERS if head.startswith(start)), "not an image known here")


def _damaged(error: Exception) -> ImageError:
    text = str(error) or type(error).__name__
    is_cut = isinstance(error, EOFError) or "truncated" in text.lower() or "not enough" in text.lower()
    return ImageError("truncated" if is_cut else "corrupt", f"a damaged file ({text[:200]})")


def _ends_early(content: bytes) -> bool:
    """Whether the end marker is missing, even if all pixels could still be shown."""
    if content.startswith(b"\x89PNG"):
        return content.find(b"IEND\xaeB`\x82") < 0
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return len(content) < 8 + int.from_bytes(content[4:8], "little")
    return content.startswith(jpeg.START) and jpeg.ends_early(content)


def _notes(image: ImageFile.ImageFile, name: str) -> list[str]:
    notes = []
    suffix = Path(name).suffix.lower()
    if suffix and suffix not in _SUFFIXES.get(image.format or "", ()):
        notes.append(f"{image.format} content under the name *{suffix}")
    try:
        n_frames = getattr(image, "n_frames", 1)
    except Exception:  # a damaged page list; the first page is judged when it is loaded
        n_frames = 1
    if n_frames > 1:
        notes.append(f"the first of {n_frames} frames")
    if _tag(image, 274) in _TURNS:
        notes.append("turned upright by EXIF")
    if image.info.get("icc_profile"):
        notes.append("colour profile ignored")
    return notes


def _upright(image: Image.Image, notes: list[str]) -> Image.Image:
    """Turned as its EXIF orientation says. (Pillow turns a TIFF while loading it.)"""
    try:
        turn = _TURNS.get(image.getexif().get(jpeg.ORIENTATION, 1))
    except Exception:  # damaged EXIF: the pixels are sound, the orientation is unknown
        notes.append("EXIF unreadable, orientation not applied")
        return image
    if turn is None:
        return image
    notes.append("turned upright by EXIF")
    return image.transpose(turn)


def _rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode.startswith("I;16") and image.mode not in ("I;16S", "I;16BS"):
        return _from_16_bit(image, notes)
    if image.mode not in _MODES_8_BIT:
        raise ImageError(
            "mode", f"pixels of mode {image.mode}, whose range is not stated; save as 8 or 16 bits"
        )
    bits = _bits(image)
    if bits > 8:
        notes.append(f"{bits} bits a channel scaled to 8")
    if image.mode == "RGB":
        return image
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        return _on_white(image, notes)
    if image.mode in ("CMYK", "YCbCr"):
        notes.append(f"{image.mode} converted to RGB")
    return image.convert("RGB")


def _from_16_bit(image: Image.Image, notes: list[str]) -> Image.Image:
    """Grey of more than 8 bits, scaled by its stated depth: 257 for 16 bits, 4095 / 255 for 12."""
    bits = _bits(image) if _tag(image, 258) else 16  # PNG has no tag and one such depth
    grey = np.rint(np.asarray(image).astype(np.float64) * (255 / (2**bits - 1))).clip(0, 255).astype(np.uint8)
    if _tag(image, 262) == 0:  # TIFF "white is zero", which Pillow leaves as stored at this depth
        grey = 255 - grey
    notes.append(f"{bits} bits a channel scaled to 8")
    return Image.fromarray(grey).convert("RGB")


def _bits(image: Image.Image) -> int:
    bits = _tag(image, 258)
    return int(max(bits)) if isinstance(bits, tuple) else int(bits or 8)


def _tag(image: Image.Image, number: int) -> Any:
    return getattr(image, "tag_v2", {}).get(number)


def _on_white(image: Image.Image, notes: list[str]) -> Image.Image:
    rgba = image.convert("RGBa").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
    if np.asarray(rgba)[..., 3].min() < 255:
        notes.append("transparency laid on white")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
