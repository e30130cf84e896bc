"""The SigLIP tower as few, large operations: what transformers computes, in fewer passes over memory.

A block is seven operations: norm, one product for query, key and value, attention, product added onto the
residual, norm, product with GELU at its end, product added onto the residual. The two biases that would be
added onto the residual are kept back, as one vector a block, and added where the residual is next read
(inside the norm), so that both products end in a plain sum, which the matrix library does itself. Nothing
here is compiled, so nothing has to pay for a compiler; docs/log.md has what compiling the blocks gave.

`with_towers` puts it in the place of a `SiglipVisionModel`, for inference only.
"""

import contextlib
import copy
import importlib.util
from typing import Any, Literal, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import SiglipVisionModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from ddeval.models import float8
from ddeval.models.float8 import Float8Attention, Scales

Attention = Literal["auto", "flash", "cudnn", "cudnn-fp8"]
Precision = Literal["native", "fp8"]
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
WIDTH_MULTIPLE = 64
"""Hidden units of the MLP are filled up with zeros to a multiple of this: whole tiles of the matrix unit."""

FP8_MAX = 448.0
"""The largest number of float8 e4m3."""


def has_tower(module: nn.Module) -> bool:
    """Whether a SigLIP vision model with the MLP of its papers (GELU, tanh form) is in `module`."""
    return any(_is_tower(part) for part in module.modules())


def kernel_for(
    module: nn.Module, device: torch.device, dtype: torch.dtype, precision: Precision = "native"
) -> str:
    """Which kernels a tower runs on: `tower`, and after a colon its attention on a GPU.

    cuDNN's attention is the fastest for heads of 72 on a Hopper card (351 TFLOP/s; torch's own flash
    attention 218); where it does not run for this head and format, torch chooses. fp8 takes cuDNN's
    attention in float8 where it is there.
    """
    if device.type != "cuda":
        return "tower"
    config = next(part for part in module.modules() if _is_tower(part)).config
    head = config.hidden_size // config.num_attention_heads
    if precision == "fp8" and float8.is_available(device, head):
        return "tower:cudnn-fp8"
    q = torch.zeros(1, 1, 16, head, device=device, dtype=dtype)
    try:
        with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            functional.scaled_dot_product_attention(q, q, q)
    except RuntimeError:
        return "tower:auto"
    return "tower:cudnn"


def with_towers(
    module: nn.Module, *, dtype: torch.dtype, device: torch.device, kernel: str, precision: Precision
) -> nn.Module:
    """`module` with a `Tower` for each SigLIP vision model in it; `module` itself stays as it is."""
    if _is_tower(module):
        attention = cast(Attention, kernel.partition(":")[2] or "auto")
        return Tower(module, dtype=dtype, device=device, attention=attention, precision=precision)
    changed = copy.copy(module)
    changed._modules = {
        name: part and with_towers(part, dtype=dtype, device=device, kernel=kernel, precision=precision)
        for name, part in module._modules.items()
    }
    return changed


def _is_tower(part: nn.Module) -> TypeGuard[SiglipVisionModel]:
    return isinstance(part, SiglipVisionModel) and part.config.hidden_act == "gelu_pytorch_tanh"


