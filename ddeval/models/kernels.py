"""Triton kernels of the SigLIP tower on an NVIDIA GPU; `ddeval.models.tower` says what they are for.

Each does in one pass over memory what PyTorch would do in two to four. Importing this module needs
Triton, which every CUDA build of torch brings.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ddeval.models.float8 import FP8

ROWS, WARPS, STAGES, PROGRAMS = 2, 2, 3, 4
"""Of the norm: rows and warps of a program, rows under way at a time, programs a multiprocessor."""


def norm(
    x: Tensor,
    more: Tensor | None,
    shift: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    eps: float,
    dtype: torch.dtype,
) -> Tensor:
    """Layer norm of `x + shift` over the last axis, (M, H), computed in float32, stored as `dtype`.

    Where there is `more`, `x += more` in place comes first.
    """
    rows, width = x.shape
    out = torch.empty(rows, width, dtype=dtype, device=x.device)
    n_programs = min(PROGRAMS * _processors(x.device), triton.cdiv(rows, ROWS))
    _norm[(n_programs,)](
        x, x if more is None else more, shift, weight, bias, out, rows, width, eps, n_programs,
        BLOCK=triton.next_power_of_2(width), ROWS=ROWS, ADD=more is not None, STAGES=STAGES, num_warps=WARPS,
    )  # fmt: skip
    return out


@triton.jit
def _norm(
    x_at, more_at, shift_at, weight_at, bias_at, out_at, rows, width, eps, n_programs,
    BLOCK: tl.constexpr, ROWS: tl.constexpr, ADD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    inside = column < width
    shift = tl.load(shift_at + column, mask=inside, other=0.0)
    weight = tl.load(weight_at + column, mask=inside, other=0.0)
    bias = tl.load(bias_at + column, mask=inside, other=0.0)
    # the rows of the next rounds are on their way while these are worked on
    for step in tl.range(tl.program_id(0), tl.cdiv(rows, ROWS), n_programs, num_stages=STAGES):
        row = (step * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        at = row * width + column
        here = inside & (row < rows)
        x = tl.load(x_at + at, mask=here, other=0.0).to(tl.float32)
        if ADD:
            x += tl.load(more_at + at, mask=here, other=0.0).to(tl.float32)
            tl.store(x_at + at, x.to(x_at.dtype.element_ty), mask=here)
        x += shift
        mean = tl.sum(x, axis=1)[:, None] / width
        centred = tl.where(inside, x - mean, 0.0)
        variance = tl.sum(centred * centred, axis=1)[:, None] / width
        y = centred * tl.rsqrt(variance + eps) * weight + bias
        if out_at.dtype.element_ty == tl.float8e4nv:
            y = tl.clamp(y, -448.0, 448.0)
        tl.store(out_at + at, y.to(out_at.dtype.element_ty), mask=here)


def to_fp8(x: Tensor, scale: float) -> Tensor:
    """`x * scale` as float8; `x` is contiguous."""
    out = torch.empty_like(x, dtype=FP8)
    n = x.numel()
    _to_fp8[(triton.cdiv(n, 4096),)](x, out, n, scale, BLOCK=4096, num_warps=8)
    return out


@triton.jit
def _to_fp8(x_at, out_at, n, scale, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_at + at, mask=at < n, other=0.0).to(tl.float32)
    tl.store(out_at + at, tl.clamp(x * scale, -448.0, 448.0).to(tl.float8e4nv), mask=at < n)


@triton.jit
def _gelu_tanh(x, scale):
    """`gelu(x) * scale`; the card's own tanh, good to eleven bits, where float8 keeps three."""
    inner = x * (0.7978845608028654 + 0.035677408136300125 * x * x)
    tanh = tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [inner], dtype=tl.float32, is_pure=True, pack=1
    )
    half = (0.5 * scale) * x
    return half + half * tanh


def product_gelu_fp8(a: Tensor, b: Tensor, bias: Tensor, *, scale: float, out_scale: float) -> Tensor:
    """`gelu(a @ b.T * scale + bias) * out_scale` as float8: (M, K) and (N, K) float8 to (M, N).

    The product and all that follows it in one pass: the (M, N) values never lie in memory in bf16.
    """
    (m, k), n = a.shape, b.shape[0]
    out = torch.empty(m, n, dtype=FP8, device=a.device)
    n_sm = _processors(a.device)
    triton.set_allocator(_scratch)
    BM, BN = 128, 256
    tiles = triton.cdiv(m, BM) * triton.cdiv(n, BN)
    _matmul[(min(n_sm, tiles),)](
        a, b, out, bias, m, n, k, scale, out_scale, n_sm, BM=BM, BN=BN, BK=128, GROUP=8,
        num_warps=8, num_stages=3,
    )  # fmt: skip
    return out


def _processors(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _scratch(size: int, alignment: int, stream: Any) -> Tensor:
    return torch.empty(size, device="cuda", dtype=torch.int8)


@triton.jit
def _matmul(
    a_at, b_at, out_at, bias_at, M, N, K, scale, out_scale, n_sm,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    a = tl.make_tensor_descriptor(a_at, shape=[M, K], strides=[K, 1], block_shape=[BM, BK])
    b = tl.make_tensor_descriptor(b_at, shape=[N, K], strides=[K, 1], block_shape=[BN, BK])
    out = tl.make_tensor_descriptor(out_at, shape=[M, N], strides=[N, 1], block_shape=[BM, BN])
    tiles_m, tiles_n = tl.cdiv(M, BM), tl.cdiv(N, BN)
    steps = tl.cdiv(K, BK)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, n_sm, flatten=True):
        group = tile // (GROUP * tiles_n)
        size = min(tiles_m - group * GROUP, GROUP)
        row = (group * GROUP + (tile % size)) * BM
        column = ((tile % (GROUP * tiles_n)) // size) * BN
        total = tl.zeros((BM, BN), dtype=tl.float32)
        for step in range(steps):
            left = a.load([row, step * BK])
            right = b.load([column, step * BK])
            total = tl.dot(left, right.T, total)
        columns = column + tl.arange(0, BN)
        y = total * scale + tl.load(bias_at + columns, mask=columns < N, other=0.0)[None, :]
        # the conversion itself ends at 448
        out.store([row, column], _gelu_tanh(y, out_scale).to(tl.float8e4nv))
