"""The engine: which kernels a run takes, what it refuses, and what run.json says of it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddeval import io
from ddeval.data.images import Preprocessing, decode, preprocess, read_resized
from ddeval.errors import InputError
from ddeval.models import device
from ddeval.models.backbones import backbone_config
from ddeval.models.checkpoint import load_checkpoint, write_artefact
from ddeval.models.fusion import Fusion
from ddeval.score import engine as engine_module
from ddeval.score.engine import Engine, Model, decoders, engine
from ddeval.score.predictions import read_predictions
from ddeval.score.run import Settings, score, speed_of
from tests.score_fixture import CLASSES, SCHEMA, make_artefact, make_manifest


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("engine")
    make_manifest(root, 24)
    make_artefact(root / "resnet")
    torch.manual_seed(1)
    model = {
        "backbone": "siglip_tiny",
        "backbone_config": backbone_config("siglip_tiny"),
        "answers_width": SCHEMA.width,
        "questionnaire_widths": [8],
    }
    module = Fusion(n_classes=len(CLASSES), **{k: v for k, v in model.items() if k != "backbone"})
    torch.nn.init.normal_(module.head.weight, std=1.0)
    write_artefact(
        root / "siglip",
        state=module.state_dict(),
        name="siglip",
        model=model,
        preprocessing=Preprocessing.for_norm("siglip", 56),
        class_names=CLASSES,
        other_class="other",
        schema=SCHEMA,
    )
    return root


def run(home, name, out, **settings):
    settings = {"batch_size": 8, "shard_size": 8, "device": "cpu"} | settings
    return score(
        load_checkpoint(home / name), home / "manifest.csv", settings=Settings(**settings), out=home / out
    )


@pytest.mark.parametrize(
    ("name", "dtype", "kernel"),
    [
        ("siglip", "fp32", "transformers"),
        ("siglip", "bf16", "tower"),
        ("resnet", "bf16", "transformers"),
    ],
)
def test_the_kernel_follows_from_backbone_and_number_format(home, name, dtype, kernel):
    assert engine(load_checkpoint(home / name), "cpu", dtype).kernel == kernel


def test_a_large_network_on_a_cpu_takes_few_photographs_at_a_time(home, monkeypatch):
    checkpoint = load_checkpoint(home / "resnet")
    assert engine(checkpoint, "cpu").batch_size == 64
    monkeypatch.setattr(engine_module, "LARGE_NETWORK", 100)
    assert engine(checkpoint, "cpu").batch_size == 8


@pytest.mark.parametrize(
    ("flags", "dtype", "is_said"),
    [
        ("avx2 avx512f", "bf16", True),
        ("avx512f avx512_bf16", "bf16", False),
        ("avx512f avx512_bf16", "fp16", True),
        ("asimd asimdhp bf16", "fp16", False),
        ("avx2", "fp32", False),
    ],
)
def test_a_number_format_that_the_processor_imitates_is_named(
    home, tmp_path, monkeypatch, flags, dtype, is_said
):
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags}\n")
    monkeypatch.setattr(device, "PROCESSOR", tmp_path / "cpuinfo")
    note = engine(load_checkpoint(home / "resnet"), "cpu", dtype).note
    assert (note or "").startswith(f"This processor has no {dtype} products") == is_said


def test_the_batch_is_chosen_once_and_stands_in_run_json(home):
    """64 on a CPU; asking for the number the engine chose goes on with the same run."""
    folder = run(home, "resnet", "auto", batch_size=0)
    assert io.read_json(folder / "run.json")["batch_size"] == 64
    assert run(home, "resnet", "auto", batch_size=64) == folder


def test_a_run_on_the_tower_agrees_with_float32_and_says_which_it_was(home):
    exact = read_predictions(run(home, "siglip", "fp32") / "predictions.parquet")
    folder = run(home, "siglip", "bf16", dtype="bf16")
    logits = read_predictions(folder / "predictions.parquet").logits
    facts = io.read_json(folder / "run.json")
    assert np.linalg.norm(logits - exact.logits) <= 0.02 * np.linalg.norm(exact.logits)
    assert not np.array_equal(logits, exact.logits)
    assert (facts["dtype"], facts["kernel"], facts["decode"]) == ("bf16", "tower", "exact")
    assert facts["machine"]["kernel"] == "tower"


@pytest.mark.parametrize("name", ["siglip", "resnet"])
def test_float8_is_refused_by_name_where_there_is_none(home, name):
    with pytest.raises(InputError, match=f"--precision fp8: found {name} on cpu; expected a SigLIP backbone"):
        run(home, name, "fp8", precision="fp8")
    assert not (home / "fp8").exists()


def test_a_run_goes_on_with_no_other_kernel(home):
    """A shard of one kernel beside a shard of another would be neither's run."""
    folder = run(home, "siglip", "resumed", dtype="bf16")
    facts = io.read_json(folder / "run.json")
    io.write_json(folder / "run.json", {**facts, "machine": {**facts["machine"], "kernel": "tower:cudnn"}})
    with pytest.raises(InputError, match="found kernel tower; expected kernel tower:cudnn, with which this"):
        run(home, "siglip", "resumed", dtype="bf16")


def test_a_run_goes_on_with_no_other_decoding(home):
    run(home, "resnet", "slow")
    with pytest.raises(
        InputError, match=r"found decode fast .*expected decode none, with which this run began"
    ):
        run(home, "resnet", "slow", fast_decode=True)


