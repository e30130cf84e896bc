"""Training is repeatable to the bit, goes on after a kill, and stops in one line when it cannot go on."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ddeval.data.manifest import read_manifest
from ddeval.data.overlay import Overlay
from ddeval.errors import InputError
from ddeval.io import read_csv, write_csv
from ddeval.models.backbones import backbone_config
from ddeval.models.build import build
from ddeval.models.checkpoint import load_checkpoint
from ddeval.models.fusion import Fusion
from ddeval.train.dataset import build_dataset
from ddeval.train.loop import freeze, seed_everything, train
from ddeval.train.optimiser import compile_layers
from tests.train_fixture import make_config, make_data

STEPS = ["hflip", "vflip", "rotate90", {"kind": "random_resized_crop", "degrees": 20}]
STEPS += ["colour_jitter", "erase", "mixup"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder)
    return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "best_model.pt", weights_only=True)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_colours_are_learnt_and_the_artefact_is_the_best_epoch(data, tmp_path):
    """Four colours with noise: six epochs are enough for all of them, and chance is 1/3."""
    result = train(make_config(data, epochs=6), data / "manifest.csv", tmp_path / "out")

    assert result.best["top_1_accuracy"] == 1.0
    assert result.best["epoch"] == result.curve["top_1_accuracy"].idxmax() + 1
    assert result.curve["train_loss"].iloc[-1] < result.curve["train_loss"].iloc[0]
    assert (result.n_train, result.n_val) == (48, 16)
    read = load_checkpoint(tmp_path / "out")
    assert read.class_names == ("acne", "eczema", "other", "wart")
    assert (read.other_class, read.schema.width) == ("other", 3)
    assert read.reported == {"split": "val", "n_images": 16, **result.best}
    lines = (tmp_path / "out" / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2, 3, 4, 5, 6]


def test_training_twice_is_bit_identical(data, tmp_path):
    """All the randomness there is: weights, order, every augmentation, dropout, resampled `other`."""
    config = make_config(
        data, model={"dropout": 0.3}, augment=STEPS, other_ratio=0.2, class_balance=0.5, ema_decay=0.9
    )
    for name in ("a", "b"):
        train(config, data / "manifest.csv", tmp_path / name)
    assert equal(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert (tmp_path / "a" / "config.json").read_bytes() == (tmp_path / "b" / "config.json").read_bytes()
    assert (tmp_path / "a" / "curve.jsonl").read_bytes() == (tmp_path / "b" / "curve.jsonl").read_bytes()


def test_another_seed_is_another_run(data, tmp_path):
    for seed in (0, 1):
        train(make_config(data, seed=seed, epochs=1), data / "manifest.csv", tmp_path / str(seed))
    assert not equal(weights(tmp_path / "0"), weights(tmp_path / "1"))


class _Killed(Exception):
    pass


def test_a_run_stopped_in_any_epoch_goes_on_with_the_same_losses(data, tmp_path):
    """The stop comes in the middle of epochs 2 and 3; curve and weights are those of an unbroken run."""
    config = make_config(data, epochs=4, model={"dropout": 0.3}, augment=["hflip", "mixup"], ema_decay=0.9)
    train(config, data / "manifest.csv", tmp_path / "unbroken")

    for n_lines in (1, 2):
        with pytest.raises(_Killed):
            train(config, data / "manifest.csv", tmp_path / "broken", progress=stop_after(n_lines * 6 + 3))
    train(config, data / "manifest.csv", tmp_path / "broken")

    curves = [(tmp_path / name / "curve.jsonl").read_bytes() for name in ("unbroken", "broken")]
    assert curves[0] == curves[1]
    assert equal(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))


def stop_after(n_steps: int):
    """A progress that ends the run after so many steps since the last finished epoch was begun."""
    import contextlib

    @contextlib.contextmanager
    def progress(label, total):
        seen = 48 * 4 - total if label == "training" else 0

        def tick(n):
            nonlocal seen
            seen += n
            if label == "training" and seen >= n_steps * 8:
                raise _Killed

        yield tick

    return progress


@pytest.mark.slow
def test_a_process_killed_with_sigkill_goes_on_with_the_same_losses(data, tmp_path):
    """The signal that nothing can catch, five times, each a little later."""
    script = (
        "import sys; from pathlib import Path; from tests.train_fixture import make_config\n"
        "from ddeval.train.loop import train; d = Path(sys.argv[1])\n"
        "train(make_config(d, epochs=40), d / 'manifest.csv', Path(sys.argv[2]), note=print)\n"
    )
    run = [sys.executable, "-u", "-c", script, str(data)]
    root = Path(__file__).parents[1]
    subprocess.run([*run, str(tmp_path / "unbroken")], check=True, cwd=root, capture_output=True)
    for lines in (2, 5, 9, 14, 20):
        process = subprocess.Popen(
            [*run, str(tmp_path / "broken")], cwd=root, stdout=subprocess.PIPE, text=True
        )
        for line in process.stdout:
            if line.startswith(f"epoch {lines}/"):
                time.sleep(0.05 * (lines % 3))
                os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    subprocess.run([*run, str(tmp_path / "broken")], check=True, cwd=root, capture_output=True)
    curves = [(tmp_path / name / "curve.jsonl").read_bytes() for name in ("unbroken", "broken")]
    assert curves[0] == curves[1]
    assert equal(weights(tmp_path / "unbroken"), weights(tmp_path / "broken"))


def test_a_finished_run_is_returned_not_trained_again(data, tmp_path):
    config = make_config(data)
    first = train(config, data / "manifest.csv", tmp_path)
    stamp = (tmp_path / "best_model.pt").stat().st_mtime_ns
    again = train(config, data / "manifest.csv", tmp_path)
    assert (tmp_path / "best_model.pt").stat().st_mtime_ns == stamp
    assert again.best == first.best


def test_a_run_begun_with_other_settings_is_refused_by_name(data, tmp_path):
    """Half an old recipe and half a new one is neither."""
    train(make_config(data), data / "manifest.csv", tmp_path)
    with pytest.raises(InputError, match=r"begun with config\.train\.batch_size 8; expected 4 as now"):
        train(make_config(data, batch_size=4), data / "manifest.csv", tmp_path)


def test_an_artefact_from_elsewhere_is_not_overwritten(data, tmp_path):
    (tmp_path / "best_model.pt").write_bytes(b"precious")
    with pytest.raises(InputError, match="an artefact that no training run here began"):
        train(make_config(data), data / "manifest.csv", tmp_path)
    assert (tmp_path / "best_model.pt").read_bytes() == b"precious"


def test_a_frozen_epoch_leaves_the_backbone_untouched_to_the_last_bit(data, tmp_path):
    """Weights and the batch statistics, which move without a gradient; the head does learn."""
    config = make_config(data, epochs=1, frozen_epochs=1)
    train(config, data / "manifest.csv", tmp_path)
    seed_everything(0, 0)
    start = build(config.model, n_classes=4, answers_width=3).module.state_dict()

    trained = weights(tmp_path)
    backbone = [name for name in start if name.startswith("backbone.")]
    assert equal({k: trained[k] for k in backbone}, {k: start[k] for k in backbone})
    assert not torch.equal(trained["head.weight"], start["head.weight"])


def test_after_the_frozen_epochs_the_backbone_learns(data, tmp_path):
    train(make_config(data, epochs=1, frozen_epochs=1), data / "manifest.csv", tmp_path / "frozen")
    train(make_config(data, epochs=2, frozen_epochs=1), data / "manifest.csv", tmp_path / "both")
    last = torch.load(tmp_path / "both" / "training" / "last.pt", weights_only=True)["module"]
    key = "backbone.encoder.stages.3.layers.0.layer.0.convolution.weight"
    assert not torch.equal(last[key], weights(tmp_path / "frozen")[key])


def test_freezing_is_undone():
    module = Fusion(backbone_config("resnet_tiny"), n_classes=2)
    freeze(module, is_frozen=True)
    assert not module.backbone.training
    assert module.head.training
    freeze(module, is_frozen=False)
    assert module.backbone.training
    assert all(p.requires_grad for p in module.parameters())


def test_a_loss_that_is_not_finite_stops_with_the_images_named_and_keeps_the_best(data, tmp_path):
    """One weight of infinity makes the loss of the batch that holds its image infinite."""
    frame = read_csv(data / "manifest.csv")
    frame["trust"] = "1"
    frame.loc[frame["image_id"] == "000-0", "trust"] = "1e38"
    write_csv(tmp_path / "manifest.csv", frame)
    config = make_config(data, weight_column="trust", learning_rate=1e6, clip_norm=None, epochs=30)
    with pytest.raises(InputError, match=r"epoch \d+ batch \d+: found a loss that is not finite for .*lower"):
        train(config, tmp_path / "manifest.csv", tmp_path / "out", image_roots=[data])


def test_a_diverging_run_keeps_the_last_good_checkpoint(data, tmp_path, monkeypatch):
    """After a good epoch the head is spoilt by hand; the artefact of the good epoch still loads."""
    config = make_config(data, epochs=3)
    good, classify = {}, Fusion.classify

    def note(line: str) -> None:
        if line.startswith("epoch 1/"):
            good.update(weights(tmp_path))
            monkeypatch.setattr(Fusion, "classify", lambda *given: classify(*given) * torch.nan)

    with pytest.raises(InputError, match=r"epoch 2 batch 1: found a loss that is not finite for 8 of 8"):
        train(config, data / "manifest.csv", tmp_path, note=note)
    assert equal(weights(tmp_path), good)
    assert load_checkpoint(tmp_path).reported["epoch"] == 1


def test_a_batch_too_large_names_the_one_that_fits(data, tmp_path, monkeypatch):
    """A network that runs out of memory above five images: of 16, 8, 4, the last goes through."""
    forward = Fusion.forward

    def limited(self, pixels, features=None):
        if len(pixels) > 5 and self.training:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return forward(self, pixels, features)

    monkeypatch.setattr(Fusion, "forward", limited)
    with pytest.raises(
        InputError,
        match=r"16, too large for the memory of cpu .*at most 4\. Set batch_size: 4 and accumulate: 4",
    ):
        train(make_config(data, batch_size=16), data / "manifest.csv", tmp_path)


def test_the_advice_on_memory_is_sought_with_the_memory_of_the_failed_step_free(data, tmp_path, monkeypatch):
    """An error holds the frames it came through, and those the step's tensors: no batch fits beside them."""
    forward, failed, left = Fusion.forward, [], []

    def limited(self, pixels, features=None):
        if len(pixels) > 8 and self.training:
            activations = pixels * 2
            failed.extend([weakref.ref(activations), weakref.ref(pixels)])
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        left.extend(tensor() for tensor in failed)
        return forward(self, pixels, features)

    monkeypatch.setattr(Fusion, "forward", limited)
    with pytest.raises(InputError, match=r"at most 8\. Set batch_size: 8"):
        train(make_config(data, batch_size=16), data / "manifest.csv", tmp_path)
    assert left == [None, None]


