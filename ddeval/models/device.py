"""Devices: where does the model run, and in which number format?

The format follows from the card's compute capability, not from what torch claims to support: bfloat16
is emulated on a T4, and slow.
"""

import shutil
from pathlib import Path
from typing import Literal, NamedTuple

import torch

DeviceName = Literal["auto", "cpu", "cuda"]

NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
PROCESSOR = Path("/proc/cpuinfo")
HALF_FLAGS = {"bf16": ("avx512_bf16", "amx_bf16", "bf16"), "fp16": ("avx512_fp16", "amx_fp16", "asimdhp")}
"""Flags of an x86 or ARM processor that multiplies numbers of the format, any of them."""


class Device(NamedTuple):
    """Where to compute, in what format, and why not on a GPU where one was expected."""

    device: torch.device
    dtype: torch.dtype
    """Of the backbone's forward pass; logits are float32 everywhere."""
    note: str | None
    """One sentence for the user when the GPU of this machine is not used."""


def choose_device(name: DeviceName = "auto") -> Device:
    """The GPU if there is one this build of torch can use, else the CPU and the reason in one sentence.

    `cuda` where no GPU can be used is answered like `auto`: the run goes on, and `note` says so.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ValueError(f"device must be auto, cpu or cuda, got {name!r}")
    cpu = torch.device("cpu")
    if name == "cpu":
        return Device(cpu, torch.float32, None)
    if not torch.cuda.is_available():
        return Device(cpu, torch.float32, _why_no_gpu(name))
    index = torch.cuda.current_device()
    capability = torch.cuda.get_device_capability(index)
    if not _kernels_run(index):
        card = torch.cuda.get_device_name(index)
        return Device(cpu, torch.float32, no_kernels(card, capability, torch.cuda.get_arch_list()))
    return Device(torch.device("cuda", index), dtype_for(capability), None)


def dtype_for(capability: tuple[int, int] | None) -> torch.dtype:
    """bfloat16 from compute capability 8.0, float16 for 7.x, float32 below and for no GPU (None)."""
    if capability is None or capability < (7, 0):
        return torch.float32
    return torch.bfloat16 if capability >= (8, 0) else torch.float16


def imitated(device: torch.device, dtype: str) -> str | None:
    """The sentence for a format that this CPU only imitates; None where it has it, or does not say."""
    if device.type != "cpu" or dtype == "fp32" or not PROCESSOR.is_file():
        return None
    flags = set(PROCESSOR.read_text().split())
    if flags & set(HALF_FLAGS[dtype]):
        return None
    return f"This processor has no {dtype} products and imitates them: fp32 is faster here, and exact."


def no_kernels(card: str, capability: tuple[int, int], built_for: list[str]) -> str:
    """The sentence for a GPU that this build of torch holds no code for."""
    sm = f"sm_{capability[0]}{capability[1]}"
    return (
        f"The {card} ({sm}) is not used: this torch is built for {', '.join(built_for) or 'no GPU'}; "
        f"running on the CPU in float32. Install a torch that lists {sm}."
    )


def _why_no_gpu(name: DeviceName) -> str | None:
    has_card = NVIDIA_DRIVER.exists() or shutil.which("nvidia-smi") is not None
    if has_card and torch.version.cuda is None:
        return (
            f"The GPU of this machine is not used: torch {torch.__version__} is a CPU build; running on "
            "the CPU in float32. Install torch from https://download.pytorch.org/whl/cu128."
        )
    if has_card or name == "cuda":
        return "No usable GPU was found (see nvidia-smi); running on the CPU in float32."
    return None


def _kernels_run(index: int) -> bool:
    try:
        return bool((torch.ones(2, device=f"cuda:{index}") + 1).sum().item() == 4)
    except RuntimeError:
        return False
