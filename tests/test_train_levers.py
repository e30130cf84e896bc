"""Each lever of the recipe against a case worked by hand, and off at its default."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from ddeval.config import ColourJitter, Erase, RandomResizedCrop, TrainConfig
from ddeval.models.backbones import backbone_config
from ddeval.models.device import Device
from ddeval.models.fusion import Fusion
from ddeval.train.augment import augment, colour_jitter, erase, flip, mixup, random_resized_crop, rotate90
from ddeval.train.dataset import Dataset, class_shares, epoch_rows
from ddeval.train.losses import image_losses
from ddeval.train.optimiser import WeightAverage, layer_depths, parameter_groups, rate_factor
from ddeval.train.step import Stepper, amp_dtype, largest_batch

LOG = math.log


def recipe(**changes: object) -> TrainConfig:
    return TrainConfig(epochs=1, **changes)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Losses. Logits (ln 3, 0) give the probabilities 3/4 and 1/4.

LOGITS = torch.tensor([[LOG(3.0), 0.0]])
FIRST, SECOND = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])


def test_without_levers_it_is_cross_entropy():
    """-ln 3/4 for the first class, -ln 1/4 for the second, and torch's own on random logits."""
    assert image_losses(LOGITS, FIRST).item() == pytest.approx(-LOG(3 / 4))
    assert image_losses(LOGITS, SECOND).item() == pytest.approx(-LOG(1 / 4))
    logits, labels = torch.randn(9, 5), torch.randint(5, (9,))
    expected = nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(image_losses(logits, torch.eye(5)[labels]), expected)


def test_focal_loss_worked_by_hand():
    """gamma 2: (1 - 3/4)^2 = 1/16 of the cross-entropy of the easy image, 9/16 of that of the hard one."""
    assert image_losses(LOGITS, FIRST, focal_gamma=2).item() == pytest.approx(-LOG(3 / 4) / 16, rel=1e-5)
    assert image_losses(LOGITS, SECOND, focal_gamma=2).item() == pytest.approx(-LOG(1 / 4) * 9 / 16, rel=1e-5)


def test_focal_loss_of_a_certain_image_has_a_gradient():
    """p = 1 in float32 makes 1 - p a zero, whose power must not turn the gradient into NaN."""
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    image_losses(logits, FIRST, focal_gamma=0.5).sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_logit_adjustment_worked_by_hand():
    """Shares 3/4 and 1/4 at tau 1: equal logits are learnt as if they were ln 3/4 and ln 1/4."""
    log_prior = torch.log(torch.tensor([0.75, 0.25]))
    loss = image_losses(torch.zeros(1, 2), SECOND, log_prior=log_prior, logit_adjustment=1.0)
    assert loss.item() == pytest.approx(-LOG(1 / 4))
    half = image_losses(torch.zeros(1, 2), SECOND, log_prior=log_prior, logit_adjustment=0.5)
    assert half.item() == pytest.approx(-LOG(0.5 / (0.5 + math.sqrt(0.75))))


def test_logit_adjustment_needs_the_shares():
    with pytest.raises(ValueError, match="needs the class shares"):
        image_losses(LOGITS, FIRST, logit_adjustment=1.0)


def test_label_smoothing_worked_by_hand():
    """0.2 over two classes: targets 0.9 and 0.1; torch's own agrees."""
    loss = image_losses(LOGITS, FIRST, label_smoothing=0.2)
    assert loss.item() == pytest.approx(-0.9 * LOG(3 / 4) - 0.1 * LOG(1 / 4))
    expected = nn.functional.cross_entropy(LOGITS, torch.tensor([0]), label_smoothing=0.2)
    assert loss.item() == pytest.approx(expected.item())


def test_soft_labels_are_the_weighted_mean_of_the_losses_of_each_label():
    soft = image_losses(LOGITS, torch.tensor([[2 / 3, 1 / 3]]))
    assert soft.item() == pytest.approx(-2 / 3 * LOG(3 / 4) - 1 / 3 * LOG(1 / 4))


# What is drawn.


