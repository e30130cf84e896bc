"""Duplicates: copies are found as files, as pixels, as pictures and as embeddings, and leaks come first."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageEnhance

from ddeval.audit.duplicates import duplicate_table, near_duplicates, with_ids
from ddeval.audit.neighbours import neighbour_probs, neighbours, outlier_scores, own_class_quality
from ddeval.audit.pictures import fingerprint, fingerprints, same_pictures
from ddeval.data.demo import make_demo, read_truth


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_are_the_pairs_of_the_whole_matrix(seed):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(120, 6)).astype(np.float32)
    features[60:70] = features[:10] * 3 + rng.normal(0, 0.01, (10, 6))
    unit = features.astype(float) / np.linalg.norm(features.astype(float), axis=1, keepdims=True)
    first, second = np.nonzero(np.triu(unit @ unit.T >= 0.95, 1))
    found = near_duplicates(features, threshold=0.95)
    assert set(zip(found["first"], found["second"], strict=True)) == set(zip(first, second, strict=True))
    assert found["similarity"].is_monotonic_decreasing


def test_blocks_do_not_matter(monkeypatch):
    features = np.random.default_rng(0).normal(size=(50, 3))
    whole = near_duplicates(features, threshold=0.9)
    monkeypatch.setattr("ddeval.audit.duplicates._BLOCK", 7)
    pd.testing.assert_frame_equal(near_duplicates(features, threshold=0.9), whole)


def test_rows_of_zeros_and_nan_are_in_no_pair():
    features = np.array([[1.0, 0], [np.nan, 1], [0, 0], [0, 0], [2, 0]])
    assert near_duplicates(features, threshold=0.5)[["first", "second"]].to_numpy().tolist() == [[0, 4]]
    assert near_duplicates(np.empty((0, 3)), threshold=0.5).empty


def test_a_constant_embedding_is_said_instead_of_filling_the_memory(monkeypatch):
    monkeypatch.setattr("ddeval.audit.duplicates.MAX_PAIRS", 1000)
    with pytest.raises(ValueError, match=r"more than 1,000 pairs .* are the features constant"):
        near_duplicates(np.ones((60, 4)), threshold=0.99)
    with pytest.raises(ValueError, match=r"threshold must lie in \(-1, 1\], got 1\.5"):
        near_duplicates(np.ones((2, 2)), threshold=1.5)


def manifest_of(**columns):
    frame = pd.DataFrame({"image_id": list("abcdef"), **columns})
    return frame.assign(group=frame.get("patient_id", frame["image_id"]))


def pairs_of(*rows):
    return pd.DataFrame(rows, columns=["image_id_a", "image_id_b", "similarity", "kind"])


def test_leaks_come_first_then_contradictions_then_the_surest():
    manifest = manifest_of(
        label=["x", "x", "x", "y", "x", "x"],
        split=["train", "test", "train", "train", "train", "train"],
        patient_id=list("112345"),
    )
    table = duplicate_table(
        [pairs_of(("e", "f", 1.0, "file"), ("c", "d", 0.99, "perceptual"), ("b", "a", 0.97, "perceptual"))],
        manifest,
    )
    assert table[["image_id_a", "image_id_b"]].to_numpy().tolist() == [["a", "b"], ["c", "d"], ["e", "f"]]
    assert table["is_leak"].tolist() == [True, False, False]
    assert table["is_contradictory"].tolist() == [False, True, False]
    assert table["is_across_groups"].tolist() == [False, True, True]


def test_a_pair_found_in_several_ways_is_listed_once_as_the_surest():
    table = duplicate_table(
        [pairs_of(("a", "b", 0.999, "embedding")), pairs_of(("b", "a", 1.0, "file"))], manifest_of()
    )
    assert table[["image_id_a", "image_id_b", "kind"]].to_numpy().tolist() == [["a", "b", "file"]]


def test_two_photographs_of_one_case_are_alike_without_being_copies():
    manifest = manifest_of(case_id=["1", "1", "2", "2", "3", "3"])
    found = [pairs_of(("a", "b", 0.999, "embedding"), ("c", "d", 0.99, "perceptual"))]
    assert duplicate_table(found, manifest)["kind"].tolist() == ["perceptual"]


def test_no_pair_is_a_table_without_rows():
    assert duplicate_table([], manifest_of()).empty
    assert with_ids(near_duplicates(np.eye(3), threshold=0.5), np.array(list("abc"), object)).empty


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A hundred patients of the embedded set, which plants copies across splits."""
    folder = tmp_path_factory.mktemp("drawn")
    manifest = make_demo(folder, n_patients=100, seed=0)
    frame = pd.read_csv(manifest, dtype=str)
    return folder, frame, read_truth(manifest)