def test_fast_decoding_changes_the_fingerprint_and_stands_in_run_json(home):
    exact, fast = (
        io.read_json(run(home, "resnet", f"decode-{is_fast}", fast_decode=is_fast) / "run.json")
        for is_fast in (False, True)
    )
    assert (exact["decode"], fast["decode"]) == ("exact", "fast")
    assert exact["fingerprint"] != fast["fingerprint"]
    assert [name.split()[0] for name in exact["decoders"]] == ["all"]
    assert [name.split()[0] for name in fast["decoders"]] == ["JPEG", "other"]
    assert ("decoder" in exact["machine"], fast["machine"]["decoder"]) == (False, "libjpeg")


def test_a_run_goes_on_with_no_other_decoder(home):
    """Begun where the card decodes, continued where libjpeg does: pixels would differ a little."""
    folder = run(home, "resnet", "on-card", fast_decode=True)
    facts = io.read_json(folder / "run.json")
    there = {**facts["machine"], "decoder": "nvjpeg (torchvision 0.26.0)"}
    io.write_json(folder / "run.json", {**facts, "machine": there})
    with pytest.raises(InputError, match=r"found decoder libjpeg; expected decoder nvjpeg \(torchvision 0"):
        run(home, "resnet", "on-card", fast_decode=True)


def test_run_json_says_who_decodes_what_where_the_card_does():
    on = Engine(torch.device("cpu"), "bf16", None, decoder="nvjpeg (torchvision 0.26.0)")
    words = decoders(on, Preprocessing.for_norm("siglip", 448), fast=True)
    assert words["baseline JPEG of 1344 px a side or more"].startswith("nvjpeg (torchvision 0.26.0)")
    assert list(words)[1:] == ["other JPEG of 1344 px a side or more", "other files"]


@pytest.mark.parametrize("size", [(640, 480), (64, 48)])
def test_reading_resized_is_decoding_then_preprocessing_bit_for_bit(tmp_path, size):
    path = photograph(tmp_path, size)
    for p in (Preprocessing.for_norm("siglip", 56), Preprocessing.for_norm("imagenet", 96)):
        np.testing.assert_array_equal(read_resized(path, p), preprocess(decode(path), p))


def photograph(folder, size):
    """Soft blocks under grain, as a camera sees skin, with an orientation."""
    rng = np.random.default_rng(0)
    blocks = Image.fromarray(rng.integers(0, 256, (size[1] // 16, size[0] // 16, 3), dtype=np.uint8))
    grain = Image.fromarray(rng.integers(0, 40, size[::-1], dtype=np.uint8)).convert("RGB")
    image = Image.blend(blocks.resize(size, Image.Resampling.BICUBIC), grain, 0.15)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "photo.jpg", quality=90, exif=exif)
    return folder / "photo.jpg"


def test_speed_counts_the_start_or_leaves_it_out():
    """6 s for the first shard, then 2 s each: 300 images a second in all, 500 after the start."""
    written = [(106.0, 1000), (108.0, 1000), (110.0, 1000)]
    assert speed_of(100.0, written) == {"images_per_second": 300.0, "steady_images_per_second": 500.0}
    assert speed_of(100.0, written[:1]) == {"images_per_second": 166.7, "steady_images_per_second": None}
    assert speed_of(100.0, []) == {"images_per_second": None, "steady_images_per_second": None}


@pytest.mark.parametrize("name", ["siglip", "siglip_dual"])
def test_models_of_the_hub_keep_their_answers_on_the_tower(hub, name):
    """A classifier on the mean of the patches and a dual encoder on the pooled one, in bf16."""
    names = ["eczema", "psoriasis", "acne", "other"]
    checkpoint = load_checkpoint(hub / name, **({"class_names": names} if name == "siglip_dual" else {}))
    on = engine(checkpoint, "cpu", "bf16")
    files = sorted((hub / "photos").glob("*.png"))
    pixels = torch.from_numpy(np.stack([preprocess(decode(f), checkpoint.preprocessing) for f in files]))
    logits, embeddings = Model(checkpoint, on)(pixels, None)
    exact, exact_embeddings = Model(checkpoint, Engine(on.device, "fp32", None))(pixels, None)
    assert on.kernel == "tower"
    assert (logits - exact).norm() <= 0.03 * (exact - exact.mean()).norm()
    assert (embeddings - exact_embeddings).norm() <= 0.03 * exact_embeddings.norm()


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """Folders as the hub holds them, written by a process that knows nothing of ddeval."""
    root = tmp_path_factory.mktemp("hub")
    script = Path(__file__).parent / "foreign_folders.py"
    subprocess.run([sys.executable, script, root], check=True, capture_output=True)
    return root


@pytest.mark.real_data
@pytest.mark.parametrize(("width", "grain"), [(4032, 6), (2560, 0), (2560, 6)])
def test_fast_decoding_stays_within_three_levels_on_photographs(real_data, tmp_path, width, grain):
    """Skin enlarged to 12 or 5 megapixels, with a camera's grain or without; shrunk by four and by two."""
    size = width, width * 3 // 4
    rng = np.random.default_rng(0)
    for i, source in enumerate(sorted((real_data / "ham10000" / "images").glob("*.jpg"))[:200:100]):
        large = Image.open(source).convert("RGB").resize(size, Image.Resampling.LANCZOS)
        grainy = np.asarray(large) + rng.normal(0, grain, (*size[::-1], 1))
        path = tmp_path / f"{i}.jpg"
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(path, quality=90)
        p = Preprocessing.for_norm("siglip", 448)
        error = np.abs(read_resized(path, p, fast=True).astype(int) - read_resized(path, p))
        assert error.max() <= 3
        assert 0 < error.mean() < 1
