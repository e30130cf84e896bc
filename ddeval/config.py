"""Configs: one YAML file describes one system, and every knob of it is here.

A config is read, checked and frozen; unknown keys are refused with the nearest known one. This module
opens no image and no weights, and does not know what the knobs do: `ddeval.models` builds the model a
config describes, `ddeval.train` follows its recipe.
"""

import difflib
import os
from collections.abc import Hashable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

import ddeval
from ddeval.errors import InputError
from ddeval.io import local, read_text

MAX_CONFIG_BYTES = 1_000_000
"""A config is a page of text; a larger file is something else, or an attack on the parser."""

NOT_SYSTEMS = {"conditions", "conditions_public"}
"""Files of configs/ that do not describe a system."""

BackboneName = Literal[
    "resnet50", "convnextv2_base", "medsiglip_448", "resnet_tiny", "convnextv2_tiny", "siglip_tiny"
]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Span = tuple[Positive, Positive]


class Section(BaseModel):
    """One section of a config: frozen, and it refuses keys it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Architecture(Section):
    """What the network is: backbone, questionnaire encoder, head, and the images it wants."""

    backbone: BackboneName
    backbone_config: dict[str, Any] = {}
    """Values that replace those of the named backbone, as transformers names them."""
    image_size: Annotated[int, Field(ge=16, le=2048)] | None = None
    """Side of the square the model sees, in pixels; the backbone's own where empty."""
    image_norm: Literal["imagenet", "siglip"] | None = None
    """Mean and standard deviation of the pixels; the backbone's own where empty."""
    preprocessing: dict[str, Any] = {}
    """What differs from the norm's own steps: resize (squash or shortest_edge), edge, resample, …"""
    feature_schema: str | None = None
    """Questionnaire schema; none is a model of photographs alone."""
    questionnaire_widths: tuple[Annotated[int, Field(ge=1)], ...] = (128, 64)
    """Widths of the layers that read the encoded questionnaire."""
    head_width: Annotated[int, Field(ge=0)] = 0
    """Width of one hidden layer between the joined embedding and the logits; 0 is none."""
    activation: Literal["gelu", "relu"] = "gelu"
    """After each layer of the questionnaire and the hidden one of the head."""


class ModelConfig(Architecture):
    """A network to train: its architecture and where its first weights come from."""

    weights: str
    """Hub id or local folder of pretrained weights, or `random`."""
    revision: str | None = None
    """Commit of the hub repository, so that the weights cannot change under the config."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""


class Flip(Section):
    """Mirror half of the images."""

    kind: Literal["hflip", "vflip"]


class Rotate90(Section):
    """Turn each image by 0, 90, 180 or 270 degrees."""

    kind: Literal["rotate90"]


class RandomResizedCrop(Section):
    """A random part of the image, back at full size, turned by up to `degrees`."""

    kind: Literal["random_resized_crop"]
    scale: Span = (0.6, 1.0)
    """Share of the image's area that the part covers."""
    ratio: Span = (0.8, 1.25)
    """Width over height of the part."""
    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0


class ColourJitter(Section):
    """Random brightness, contrast, saturation (factors 1 ± value) and tint of each channel (± value)."""

    kind: Literal["colour_jitter"]
    brightness: Share = 0.2
    contrast: Share = 0.2
    saturation: Share = 0.2
    tint: Share = 0.0


class Erase(Section):
    """Paint a rectangle of up to `scale` of the area in the image's mean colour, in `share` of images."""

    kind: Literal["erase"]
    share: Share = 0.25
    scale: Annotated[float, Field(gt=0, lt=1)] = 0.2


class Mixup(Section):
    """Blend each image and its target with another of the batch; the weight is Beta(alpha, alpha)."""

    kind: Literal["mixup"]
    alpha: Positive = 0.2


def _named(step: Any) -> Any:
    return {"kind": step} if isinstance(step, str) else step


Augmentation = Annotated[
    Annotated[
        Flip | Rotate90 | RandomResizedCrop | ColourJitter | Erase | Mixup, Field(discriminator="kind")
    ],
    BeforeValidator(_named),
]


