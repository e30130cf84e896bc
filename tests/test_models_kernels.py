"""The tower's Triton kernels compute what PyTorch computes. Skipped by name without an NVIDIA GPU."""

import importlib.util

import pytest
import torch
from torch.nn import functional
from transformers import SiglipVisionConfig, SiglipVisionModel

from ddeval.models import float8
from ddeval.models.float8 import FP8
from ddeval.models.tower import Tower, kernel_for

CUDA = torch.device("cuda")

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or importlib.util.find_spec("triton") is None,
    reason="no NVIDIA GPU, or a torch without Triton",
)
needs_fp8 = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="no GPU with float8 (compute capability 8.9)",
)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(1, 72), (7, 1152), (1024, 40), (5001, 1152)])
def test_the_norm_adds_first_and_is_the_layer_norm_of_what_is_then_there(rows, width, dtype):
    """Rows that fill no whole program and widths that are no power of two; the addition stays in `x`."""
    from ddeval.models.kernels import norm

    torch.manual_seed(0)
    x, more = (torch.randn(rows, width, device=CUDA).to(dtype) for _ in range(2))
    shift, weight, bias = (torch.randn(width, device=CUDA) for _ in range(3))
    there = (x.float() + more.float()).to(dtype)
    summed = x.float() + more.float() + shift
    expected = functional.layer_norm(summed, (width,), weight, bias, 1e-6)
    found = norm(x, more, shift, weight, bias, eps=1e-6, dtype=torch.float32)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x, there, rtol=2**-7, atol=0)  # one unit of bf16's last place


@needs_fp8
def test_float8_products_with_gelu_are_the_products_of_what_float8_holds():
    from ddeval.models.kernels import product_gelu_fp8, to_fp8

    torch.manual_seed(0)
    a, b = torch.randn(300, 144, device=CUDA), torch.randn(592, 144, device=CUDA) / 12
    bias = torch.randn(592, device=CUDA)
    left, right = to_fp8(a, 1.0), to_fp8(b, 64.0)
    assert left.dtype == FP8
    exact = functional.gelu(left.float() @ right.float().T / 64 + bias, approximate="tanh")
    found = product_gelu_fp8(left, right, bias, scale=1 / 64, out_scale=32.0).float() / 32
    assert relative(found, exact) < 0.04  # float8 keeps three bits of a fraction


@needs_fp8
@pytest.mark.parametrize(("b", "t", "n_heads", "head"), [(3, 64, 4, 72), (2, 200, 2, 64), (1, 1024, 16, 72)])
def test_float8_is_attention_of_what_float8_holds(b, t, n_heads, head):
    """Heads that are filled up, tokens that fill no whole tile; each factor is taken off again."""
    if not float8.is_available(CUDA, head):
        pytest.skip("no Hopper card, or no nvidia-cudnn-frontend")
    torch.manual_seed(0)
    p = float8.padded(head)
    exact = torch.randn(3, b * t, n_heads, head, device=CUDA)
    scales = float8.Scales(30.0, 60.0, 90.0)
    held = torch.stack([(part * scale).to(FP8) for part, scale in zip(exact, scales, strict=True)])
    filled = functional.pad(held.float(), (0, p - head)).to(FP8)
    qkv = filled.permute(1, 0, 2, 3).reshape(b * t, 3 * n_heads * p)
    found = float8.Float8Attention(n_heads, head, scales, CUDA)(qkv, b)
    q, k, v = (
        (part.float() / scale).view(b, t, n_heads, head).transpose(1, 2)
        for part, scale in zip(held, scales, strict=True)
    )
    expected = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b * t, n_heads, head)
    answers = found.view(b * t, n_heads, p).float() / scales.value
    assert relative(answers[..., :head], expected) < 0.05
    assert (answers[..., head:] == 0).all()


@pytest.mark.parametrize(
    ("dtype", "precision", "most"),
    [
        (torch.bfloat16, "native", 0.02),
        (torch.float16, "native", 0.005),
        pytest.param(torch.bfloat16, "fp8", 0.15, marks=needs_fp8),
    ],
)
def test_the_tower_on_a_gpu_is_near_transformers_in_float32(dtype, precision, most):
    torch.manual_seed(0)
    shape = {"hidden_size": 288, "intermediate_size": 1072, "num_hidden_layers": 4, "num_attention_heads": 4}
    vision = SiglipVisionModel(SiglipVisionConfig(**shape, image_size=112, patch_size=14)).eval().to(CUDA)
    pixels = torch.randn(5, 3, 112, 112, device=CUDA)
    kernel = kernel_for(vision, CUDA, dtype, precision)
    tower = Tower(vision, dtype=dtype, attention=kernel.partition(":")[2], precision=precision)
    with torch.inference_mode():
        exact = vision(pixel_values=pixels).pooler_output
        assert relative(tower(pixel_values=pixels).pooler_output, exact) < most