class Tower(nn.Module):
    """A SigLIP vision tower for inference in one number format; called like the original.

    Parameters
    ----------
    vision : SiglipVisionModel
        Its weights are copied into `dtype`; it is not changed.
    dtype : torch.dtype
        Of the products. bfloat16 keeps the residual in bfloat16, float16 and float32 keep it in float32.
    attention : str
        Which kernel; auto is what torch chooses, cudnn-fp8 is for fp8 alone.
    precision : "native" or "fp8"
        fp8 computes the four large products of each block in float8 (e4m3) with float32 sums, and
        attention too where that is `attention`.
    """

    patch_weight: Tensor
    positions: Tensor
    last_shift: Tensor

    def __init__(
        self,
        vision: SiglipVisionModel,
        *,
        dtype: torch.dtype,
        attention: Attention = "auto",
        precision: Precision = "native",
        device: torch.device | None = None,
        residual: torch.dtype | None = None,
        multiple: int = WIDTH_MULTIPLE,
    ) -> None:
        super().__init__()
        config = vision.config
        device = device or vision.device
        self.config, self.dtype, self.attention, self.precision = config, dtype, attention, precision
        self.residual = residual or (torch.bfloat16 if dtype == torch.bfloat16 else torch.float32)
        conv = vision.embeddings.patch_embedding
        weight = conv.weight.detach().to(device).flatten(1)  # (H, 3 P P)
        self.patch = int(conv.kernel_size[0])
        self.fill = -weight.shape[1] % 16
        self._keep("patch_weight", functional.pad(weight, (0, self.fill)).to(dtype))
        positions = vision.embeddings.position_embedding.weight.detach()
        if conv.bias is not None:
            positions = positions + conv.bias.detach()
        self._keep("positions", positions.to(device, self.residual))
        shift = torch.zeros(config.hidden_size, device=device)
        blocks: list[_Block] = []
        for layer in vision.encoder.layers:
            blocks.append(_Block(layer, shift, self, multiple))
            shift = blocks[-1].shift_after
        self.blocks = nn.ModuleList(blocks)
        self._keep("last_shift", shift)
        self.norm = _Norm(vision.post_layernorm, device)
        self.head = _Pool(vision.head, dtype, device) if vision.use_head else None

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.contiguous(), persistent=False)

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Pooled output (B, E) and last hidden state (B, T, E) of normalised pixels (B, 3, S, S)."""
        with torch.autocast(pixel_values.device.type, enabled=False):
            b, _c, side, _w = pixel_values.shape
            n, p = side // self.patch, self.patch
            patches = pixel_values.to(self.dtype).reshape(b, 3, n, p, n, p).permute(0, 2, 4, 1, 3, 5)
            flat = functional.pad(patches.reshape(b * n * n, 3 * p * p), (0, self.fill))
            x = functional.linear(flat, self.patch_weight).view(b, n * n, -1) + self.positions
            x = x.to(self.residual).view(b * n * n, -1)
            more = None
            for block in self.blocks:
                x, more = block(x, more, b)
            hidden = self.norm(x, more, self.last_shift, self.dtype).view(b, n * n, -1)
            pooled = self.head(hidden) if self.head is not None else None
        return BaseModelOutputWithPooling(last_hidden_state=hidden, pooler_output=pooled)


class _Block(nn.Module):
    """One layer of the encoder. `shift` is what of the residual is kept back when it begins."""

    shift: Tensor
    shift_between: Tensor
    qkv: Tensor
    qkv_bias: Tensor
    out: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    up_bias_float: Tensor
    one: Tensor

    def __init__(self, layer: Any, shift: Tensor, tower: Tower, multiple: int) -> None:
        super().__init__()
        device = shift.device
        a, mlp, dtype = layer.self_attn, layer.mlp, tower.dtype
        self.attention, self.dtype, self.precision = tower.attention, dtype, tower.precision
        self.n_heads, self.head = a.num_heads, a.head_dim
        self.norm1, self.norm2 = _Norm(layer.layer_norm1, device), _Norm(layer.layer_norm2, device)
        projections = (a.q_proj, a.k_proj, a.v_proj)
        qkv = torch.cat([p.weight.detach().to(device) for p in projections])
        qkv_bias = torch.cat([p.bias.detach().to(device) for p in projections])
        more = -mlp.fc1.out_features % multiple
        up = functional.pad(mlp.fc1.weight.detach().to(device), (0, 0, 0, more))
        up_bias = functional.pad(mlp.fc1.bias.detach().to(device), (0, more))
        down = functional.pad(mlp.fc2.weight.detach().to(device), (0, more))
        shift_between = shift + a.out_proj.bias.detach().to(device).float()
        self.shift_after = shift_between + mlp.fc2.bias.detach().to(device).float()
        self._keep("shift", shift)
        self._keep("shift_between", shift_between)
        self._keep("qkv_bias", qkv_bias.to(dtype))
        self._keep("up_bias", up_bias.to(dtype))
        weights = {"qkv": qkv, "out": a.out_proj.weight.detach().to(device), "up": up, "down": down}
        if self.precision == "fp8":
            self._prepare_fp8(weights, qkv_bias, up_bias)
        else:
            for name, weight in weights.items():
                self._keep(name, weight.to(dtype))

    def _keep(self, name: str, value: Tensor) -> None:
        self.register_buffer(name, value.contiguous(), persistent=False)

    def forward(self, x: Tensor, more: Tensor | None, b: int) -> tuple[Tensor, Tensor | None]:
        """The residual (B T, H), and what is still to be added to it: float8 products cannot add it."""
        if self.precision == "fp8":
            return self._forward_fp8(x, more, b)
        h = self.norm1(x, more, self.shift, self.dtype)
        x = _add_product(x, self._attend(functional.linear(h, self.qkv, self.qkv_bias), b), self.out)
        h = self.norm2(x, None, self.shift_between, self.dtype)
        return _add_product(x, _product_gelu(h, self.up, self.up_bias), self.down), None

    def _attend(self, qkv: Tensor, b: int) -> Tensor:
        """(B T, 3 H) to (B T, H)."""
        q, k, v = qkv.view(b, -1, 3, self.n_heads, self.head).permute(2, 0, 3, 1, 4)
        with contextlib.ExitStack() as stack:
            if self.attention != "auto":
                stack.enter_context(sdpa_kernel(BACKENDS[self.attention]))
            mixed = functional.scaled_dot_product_attention(q, k, v)  # (B, heads, T, head)
        return mixed.transpose(1, 2).reshape(-1, self.n_heads * self.head)

    def _prepare_fp8(self, weights: dict[str, Tensor], qkv_bias: Tensor, up_bias: Tensor) -> None:
        """Weights in float8, and scales that no activation can exceed.

        A row that leaves a norm has length at most sqrt(H), so each product of it is bounded by the
        length of the weight's row: scales follow from the weights, no calibration data, nothing clipped.
        """
        gain1, bias1, gain2, bias2 = self.norm1.gain, self.norm1.bias, self.norm2.gain, self.norm2.bias
        parts = zip(weights["qkv"].float().chunk(3), qkv_bias.float().chunk(3), strict=True)
        most_query, most_key, most_value = (_bound(weight, bias, gain1, bias1) for weight, bias in parts)
        most_up = _bound(weights["up"].float(), up_bias, gain2, bias2)
        if self.attention == "cudnn-fp8":
            self._prepare_attention(weights, qkv_bias, (most_query, most_key, most_value))
        scale = {name: FP8_MAX / float(weight.abs().max()) for name, weight in weights.items()}
        for name, weight in weights.items():
            self._keep(name, (weight.float() * scale[name]).to(torch.float8_e4m3fn))
        # what leaves a norm lies at about 1 to 30 and is used as it is
        self.of_mixed, self.of_hidden = FP8_MAX / most_value, FP8_MAX / most_up
        self.of_up = scale["up"]
        inputs = {"qkv": 1.0, "out": self.of_mixed, "down": self.of_hidden}
        for name, of_input in inputs.items():
            back = torch.tensor(1 / (scale[name] * of_input), device=weights[name].device)
            self._keep(f"{name}_scale", back)
        self._keep("one", torch.ones((), device=weights["qkv"].device))
        self._keep("up_bias_float", up_bias.float())

    def _prepare_attention(
        self, weights: dict[str, Tensor], qkv_bias: Tensor, most: tuple[float, float, float]
    ) -> None:
        """Heads filled up, and queries, keys and values multiplied up to what float8 holds."""
        more = float8.padded(self.head) - self.head
        scales = Scales(*(FP8_MAX / bound for bound in most))
        factors = torch.tensor(scales, device=qkv_bias.device).view(3, 1, 1)
        bias = functional.pad(qkv_bias.float().view(3, self.n_heads, self.head) * factors, (0, more))
        self._keep("qkv_bias", bias.flatten().to(self.dtype))
        weight = weights["qkv"].float().view(3, self.n_heads, self.head, -1) * factors[..., None]
        weights["qkv"] = functional.pad(weight, (0, 0, 0, more)).flatten(0, 2)
        out = weights["out"].view(-1, self.n_heads, self.head)
        weights["out"] = functional.pad(out, (0, more)).flatten(1)
        self.attend_fp8 = Float8Attention(self.n_heads, self.head, scales, qkv_bias.device)

    def _forward_fp8(self, x: Tensor, more: Tensor | None, b: int) -> tuple[Tensor, Tensor]:
        from ddeval.models import kernels

        h = self.norm1(x, more, self.shift, torch.float8_e4m3fn)
        if self.attention == "cudnn-fp8":
            mixed = self.attend_fp8(self._product_fp8("qkv", h, self.qkv_bias, torch.float8_e4m3fn), b)
        else:
            mixed = kernels.to_fp8(self._attend(self._product_fp8("qkv", h, self.qkv_bias), b), self.of_mixed)
        h = self.norm2(x, self._product_fp8("out", mixed), self.shift_between, torch.float8_e4m3fn)
        hidden = kernels.product_gelu_fp8(
            h, self.up, self.up_bias_float, scale=1 / self.of_up, out_scale=self.of_hidden
        )
        return x, self._product_fp8("down", hidden)

    def _product_fp8(
        self, name: str, h: Tensor, bias: Tensor | None = None, dtype: torch.dtype = torch.bfloat16
    ) -> Tensor:
        return torch._scaled_mm(
            h,
            getattr(self, name).t(),
            scale_a=self.one,
            scale_b=getattr(self, f"{name}_scale"),
            bias=bias,
            out_dtype=dtype,
            use_fast_accum=True,
        )


class _Pool(nn.Module):
    """The pooling head: one learnt query attends to all patches, then an MLP."""

    query: Tensor
    kv: Tensor
    kv_bias: Tensor
    out: Tensor
    out_bias: Tensor
    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor

    def __init__(self, head: Any, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        h = head.probe.shape[-1]
        inner = head.attention
        weight, bias = inner.in_proj_weight.detach().float(), inner.in_proj_bias.detach().float()
        query = head.probe.detach().float().view(1, h) @ weight[:h].T + bias[:h]
        self.n_heads = inner.num_heads
        tensors = {
            "query": query, "kv": weight[h:], "kv_bias": bias[h:],
            "out": inner.out_proj.weight.detach(), "out_bias": inner.out_proj.bias.detach(),
            "up": head.mlp.fc1.weight.detach().to(device), "up_bias": head.mlp.fc1.bias.detach().to(device),
            "down": head.mlp.fc2.weight.detach().to(device), "down_bias": head.mlp.fc2.bias.detach(),
        }  # fmt: skip
        for name, value in tensors.items():
            self.register_buffer(name, value.to(device, dtype).contiguous(), persistent=False)
        self.norm = _Norm(head.layernorm, device)

    def forward(self, hidden: Tensor) -> Tensor:
        b, t, h = hidden.shape
        k, v = (
            functional.linear(hidden, self.kv, self.kv_bias)
            .view(b, t, 2, self.n_heads, h // self.n_heads)
            .permute(2, 0, 3, 1, 4)
        )
        q = self.query.view(1, self.n_heads, 1, -1).expand(b, -1, -1, -1)
        mixed = functional.scaled_dot_product_attention(q, k, v).reshape(b, h)
        x = functional.linear(mixed, self.out, self.out_bias)
        n = self.norm
        inner = functional.layer_norm(x.float(), (h,), n.gain, n.bias, n.eps).to(x.dtype)
        inner = functional.gelu(functional.linear(inner, self.up, self.up_bias), approximate="tanh")
        return x + functional.linear(inner, self.down, self.down_bias)


class _Norm(nn.Module):
    """Layer norm of the residual and what is kept back of it, computed in float32."""

    gain: Tensor
    bias: Tensor

    def __init__(self, layer: nn.LayerNorm, device: torch.device) -> None:
        super().__init__()
        self.eps = layer.eps
        self.is_fused = _has_triton(device)
        self.register_buffer("gain", layer.weight.detach().to(device).float(), persistent=False)
        self.register_buffer("bias", layer.bias.detach().to(device).float(), persistent=False)

    def forward(self, x: Tensor, more: Tensor | None, shift: Tensor, dtype: torch.dtype) -> Tensor:
        """Of `x + shift`; where there is `more`, it is added onto `x`, in place, first."""
        if self.is_fused:
            from ddeval.models import kernels

            return kernels.norm(x, more, shift, self.gain, self.bias, eps=self.eps, dtype=dtype)
        if more is not None:
            x += more
        return functional.layer_norm(x + shift, shift.shape, self.gain, self.bias, self.eps).to(dtype)


def _has_triton(device: torch.device) -> bool:
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    return importlib.util.find_spec("triton") is not None


def _add_product(x: Tensor, h: Tensor, weight: Tensor) -> Tensor:
    """`x += h @ weight.T`, as one operation where both have the same format."""
    return x.addmm_(h, weight.t()) if x.dtype == h.dtype else x.add_(functional.linear(h, weight))


def _product_gelu(h: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`gelu(h @ weight.T + bias)`, tanh form."""
    if h.is_cuda and h.dtype != torch.float32:
        return torch._addmm_activation(bias, h, weight.t(), use_gelu=True)
    return functional.gelu(functional.linear(h, weight, bias), approximate="tanh")


def _bound(weight: Tensor, bias: Tensor, gain: Tensor, norm_bias: Tensor) -> float:
    """Most that |weight @ h + bias| can be, h any row that the norm gives."""
    h = weight.shape[1]
    rows = (weight * gain).norm(dim=1) * h**0.5 + (weight @ norm_bias + bias.float()).abs()
    return float(rows.max())
