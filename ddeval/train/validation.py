"""Validation: how good is the network at the end of an epoch, on the split that chooses the best one?"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor
from torch.func import functional_call

from ddeval.config import Config
from ddeval.errors import InputError
from ddeval.io import read_json
from ddeval.metrics import balanced_accuracy, nll, top_k_accuracy
from ddeval.metrics.arrays import softmax
from ddeval.metrics.readings import closed_set
from ddeval.models.artefact import METRICS, WEIGHTS
from ddeval.models.weights import read_weights, state_dict_of
from ddeval.train.card import card
from ddeval.train.dataset import Dataset, Images
from ddeval.train.step import Stepper


class Outputs(NamedTuple):
    """What a network says of some rows of a dataset; rows that cannot be read are left out."""

    rows: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    """(N, K)"""
    embeddings: npt.NDArray[np.float32]
    """(N, E)"""


@torch.inference_mode()
def outputs(
    stepper: Stepper,
    state: Mapping[str, Tensor],
    images: Images,
    rows: npt.NDArray[np.int64],
    tick: Callable[[int], None] = lambda n: None,
) -> Outputs:
    """Logits and embeddings of `rows` under the weights of `state`, unaugmented, in their order."""
    stepper.module.eval()
    seen, logits, embeddings = [], [], []
    for part, pixels, readable in images.batches(rows, stepper.recipe.batch_size):
        inputs = stepper.normalise(stepper.pixels_of(pixels)), stepper.features_of(part)
        with stepper.autocast():
            answer = functional_call(stepper.module, dict(state), inputs)
        seen.append(part[readable])
        logits.append(answer[0].cpu().numpy()[readable])
        embeddings.append(answer[1].cpu().numpy()[readable])
        tick(len(part))
    return Outputs(np.concatenate(seen), np.concatenate(logits), np.concatenate(embeddings))


def validate(
    stepper: Stepper, state: Mapping[str, Tensor], images: Images, data: Dataset
) -> dict[str, float]:
    """Closed-set numbers of the validation split, named as `ddeval score --json` names them.

    Over the images of target classes that can be read, `other` left out of the answers: the headline
    that chooses the best epoch. No interval: this number is for choosing, not for reporting.
    """
    _, labels, pred_probs = closed_outputs(stepper, state, images, data)
    if not len(labels):
        raise InputError(
            "split val", "no image of a target class that can be read", expected="some", todo="See --images."
        )
    return {
        "top_1_accuracy": top_k_accuracy(labels, pred_probs),
        "top_3_accuracy": top_k_accuracy(labels, pred_probs, k=min(3, pred_probs.shape[1])),
        "balanced_accuracy": balanced_accuracy(labels, pred_probs),
        "nll": nll(labels, pred_probs),
    }


def closed_outputs(
    stepper: Stepper, state: Mapping[str, Tensor], images: Images, data: Dataset
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Rows, labels and probabilities over the target classes of the validation images that can be read."""
    said = outputs(stepper, state, images, data.val_rows)
    kept, labels, pred_probs = closed_set(data.labels[said.rows], softmax(said.logits), data.other_index)
    return said.rows[kept], labels, pred_probs


def card_of(
    out: Path,
    config: Config,
    data: Dataset,
    images: Images,
    stepper: Stepper,
    *,
    left_out: Mapping[str, int],
    inputs: Mapping[str, Any],
) -> str:
    """The model card of the artefact in `out`, its numbers from its own weights."""
    weights, _ = state_dict_of(read_weights(out / WEIGHTS), where=str(out / WEIGHTS))
    on_device = {name: tensor.to(stepper.device) for name, tensor in weights.items()}
    rows, labels, pred_probs = closed_outputs(stepper, on_device, images, data)
    return card(
        config,
        labels=labels,
        pred_probs=pred_probs,
        rows=data.frame.iloc[rows],
        counts=pd.crosstab(data.frame["label"], data.frame["split"])[["train", "val"]],
        left_out=left_out,
        best_epoch=read_json(out / METRICS)["epoch"],
        inputs=inputs,
        class_names=data.class_names,
    )


def stored_embeddings(stepper: Stepper, images: Images, n_images: int, tick: Callable[[int], None]) -> Tensor:
    """Embeddings (N, E) of every image, once, for a head that is trained on nothing else.

    An image that cannot be read has zeros; `images.failures` keeps it out of every loss.
    """
    said = outputs(stepper, stepper.module.state_dict(), images, np.arange(n_images), tick)
    stored = torch.zeros(n_images, said.embeddings.shape[1])
    stored[torch.from_numpy(said.rows)] = torch.from_numpy(said.embeddings)
    return stored
