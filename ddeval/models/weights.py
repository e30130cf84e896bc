"""Weights: files of numbers, read without running anything in them, written whole or not at all.

Only safetensors and `torch.load(weights_only=True)` are used, and a refusal is final: nothing is tried
again in a less careful way. What the weights belong to is decided elsewhere (`ddeval.models.checkpoint`).
"""

import contextlib
import hashlib
import logging
import pickle
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging as transformers_logging

from ddeval.errors import InputError
from ddeval.io import read_json, write_atomic

WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "ema_state_dict", "weights", "net")
"""Names under which training scripts keep the weights inside one file, in the order of preference."""
WRAPPED_MODULES = ("module.", "_orig_mod.")
"""Prefixes that DataParallel and torch.compile put before every name."""
NEEDED_FILES = ("*.json", "*.safetensors", "*.txt", "*.model")

StateDict = dict[str, torch.Tensor]


def read_weights(path: Path) -> Any:
    """What a weights file holds, read without running code: usually a dict of names to tensors.

    Raises an InputError for a missing, truncated or foreign file, and for a pickle that wants to do
    more than hold numbers.
    """
    if not path.is_file():
        raise InputError(str(path), "no such file", expected="a weights file", todo="Check the folder.")
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            str(path), "a git-LFS pointer", expected="the weights", todo="Run `git lfs pull` there."
        )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with _quiet():
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, AttributeError) as error:
        raise InputError(
            str(path),
            f"a pickle with more than weights in it ({_first_line(error)})",
            expected="a state dict of tensors (torch.save(model.state_dict()) or safetensors)",
            todo="It was not opened: that could run code. Export the state dict where the file is trusted.",
        ) from None
    except (SafetensorError, RuntimeError, EOFError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise InputError(
            str(path),
            f"a file that does not open ({_first_line(error)})",
            expected="a complete .pt or .safetensors file",
            todo="Copy or export it again.",
        ) from None


def write_weights(path: Path, content: Any) -> str:
    """Write tensors (and plain values around them) whole or not at all; the sha256 of the file."""
    digests: list[str] = []

    def write(file: IO[bytes]) -> None:
        hashing: Any = _Hashing(file)  # torch asks of a file only what this one has
        try:
            torch.save(content, hashing)
        except RuntimeError as error:  # torch hides a full disk behind one of its own
            raise hashing.failure or error from None
        digests.append(hashing.sha256.hexdigest())

    write_atomic(path, write)
    return digests[0]


class _Hashing:
    """A file that remembers the hash of what went through it, and why it would not go through."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.sha256 = file, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, content: Any) -> int:
        self.sha256.update(content)
        try:
            return self.file.write(content)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()


def state_dict_of(content: Any, *, where: str, wrapper: str | None = None) -> tuple[StateDict, list[str]]:
    """The names and tensors in what `read_weights` gave, and what had to be taken off to get there.

    A wrapping dict and the prefix of DataParallel are taken off; nothing is renamed.
    """
    steps: list[str] = []
    if wrapper is not None and (not isinstance(content, dict) or wrapper not in content):
        held = ", ".join(map(str, content)) if isinstance(content, dict) else type(content).__name__
        raise InputError(
            where, f"no {wrapper!r} (it holds {held[:200]})", expected="the wrapper", todo="See adapter.yaml."
        )
    names = [wrapper] if wrapper else [name for name in WRAPPERS if isinstance(content, dict)]
    for name in names:
        if wrapper or (isinstance(content.get(name), dict) and not _is_state_dict(content)):
            content = content[name]
            steps.append(f"taken out of the wrapper {name!r}")
    if not _is_state_dict(content):
        keys = list(content)[:6] if isinstance(content, dict) else []
        raise InputError(
            where,
            f"{type(content).__name__}{f' with the keys {keys}' if keys else ''}",
            expected="a state dict: names and tensors",
            todo="Name its key as `wrapper:` in adapter.yaml (`ddeval inspect` shows what is there).",
        )
    state: StateDict = dict(content)
    for prefix in WRAPPED_MODULES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
            steps.append(f"prefix {prefix!r} taken off every name")
    return state, steps


def check_finite(state: Mapping[str, torch.Tensor], *, where: str) -> None:
    """An InputError names the first parameter that holds NaN or infinity; a model of NaN answers class 0."""
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            n = int((~torch.isfinite(tensor)).sum())
            raise InputError(
                where,
                f"{n} values of {name} that are NaN or infinite",
                expected="finite weights",
                todo="Take an earlier checkpoint of the training run.",
            )


def from_folder(model_class: Any, folder: Path, *, ignored: Collection[str] = (), **options: Any) -> Any:
    """The network of a Hugging Face folder in float32, on the CPU, every weight of it read from there.

    transformers fills what a folder lacks with random numbers and goes on (a missing head scores like
    chance, differently each time), so its loading report is checked. `ignored` are prefixes of weights
    in the folder that the network has no use for. No code of the folder is run, no hub is asked.
    """
    kind = check_folder(folder)
    try:
        with _quiet():
            model, info = model_class.from_pretrained(
                folder,
                output_loading_info=True,
                local_files_only=True,
                use_safetensors=kind == "safetensors",
                dtype=torch.float32,
                **options,
            )
    except (SafetensorError, RuntimeError, ValueError, OSError, pickle.UnpicklingError) as error:
        raise InputError(
            str(folder),
            f"weights that do not load ({_first_line(error)})",
            expected="a complete folder of one model",
            todo=f"`ddeval inspect {folder}` shows what is there.",
        ) from None
    missing = sorted(info["missing_keys"])
    unexpected = sorted(key for key in info["unexpected_keys"] if not key.startswith(tuple(ignored)))
    mismatched = sorted(str(entry[0]) for entry in info["mismatched_keys"])
    refuse_key_differences(missing, unexpected, mismatched, where=str(folder))
    check_finite(model.state_dict(), where=str(folder))
    return model.eval()


def refuse_key_differences(
    missing: list[str], unexpected: list[str], mismatched: list[str], *, where: str
) -> None:
    """An InputError with counts and the first name of each kind, if there is any."""
    kinds = {"missing": missing, "unexpected": unexpected, "of another shape": mismatched}
    found = [f"{len(names)} weights {kind} (first {names[0]})" for kind, names in kinds.items() if names]
    if found:
        raise InputError(
            where,
            ", ".join(found),
            expected="exactly the weights of the model its config describes",
            todo=f"`ddeval inspect {where}` shows both sides.",
        )


def check_folder(folder: Path) -> Literal["safetensors", "bin"]:
    """Which kind of weights a Hugging Face folder holds; an InputError if none, or parts are missing."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        parts = sorted(set(read_json(index).get("weight_map", {}).values()))
        for part in parts:
            if Path(part).name != part or not (folder / part).is_file():
                raise InputError(
                    str(index),
                    f"the part {part!r}, no such file in the folder",
                    expected="every part beside the index",
                    todo="Download the folder again.",
                )
        return "safetensors"
    if (folder / "model.safetensors").is_file():
        return "safetensors"
    if (folder / "pytorch_model.bin").is_file():
        state_dict_of(read_weights(folder / "pytorch_model.bin"), where=str(folder / "pytorch_model.bin"))
        return "bin"
    raise InputError(
        str(folder),
        "no model.safetensors",
        expected="the weights beside config.json",
        todo="Save them there.",
    )


def read_folder_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder; an InputError where it is missing or wants code of its own to be run."""
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(str(path), type(config).__name__, expected="an object", todo="Check the folder.")
    if "auto_map" in config:
        raise InputError(
            str(path),
            "`auto_map`: a model that brings its own code",
            expected="a model that transformers knows",
            todo="Export predictions instead: ddeval scores a predictions file of any model.",
        )
    return config


def hub_folder(name: str, *, revision: str | None, where: str) -> Path:
    """Local folder of a hub repository, downloaded on first use; an InputError if it cannot be had."""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(NEEDED_FILES)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            where,
            f"{name!r}, neither a local folder nor to be had from the hub ({_first_line(error)[:200]})",
            expected="a folder with weights, a reachable hub id, or `random`",
            todo="Log in with `hf auth login` for gated weights, or download the folder and name its path.",
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries' remarks and bars off the screen: what matters is checked and said here."""
    loggers = [logging.getLogger(name) for name in ("torch", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, dict)
        and bool(content)
        and all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in content.items())
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:160]