class TrainConfig(Section):
    """How the network is trained. Every lever is off at its default."""

    seed: Annotated[int, Field(ge=0)] = 0
    epochs: Annotated[int, Field(ge=1)]
    frozen_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs at the start in which only questionnaire and head learn; they count among `epochs`."""
    stored_embeddings: bool = False
    """Run the frozen backbone once and train the head on what it gave: seconds in place of hours."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Batches whose gradients are summed before one step: batch_size x accumulate images a step."""
    learning_rate: Positive = 1e-4
    head_learning_rate: Positive | None = None
    """Of questionnaire and head; `learning_rate` where empty."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup_epochs: Annotated[float, Field(ge=0)] = 1.0
    """The rate rises from 0 over these epochs, then falls along a cosine to 0."""
    clip_norm: Positive | None = 1.0
    amp_dtype: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Of the forward pass on a GPU; `auto` asks the card. The CPU always computes in fp32."""
    channels_last: bool = False
    compile_layers: Literal["auto", "always", "never"] = "auto"
    """Of a SigLIP backbone; `auto` compiles on a GPU where that saves more time than it takes."""
    augment: tuple[Augmentation, ...] = ()

    other_ratio: Annotated[float, Field(ge=0)] | None = None
    """Images of `other` drawn anew each epoch, per image of a target class; empty takes them all."""
    class_balance: Share = 0.0
    """0 draws images as they come, 1 every class equally often; between, by count ** (1 - value)."""
    logit_adjustment: Annotated[float, Field(ge=0)] = 0.0
    """tau of logit-adjusted loss: logits + tau log(class share) in training, plain logits after."""
    focal_gamma: Annotated[float, Field(ge=0)] = 0.0
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Each layer of the backbone learns at this times the rate of the layer above it; 1 is off."""
    ema_decay: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Of the running mean of the weights, which is what is validated and kept; 0 is off."""
    soft_labels: bool = True
    """Train on the weights of several readers where an overlay holds them, else on the first."""
    copies_of_test: Literal["leave_out", "learn"] = "leave_out"
    """Photographs of train and val that show a picture of test or calibration: cut, re-lit or compressed."""
    weight_column: str | None = None
    """Column with the weight of each image in the loss, such as its `label_quality`."""
    weight_table: str | None = None
    """CSV or Parquet with `image_id` and that column, such as an audit's issues; the manifest where empty."""

    cpu_threads: Annotated[int, Field(ge=0)] = 0
    """Threads that compute on the CPU; 0 leaves it to torch. The same number gives the same bits."""
    workers: Annotated[int, Field(ge=0)] = 0
    """Threads that decode images; 0 is one a core."""
    cache_gb: Annotated[float, Field(ge=0)] = 4.0
    """Images are decoded once and kept in memory when they fit in this many gigabytes."""

    @model_validator(mode="after")
    def _epochs_agree(self) -> "TrainConfig":
        if self.frozen_epochs > self.epochs:
            raise ValueError(f"frozen_epochs {self.frozen_epochs} is more than epochs {self.epochs}")
        if self.stored_embeddings and (self.frozen_epochs < self.epochs or self.augment):
            raise ValueError("stored_embeddings needs every epoch frozen and no augment")
        return self


class ZeroShotConfig(Section):
    """How a dual encoder is asked: class names put into sentences."""

    classes: tuple[str, ...] | dict[str, str]
    """Class names, or class name to the words that describe it in a sentence."""
    templates: tuple[str, ...] = ("a photo of {}.",)
    """Sentences with `{}` where the class goes; their embeddings are averaged."""


class Config(Section):
    """One system: where its artefact lies or what it is made of, and how it is trained."""

    name: str
    artefact: str | None = None
    """Folder or URI of the artefact, read by `score` and written by `train`."""
    checkpoint: str | None = None
    """Instead of an artefact: a Hugging Face folder or hub id."""
    revision: str | None = None
    manifest: str | None = None
    classes: tuple[str, ...] | None = None
    """Class names in index order; the labels of the training split, sorted, where empty."""
    other_class: str | None = None
    """Which class means none of the others: always stated, never guessed from a name."""
    model: ModelConfig | None = None
    train: TrainConfig | None = None
    zero_shot: ZeroShotConfig | None = None


def read_config(path: Path, section: type[Section] = Config, *, changes: Sequence[str] = ()) -> Any:
    """The config in a YAML file, as `section`; an InputError names the key and the nearest known one.

    `changes` are lines such as `train.epochs=3` (the value is YAML) that come after the file.
    """
    values = read_yaml(path)
    for line in changes:
        key, found, text = line.partition("=")
        if not found or not key.strip():
            raise InputError("--set", repr(line), expected="key=value", todo="Such as train.epochs=3.")
        values = _changed(values, key.strip().split("."), _parse_yaml(text, where=f"--set {key}"))
    where = f"{path} with --set {' '.join(changes)}" if changes else str(path)
    return parse_config(values, section, where=where)


def parse_config(values: Any, section: type[Section] = Config, *, where: str) -> Any:
    """`values` checked against `section`; errors name `where`, the key and what was expected."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise _input_error(error, section, where) from None


def find_config(name: str) -> Path | None:
    """The file of a config by its name: in ./configs, then in the installed package; None if in neither."""
    for folder in config_folders():
        path = folder / f"{name}.yaml"
        if "/" not in name and "\\" not in name and path.is_file():
            return path
    return None


def config_names() -> list[str]:
    """Names of every config that `find_config` would find."""
    found = {path.stem for folder in config_folders() for path in folder.glob("*.yaml")}
    return sorted(found - NOT_SYSTEMS)


def config_folders() -> list[Path]:
    """Where configs are looked up: the working directory's first, then those of the package."""
    package = Path(ddeval.__file__).parent
    shipped = [package / "configs", package.parent / "configs"]  # in a wheel, in a checkout
    return [Path("configs"), *[folder for folder in shipped if folder.is_dir()][:1]]


