"""Steps: one change of the weights from a few batches, and what can go wrong in it.

Gradients of the batches of a step are summed and divided by the sum of their images' weights, so that
accumulating k batches of b images is one batch of k b. A loss that is not finite and a batch too large
for the GPU end here, in one sentence each.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from ddeval.config import TrainConfig
from ddeval.data.images import Preprocessing
from ddeval.errors import InputError
from ddeval.models.device import Device
from ddeval.models.fusion import Fusion
from ddeval.train.augment import augment
from ddeval.train.dataset import Dataset
from ddeval.train.losses import image_losses
from ddeval.train.processes import ALONE, Processes

Part = tuple[npt.NDArray[np.int64], Tensor, npt.NDArray[np.bool_]]
"""Rows (B,), uint8 pixels (B, 3, S, S) or stored embeddings (B, E), and which could be read (B,)."""

ATTENTION = [
    SDPBackend.CUDNN_ATTENTION,  # on a Hopper card 1.6 times as fast as the next for heads of 72
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Attention kernels, the first that can is taken."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


class Stepper:
    """Takes steps; holds what stays the same between them."""

    def __init__(
        self,
        module: Fusion,
        optimiser: torch.optim.Optimizer,
        data: Dataset,
        recipe: TrainConfig,
        *,
        preprocessing: Preprocessing,
        shares: npt.NDArray[np.float64],
        on: Device,
        processes: Processes = ALONE,
    ) -> None:
        self.module, self.optimiser, self.data, self.recipe = module, optimiser, data, recipe
        self.processes = processes
        self.network: nn.Module = module
        """What the forward pass of a step goes through: the module, or what shares its gradients."""
        self.device, self.preprocessing = on.device, preprocessing
        is_gpu = on.device.type == "cuda"
        self.dtype = amp_dtype(recipe.amp_dtype, on.dtype)
        self.uses_autocast = is_gpu and self.dtype != torch.float32
        self.scaler = torch.amp.GradScaler(on.device.type, enabled=is_gpu and self.dtype == torch.float16)
        self.generator = torch.Generator(on.device)
        self.log_prior = torch.from_numpy(np.log(shares)).float().to(on.device)
        self.mean = torch.tensor(preprocessing.mean, device=on.device).view(3, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=on.device).view(3, 1, 1)

    def share_gradients(self) -> None:
        """Sum gradients over the processes from now on; again whenever other weights learn."""
        if self.processes.n == 1:
            return
        self.network = self.module  # lets go of the hooks of the one before
        on = [self.device.index] if self.device.type == "cuda" else None
        self.network = DistributedDataParallel(self.module, device_ids=on)

    def take(self, parts: Sequence[Part], *, seed: int, where: str) -> float:
        """Change the weights once; the weighted mean loss of the step's images.

        Parameters
        ----------
        parts : sequence of Part
            The batches of this step; this process's own where there are several.
        seed : int
            Of its augmentation; where a step has several batches, of each one's augmentation and dropout, so
            that it does not matter who computes it.
        where : str
            Which step this is, for a message.
        """
        self.generator.manual_seed(seed)
        self.optimiser.zero_grad(set_to_none=True)
        total = weight = 0.0
        for i, part in enumerate(parts):
            shortage = None
            if self.recipe.accumulate > 1:
                own = seed + self.processes.rank + i * self.processes.n
                self.generator.manual_seed(own)
                torch.manual_seed(own)
            try:
                with self._without_sum(is_wanted=i < len(parts) - 1):
                    losses, weights = self._losses(part)
                    summed = (losses * weights).sum()
                    self.scaler.scale(summed).backward()  # type: ignore[no-untyped-call]
            except torch.OutOfMemoryError as error:
                shortage = str(error)  # the error itself holds the step's tensors, and with them the memory
            if shortage is not None:
                losses = weights = summed = torch.empty(0)
                raise self._too_large(len(part[0]), shortage)
            if not torch.isfinite(summed.detach()):
                raise self._not_finite(losses.detach() * weights, part, where)
            total, weight = total + float(summed.detach()), weight + float(weights.sum())
        total, weight = self.processes.summed(total, weight, device=self.device)
        if weight > 0:
            self._apply(weight)
        return total / weight if weight > 0 else float("nan")

    def pixels_of(self, pixels: Tensor) -> Tensor:
        """uint8 as decoded -> float on the device, before mean and standard deviation.

        Stored embeddings (B, E) pass through this and `normalise` as they are.
        """
        moved = pixels.to(self.device, non_blocking=True)
        return moved if moved.ndim == 2 else moved.float() * self.preprocessing.rescale

    def normalise(self, pixels: Tensor) -> Tensor:
        if pixels.ndim == 2:
            return pixels
        normalised = (pixels - self.mean) / self.std
        return normalised.to(memory_format=torch.channels_last) if self.recipe.channels_last else normalised

    def features_of(self, rows: npt.NDArray[np.int64]) -> Tensor | None:
        held = self.data.features
        return None if held is None else torch.from_numpy(held[rows]).to(self.device)

    def autocast(self) -> torch.autocast:
        """The number format of the forward pass; off on the CPU."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.uses_autocast)

    def _losses(self, part: Part) -> tuple[Tensor, Tensor]:
        """Loss and weight of each image, (B,) each; an image that could not be read weighs nothing."""
        rows, pixels, readable = part
        targets = torch.from_numpy(self.data.targets[rows]).to(self.device)
        weights = torch.from_numpy(self.data.weights[rows] * readable).to(self.device)
        changed, targets = augment(
            self.pixels_of(pixels), targets, self.recipe.augment, generator=self.generator
        )
        with self.autocast(), sdpa_kernel(ATTENTION, set_priority=True):
            logits, _ = self.network(self.normalise(changed), self.features_of(rows))  # (B, K) float32
        losses = image_losses(
            logits,
            targets,
            log_prior=self.log_prior,
            logit_adjustment=self.recipe.logit_adjustment,
            focal_gamma=self.recipe.focal_gamma,
            label_smoothing=self.recipe.label_smoothing,
        )
        return losses, weights

    def _without_sum(self, *, is_wanted: bool) -> AbstractContextManager[None]:
        """Gradients stay this process's own: those of the last batch bring the sum along."""
        if is_wanted and isinstance(self.network, DistributedDataParallel):
            held: AbstractContextManager[None] = self.network.no_sync()
            return held
        return contextlib.nullcontext()

    def _apply(self, weight: float) -> None:
        """Divide the summed gradients by the weight of the step's images, and take the step.

        Several processes hold the mean of their gradients, not the sum.
        """
        self.scaler.unscale_(self.optimiser)
        learning = [p for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        for parameter in learning:
            parameter.grad /= weight / self.processes.n
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(learning, self.recipe.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()

    def _not_finite(self, losses: Tensor, part: Part, where: str) -> InputError:
        bad = ~torch.isfinite(losses).cpu().numpy()
        ids = self.data.image_ids[part[0][bad]]
        lower = ", amp_dtype: fp32" if self.uses_autocast else ""
        return InputError(
            where,
            f"a loss that is not finite for {len(ids)} of {len(bad)} images ({', '.join(ids[:5])})",
            expected="finite losses",
            todo=f"Try a lower learning_rate, clip_norm: 1{lower}; the best epoch so far is kept.",
        )

    def _too_large(self, batch_size: int, shortage: str) -> InputError:
        self.network = self.module  # what is tried next concerns no other process
        fits = largest_batch(self._fits, below=batch_size)
        times = -(-batch_size // fits) if fits else 0
        advice = f"Set batch_size: {fits} and accumulate: {times * self.recipe.accumulate} (the same step)"
        shorter = shortage.splitlines()[0][:120]
        return InputError(
            "train.batch_size",
            f"{batch_size}, too large for the memory of {self.device} ({shorter})",
            expected=f"at most {fits}" if fits else "a smaller model: not even one image fits",
            todo=f"{advice}, or gradient_checkpointing: true." if fits else "Lower image_size.",
        )

    def _fits(self, batch_size: int) -> bool:
        """Whether a step of this many blank images goes through; the weights stay as they are."""
        self.optimiser.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        size, width = self.preprocessing.size, self.module.answers_width
        try:
            pixels = torch.zeros(batch_size, 3, size, size, device=self.device)
            features = torch.zeros(batch_size, width, device=self.device) if width else None
            with self.autocast():
                logits, _ = self.module(self.normalise(pixels), features)
            logits.sum().backward()
        except torch.OutOfMemoryError:
            return False
        return True


def amp_dtype(asked: str, native: torch.dtype) -> torch.dtype:
    """Number format of the forward pass; a card without bfloat16 takes its own format in its place."""
    if asked == "auto" or (asked == "bf16" and native != torch.bfloat16):
        return native
    return DTYPES[asked]


def largest_batch(fits: Callable[[int], bool], *, below: int) -> int:
    """The largest of below/2, below/4, … for which `fits`; 0 if none does."""
    size = below // 2
    while size and not fits(size):
        size //= 2
    return size