def test_unreadable_images_weigh_nothing_and_are_counted(tmp_path):
    """They are told, not dropped in silence; cached or decoded as needed, the weights are the same."""
    make_data(tmp_path)
    for name in ("000-0", "013-1"):
        (tmp_path / "images" / f"{name}.png").write_bytes(b"no image")
    results = {
        cache: train(
            make_config(tmp_path, cache_gb=cache, epochs=1), tmp_path / "manifest.csv", tmp_path / str(cache)
        )
        for cache in (1, 0)
    }
    assert results[0].left_out == results[1].left_out == {"unreadable": 2}
    assert equal(weights(tmp_path / "0"), weights(tmp_path / "1"))


@pytest.mark.parametrize("limit", [3_000, 20_000])
def test_a_full_disk_leaves_nothing_that_could_be_taken_for_a_checkpoint(data, tmp_path, limit):
    """The system refuses to let any file grow past the limit, in the middle of weights or of the state."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as full:
            train(make_config(data, epochs=2), data / "manifest.csv", tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert full.value.filename == str(tmp_path / "best_model.pt")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["copies.csv", "run.json"]
    result = train(make_config(data, epochs=2), data / "manifest.csv", tmp_path)
    assert len(result.curve) == 2


def edited(data: Path, tmp_path: Path, edit) -> Path:
    frame = read_csv(data / "manifest.csv")
    write_csv(tmp_path / "manifest.csv", edit(frame))
    return tmp_path / "manifest.csv"


@pytest.mark.parametrize(
    ("edit", "changes", "message"),
    [
        (lambda f: f.assign(split="train"), {}, "no image with a label in split val"),
        (lambda f: f.assign(split="val"), {}, "no image with a label in split train"),
        (lambda f: f.drop(columns="split"), {}, "no image with a label in split train"),
        (lambda f: f.assign(label="acne"), {}, "no image of other_class 'other'"),
        (
            lambda f: f[f["label"].isin(["acne", "other"])],
            {},
            r"only the class \['acne'\]; expected at least two",
        ),
        (
            lambda f: f[(f["label"] != "wart") | (f["split"] != "train")],
            {"classes": ("acne", "eczema", "wart", "other")},
            "no training image of 'wart'",
        ),
        (lambda f: f, {"classes": ("acne", "eczema", "other")}, r"1 labels outside the classes .*'wart' ×16"),
        (lambda f: f.drop(columns="q.itch"), {}, r"no column q\.itch"),
        (lambda f: f.assign(patient_id="p1"), {}, "'p1' in"),
    ],
    ids=["no-val", "no-train", "no-split", "one-label", "one-target", "empty-class", "stranger", "no-answer",
         "leak"],
)  # fmt: skip
def test_data_that_cannot_be_learnt_from_is_refused(data, tmp_path, edit, changes, message):
    config = make_config(data).model_copy(update=changes)
    with pytest.raises(InputError, match=message):
        train(config, edited(data, tmp_path, edit), tmp_path / "out", image_roots=[data])


@pytest.mark.parametrize("column", ["patient_id", "lesion_id", "case_id"])
def test_a_patient_lesion_or_case_on_two_sides_is_refused_again_here(data, column):
    """A frame made in memory never went through the reader that refuses it first."""
    frame = read_manifest(data / "manifest.csv")
    is_first = frame["split"].isin(["train", "test"]) & ~frame["split"].duplicated()
    frame[column] = frame["image_id"].where(~is_first, "shared")
    with pytest.raises(InputError, match=r"'shared' in test, train \(1 such\); expected each patient"):
        build_dataset(frame, make_config(data).train, image_roots=[data])


def overlay(split: str, rows: list[tuple[str, str, str, list[tuple[str, float]]]]) -> Overlay:
    frame = pd.DataFrame(
        [
            {
                "image_id": image_id,
                "given_label": given,
                "outcome": outcome,
                "labels": [{"label": name, "weight": weight} for name, weight in labels],
                "split": split,
            }
            for image_id, given, outcome, labels in rows
        ]
    )
    return Overlay(frame, "v1", split, {}, "0" * 64)


def test_labels_of_the_test_split_never_train(data, tmp_path):
    """What is learnt from the test split would be tested on itself."""
    labels = overlay("test", [("016-0", "eczema", "keep", [("eczema", 1.0)])])
    with pytest.raises(InputError, match="overlay test-v1: found vetted labels of the test split"):
        train(make_config(data), data / "manifest.csv", tmp_path, overlay=labels)


def test_vetted_labels_are_learnt_and_their_version_is_in_the_artefact(data, tmp_path):
    labels = overlay("train", [("000-0", "eczema", "relabel", [("acne", 1.0)])])
    train(make_config(data, epochs=1), data / "manifest.csv", tmp_path, overlay=labels)
    provenance = load_checkpoint(tmp_path).settings["provenance"]
    assert provenance["labels"] == {"version": "train-v1", "sha256": "0" * 64}


def test_weights_come_from_a_table_by_image_id_whatever_its_order(data, tmp_path):
    """The issues of an audit of train, sorted by suspicion; val has no loss and needs no weight."""
    frame = read_csv(data / "manifest.csv").query("split == 'train'")
    ids = frame["image_id"][::-1]
    quality = pd.DataFrame({"image_id": ids, "label_quality": np.linspace(0, 1, len(frame))})
    quality.to_csv(tmp_path / "issues.csv", index=False)
    recipe = make_config(data, weight_table=str(tmp_path / "issues.csv"), weight_column="label_quality").train
    built = build_dataset(read_manifest(data / "manifest.csv"), recipe, image_roots=[data])
    expected = quality.set_index("image_id")["label_quality"].reindex(built.image_ids).fillna(1)
    np.testing.assert_allclose(built.weights, expected, rtol=1e-6)
    assert (built.weights[built.val_rows] == 1).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image_id,trust\n000-0,1\n", r"trust nan of image '000-1' \(47 such\); expected a weight"),
        ("image_id,trust\n000-0,-1\n", "trust '-1' of image '000-0'"),
        ("image_id,trust\n000-0,1\n000-0,1\n", "image '000-0' twice"),
        ("image_id,quality\n000-0,1\n", "no column 'trust'; expected image_id and trust"),
    ],
)
def test_a_weight_table_with_a_hole_is_refused(data, tmp_path, table, message):
    (tmp_path / "w.csv").write_text(table)
    config = make_config(data, weight_table=str(tmp_path / "w.csv"), weight_column="trust")
    with pytest.raises(InputError, match=message):
        train(config, data / "manifest.csv", tmp_path / "out")


def test_soft_labels_are_the_readers_weights_and_strangers_count_for_other(data):
    """Two readers, acne 2/3 and a diagnosis outside the classes 1/3, which is `other`."""
    labels = overlay("train", [("000-0", "eczema", "compatible", [("acne", 2 / 3), ("lupus", 1 / 3)])])
    frame = read_manifest(data / "manifest.csv")
    for soft, expected in ((True, [2 / 3, 0, 1 / 3, 0]), (False, [0, 1, 0, 0])):
        recipe = make_config(data, soft_labels=soft).train
        built = build_dataset(frame, recipe, image_roots=[data], other_class="other", overlay=labels)
        assert built.class_names == ("acne", "eczema", "other", "wart")
        np.testing.assert_allclose(built.targets[built.image_ids == "000-0"][0], expected, rtol=1e-6)


def test_images_a_reader_could_not_grade_leave_the_training_data(data):
    labels = overlay("train", [("000-0", "eczema", "cannot_tell", []), ("000-1", "eczema", "poor_image", [])])
    frame, recipe = read_manifest(data / "manifest.csv"), make_config(data).train
    built = build_dataset(frame, recipe, image_roots=[data], overlay=labels)
    assert not {"000-0", "000-1"} & set(built.image_ids)
    assert built.left_out == {"no label": 2}


def test_without_a_model_or_a_recipe_a_config_cannot_be_trained(data, tmp_path):
    config = make_config(data).model_copy(update={"model": None})
    with pytest.raises(InputError, match="config small: found no `model:`"):
        train(config, data / "manifest.csv", tmp_path)


def test_losses_fall_for_each_family(data, tmp_path):
    """Convolutions, modern convolutions and attention: each learns the colours in a few epochs."""
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    families = {
        "convnextv2_tiny": {"backbone_config": {"hidden_sizes": [4, 4, 8, 8], "depths": [1, 1, 1, 1]}},
        "siglip_tiny": {"backbone_config": tiny, "image_size": 28, "gradient_checkpointing": True},
    }
    for name, model in families.items():
        config = make_config(data, model={"backbone": name, **model}, epochs=5)
        losses = train(config, data / "manifest.csv", tmp_path / name).curve["train_loss"]
        assert losses.iloc[-1] < 0.7 * losses.iloc[0], name


def test_a_head_on_stored_embeddings_is_the_head_of_a_frozen_backbone(data, tmp_path):
    """The backbone gives the same embedding every epoch, so running it once must change nothing."""
    for name, stored in (("stored", True), ("each", False)):
        config = make_config(data, epochs=3, frozen_epochs=3, stored_embeddings=stored)
        train(config, data / "manifest.csv", tmp_path / name)
    curves = [pd.read_json(tmp_path / name / "curve.jsonl", lines=True) for name in ("stored", "each")]
    pd.testing.assert_frame_equal(curves[0], curves[1], rtol=1e-4)


def test_stored_embeddings_of_a_backbone_that_learns_are_refused(data):
    with pytest.raises(InputError, match="stored_embeddings needs every epoch frozen and no augment"):
        make_config(data, epochs=3, frozen_epochs=1, stored_embeddings=True)


def test_gradient_checkpointing_changes_no_weight(data, tmp_path):
    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    for name, on in (("on", True), ("off", False)):
        model = {"backbone": "siglip_tiny", "image_size": 28, "backbone_config": tiny}
        config = make_config(data, model={**model, "gradient_checkpointing": on}, epochs=1)
        train(config, data / "manifest.csv", tmp_path / name)
    on, off = weights(tmp_path / "on"), weights(tmp_path / "off")
    for key in on:
        torch.testing.assert_close(on[key], off[key], rtol=0, atol=1e-6)


def test_gradient_checkpointing_of_a_family_without_it_is_refused(data, tmp_path):
    config = make_config(data, model={"gradient_checkpointing": True})
    with pytest.raises(InputError, match="true for resnet_tiny; expected a SigLIP backbone"):
        train(config, data / "manifest.csv", tmp_path)


def test_the_average_of_the_weights_is_what_is_kept(data, tmp_path):
    """With a decay of almost 1 the artefact lags behind the last weights; without, it equals them."""
    for name, decay in (("mean", 0.999), ("plain", 0.0)):
        train(make_config(data, epochs=1, ema_decay=decay), data / "manifest.csv", tmp_path / name)
    last = {
        n: torch.load(tmp_path / n / "training" / "last.pt", weights_only=True) for n in ("mean", "plain")
    }
    assert torch.equal(weights(tmp_path / "plain")["head.weight"], last["plain"]["module"]["head.weight"])
    assert not torch.equal(weights(tmp_path / "mean")["head.weight"], last["mean"]["module"]["head.weight"])
    assert torch.equal(weights(tmp_path / "mean")["head.weight"], last["mean"]["average"]["head.weight"])
    assert np.isfinite(last["mean"]["average"]["head.weight"].numpy()).all()


@pytest.mark.filterwarnings("ignore")  # torch warns of its own compiler's doings
def test_compiled_layers_give_the_losses_and_the_checkpoint_of_plain_ones(data, tmp_path):
    """The compiler reorders float32 sums and nothing else; names of weights stay."""
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = {"backbone": "siglip_tiny", "image_size": 28}
    model["backbone_config"] = {**shape, "image_size": 28}
    results = {
        how: train(
            make_config(data, model=model, epochs=2, compile_layers=how),
            data / "manifest.csv",
            tmp_path / how,
        )
        for how in ("never", "auto", "always")
    }
    losses = {how: result.curve["train_loss"].to_numpy() for how, result in results.items()}
    np.testing.assert_array_equal(losses["auto"], losses["never"])  # too small, and no GPU
    np.testing.assert_allclose(losses["always"], losses["never"], rtol=1e-4)
    plain, compiled = weights(tmp_path / "never"), weights(tmp_path / "always")
    assert plain.keys() == compiled.keys()
    for name, value in plain.items():
        if not name.endswith("k_proj.bias"):  # softmax does not see it: its gradient is rounding alone
            torch.testing.assert_close(compiled[name], value, rtol=1e-2, atol=1e-3, msg=name)
    assert load_checkpoint(tmp_path / "always").class_names == load_checkpoint(tmp_path / "never").class_names


@pytest.mark.parametrize(
    ("how", "backbone", "expected"),
    [("auto", "siglip_tiny", False), ("never", "siglip_tiny", False), ("always", "siglip_tiny", True),
     ("always", "resnet_tiny", False)],
)  # fmt: skip
def test_only_transformer_layers_are_compiled_and_only_when_asked(how, backbone, expected):
    module = Fusion(backbone_config(backbone), n_classes=3)
    cpu = torch.device("cpu")
    assert compile_layers(module, how, n_images=10**9, device=cpu) is expected
    compiled = [part for part in module.modules() if part._compiled_call_impl is not None]
    assert len(compiled) == (3 if expected else 0)
