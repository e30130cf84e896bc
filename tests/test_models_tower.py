"""Our own SigLIP tower computes what transformers computes, to the last digits, and changes nothing else."""

import pytest
import torch
from torch import nn
from transformers import SiglipVisionConfig, SiglipVisionModel

from ddeval.models.backbones import backbone_config
from ddeval.models.fusion import Fusion
from ddeval.models.tower import Tower, _bound, has_tower, kernel_for, with_towers

CPU = torch.device("cpu")


def vision_model(seed: int = 0, **changes) -> SiglipVisionModel:
    """A small SigLIP vision model in which every number is random, the biases and norms too."""
    shape = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 3}
    shape |= {"patch_size": 4, "image_size": 12}
    torch.manual_seed(seed)
    model = SiglipVisionModel(SiglipVisionConfig(**shape | changes)).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1},
        {"hidden_size": 36, "num_attention_heads": 2, "intermediate_size": 50, "image_size": 20},
        {"patch_size": 5, "image_size": 15, "layer_norm_eps": 1e-3},
    ],
)
def test_the_tower_is_the_transformers_model_in_float32(changes, batch):
    """Biases held back along the residual, MLPs filled up to whole tiles, patches as one product."""
    vision = vision_model(**changes)
    pixels = torch.randn(batch, 3, vision.config.image_size, vision.config.image_size)
    with torch.inference_mode():
        expected = vision(pixel_values=pixels)
        found = Tower(vision, dtype=torch.float32)(pixel_values=pixels)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooler_output, expected.pooler_output, rtol=1e-5, atol=1e-5)


def test_a_tower_without_a_pooling_head_gives_the_hidden_state_alone():
    vision = vision_model(vision_use_head=False)
    pixels = torch.randn(2, 3, 12, 12)
    with torch.inference_mode():
        expected = vision(pixel_values=pixels)
        found = Tower(vision, dtype=torch.float32)(pixel_values=pixels)
    torch.testing.assert_close(found.last_hidden_state, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
    assert found.pooler_output is None
    assert expected.pooler_output is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_tower_is_as_near_to_float32_as_transformers_is(dtype):
    """Twice the error of the original under autocast at most: both round, in other places."""
    vision = vision_model()
    pixels = torch.randn(16, 3, 12, 12)
    with torch.inference_mode():
        exact = vision(pixel_values=pixels).pooler_output
        with torch.autocast("cpu", dtype):
            theirs = vision(pixel_values=pixels).pooler_output.float()
            ours = Tower(vision, dtype=dtype)(pixel_values=pixels).pooler_output.float()
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm()
    assert (ours - exact).norm() <= 0.03 * exact.norm()


def test_pixels_of_another_size_are_refused():
    with pytest.raises(RuntimeError, match="size of tensor"), torch.inference_mode():
        Tower(vision_model(), dtype=torch.float32)(pixel_values=torch.zeros(1, 3, 16, 16))


def test_a_fusion_model_is_changed_in_its_copy_alone():
    """The checkpoint may be asked for its weights, or run again in float32, afterwards."""
    config = backbone_config("siglip_tiny")
    module = Fusion(config, n_classes=4, answers_width=3, questionnaire_widths=(5,)).eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    changed = with_towers(module, dtype=torch.float32, device=CPU, kernel="tower", precision="native")
    pixels, answers = torch.randn(3, 3, 56, 56), torch.rand(3, 3)
    with torch.inference_mode():
        for found, expected in zip(changed(pixels, answers), module(pixels, answers), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert isinstance(changed.backbone, Tower)
    assert isinstance(module.backbone, SiglipVisionModel)
    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (Fusion(backbone_config("siglip_tiny"), n_classes=3), True),
        (Fusion(backbone_config("resnet_tiny"), n_classes=3), False),
        (vision_model(hidden_act="relu"), False),
    ],
)
def test_only_a_siglip_backbone_with_the_mlp_of_its_papers_has_a_tower(module, expected):
    assert has_tower(module) is expected


def test_on_the_cpu_a_tower_has_no_attention_of_its_own():
    assert kernel_for(vision_model(), CPU, torch.bfloat16) == "tower"


def test_scales_of_float8_bound_every_activation_without_data():
    """|W h + b| of any row that a norm gives stays below the bound; the largest comes near it."""
    torch.manual_seed(0)
    weight, bias = torch.randn(7, 24), torch.randn(7)
    gain, norm_bias = torch.randn(24), torch.randn(24)
    rows = torch.nn.functional.layer_norm(torch.randn(20_000, 24), (24,), gain, norm_bias)
    most = (rows @ weight.T + bias).abs().max()
    bound = _bound(weight, bias, gain, norm_bias)
    assert most <= bound <= 2 * most