def dataset(labels: list[int], *, other: int | None = None, n_classes: int = 3, **fields: object) -> Dataset:
    n = len(labels)
    values = {
        "frame": pd.DataFrame(index=range(n)),
        "image_ids": np.array([f"i{i}" for i in range(n)], dtype=object),
        "sources": [],
        "targets": np.eye(n_classes, dtype=np.float32)[labels],
        "labels": np.array(labels),
        "weights": np.ones(n, np.float32),
        "features": None,
        "train_rows": np.arange(n),
        "val_rows": np.arange(0),
        "class_names": tuple("abc"[:n_classes]),
        "other_index": other,
        "left_out": {},
        "labels_version": "v0",
    }
    return Dataset(**(values | fields))


def test_other_is_drawn_anew_each_epoch_in_the_stated_ratio():
    """100 target images, ratio 0.2: 20 of the 300 others, every target once, other others next time."""
    data = dataset([0] * 60 + [1] * 40 + [2] * 300, other=2)
    first, second = (
        epoch_rows(data, recipe(other_ratio=0.2), np.random.default_rng(seed)) for seed in (0, 1)
    )
    for rows in (first, second):
        assert len(np.unique(rows)) == len(rows) == 120
        assert np.bincount(data.labels[rows]).tolist() == [60, 40, 20]
    assert set(first[first >= 100]) != set(second[second >= 100])


def test_a_ratio_beyond_the_others_there_are_takes_each_once():
    data = dataset([0] * 6 + [1] * 4 + [2] * 3, other=2)
    rows = epoch_rows(data, recipe(other_ratio=9.0), np.random.default_rng(0))
    assert sorted(rows) == list(range(13))


def test_without_levers_every_image_is_seen_once_in_a_new_order():
    data = dataset([0] * 90 + [1] * 9 + [2])
    rows = epoch_rows(data, recipe(), np.random.default_rng(0))
    assert sorted(rows) == list(range(100))
    assert list(rows) != list(range(100))


@pytest.mark.parametrize(("balance", "shares"), [(1.0, [1 / 3, 1 / 3, 1 / 3]), (0.5, [0.6, 0.3, 0.1])])
def test_class_balanced_sampling_draws_classes_in_the_stated_shares(balance, shares):
    """360, 90 and 10 images; square roots 18.97 : 9.49 : 3.16 = 6 : 3 : 1. Two binomial sd are 0.5 points."""
    data = dataset([0] * 3600 + [1] * 900 + [2] * 100)
    chosen = recipe(class_balance=balance)
    rows = np.concatenate([epoch_rows(data, chosen, np.random.default_rng(s)) for s in range(8)])
    np.testing.assert_allclose(np.bincount(data.labels[rows]) / len(rows), shares, atol=0.012)
    np.testing.assert_allclose(class_shares(data, chosen), shares, atol=1e-12)


def test_the_prior_of_logit_adjustment_is_that_of_what_is_drawn():
    """300 others at ratio 0.2 of 100 targets count as 20; a class never drawn keeps a positive share."""
    data = dataset([0] * 60 + [1] * 40 + [2] * 300, other=2)
    np.testing.assert_allclose(class_shares(data, recipe(other_ratio=0.2)), [0.5, 1 / 3, 1 / 6])
    assert 0 < class_shares(data, recipe(other_ratio=0.0))[2] < 1e-4


# Who learns how fast.


def test_layer_wise_decay_worked_by_hand():
    """Two transformer layers, decay 1/2: top layer and pooling head 1, layer below 1/2, embedding 1/4."""
    size = {"num_hidden_layers": 2, "hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2}
    module = Fusion(backbone_config("siglip_tiny", changes=size), n_classes=2)
    groups = parameter_groups(module, recipe(learning_rate=1.0, layer_decay=0.5, head_learning_rate=10.0))
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    found = {name: rate[id(p)] for name, p in module.named_parameters()}
    assert found["backbone.embeddings.patch_embedding.weight"] == 0.25
    assert found["backbone.encoder.layers.0.mlp.fc1.weight"] == 0.5
    assert found["backbone.encoder.layers.1.mlp.fc1.weight"] == 1.0
    assert found["backbone.post_layernorm.weight"] == found["backbone.head.probe"] == 1.0
    assert found["head.weight"] == 10.0


@pytest.mark.parametrize(
    ("name", "n_layers"), [("resnet50", 16), ("convnextv2_base", 39), ("medsiglip_448", 27)]
)
def test_layers_are_found_in_each_family(name, n_layers):
    """16 bottlenecks; 36 blocks and 3 downsamplings; 27 transformer layers; depth 0 is the embedding."""
    with torch.device("meta"):
        module = Fusion(backbone_config(name), n_classes=2)
    depths = layer_depths(key for key, _ in module.backbone.named_parameters())
    assert sorted(set(depths.values())) == list(range(n_layers + 1))
    assert all(key.startswith("embed") for key, depth in depths.items() if depth == 0)


def test_biases_and_norms_are_not_decayed_and_every_parameter_is_in_one_group():
    module = Fusion(backbone_config("resnet_tiny"), n_classes=2, answers_width=3)
    groups = parameter_groups(module, recipe(weight_decay=0.1))
    for group in groups:
        assert all((p.ndim > 1) == (group["weight_decay"] > 0) for p in group["params"])
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in module.parameters())