def config_file(name: str, *, beside: Path | None = None, where: str) -> Path:
    """A file that a config names: absolute, from the working directory, beside the config, or shipped."""
    path = Path(name).expanduser()
    folders = [Path(), *([beside.parent, beside.parent.parent] if beside else [])]
    shipped = [folder / path.name for folder in config_folders()]
    for candidate in [*(folder / path for folder in folders), *shipped]:
        if candidate.is_file():
            return candidate
    raise InputError(where, f"{name}, no such file", expected="a file", todo="Correct the path.")


def artefact_location(config: Config) -> str:
    """Path or URI of the config's artefact; $DDEVAL_ARTEFACTS, a folder of artefacts, comes first.

    The variable may also name the one artefact folder itself (it then holds config.json).
    """
    if config.artefact is None:
        raise InputError(
            f"config {config.name}", "no `artefact:`", expected="a folder or URI", todo="Add the line."
        )
    root = os.environ.get("DDEVAL_ARTEFACTS")
    if not root:
        return config.artefact
    if local(f"{root.rstrip('/')}/config.json", missing_ok=True).is_file():
        return root
    return f"{root.rstrip('/')}/{config.artefact.rstrip('/').rsplit('/', 1)[-1]}"


def manifest_location(config: Config) -> str | None:
    """Path or URI of the config's manifest; $DDEVAL_MANIFEST comes first."""
    return os.environ.get("DDEVAL_MANIFEST") or config.manifest


def read_yaml(path: Path, *, only_text: bool = False) -> Any:
    """Plain values of a YAML file. Tags, aliases, double keys and files over 1 MB are refused.

    With `only_text` every scalar but null is the text that stands there: 001 is not 1, no is not false.
    """
    text = read_text(path)
    if len(text) > MAX_CONFIG_BYTES:
        raise InputError(
            str(path), f"{len(text)} characters", expected="a short YAML file", todo="Check the path."
        )
    return _parse_yaml(text, where=str(path), only_text=only_text)


def _parse_yaml(text: str, *, where: str, only_text: bool = False) -> Any:
    try:
        return yaml.load(text, Loader=_TextLoader if only_text else _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise InputError(f"{where}{line}", problem, expected="plain YAML", todo="Correct it.") from error


def _changed(values: Any, keys: list[str], value: Any) -> Any:
    """`values` with the one under `keys` replaced; sections on the way are made."""
    held = dict(values) if isinstance(values, dict) else {}
    held[keys[0]] = _changed(held.get(keys[0]), keys[1:], value) if keys[1:] else value
    return held


class _Loader(yaml.SafeLoader):
    """YAML without aliases (they nest into billions of nodes) and without silently lost double keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event: Any = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, f"alias *{event.anchor}", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


class _TextLoader(_Loader):
    """Scalars are text; only an empty one, ~ and null stay null."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


def _input_error(error: ValidationError, section: type[Section], where: str) -> InputError:
    """The first problem in one line; a misspelt key comes before the keys it leaves missing."""
    problems = sorted(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"] if part != "Architecture") or "(top level)"
    if first["type"] == "extra_forbidden":
        known = _keys_at(section, first["loc"][:-1])
        name = str(first["loc"][-1])
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        expected = f"{near[0]!r}" if near else f"one of {', '.join(known)}"
        return InputError(where, f"the unknown key {key!r}", expected=expected, todo="Correct the key.")
    more = f" ({len(problems)} problems in all)" if len(problems) > 1 else ""
    found = "no value" if first["type"] == "missing" else repr(first["input"])[:80]
    message = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = {"Field required": "a value", "model_type": "keys and values"}.get(
        first["msg"] if first["type"] == "missing" else first["type"], message
    )
    return InputError(f"{where} key {key}", f"{found}{more}", expected=message, todo="Correct the value.")


def _keys_at(section: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys that the section at `loc` knows."""
    sections = [section]
    for part in loc:
        inner = [s.model_fields[str(part)].annotation for s in sections if str(part) in s.model_fields]
        if inner:
            sections = [s for annotation in inner for s in _sections(annotation)]
        else:  # an index, the tag of an augmentation step, or the name of one section of several
            sections = [s for s in sections if part in _tags(s)] or sections
    return sorted({name for s in sections for name in s.model_fields})


def _tags(section: type[BaseModel]) -> tuple[Any, ...]:
    """What pydantic calls `section` in the place of an error."""
    kind = section.model_fields.get("kind")
    return (section.__name__, *(get_args(kind.annotation) if kind else ()))


def _sections(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
