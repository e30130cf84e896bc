"""JPEGs decoded by the GPU: photographs as bytes in, pixels on the card out, beside the model.

Data-centre cards hold engines that decode JPEG and do nothing else; torchvision asks them. Ordinary large
photographs go there (`suits`), all others to the crew that would have them anyway; the file alone decides,
so that no answer depends on timing. One thread hands the engines what has been read, `TOGETHER` at a
time, and resizes what comes back by `ddeval.score.resizing`, on a stream beside the model's.
"""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from importlib import metadata
from io import BytesIO
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ddeval.data import jpeg
from ddeval.data.images import Preprocessing, fewest_large, read_bytes
from ddeval.errors import ImageError
from ddeval.score.decoder import Source
from ddeval.score.resizing import can_resize, resized, upright

if TYPE_CHECKING:
    from ddeval.score.feed import Crew

# The decoder works in fourteen streams. Of CUDA's eight usual ways to the card some would be the model's too,
# and what stands there behind a whole batch waits for it. Read when the card is first asked for anything.
os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")

TOGETHER = 28
"""Photographs decoded in one call: four rounds of the seven engines of an H100."""
READERS = 8
"""Threads that read files; each 12-megapixel photograph is 2 to 5 MB."""
WITH_ENGINES = ((8, 0), (9, 0), (10, 0))
"""Compute capabilities of cards with JPEG engines (A100, H100, B200). Elsewhere nvJPEG reads the entropy
code on one core, slower than libjpeg on all."""

Decode = Callable[[Sequence[Tensor]], list[Tensor]]
"""Contents, 1-D uint8 on the host, to stored pixels (3, H, W) uint8 RGB on the card; a RuntimeError where
it cannot."""


def decoder_of(device: torch.device) -> str | None:
    """Name and version of the card's decoder, such as `nvjpeg (torchvision 0.26.0)`; None without one.

    Asked once before a run, by decoding a small photograph.
    """
    if device.type != "cuda" or torch.cuda.get_device_capability(device) not in WITH_ENGINES:
        return None
    buffer = BytesIO()
    Image.new("RGB", (64, 48), (200, 150, 100)).save(buffer, "JPEG")
    try:
        pixels = decode_on(device)([_tensor(buffer.getvalue())])[0]
        version = metadata.version("torchvision")
    except (ImportError, AttributeError, RuntimeError, OSError):  # absent, or built for another torch
        return None
    return f"nvjpeg (torchvision {version})" if pixels.shape == (3, 48, 64) else None


