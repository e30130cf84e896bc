"""Model card: what this artefact is for, what it was made from, how good it was, and what its licence says.

README.md of the artefact folder, with the block that Hugging Face reads (`model-index`). Its numbers are
those of the validation split, which also chose the epoch, and it says so; `ddeval score` has the others.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from ddeval.config import Config
from ddeval.metrics import balanced_accuracy, top_k_accuracy
from ddeval.metrics.resampling import Estimate, group_codes, replicates
from ddeval.metrics.shares import stated_interval
from ddeval.score.rows import synthetic
from ddeval.tables import SKIN_TYPES

MIN_GROUPS = 20
"""A subgroup of fewer patients shows its count and no number."""
N_RESAMPLES = 1000
AGE_EDGES = (0, 18, 40, 65, 121)
HEADLINE = {
    "top_1_accuracy": ("accuracy", "top-1 accuracy"),
    "top_3_accuracy": ("top_3_accuracy", "top-3 accuracy"),
    "balanced_accuracy": ("balanced_accuracy", "balanced accuracy"),
}
"""Our name -> type for Hugging Face, name for people."""


class Licence(NamedTuple):
    name: str
    link: str
    clause: str


LICENCES = {
    "google/medsiglip-448": Licence(
        "health-ai-developer-foundations",
        "https://developers.google.com/health-ai-developer-foundations/terms",
        "MedSigLIP is under the Health AI Developer Foundations terms of use, which also bind what is made "
        "from it: pass them on with this artefact, and have the clause on clinical use reviewed before any "
        "use in patient care.",
    ),
    "facebook/convnextv2-base-22k-224": Licence(
        "see-the-licence-section",
        "https://huggingface.co/facebook/convnextv2-base-22k-224",
        "The licence that the hub states for these weights and the one of the authors' own repository should "
        "be compared before commercial use.",
    ),
    "microsoft/resnet-50": Licence(
        "apache-2.0", "https://huggingface.co/microsoft/resnet-50", "The pretrained weights are Apache-2.0."
    ),
}
"""Weights that the shipped configs start from."""


def card(
    config: Config,
    *,
    labels: npt.NDArray[np.int64],
    pred_probs: npt.NDArray[np.float64],
    rows: pd.DataFrame,
    counts: pd.DataFrame,
    left_out: Mapping[str, int],
    best_epoch: int,
    inputs: Mapping[str, Any],
    class_names: Sequence[str],
) -> str:
    """The text of the model card.

    Parameters
    ----------
    labels, pred_probs : arrays (N,), (N, K')
        Given labels and probabilities over the target classes of the validation images.
    rows : DataFrame of N rows
        Their rows of the manifest, with `group`.
    counts : DataFrame
        Images by class (index) and split (columns).
    inputs : mapping
        Hashes of manifest and labels, as the training run keeps them.
    """
    numbers = _numbers(labels, pred_probs, rows["group"].to_numpy(), seed=0)
    return "\n".join(
        [
            *_front_matter(config, numbers, inputs),
            f"# {config.name}",
            "",
            *(
                ["**SYNTHETIC: trained on rendered photographs. Never for patients.**", ""]
                if synthetic(rows)
                else []
            ),
            *_purpose(config, class_names),
            *_data(inputs, counts, left_out),
            *_figures(numbers, best_epoch, len(rows), rows["group"].nunique()),
            *_subgroups(labels, pred_probs, rows),
            *_recipe(config),
            *_licence(config),
        ]
    )


def _numbers(
    labels: npt.NDArray[np.int64],
    pred_probs: npt.NDArray[np.float64],
    groups: npt.NDArray[Any],
    *,
    seed: int,
) -> dict[str, Estimate]:
    def top_3(labels: Any, probs: Any, weights: Any = None) -> float:
        return top_k_accuracy(labels, probs, min(3, probs.shape[1]), weights=weights)

    statistics: dict[str, Callable[..., float]] = {
        "top_1_accuracy": top_k_accuracy,
        "top_3_accuracy": top_3,
        "balanced_accuracy": balanced_accuracy,
    }
    return {
        name: _stated(statistic, labels, pred_probs, groups, seed=seed, is_share=name != "balanced_accuracy")
        for name, statistic in statistics.items()
    }


def _stated(
    statistic: Callable[..., float],
    labels: npt.NDArray[np.int64],
    pred_probs: npt.NDArray[np.float64],
    groups: npt.NDArray[Any],
    *,
    seed: int,
    is_share: bool,
) -> Estimate:
    """With the interval as it is stated: that of a share, none where no resample differs."""
    drawn = replicates(
        statistic, labels, pred_probs, groups=groups, rng=np.random.default_rng(seed), n_resamples=N_RESAMPLES
    )
    value, n_groups = float(statistic(labels, pred_probs)), group_codes(groups)[1]
    share_of = n_groups if is_share else None
    low, high, n_undefined = stated_interval([value], drawn[:, None], share_of=share_of)
    return Estimate(value, float(low[0]), float(high[0]), len(labels), n_groups, int(n_undefined[0]))


def _front_matter(config: Config, numbers: Mapping[str, Estimate], inputs: Mapping[str, Any]) -> list[str]:
    weights = config.model.weights if config.model else ""
    licence = LICENCES.get(weights)
    metrics = [
        {"type": kind, "name": said, "value": round(numbers[name].value, 4)}
        for name, (kind, said) in HEADLINE.items()
    ]
    block = {
        "license": "other",
        **({"license_name": licence.name, "license_link": licence.link} if licence else {}),
        **({"base_model": weights} if licence else {}),
        "pipeline_tag": "image-classification",
        "tags": ["dermatology", "image-classification", "ddeval"],
        "model-index": [
            {
                "name": config.name,
                "results": [
                    {
                        "task": {"type": "image-classification"},
                        "dataset": {
                            "type": "private",
                            "name": f"manifest {inputs['manifest_sha256'][:12]}",
                            "split": "val",
                        },
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }
    return ["---", yaml.safe_dump(block, sort_keys=False, allow_unicode=True).rstrip(), "---", ""]


def _purpose(config: Config, class_names: Sequence[str]) -> list[str]:
    targets = [name for name in class_names if name != config.other_class]
    model = config.model
    reads = "a photograph of skin" + (" and its questionnaire" if model and model.feature_schema else "")
    abstain = (
        f", and `{config.other_class}` for everything else"
        if config.other_class
        else ", and no class for others"
    )
    return [
        "## Intended use",
        "",
        f"Ranks {len(targets)} conditions for {reads}{abstain}. Made to be evaluated with ddeval and "
        "to support a clinician who sees the case. Not a medical device; not for use without a clinician, or "
        "on kinds of photographs that the data below do not hold.",
        "",
        f"Classes, in index order: {', '.join(class_names)}.",
        "",
    ]


def _data(inputs: Mapping[str, Any], counts: pd.DataFrame, left_out: Mapping[str, int]) -> list[str]:
    cells = [[name, *row] for name, row in zip(counts.index, counts.to_numpy(), strict=True)]
    lines = [
        "## Data",
        "",
        f"Manifest sha256 `{inputs['manifest_sha256']}`, labels {inputs['labels']['version']}. No patient, "
        "lesion or case stands in two splits.",
        "",
        *_table(["class", *counts.columns], cells),
        "",
    ]
    if left_out:
        lines += ["Left out: " + ", ".join(f"{n:,} ({reason})" for reason, n in left_out.items()) + ".", ""]
    return lines


def _figures(numbers: Mapping[str, Estimate], best_epoch: int, n_images: int, n_groups: int) -> list[str]:
    rows = [
        [said, _percent(numbers[name].value), _interval(numbers[name])]
        for name, (_, said) in HEADLINE.items()
    ]
    return [
        "## Numbers on the validation split",
        "",
        f"n = {n_images:,} images of target classes from {n_groups:,} patients (or lesions, or cases). Epoch "
        f"{best_epoch} was chosen by top-1 on these same images, so the values lean upwards; for the test "
        "split see `ddeval score`. Intervals are percentile bootstrap over patients.",
        "",
        *_table(["", "value", "95 % interval"], rows),
        "",
    ]


def _subgroups(
    labels: npt.NDArray[np.int64], pred_probs: npt.NDArray[np.float64], rows: pd.DataFrame
) -> list[str]:
    said = []
    for kind, members in _members(rows).items():
        for name, inside in members.items():
            groups = rows["group"].to_numpy()[inside]
            n_groups = len(set(groups))
            if n_groups < MIN_GROUPS:
                said.append([kind, name, int(inside.sum()), n_groups, "too few", ""])
                continue
            found = _stated(top_k_accuracy, labels[inside], pred_probs[inside], groups, seed=0, is_share=True)
            said.append([kind, name, int(inside.sum()), n_groups, _percent(found.value), _interval(found)])
    if not said:
        return ["## Subgroups", "", "The manifest names no skin type, sex or age.", ""]
    header = ["", "", "images", "patients", "top-1", "95 % interval"]
    return ["## Subgroups", "", *_table(header, said), ""]


def _members(rows: pd.DataFrame) -> dict[str, dict[str, npt.NDArray[np.bool_]]]:
    """Which rows belong to each subgroup; those of unknown membership are one of their own."""
    found: dict[str, dict[str, npt.NDArray[np.bool_]]] = {}
    for column, order in (("skin_type", SKIN_TYPES), ("sex", ())):
        if column in rows.columns and rows[column].notna().any():
            held = rows[column].fillna("unknown")
            names = [*(n for n in order if (held == n).any()), *sorted(set(held) - set(order))]
            found[column.replace("_", " ")] = {name: (held == name).to_numpy() for name in names}
    if "age" in rows.columns and rows["age"].notna().any():
        pairs = itertools.pairwise(AGE_EDGES)
        found["age"] = {f"{a} to {b - 1}": rows["age"].between(a, b - 1).to_numpy() for a, b in pairs}
    return found


def _recipe(config: Config) -> list[str]:
    values = config.model_dump(mode="json", include={"model", "train"}, exclude_defaults=True)
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True).rstrip()
    return ["## Recipe", "", "```yaml", text, "```", ""]


def _licence(config: Config) -> list[str]:
    weights = config.model.weights if config.model else ""
    if weights == "random":
        clause = "No pretrained weights: the licence of this artefact follows from the training data alone."
    elif weights in LICENCES:
        clause = LICENCES[weights].clause
    else:
        clause = (
            f"Made from the pretrained weights `{weights}`: their licence applies, and is not known here."
        )
    rights = (
        "The rights to use the training photographs for a model, and for which purpose, are not checked here."
    )
    return ["## Licence", "", clause, "", rights, ""]


def _table(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [list(header), ["---"] * len(header), *rows]
    return ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in lines]


def _cell(cell: Any) -> str:
    """Text that stays one cell of a Markdown table and no markup, whatever a class is called."""
    text = str(cell).replace("\\", "\\\\")
    for character in "|<>`*_[]!":
        text = text.replace(character, f"\\{character}")
    return " ".join(text.split())


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %" if np.isfinite(value) else "n/a"


def _interval(found: Estimate) -> str:
    if not np.isfinite(found.ci_low):
        return "n/a"
    return f"{100 * found.ci_low:.1f} – {100 * found.ci_high:.1f}"