def test_every_planted_copy_and_leak_is_found_and_little_else(drawn):
    folder, frame, truth = drawn
    prints = fingerprints([folder / image for image in frame["image"]])
    pairs = with_ids(same_pictures(prints), frame["image_id"].to_numpy(object))
    table = duplicate_table([pairs], frame.assign(group=frame["patient_id"]))
    found = {frozenset(pair) for pair in table[["image_id_a", "image_id_b"]].to_numpy()}
    copies = truth.dropna(subset="duplicate_of")
    planted = {frozenset(p) for p in copies[["image_id", "duplicate_of"]].to_numpy()}
    assert len(planted) >= 3
    assert planted <= found
    assert len(found - planted) <= 1
    split = frame.set_index("image_id")["split"]
    leaks = {pair for pair in planted if len(set(split[list(pair)])) > 1}
    is_leak = table.loc[table["is_leak"], ["image_id_a", "image_id_b"]].to_numpy()
    assert leaks <= {frozenset(pair) for pair in is_leak}


def test_a_photograph_cut_lit_or_compressed_again_is_the_same_picture(drawn, tmp_path):
    folder, frame, _ = drawn
    original = Image.open(folder / frame["image"].iloc[0]).convert("RGB")
    width, height = original.size
    original.save(tmp_path / "0.png")
    original.save(tmp_path / "1.jpg", quality=60)
    original.crop((int(0.02 * width), int(0.02 * height), width, height)).save(tmp_path / "2.png")
    ImageEnhance.Brightness(original).enhance(1.2).save(tmp_path / "3.png")
    original.resize((width // 2, height // 2)).save(tmp_path / "4.png")
    original.save(tmp_path / "5.tiff")
    other = folder / frame["image"].iloc[5]
    paths = [*(next(tmp_path.glob(f"{k}.*")) for k in range(6)), other]
    table = same_pictures(fingerprints(paths))
    kinds = {(r.first, r.second): r.kind for r in table[table["first"] == 0].itertuples()}
    assert kinds == {(0, 5): "pixels", **{(0, k): "perceptual" for k in (1, 2, 3, 4)}}
    assert not (table["second"] == 6).any()


def test_what_is_no_picture_is_compared_with_nothing(tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no picture")
    Image.new("RGB", (40, 40), "white").save(tmp_path / "white.png")
    Image.new("RGB", (40, 40), "black").save(tmp_path / "black.png")
    assert fingerprint(tmp_path / "broken.jpg") is None
    names = ("broken.jpg", "white.png", "black.png", "white.png")
    table = same_pictures(fingerprints([None, *(tmp_path / name for name in names)]))
    assert table[["first", "second", "kind"]].to_numpy().tolist() == [[2, 4, "file"]]


def test_neighbours_are_those_of_the_whole_matrix_and_never_oneself():
    features = np.random.default_rng(0).normal(size=(80, 5))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similar = unit @ unit.T
    np.fill_diagonal(similar, -np.inf)
    near = neighbours(features, k=4)
    np.testing.assert_array_equal(near.rows, np.argsort(-similar, axis=1)[:, :4])


def test_neighbours_vote_without_the_image_and_few_rows_leave_holes():
    near = neighbours(np.array([[1.0, 0], [1, 0.1], [np.nan, 0]]), k=5)
    assert near.rows[0].tolist() == [1, -1, -1, -1, -1]
    shares = neighbour_probs(np.array([0, 1, 1]), near, n_classes=2)
    assert shares[0] == pytest.approx([(2 / 3) / 3, (1 + 4 / 3) / 3])  # one vote and two of the prior
    assert np.isnan(shares[2]).all()
    assert np.isnan(outlier_scores(near)[2])


def test_an_image_among_another_class_is_suspicious_and_one_alone_is_undefined():
    features = np.array([[1.0, 0], [0.99, 0.1], [0.05, 1], [0, 1], [0.98, 0.15], [-1, -1]])
    quality = own_class_quality(np.array([0, 0, 1, 1, 1, 2]), features)
    assert quality[4] < 0.1
    assert quality[[0, 2, 3]].min() > 0.5
    assert np.isnan(quality[5])
    same = own_class_quality(np.array([0, 0, 1, 1]), np.ones((4, 3)))
    np.testing.assert_allclose(same, 0.5)