def test_the_schedule_worked_by_hand():
    """4 frozen steps along a cosine, 2 of warm-up, then a cosine over 4 to the end."""
    factors = [rate_factor(i, n_steps=10, n_frozen=4, n_warmup=2) for i in range(10)]
    cosine = [1, 0.5 + math.sqrt(0.125), 0.5, 0.5 - math.sqrt(0.125)]
    assert factors == pytest.approx([*cosine, 0.5, 1, *cosine])


def test_a_warm_up_longer_than_the_run_only_rises():
    assert [rate_factor(i, n_steps=2, n_frozen=0, n_warmup=9) for i in range(2)] == [0.5, 1.0]


def test_weight_average_worked_by_hand():
    """Decay min(0.5, (1+n)/(10+n)) is 0.1, then 2/11: from 0 by 1 to 0.9, then 2/11 * 0.9 + 9/11 * 2."""
    module = nn.Linear(1, 1, bias=False)
    module.weight.data.fill_(0.0)
    average = WeightAverage(module, 0.5)
    for value in (1.0, 2.0):
        module.weight.data.fill_(value)
        average.update(module)
    assert average.state["weight"].item() == pytest.approx(2 / 11 * 0.9 + 9 / 11 * 2.0)


def test_weight_average_copies_whole_numbers():
    module = nn.BatchNorm1d(2)
    average = WeightAverage(module, 0.9)
    module(torch.randn(4, 2))
    average.update(module)
    assert average.state["num_batches_tracked"].item() == 1


# One step.


def stepper(data: Dataset, changes: dict[str, object]) -> Stepper:
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    module = Fusion(backbone_config("siglip_tiny", image_size=28, changes=size), n_classes=3)
    preprocessing = SimpleNamespace(rescale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3, size=28)
    chosen = recipe(clip_norm=None, **changes)
    optimiser = torch.optim.AdamW(parameter_groups(module, chosen))
    on = Device(torch.device("cpu"), torch.float32, None)
    shares = class_shares(data, chosen)
    return Stepper(module, optimiser, data, chosen, preprocessing=preprocessing, shares=shares, on=on)


def parts(n: int, batch: int) -> list:
    pixels = torch.randint(256, (n, 3, 28, 28), generator=generator(), dtype=torch.uint8)
    return [
        (np.arange(i, i + batch), pixels[i : i + batch], np.ones(batch, bool)) for i in range(0, n, batch)
    ]


def gradients(step: Stepper) -> list[torch.Tensor]:
    return [p.grad for p in step.module.parameters()]


