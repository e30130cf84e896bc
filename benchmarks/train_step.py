"""One fine-tuning step of the real-size system: images a second, peak memory, with and without checkpointing.

    python benchmarks/train_step.py [--config NAME] [--batch 64] [--steps 10] [--quick] [--json FILE]

Random weights and random pixels (speed does not depend on them), bf16, AdamW, gradient clipping: the step the
training loop takes (`ddeval.train.step.Stepper`). The peer in the same run is the plain loop: a transformers
vision model with a linear head, eager, gradient checkpointing on.
"""

import argparse
import gc
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from ddeval.config import config_file, find_config, read_config
from ddeval.data.fields import read_schema
from ddeval.errors import InputError
from ddeval.models.build import build
from ddeval.models.device import choose_device
from ddeval.train.optimiser import adamw, compile_layers, parameter_groups
from ddeval.train.step import Stepper

N_CLASSES = 26


def timed(step: Any, n_steps: int) -> dict[str, float]:
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(n_steps):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / n_steps
    return {"seconds": seconds, "peak_gib": torch.cuda.max_memory_allocated() / 2**30}


def ours(config: Any, schema: Any, batch: int, *, is_checkpointed: bool) -> Any:
    on = choose_device("cuda")
    model = config.model.model_copy(update={"weights": "random", "gradient_checkpointing": is_checkpointed})
    built = build(model, n_classes=N_CLASSES, answers_width=schema.width if schema else 0)
    module = built.module.to(on.device).train()
    size = built.preprocessing.size
    rng = np.random.default_rng(0)
    data = SimpleNamespace(
        targets=np.eye(N_CLASSES, dtype=np.float32)[rng.integers(N_CLASSES, size=batch)],
        labels=rng.integers(N_CLASSES, size=batch),
        weights=np.ones(batch, np.float32),
        features=rng.random((batch, schema.width), dtype=np.float32) if schema else None,
        image_ids=np.arange(batch).astype(str),
    )
    torch._dynamo.reset()
    compile_layers(module, "always", n_images=batch, device=on.device)
    optimiser = adamw(parameter_groups(module, config.train), on.device)
    stepper = Stepper(
        module,
        optimiser,
        data,  # type: ignore[arg-type]
        config.train,
        preprocessing=built.preprocessing,
        shares=np.full(N_CLASSES, 1 / N_CLASSES),
        on=on,
    )
    pixels = torch.randint(0, 255, (batch, 3, size, size), dtype=torch.uint8).pin_memory()
    part = (np.arange(batch), pixels, np.ones(batch, bool))
    return lambda: stepper.take([part], seed=0, where="benchmark")


def peer(batch: int) -> Any:
    config = SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16,
        image_size=448, patch_size=14,
    )  # fmt: skip
    vision = SiglipVisionModel(config).cuda().train()
    vision.gradient_checkpointing_enable()
    head = nn.Linear(1152, N_CLASSES).cuda()
    parameters = [*vision.parameters(), *head.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=1e-5)
    pixels = torch.randn(batch, 3, 448, 448, device="cuda")
    labels = torch.randint(0, N_CLASSES, (batch,), device="cuda")

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            logits = head(vision(pixel_values=pixels).pooler_output)
            loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", default="gen2a_medsiglip")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="the peer, and ours without checkpointing")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    path = find_config(options.config)
    if path is None:
        raise SystemExit(f"no config {options.config}")
    config = read_config(path)
    named = config.model.feature_schema
    schema = read_schema(config_file(named, beside=path, where=str(path))) if named else None
    half = options.batch // 2
    makers = {
        ("plain loop, checkpointing", options.batch): lambda n: peer(n),
        ("ours, checkpointing", options.batch): lambda n: ours(config, schema, n, is_checkpointed=True),
        ("ours, no checkpointing", options.batch): lambda n: ours(config, schema, n, is_checkpointed=False),
        ("ours, checkpointing", half): lambda n: ours(config, schema, n, is_checkpointed=True),
        ("ours, no checkpointing", half): lambda n: ours(config, schema, n, is_checkpointed=False),
    }
    if options.quick:
        kept = ("plain loop, checkpointing", "ours, no checkpointing")
        makers = {key: make for key, make in makers.items() if key[0] in kept and key[1] == options.batch}
    free, total = (n / 2**30 for n in torch.cuda.mem_get_info())
    print(
        f"{torch.cuda.get_device_name()}, {free:.1f} of {total:.1f} GiB free, torch {torch.__version__}, bf16"
    )
    print(f"{'':28}{'batch':>6}{'img/s':>9}{'s/step':>9}{'peak GiB':>10}")
    rows = []
    for (name, batch), make in makers.items():
        held = torch.cuda.memory_allocated() / 2**30
        try:
            row = {"step": name, "batch": batch, **timed(make(batch), options.steps)}
        except (torch.OutOfMemoryError, InputError) as error:
            peak = torch.cuda.max_memory_allocated() / 2**30
            row = {"step": name, "batch": batch, "peak_gib": peak, "error": str(error)}
            print(f"{name:28}{batch:6}  did not fit, {held:.1f} GiB held before, {peak:.1f} at most: {error}")
        else:
            row["images_per_second"] = batch / row["seconds"]
            said = f"{row['images_per_second']:9.1f}{row['seconds']:9.3f}{row['peak_gib']:10.1f}"
            print(f"{name:28}{batch:6}{said}", flush=True)
        rows.append(row)
        gc.collect()  # the one before must be gone before the next is measured
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
