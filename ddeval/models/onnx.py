"""ONNX: a checkpoint as one file that onnxruntime computes without torch, and the way back to a checkpoint.

The file is the network (normalised pixels and encoded answers in; logits and embeddings out; any batch) and,
as its metadata, everything else that scoring needs: classes, preprocessing, the questionnaire, which
checkpoint it was made from. A hash ties the two together, so a damaged file is never scored. onnxruntime
computes on the CPU here, in float32.
"""

import hashlib
import json
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from ddeval.data.images import Preprocessing
from ddeval.data.questionnaire import FeatureSchema
from ddeval.errors import InputError
from ddeval.io import file_sha256, write_bytes
from ddeval.models.record import Checkpoint

SUFFIX = ".onnx"
OPSET = 17
PROVIDER = "CPUExecutionProvider"
KEY, HASH = "ddeval", "ddeval.sha256"
"""Names in the metadata: the JSON that describes the network, and the hash over network and JSON."""
MOST_BYTES = 2**31 - 2**20
"""A protobuf message ends at 2 GiB; so does a network in one file."""
CLOSE = 1e-3
"""Largest difference of a logit, as a share of the largest logit, that is rounding and no other network."""


class OnnxNetwork(nn.Module):
    """A session of onnxruntime, called like the module of any `Checkpoint`."""

    def __init__(self, session: Any, *, n_parameters: int, answers_width: int) -> None:
        super().__init__()
        self.session, self.n_parameters, self.answers_width = session, n_parameters, answers_width

    def forward(self, pixels: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and embeddings (B, E) of normalised pixels (B, 3, S, S) and answers (B, D)."""
        given = {"pixels": pixels.numpy()}
        if features is not None:
            given["features"] = features.numpy()
        logits, embeddings = self.session.run(["logits", "embeddings"], given)
        return torch.from_numpy(logits), torch.from_numpy(embeddings)


def write_onnx(checkpoint: Checkpoint, path: Path) -> float:
    """Write `checkpoint` as one ONNX file, whole or not at all; the largest difference of a logit.

    The difference is between onnxruntime and torch in float32, on one drawn input and on a batch of three:
    proof that the network is the same, not a measurement on photographs.

    Raises
    ------
    InputError
        If the package onnx or onnxruntime is missing, the answers are encoded by code of the user's own (it
        cannot be put into the file), the network is past 2 GiB or cannot be traced, or onnxruntime
        answers otherwise; nothing is written then.
    """
    onnx, _ = _package("onnx"), _package("onnxruntime")
    if checkpoint.encode is not None:
        raise InputError(
            checkpoint.name,
            "answers that a function of your own package encodes",
            expected="a feature schema, which the file can hold",
            todo="Score the checkpoint itself.",
        )
    network = _traced(checkpoint)
    described = json.dumps(_described(checkpoint, len(network)), sort_keys=True)
    digest = hashlib.sha256(network + described.encode()).hexdigest()
    entries = [onnx.StringStringEntryProto(key=k, value=v) for k, v in ((KEY, described), (HASH, digest))]
    # a protobuf message continues in what is appended to it, so the network's own bytes stay as they are
    content = network + onnx.ModelProto(metadata_props=entries).SerializeToString()
    difference = _difference(checkpoint, content)
    write_bytes(path, content)
    return difference


def read_onnx(path: Path, *, name: str) -> Checkpoint:
    """The checkpoint in a file that `write_onnx` wrote, to be computed by onnxruntime.

    Raises an InputError where onnxruntime is missing, or the file is damaged or of another program.
    """
    session = _session(str(path), where=str(path))
    held = session.get_modelmeta().custom_metadata_map
    if KEY not in held or HASH not in held:
        raise InputError(
            str(path),
            "an ONNX file that says neither classes nor preprocessing",
            expected="one that `ddeval export` wrote",
            todo="Export the checkpoint with ddeval, or score a file of its predictions.",
        )
    try:
        about = json.loads(held[KEY])
        with path.open("rb") as file:
            network = file.read(int(about["n_bytes"]))
        if hashlib.sha256(network + held[KEY].encode()).hexdigest() != held[HASH]:
            raise ValueError("another sha256")
        schema = about["schema"]
        return Checkpoint(
            name=name,
            kind="onnx",
            module=OnnxNetwork(
                session, n_parameters=about["n_parameters"], answers_width=about["answers_width"]
            ).eval(),
            class_names=tuple(about["class_names"]),
            other_class=about["other_class"],
            link=about["link"],
            preprocessing=Preprocessing.from_dict(about["preprocessing"]),
            schema=None if schema is None else FeatureSchema.from_dict(schema, where=str(path)),
            sha256=file_sha256(path),
            settings={"made_from": about["made_from"], "opset": OPSET},
            folder=path,
            reported=about["reported"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, str(error)) from None


def _described(checkpoint: Checkpoint, n_bytes: int) -> dict[str, Any]:
    return {
        "n_bytes": n_bytes,
        "n_parameters": checkpoint.n_parameters,
        "answers_width": checkpoint.schema.width if checkpoint.schema else 0,
        "class_names": list(checkpoint.class_names),
        "other_class": checkpoint.other_class,
        "link": checkpoint.link,
        "preprocessing": checkpoint.preprocessing.to_dict(),
        "schema": checkpoint.schema.to_dict() if checkpoint.schema else None,
        "reported": checkpoint.reported,
        "made_from": {"name": checkpoint.name, "kind": checkpoint.kind, "sha256": checkpoint.sha256},
    }


def _traced(checkpoint: Checkpoint) -> bytes:
    """The network as the bytes of an ONNX model, batch left open."""
    if checkpoint.kind == "onnx":
        raise InputError(
            str(checkpoint.folder), "an ONNX file", expected="a checkpoint", todo="It is exported already."
        )
    if 4 * checkpoint.n_parameters > MOST_BYTES:
        raise InputError(
            checkpoint.name,
            f"{4 * checkpoint.n_parameters / 2**30:.1f} GiB of weights",
            expected="less than 2 GiB, the end of an ONNX file",
            todo="Score the checkpoint itself.",
        )
    inputs = _drawn(checkpoint, 2)
    names = ["pixels", "features"][: len(inputs)]
    try:
        with TemporaryDirectory() as folder, warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # the tracer's remarks on shapes that are fixed on purpose
            torch.onnx.export(
                checkpoint.module,
                tuple(inputs),
                Path(folder) / "network.onnx",
                dynamo=False,  # the other exporter needs a package more
                opset_version=OPSET,
                input_names=names,
                output_names=["logits", "embeddings"],
                dynamic_axes={name: {0: "batch"} for name in (*names, "logits", "embeddings")},
            )
            return (Path(folder) / "network.onnx").read_bytes()
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise InputError(
            checkpoint.name,
            f"a network that cannot be exported ({str(error).splitlines()[0]})",
            expected=f"operations of ONNX opset {OPSET}",
            todo="Score the checkpoint itself.",
        ) from error


def _difference(checkpoint: Checkpoint, content: bytes) -> float:
    """Largest difference of a logit between `content` under onnxruntime and torch; only rounding is taken."""
    session = _session(content, where=checkpoint.name)
    exported = OnnxNetwork(session, n_parameters=0, answers_width=0)
    largest, scale = 0.0, 1.0
    with torch.inference_mode():
        for n in (1, 3):
            inputs = _drawn(checkpoint, n)
            ours, theirs = checkpoint.module(*inputs)[0].float(), exported(*inputs)[0]
            largest = max(largest, float((ours - theirs).abs().max()))
            scale = max(scale, float(ours.abs().max()))
    if not largest <= CLOSE * scale:  # written so that NaN fails too
        raise InputError(
            checkpoint.name,
            f"logits that are {largest:.3g} off under onnxruntime",
            expected=f"at most {CLOSE * scale:.3g}",
            todo="Score the checkpoint itself.",
        )
    return largest


def _drawn(checkpoint: Checkpoint, n: int) -> list[Tensor]:
    """Normalised pixels (n, 3, S, S) and, where answers are read, (n, D) of zeros and ones."""
    rng = torch.Generator().manual_seed(n)
    size = checkpoint.preprocessing.size
    inputs = [torch.randn((n, 3, size, size), generator=rng)]
    if checkpoint.schema is not None:
        inputs.append(torch.randint(0, 2, (n, checkpoint.schema.width), generator=rng).float())
    return inputs


def _session(model: str | bytes, *, where: str) -> Any:
    onnxruntime = _package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(model, options, providers=[PROVIDER])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise _damaged(Path(where), str(error)) from None


def _damaged(path: Path, why: str) -> InputError:
    reason = why.splitlines()[0][:120] if why else "unreadable"
    return InputError(
        str(path),
        f"a damaged ONNX file ({reason})",
        expected="the file as `ddeval export` wrote it",
        todo="Copy it again, or export it again.",
    )


def _package(name: str) -> Any:
    try:
        return __import__(name)
    except ModuleNotFoundError:
        raise InputError(
            "ONNX", f"no package {name}", expected="it installed", todo="pip install 'ddeval[models,onnx]'"
        ) from None
