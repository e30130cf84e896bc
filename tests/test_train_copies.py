"""A photograph of train or val that the test split shows too is left out, counted and listed."""

import numpy as np
import pytest
import torch
from PIL import Image

from ddeval.audit.pictures import copies, fingerprints, same_pictures
from ddeval.data.demo import make_demo, read_truth
from ddeval.data.hashes import near_across, near_pairs
from ddeval.data.manifest import image_files, read_manifest
from ddeval.io import read_csv, write_csv
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score.run import silent
from ddeval.train import copies as copies_module
from ddeval.train.copies import copies_of_judged
from ddeval.train.loop import train
from tests.train_fixture import make_config, make_data


def weights(folder):
    return torch.load(folder / "best_model.pt", weights_only=True)


@pytest.fixture
def leaky(tmp_path):
    """The first photograph of case 016, of test, stands in train again: cut, brighter, another patient."""
    manifest = make_data(tmp_path)
    rng = np.random.default_rng(5)
    fine = rng.normal(0, 1, (24, 24, 3)).repeat(10, axis=0).repeat(10, axis=1)
    picture = Image.fromarray((128 + 50 * fine).clip(0, 255).astype(np.uint8))
    picture.save(tmp_path / "images" / "016-0.png")
    cut = picture.crop((4, 4, 236, 236)).point(lambda v: min(255, int(v * 1.1) + 5))
    cut.save(tmp_path / "images" / "000-0.jpg", quality=80)
    frame = read_csv(manifest)
    frame.loc[frame["image_id"] == "000-0", "image"] = "images/000-0.jpg"
    write_csv(manifest, frame)
    assert list(frame.loc[frame["image_id"].isin(["000-0", "016-0"]), "split"]) == ["train", "test"]
    return manifest


def test_every_planted_copy_across_splits_is_found_and_hardly_anything_else(tmp_path):
    """The drawn data hold copies cut by up to 3 % a side, re-lit and compressed again."""
    manifest = make_demo(tmp_path, n_patients=200)
    frame = read_manifest(manifest)
    found = copies_of_judged(frame, [manifest.parent], progress=silent)
    split = frame.set_index("image_id")["split"]
    pairs = read_truth(manifest).set_index("image_id")["duplicate_of"].dropna()
    both = [*pairs.items(), *((b, a) for a, b in pairs.items())]
    planted = {a for a, b in both if split[a] in ("train", "val") and split[b] in ("test", "calibration")}
    assert len(planted) >= 3
    assert planted <= set(found["image_id"])
    assert len(set(found["image_id"]) - planted) <= 0.005 * len(frame)
    assert set(found["copy_split"]) <= {"test", "calibration"}


def test_a_copy_is_left_out_counted_listed_and_told_in_the_card(leaky, tmp_path):
    config = make_config(tmp_path)
    result = train(config, leaky, tmp_path / "out")
    assert result.left_out == {"copy of a test image": 1}
    assert result.n_train == 47
    (row,) = read_csv(tmp_path / "out" / "training" / "copies.csv").to_dict("records")
    assert (row["image_id"], row["copy_of"], row["copy_split"]) == ("000-0", "016-0", "test")
    assert "1 (copy of a test image)" in (tmp_path / "out" / "README.md").read_text()

    without = read_csv(leaky)
    write_csv(leaky, without[without["image_id"] != "000-0"])
    train(config, leaky, tmp_path / "without")
    a, b = weights(tmp_path / "out"), weights(tmp_path / "without")
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_copy_is_learnt_where_the_config_says_so(leaky, tmp_path):
    result = train(make_config(tmp_path, copies_of_test="learn"), leaky, tmp_path / "out")
    assert (result.left_out, result.n_train) == ({}, 48)
    kept = load_checkpoint(tmp_path / "out").settings["provenance"]["config"]["train"]
    assert kept["copies_of_test"] == "learn"


def test_a_run_that_goes_on_compares_no_picture_again(leaky, tmp_path, monkeypatch):
    config = make_config(tmp_path)
    first = train(config, leaky, tmp_path / "out")
    monkeypatch.setattr(copies_module, "copies_of_judged", None)
    assert train(config, leaky, tmp_path / "out").left_out == first.left_out


def test_pictures_that_cannot_be_read_are_copies_of_nothing(leaky, tmp_path):
    (tmp_path / "images" / "016-0.png").write_bytes(b"no image")
    frame = read_manifest(leaky)
    assert copies_of_judged(frame, [tmp_path], progress=silent).empty


def test_across_two_sets_the_same_pairs_are_found_as_within_their_union(leaky, tmp_path):
    """Equal bytes, equal pixels and like structure; of several the surest is told."""
    frame = read_manifest(leaky)
    Image.open(tmp_path / "images" / "016-1.png").save(tmp_path / "images" / "001-1.png", compress_level=1)
    (tmp_path / "images" / "002-0.png").write_bytes((tmp_path / "images" / "017-0.png").read_bytes())
    files = image_files(frame, [tmp_path])
    is_test = frame["split"].eq("test").to_numpy()
    prints = fingerprints(files)
    sides = [[p for p, one in zip(prints, is_test, strict=True) if one == side] for side in (False, True)]
    found = copies(*sides)
    ids = [frame["image_id"][is_test == side].to_numpy() for side in (False, True)]
    across = {(ids[0][a], ids[1][b], k) for a, b, k in found[["row", "of_row", "kind"]].to_numpy()}
    assert across == {
        ("000-0", "016-0", "perceptual"),
        ("001-1", "016-1", "pixels"),
        ("002-0", "017-0", "file"),
    }
    within = same_pictures(prints)
    id_of = frame["image_id"].to_numpy()
    named = {(id_of[a], id_of[b], k) for a, b, k in within[["first", "second", "kind"]].to_numpy()}
    assert across <= named


def test_near_hashes_across_two_sets_are_those_within_their_union():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 2**63, size=60, dtype=np.uint64)
    flips = np.uint64(1) << rng.integers(0, 60, size=(60, 3)).astype(np.uint64)
    near = base ^ flips[:, 0] ^ flips[:, 1] ^ flips[:, 2]
    whole = near_pairs(np.concatenate([base, near]), max_distance=8)
    expected = {
        (a, b - 60, d)
        for a, b, d in zip(whole.first, whole.second, whole.distance, strict=True)
        if a < 60 <= b
    }
    got = near_across(base, near, max_distance=8)
    assert set(zip(got.first, got.second, got.distance, strict=True)) == expected
    assert len(expected) >= 60
    assert not len(near_across(base[:0], near, max_distance=8).first)
