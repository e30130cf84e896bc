"""Backbones have the published shapes, and pretrained weights fill them exactly or not at all."""

import pytest
import torch
from transformers import (
    ConvNextV2Config,
    ConvNextV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SiglipConfig,
    SiglipModel,
)

from ddeval.config import Architecture
from ddeval.errors import InputError
from ddeval.models.backbones import (
    BACKBONES,
    backbone_config,
    build_backbone,
    embedding_width,
    load_backbone,
    pooled,
)
from ddeval.models.build import preprocessing_of
from ddeval.models.device import choose_device, dtype_for, no_kernels
from ddeval.models.fusion import Fusion

TINY = ["resnet_tiny", "convnextv2_tiny", "siglip_tiny"]


@pytest.mark.parametrize(
    ("name", "width", "millions"),
    [("resnet50", 2048, 23.5), ("convnextv2_base", 1024, 87.7), ("medsiglip_448", 1152, 428.6)],
)
def test_the_three_of_round_one_have_their_published_size(name, width, millions):
    """On the meta device: shapes without numbers."""
    config = backbone_config(name)
    with torch.device("meta"):
        backbone = build_backbone(config)
    assert embedding_width(config) == width
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


@pytest.mark.parametrize("name", TINY)
def test_a_backbone_gives_one_embedding_an_image_of_the_stated_width(name):
    config = backbone_config(name)
    size = BACKBONES[name].size
    output = pooled(build_backbone(config).eval(), torch.randn(3, 3, size, size))
    assert output.shape == (3, embedding_width(config))


@pytest.mark.parametrize("name", TINY)
def test_images_have_the_side_the_config_says_else_the_backbones_own(name):
    """transformers gives every ConvNeXt-V2 an image_size of 224; it shapes no weight and is nobody's wish."""
    assert preprocessing_of(Architecture(backbone=name)).size == BACKBONES[name].size
    assert preprocessing_of(Architecture(backbone=name, image_size=28)).size == 28
    of_backbone = Architecture(backbone=name, backbone_config={"image_size": 42})
    assert preprocessing_of(of_backbone).size == 42


def save_pretrained(name: str, folder) -> torch.nn.Module:
    """A whole model of the family of `name`, as the hub holds it; returns its vision part."""
    config = {k: v for k, v in backbone_config(name).items() if k != "model_type"}
    if name == "siglip_tiny":
        text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
        text |= {"num_attention_heads": 2, "vocab_size": 20, "bos_token_id": 0, "eos_token_id": 1}
        model = SiglipModel(SiglipConfig(vision_config=config, text_config=text))
        model.save_pretrained(folder)
        return model.vision_model
    if name == "resnet_tiny":
        model = ResNetForImageClassification(ResNetConfig(**config))
        model.save_pretrained(folder)
        return model.resnet
    model = ConvNextV2ForImageClassification(ConvNextV2Config(**config))
    model.save_pretrained(folder)
    return model.convnextv2


@pytest.mark.parametrize("name", TINY)
def test_pretrained_weights_of_a_whole_model_fill_the_backbone(name, tmp_path):
    """The text tower and the head of what the hub holds are left behind, nothing else."""
    whole = save_pretrained(name, tmp_path).eval()
    backbone = load_backbone(backbone_config(name), str(tmp_path)).eval()
    pixels = torch.randn(2, 3, BACKBONES[name].size, BACKBONES[name].size)
    with torch.inference_mode():
        torch.testing.assert_close(pooled(backbone, pixels), pooled(whole, pixels), rtol=0, atol=0)


def test_weights_of_another_width_or_family_are_refused(tmp_path):
    save_pretrained("siglip_tiny", tmp_path)
    with pytest.raises(InputError, match="hidden_size 64; expected hidden_size 1152"):
        load_backbone(backbone_config("medsiglip_448"), str(tmp_path))
    with pytest.raises(InputError, match="weights of a siglip model; expected a resnet model"):
        load_backbone(backbone_config("resnet50"), str(tmp_path))


