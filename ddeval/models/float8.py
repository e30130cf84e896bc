"""Attention in float8 on a Hopper card, by cuDNN through the package nvidia-cudnn-frontend.

torch's own attention takes no float8. What is here is one graph for each shape, kept, and given the
scales of a layer as it runs.
"""

import functools
import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
OF_WEIGHTS = 256.0
"""By which the weights of the softmax, at most 1, are multiplied before they become float8."""


def padded(head: int) -> int:
    """Width of a head as cuDNN takes it: filled up with zeros to a multiple of 16."""
    return head + -head % 16


class Scales(NamedTuple):
    """By which queries, keys and values were multiplied before they became float8.

    What comes out is a mean of values, and multiplied as they are.
    """

    query: float
    key: float
    value: float


class Float8Attention:
    """Scaled dot-product attention of one layer, float8 in and out.

    Parameters
    ----------
    n_heads, head : int
        `head` is the model's width of a head, of which the scale of the scores is made.
    """

    def __init__(self, n_heads: int, head: int, scales: Scales, device: torch.device) -> None:
        self.n_heads, self.head = n_heads, head
        back = (*(1 / scale for scale in scales), 1 / OF_WEIGHTS, OF_WEIGHTS, scales.value)
        self.factors = [torch.full((1, 1, 1, 1), value, device=device) for value in back]

    def __call__(self, qkv: Tensor, b: int) -> Tensor:
        """(B T, 3 H P) of queries, keys and values, P the padded head, to (B T, H P)."""
        rows, width = qkv.shape[0], self.n_heads * padded(self.head)
        plan = _plan(qkv.device, b, rows // b, self.n_heads, self.head)
        out = torch.empty(rows, width, dtype=FP8, device=qkv.device)
        plan.run([qkv, qkv[:, width:], qkv[:, 2 * width :], *self.factors, out])
        return out


def is_available(device: torch.device, head: int) -> bool:
    """Whether the card, its cuDNN and the package compute heads of this width in float8."""
    if device.type != "cuda" or importlib.util.find_spec("cudnn") is None:
        return False
    if torch.cuda.get_device_capability(device) < (9, 0):
        return False
    try:
        _plan(device, 1, 64, 1, head)
    except Exception:  # the package names no class for "this card does not"
        return False
    return True


class _Plan(NamedTuple):
    graph: Any
    tensors: list[Any]
    largest: list[Tensor]
    """cuDNN writes the largest weight and answer it saw; nobody reads them."""
    workspace: Tensor
    handle: Any

    def run(self, values: list[Tensor]) -> None:
        import cudnn

        stream = torch.cuda.current_stream(self.workspace.device).cuda_stream
        cudnn.set_stream(handle=self.handle, stream=stream)
        pack = dict(zip(self.tensors, [*values, *self.largest], strict=True))
        self.graph.execute(pack, self.workspace, handle=self.handle)


@functools.cache
def _handle(device: torch.device) -> Any:
    import cudnn

    with torch.cuda.device(device):
        return cudnn.create_handle()


@functools.lru_cache(maxsize=8)
def _plan(device: torch.device, b: int, t: int, n_heads: int, head: int) -> _Plan:
    import cudnn

    kinds, p = cudnn.data_type, padded(head)
    handle = _handle(device)
    graph = cudnn.pygraph(
        io_data_type=kinds.FP8_E4M3,
        intermediate_data_type=kinds.FLOAT,
        compute_data_type=kinds.FLOAT,
        handle=handle,
    )
    width = n_heads * p
    stride = [t * 3 * width, p, 3 * width, 1]
    q, k, v = (
        graph.tensor(name=name, dim=[b, n_heads, t, p], stride=stride, data_type=kinds.FP8_E4M3)
        for name in ("query", "key", "value")
    )
    names = ("descale_q", "descale_k", "descale_v", "descale_s", "scale_s", "scale_o")
    factors = {
        name: graph.tensor(name=name, dim=[1, 1, 1, 1], stride=[1, 1, 1, 1], data_type=kinds.FLOAT)
        for name in names
    }
    out, _, *largest = graph.sdpa_fp8(q=q, k=k, v=v, **factors, attn_scale=head**-0.5, generate_stats=False)
    out.set_output(True).set_dim([b, n_heads, t, p]).set_stride([t * width, p, width, 1])
    out.set_data_type(kinds.FP8_E4M3)
    for one in largest:
        one.set_output(True).set_dim([1, 1, 1, 1]).set_stride([1, 1, 1, 1]).set_data_type(kinds.FLOAT)
    graph.validate()
    graph.build_operation_graph()
    graph.create_execution_plans([cudnn.heur_mode.A])
    graph.check_support()
    graph.build_plans()
    return _Plan(
        graph,
        [q, k, v, *factors.values(), out, *largest],
        [torch.zeros(1, 1, 1, 1, device=device) for _ in largest],
        torch.empty(max(1, graph.get_workspace_size()), dtype=torch.uint8, device=device),
        handle,
    )
