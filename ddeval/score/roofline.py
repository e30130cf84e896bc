"""Roofline: how fast could this model answer on this machine, and how near does it come?

A forward pass takes at least the time of its arithmetic at the machine's matrix ceiling, and at least the
time to read its weights once. Both ceilings are measured here, not taken from a data sheet.
"""

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

MATRIX_SIDE = {"cuda": 8192, "cpu": 2048}
COPIED_BYTES = {"cuda": 2**30, "cpu": 2**28}
MEASURED_SECONDS = 0.5


class Ceiling(NamedTuple):
    """What the machine does at most, measured."""

    flops: float
    """Arithmetic of a large matrix product in the number format of the model, FLOP/s."""
    bandwidth: float
    """Bytes read and written a second by a large copy."""

    def least_seconds(self, n_flops: float, n_bytes: int) -> float:
        """The time below which `n_flops` of products over `n_bytes` of weights cannot be done."""
        return max(n_flops / self.flops, n_bytes / self.bandwidth)


def ceiling(device: torch.device, dtype: torch.dtype) -> Ceiling:
    """Both ceilings of `device`, best of what half a second of each allows."""
    n = MATRIX_SIDE[device.type]
    a, b = (torch.randn(n, n, device=device, dtype=torch.float32).to(dtype) for _ in range(2))
    product = torch.empty_like(a)
    seconds = _best(lambda: torch.mm(a, b, out=product), device)
    source = torch.ones(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copy_seconds = _best(lambda: target.copy_(source), device)
    return Ceiling(2 * n**3 / seconds, 2 * source.nbytes / copy_seconds)


def count_flops(module: nn.Module, pixels: tuple[int, int, int], answers_width: int | None) -> float:
    """Arithmetic of one photograph's forward pass, in FLOP (a multiply and an add are two).

    Counted on tensors without data, so that nothing is computed. NaN for a module of other people's code
    that only runs on numbers.

    Parameters
    ----------
    pixels : (channels, height, width)
    answers_width : int, optional
        Columns of the encoded questionnaire; None for a model of photographs alone.
    """
    tensors = itertools.chain(module.named_parameters(), module.named_buffers())
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in tensors}
    counter = FlopCounterMode(display=False)
    try:
        with (
            FakeTensorMode(),
            torch.inference_mode(),
            sdpa_kernel(SDPBackend.MATH),
        ):  # whose products are counted
            state = {name: torch.empty(shape, dtype=dtype) for name, (shape, dtype) in shapes.items()}
            answers = None if answers_width is None else torch.empty(1, answers_width)
            with counter:
                functional_call(module, state, (torch.empty(1, *pixels), answers))
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        return float("nan")
    return float(counter.get_total_flops())


def weight_bytes(module: nn.Module) -> int:
    """Bytes of its parameters and buffers, shared ones once."""
    tensors = {t.data_ptr(): t.nbytes for t in itertools.chain(module.parameters(), module.buffers())}
    return sum(tensors.values())


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best(work: Callable[[], Tensor], device: torch.device) -> float:
    """Seconds of the fastest of repeated calls."""
    work()
    synchronize(device)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < MEASURED_SECONDS:
        start = time.perf_counter()
        work()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best