def test_pretrained_weights_that_lack_a_layer_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_pretrained("resnet_tiny", tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    kept = {k: v for k, v in state.items() if "stages.3" not in k}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"weights missing \(first encoder\.stages\.3"):
        load_backbone(backbone_config("resnet_tiny"), str(tmp_path))


def test_without_weights_it_refuses_and_names_the_three_ways(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"'team/none'.*expected a folder.*hub id, or `random`"):
        load_backbone(backbone_config("resnet_tiny"), "team/none")


def test_a_key_the_family_lacks_is_named():
    with pytest.raises(ValueError, match="resnet has no 'hiden_sizes'"):
        backbone_config("resnet_tiny", changes={"hiden_sizes": [1]})


def test_image_size_reaches_the_position_embedding_of_siglip_only():
    assert backbone_config("siglip_tiny", image_size=112)["image_size"] == 112
    assert "image_size" not in backbone_config("resnet_tiny", image_size=112)


def fusion(**options: object) -> Fusion:
    torch.manual_seed(0)
    return Fusion(backbone_config("resnet_tiny"), n_classes=4, **options).eval()


def test_logits_depend_on_the_photograph_and_on_the_answers():
    model = fusion(answers_width=5, questionnaire_widths=(8, 4))
    pixels, answers = torch.randn(1, 3, 64, 64), torch.zeros(1, 5)
    logits, embeddings = model(pixels, answers)
    other_answers, same_embeddings = model(pixels, torch.ones(1, 5))
    assert not torch.allclose(logits, other_answers)
    assert torch.equal(embeddings, same_embeddings)
    assert not torch.allclose(logits, model(torch.randn(1, 3, 64, 64), answers)[0])


def test_the_head_alone_on_stored_embeddings_gives_the_same_logits():
    model = fusion(answers_width=5)
    pixels, answers = torch.randn(2, 3, 64, 64), torch.rand(2, 5)
    logits, embeddings = model(pixels, answers)
    assert torch.equal(model.classify(embeddings, answers), logits)


def test_logits_are_float32_under_autocast():
    """25 classes in bfloat16 tie at two digits; the head never runs in it."""
    model = fusion(answers_width=5)
    pixels, answers = torch.randn(2, 3, 64, 64), torch.rand(2, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, embeddings = model(pixels, answers)
    assert logits.dtype == embeddings.dtype == torch.float32
    assert torch.equal(logits, model.classify(embeddings, answers))


@pytest.mark.parametrize(("width", "given"), [(5, None), (0, torch.zeros(1, 5))])
def test_answers_without_a_reader_or_a_reader_without_answers_is_refused(width, given):
    with pytest.raises(ValueError, match=f"the model reads {width} columns of answers"):
        fusion(answers_width=width)(torch.zeros(1, 3, 64, 64), given)


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [
        ((9, 0), torch.bfloat16),
        ((8, 0), torch.bfloat16),
        ((7, 5), torch.float16),
        ((7, 0), torch.float16),
        ((6, 1), torch.float32),
        (None, torch.float32),
    ],
)
def test_the_number_format_follows_the_card(capability, dtype):
    """A T4 (7.5) claims bfloat16 and emulates it; a Pascal card has float16 at 1/64 of its speed."""
    assert dtype_for(capability) == dtype


def test_a_card_without_kernels_is_one_sentence():
    said = no_kernels("GeForce GTX 1080", (6, 1), ["sm_75", "sm_90"])
    assert said.startswith("The GeForce GTX 1080 (sm_61) is not used: this torch is built for sm_75, sm_90;")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_asking_for_a_gpu_that_is_not_there_runs_on_the_cpu_and_says_so():
    device = choose_device("cuda")
    assert (device.device.type, device.dtype) == ("cpu", torch.float32)
    assert "running on the CPU in float32" in device.note
    assert choose_device("cpu").note is None