def decode_on(device: torch.device) -> Decode:
    """The card's own decoder. Raises an ImportError where torchvision is not installed."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return lambda contents: list(decode_jpeg(list(contents), mode=ImageReadMode.RGB, device=device))


def suits(content: bytes, p: Preprocessing) -> jpeg.Plain | None:
    """What a file says of itself if the card decodes it: an ordinary JPEG that is shrunk by 3 or more."""
    found = jpeg.plain(content) if can_resize(p) else None
    return found if found and min(found.width, found.height) >= fewest_large(p) else None


class _Job(NamedTuple):
    """A photograph that was read and goes to the card."""

    buffer: int
    place: int
    row: int
    content: Tensor
    orientation: int
    future: Future[ImageError | None]


class Card:
    """A crew whose ordinary large JPEGs are decoded on `device`, the others by `others`.

    Parameters
    ----------
    others : Crew
        Is closed with this one.
    decode : callable
        `decode_on(device)`; tests pass a decoder of the CPU.
    """

    def __init__(
        self,
        others: "Crew",
        sources: Sequence[Source],
        preprocessing: Preprocessing,
        device: torch.device,
        decode: Decode,
    ) -> None:
        self.buffers = others.buffers
        self._others, self._sources, self._preprocessing = others, sources, preprocessing
        self._device, self._decode = device, decode
        self._dtype = torch.float16 if device.type == "cuda" else torch.float32
        self._pixels = torch.empty(self.buffers.shape, dtype=torch.uint8, device=device)
        self._is_here = torch.zeros(self.buffers.shape[:2], dtype=torch.bool)
        # its few short kernels go first; the model's fill the card for the rest of the time
        self._stream = _stream(device)
        self._decoding = _stream(device)  # what is decoded lies in memory that nothing else is given
        self._shown: Sequence[Tensor | None] = ()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._is_closing = False
        self._readers = ThreadPoolExecutor(READERS)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def submit(self, buffer: int, place: int, row: int) -> Future[ImageError | None]:
        """Begin to put image `row` into its place, on the card or in `buffers`."""
        future: Future[ImageError | None] = Future()
        self._readers.submit(self._read, buffer, place, row, future)
        return future

    def pixels(self, buffer: int) -> Tensor:
        """A batch whose futures are all done, on the card; the current stream waits for its last kernels."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)
        is_here = self._is_here[buffer].clone()
        self._is_here[buffer] = False  # for the next batch of this buffer
        if is_here.all():
            return self._pixels[buffer]
        if self._device.type == "cuda":
            is_here = is_here.pin_memory()  # from other memory a copy would wait for the model
        mask = is_here.to(self._device, non_blocking=True).view(-1, 1, 1, 1)
        there = self._others.pixels(buffer).to(self._device, non_blocking=True)
        return torch.where(mask, self._pixels[buffer], there)

    def close(self) -> None:
        self._is_closing = True
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._jobs.put(None)
        self._thread.join()
        if self._stream is not None:
            self._stream.synchronize()
        self._others.close()

    def _read(self, buffer: int, place: int, row: int, future: Future[ImageError | None]) -> None:
        try:
            source = self._sources[row]
            content, found = b"", None
            if not isinstance(source, ImageError):
                try:
                    content = read_bytes(source)
                    found = suits(content, self._preprocessing)
                except ImageError:
                    pass  # the others say it again
            if found:
                self._jobs.put(_Job(buffer, place, row, _tensor(content), found.orientation, future))
            else:
                self._pass_on(buffer, place, row, future)
        except BaseException as error:
            future.set_exception(error)

    def _pass_on(self, buffer: int, place: int, row: int, future: Future[ImageError | None]) -> None:
        def tell(done: Future[ImageError | None]) -> None:
            if done.cancelled():
                future.cancel()
            elif error := done.exception():
                future.set_exception(error)
            else:
                future.set_result(done.result())

        self._others.submit(buffer, place, row).add_done_callback(tell)

    def _work(self) -> None:
        """What the decoding thread does: whatever has been read, until it is told to end."""
        with _on(self._stream):
            while (job := self._jobs.get()) is not None:
                jobs: list[_Job | None] = [job]
                while len(jobs) < TOGETHER and jobs[-1] is not None:
                    try:
                        jobs.append(self._jobs.get_nowait())
                    except queue.Empty:
                        break
                if not self._is_closing:
                    self._fill([j for j in jobs if j is not None])
                if jobs[-1] is None:
                    return

    def _fill(self, jobs: Sequence[_Job]) -> None:
        try:
            with _on(self._decoding):
                images = self._decoded(jobs)
            if self._stream is not None and self._decoding is not None:
                self._stream.wait_stream(self._decoding)
                self._stream.synchronize()  # the last call's were read; the decoder may write there again
            self._shown = images
            for job, image in zip(jobs, images, strict=True):
                if image is None:
                    self._pass_on(job.buffer, job.place, job.row, job.future)
                    continue
                turned = upright(image, job.orientation)
                self._pixels[job.buffer, job.place] = resized(turned, self._preprocessing, dtype=self._dtype)
                self._is_here[job.buffer, job.place] = True
                job.future.set_result(None)
        except Exception as error:  # such as a card short of memory: the run ends with it
            for job in jobs:
                if not job.future.done():
                    job.future.set_exception(error)

    def _decoded(self, jobs: Sequence[_Job]) -> list[Tensor | None]:
        """The pixels of each; None where the card cannot decode that file, whatever came with it."""
        try:
            return list(self._decode([job.content for job in jobs]))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            return [None] if len(jobs) == 1 else [self._decoded([job])[0] for job in jobs]


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device, priority=-1)  # type: ignore[no-untyped-call]


def _on(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    return nullcontext() if stream is None else torch.cuda.stream(stream)


def _tensor(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, np.uint8).copy())