def test_accumulating_two_batches_is_one_batch_of_twice_the_size():
    """Gradients of 8 images at once and of two times 4, with unequal weights, agree to rounding."""
    data = dataset([0, 1, 2, 0, 1, 2, 0, 1], weights=np.linspace(0.2, 3, 8, dtype=np.float32))
    one, two = stepper(data, {}), stepper(data, {"accumulate": 2})
    losses = [one.take(parts(8, 8), seed=0, where=""), two.take(parts(8, 4), seed=0, where="")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for a, b in zip(gradients(one), gradients(two), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_an_image_of_weight_two_is_that_image_twice():
    """Rows 0, 1, 2 with weight 2 on row 0 against rows 0, 0, 1, 2."""
    data = dataset([0, 1, 2], weights=np.array([2, 1, 1], np.float32))
    even = dataset([0, 1, 2])
    ((rows, pixels, _),) = parts(3, 3)
    weighted, repeated = stepper(data, {}), stepper(even, {})
    weighted.take([(rows, pixels, np.ones(3, bool))], seed=0, where="")
    twice = np.array([0, 0, 1, 2])
    repeated.take([(twice, pixels[twice], np.ones(4, bool))], seed=0, where="")
    for a, b in zip(gradients(weighted), gradients(repeated), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_an_unreadable_image_changes_no_gradient():
    data = dataset([0, 1, 2, 1])
    with_blank, without = stepper(data, {}), stepper(data, {})
    ((rows, pixels, _),) = parts(4, 4)
    with_blank.take([(rows, pixels, np.array([True, True, True, False]))], seed=0, where="")
    without.take([(rows[:3], pixels[:3], np.ones(3, bool))], seed=0, where="")
    for a, b in zip(gradients(with_blank), gradients(without), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_a_step_of_unreadable_images_alone_changes_nothing():
    step = stepper(dataset([0, 1]), {})
    before = {k: v.clone() for k, v in step.module.state_dict().items()}
    ((rows, pixels, _),) = parts(2, 2)
    assert math.isnan(step.take([(rows, pixels, np.zeros(2, bool))], seed=0, where=""))
    assert all(torch.equal(before[k], v) for k, v in step.module.state_dict().items())


def test_gradients_are_clipped_to_the_stated_norm():
    step = stepper(dataset([0, 1, 2]), {})
    step.recipe = step.recipe.model_copy(update={"clip_norm": 1e-3})
    step.take(parts(3, 3), seed=0, where="")
    norm = math.sqrt(sum(float(g.pow(2).sum()) for g in gradients(step)))
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(
    ("asked", "native", "used"),
    [
        ("auto", torch.bfloat16, torch.bfloat16),
        ("bf16", torch.bfloat16, torch.bfloat16),
        ("bf16", torch.float16, torch.float16),
        ("bf16", torch.float32, torch.float32),
        ("fp16", torch.bfloat16, torch.float16),
        ("fp32", torch.bfloat16, torch.float32),
    ],
)
def test_a_card_without_bfloat16_takes_its_own_format(asked, native, used):
    assert amp_dtype(asked, native) == used


@pytest.mark.parametrize(("limit", "expected"), [(100, 32), (31, 16), (3, 2), (1, 1), (0, 0)])
def test_the_batch_that_fits_is_found_by_halving(limit, expected):
    assert largest_batch(lambda n: n <= limit, below=64) == expected


# Augmentation, on an image whose every pixel is its own number.

NUMBERS = torch.arange(3 * 4 * 4).float().view(1, 3, 4, 4) / 48


def is_one_of(image: torch.Tensor, choices: list[torch.Tensor]) -> int:
    matches = [i for i, choice in enumerate(choices) if torch.equal(image, choice)]
    assert len(matches) == 1
    return matches[0]


@pytest.mark.parametrize(("kind", "axis"), [("hflip", 3), ("vflip", 2)])
def test_flips_mirror_half_of_the_images(kind, axis):
    flipped = flip(NUMBERS.repeat(400, 1, 1, 1), kind, generator=generator())
    seen = [is_one_of(image[None], [NUMBERS, NUMBERS.flip(axis)]) for image in flipped]
    assert 160 < sum(seen) < 240  # 200 expected, binomial sd 10


def test_quarter_turns_are_equally_frequent():
    turned = rotate90(NUMBERS.repeat(400, 1, 1, 1), generator=generator())
    choices = [torch.rot90(NUMBERS, k, (2, 3)) for k in range(4)]
    counts = np.bincount([is_one_of(image[None], choices) for image in turned], minlength=4)
    assert all(65 < n < 135 for n in counts)  # 100 expected, binomial sd 8.7


def test_a_crop_of_the_whole_image_is_the_image():
    step = RandomResizedCrop(kind="random_resized_crop", scale=(1, 1), ratio=(1, 1))
    cropped = random_resized_crop(NUMBERS, step, generator=generator())
    torch.testing.assert_close(cropped, NUMBERS, rtol=0, atol=1e-6)


def test_the_angle_turns_the_image_about_its_middle():
    """A disc about the middle looks the same at any angle; a half-plane does not."""
    side = torch.linspace(-1, 1, 33)
    disc = (side[:, None] ** 2 + side[None] ** 2 < 0.5).float().expand(20, 3, 33, 33)
    half = (side[None] > 0).float().expand(20, 3, 33, 33)
    step = RandomResizedCrop(kind="random_resized_crop", scale=(1, 1), ratio=(1, 1), degrees=180)
    turned = [random_resized_crop(image, step, generator=generator()) for image in (disc, half)]
    assert float((turned[0] - disc).abs().mean()) < 0.03
    assert float((turned[1] - half).abs().mean()) > 0.2
    torch.testing.assert_close(turned[1].mean(), torch.tensor(16 / 33), rtol=0, atol=0.08)


def test_a_crop_shows_a_part_of_the_stated_area():
    """On a horizontal ramp from 0 to 1 the spread of a quarter-area crop is half of the image's."""
    ramp = torch.linspace(0, 1, 64).view(1, 1, 1, 64).expand(200, 3, 64, 64)
    step = RandomResizedCrop(kind="random_resized_crop", scale=(0.25, 0.25), ratio=(1, 1))
    cropped = random_resized_crop(ramp, step, generator=generator())
    spread = cropped.amax((1, 2, 3)) - cropped.amin((1, 2, 3))
    torch.testing.assert_close(spread, torch.full((200,), 0.5), rtol=0, atol=0.02)
    assert cropped.mean((1, 2, 3)).std() > 0.1  # the part's place differs from image to image


def test_colour_jitter_worked_by_hand():
    """Contrast and saturation leave a grey image alone; brightness moves it to 0.8 to 1.2 times 0.5."""
    grey = torch.full((300, 3, 2, 2), 0.5)
    jittered = colour_jitter(grey, ColourJitter(kind="colour_jitter"), generator=generator())
    assert torch.allclose(jittered, jittered[:, :1, :1, :1].expand_as(jittered), atol=1e-6)
    assert 0.4 <= float(jittered.min()) < 0.42
    assert 0.58 < float(jittered.max()) <= 0.6


def test_colour_jitter_without_amounts_changes_nothing_and_stays_in_range():
    none = ColourJitter(kind="colour_jitter", brightness=0, contrast=0, saturation=0)
    torch.testing.assert_close(colour_jitter(NUMBERS, none, generator=generator()), NUMBERS)
    much = ColourJitter(kind="colour_jitter", brightness=1, contrast=1, saturation=1, tint=1)
    wild = colour_jitter(torch.rand(50, 3, 8, 8), much, generator=generator())
    assert float(wild.min()) >= 0
    assert float(wild.max()) <= 1


def test_erase_paints_a_square_in_the_mean_colour():
    images = torch.rand(200, 3, 32, 32, generator=generator(1))
    painted = erase(images, Erase(kind="erase", share=1.0, scale=0.25), generator=generator())
    changed = (painted != images).all(1)
    mean = images.mean((2, 3))[:, :, None, None].expand_as(images)
    wide = changed[:, None].expand_as(images)
    assert torch.equal(painted[wide], mean[wide])
    assert 0 < changed.float().mean((1, 2)).max() <= 0.25 + 0.07  # a row and a column of rounding
    untouched = erase(images, Erase(kind="erase", share=0.0), generator=generator())
    assert torch.equal(untouched, images)


def test_mixup_blends_images_and_targets_alike_and_keeps_the_larger_share():
    """Images that are their own class number: what is left of the image tells the share of the target."""
    images = torch.eye(3).view(3, 3, 1, 1)
    mixed, targets = mixup(images, torch.eye(3), 0.5, generator=generator(3))
    torch.testing.assert_close(mixed.flatten(1), targets)
    assert (targets.diagonal() >= 0.5).all()
    torch.testing.assert_close(targets.sum(1), torch.ones(3))
    assert not torch.equal(targets, torch.eye(3))


def test_the_list_of_steps_is_followed_and_the_same_generator_gives_the_same_batch():
    steps = recipe(
        augment=["hflip", "rotate90", "random_resized_crop", "colour_jitter", "erase", "mixup"]
    ).augment
    images, targets = torch.rand(6, 3, 16, 16), torch.eye(6)
    first, second, other = (augment(images, targets, steps, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], other[0])
    unchanged = augment(images, targets, (), generator=generator())
    assert torch.equal(unchanged[0], images)
