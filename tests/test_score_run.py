"""Running a model: the same bytes whatever interrupts it, and nothing dropped on the way."""

import json
import multiprocessing
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from ddeval import io
from ddeval.data.images import decode, preprocess
from ddeval.data.manifest import read_manifest
from ddeval.data.preprocessing import Preprocessing
from ddeval.data.questionnaire import encode
from ddeval.errors import InputError
from ddeval.models.checkpoint import load_checkpoint
from ddeval.score import folder, shards
from ddeval.score.plan import parse_shard
from ddeval.score.predictions import read_predictions
from ddeval.score.run import Settings, execute, finish, only_process, prepare, score
from ddeval.score.views import feed_preprocessing, views
from tests.score_fixture import SMALL, make_artefact, make_manifest, score_in_another_process

DATA_FILES = (folder.PREDICTIONS_FILE, folder.EMBEDDINGS_FILE, folder.QUARANTINE_FILE)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp("score")
    make_manifest(root)
    make_artefact(root / "tiny")
    return root


@pytest.fixture(scope="module")
def checkpoint(home):
    return load_checkpoint(home / "tiny")


@pytest.fixture(scope="module")
def whole(home, checkpoint):
    """A run that nothing interrupted."""
    return score(checkpoint, home / "manifest.csv", settings=SMALL, out=home / "whole")


def data_bytes(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in DATA_FILES}


def test_logits_are_the_forward_pass_of_the_checkpoint(home, checkpoint, whole):
    """Decoded, resized, normalised and encoded one by one, without batches, shards or threads."""
    frame = read_manifest(home / "manifest.csv")
    p = checkpoint.preprocessing
    features = encode(frame, checkpoint.schema)
    logits, embeddings = [], []
    for i, image in enumerate(frame["image"]):
        pixels = torch.from_numpy(preprocess(decode(home / image), p)).float() * p.rescale
        pixels = (pixels - torch.tensor(p.mean).view(3, 1, 1)) / torch.tensor(p.std).view(3, 1, 1)
        with torch.inference_mode():
            answer = checkpoint.module(pixels[None], torch.from_numpy(features[i : i + 1]))
        logits.append(answer[0][0].numpy())
        embeddings.append(answer[1][0].numpy())

    predictions = read_predictions(whole / "predictions.parquet")
    np.testing.assert_allclose(predictions.logits, np.stack(logits), atol=1e-5)
    np.testing.assert_allclose(np.load(whole / "embeddings.npy"), np.stack(embeddings), atol=1e-5)
    assert predictions.frame["image_id"].tolist() == frame["image_id"].tolist()
    assert predictions.frame["group"].tolist() == frame["group"].tolist()
    assert np.ptp(predictions.logits, axis=0).min() > 0.01  # photographs do differ


def test_the_calibration_split_is_scored_in_the_same_go(whole):
    splits = read_predictions(whole / "predictions.parquet").frame["split"]
    assert splits.value_counts().to_dict() == {"test": 30, "calibration": 10}
    assert folder.read_run(whole)["n_images"] == 30


def test_the_run_says_what_it_was_made_from(home, checkpoint, whole):
    facts = folder.read_run(whole)
    assert facts["inputs"]["checkpoint"] == facts["checkpoint"]["sha256"] == checkpoint.sha256
    assert facts["manifest"]["path"] == str(home / "manifest.csv")
    assert (facts["dtype"], facts["batch_size"], facts["device"]) == ("fp32", 8, "cpu")
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0] or facts["versions"]["torch"]
    assert facts["fingerprint"] == read_predictions(whole / "predictions.parquet").fingerprint


def test_a_run_twice_is_the_same_bytes_whatever_the_number_of_threads(home, checkpoint, whole, tmp_path):
    again = score(checkpoint, home / "manifest.csv", settings=SMALL, out=tmp_path / "again", workers=3)
    assert data_bytes(again) == data_bytes(whole)


def test_nothing_of_time_or_place_is_in_a_data_file(home, checkpoint, whole, tmp_path):
    """The same manifest read from another folder gives the same predictions."""
    elsewhere = tmp_path / "elsewhere"
    make_manifest(elsewhere)
    moved = score(checkpoint, elsewhere / "manifest.csv", settings=SMALL, out=tmp_path / "moved")
    assert data_bytes(moved) == data_bytes(whole)


def test_a_finished_run_is_not_scored_again(home, checkpoint, whole):
    before = (whole / "predictions.parquet").stat().st_mtime_ns
    refusing = replace(checkpoint, module=Refusing())
    score(refusing, home / "manifest.csv", settings=SMALL, out=whole)
    assert (whole / "predictions.parquet").stat().st_mtime_ns == before


def test_a_failure_at_any_write_loses_only_that_write(home, checkpoint, whole, tmp_path, monkeypatch):
    """The n-th write fails for every n of the run; the next call goes on, and the bytes are the same."""
    n_writes = count_writes(monkeypatch, lambda: run_to(tmp_path / "counted", home, checkpoint))
    assert n_writes >= 3 + 3  # run.json, three parts, embeddings, quarantine, predictions
    for n in range(n_writes):
        out = tmp_path / f"fails-{n}"
        with monkeypatch.context() as patched:
            patched.setattr(io, "write_atomic", failing_at(n, io.write_atomic))
            with pytest.raises(OSError, match="No space left"):
                run_to(out, home, checkpoint)
        assert not list(out.rglob(".tmp-*"))
        run_to(out, home, checkpoint)
        assert data_bytes(out) == data_bytes(whole), n


def run_to(out, home, checkpoint):
    return score(checkpoint, home / "manifest.csv", settings=SMALL, out=out)


def count_writes(monkeypatch, act) -> int:
    calls = []
    with monkeypatch.context() as patched:
        real = io.write_atomic
        patched.setattr(io, "write_atomic", lambda path, write: (calls.append(path), real(path, write)))
        act()
    return len(calls)


def failing_at(n: int, real):
    calls = []

    def write_atomic(path, write):
        calls.append(path)
        if len(calls) == n + 1:
            raise OSError(28, "No space left on device", str(path))
        real(path, write)

    return write_atomic


CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["tests.score_fixture"])


def killed_and_resumed(home: Path, out: Path, delay: float) -> float | None:
    """Kill a scoring process `delay` seconds after it began to write, then go on.

    Returns the seconds it wrote, or None where it was killed before its end.
    """
    process = CHILDREN.Process(
        target=score_in_another_process, args=(home / "tiny", home / "manifest.csv", out)
    )
    process.start()
    while process.is_alive() and not (out / "run.json").exists():
        time.sleep(0.001)
    began = time.monotonic()
    process.join(delay)
    seconds = None if process.is_alive() else time.monotonic() - began
    process.kill()
    process.join()
    assert seconds is None or process.exitcode == 0
    score(load_checkpoint(home / "tiny"), home / "manifest.csv", settings=SMALL, out=out)
    return seconds


def kill_at_random_points(home, whole, tmp_path, n: int) -> None:
    seconds = killed_and_resumed(home, tmp_path / "measured", 60.0)
    rng = np.random.default_rng(0)
    n_killed = 0
    for i in range(n):
        n_killed += killed_and_resumed(home, tmp_path / str(i), rng.uniform(0, seconds * 0.9)) is None
        assert data_bytes(tmp_path / str(i)) == data_bytes(whole), i
        assert not list((tmp_path / str(i)).rglob(".tmp-*")), i
    assert n_killed >= n / 2


def test_a_run_killed_at_a_random_point_resumes_to_the_same_bytes(home, whole, tmp_path):
    kill_at_random_points(home, whole, tmp_path, 2)


@pytest.mark.parametrize("last_step", ["update_run", "remove_parts"])
def test_a_run_killed_between_its_predictions_and_its_end_is_finished_by_the_same_command(
    home, whole, checkpoint, tmp_path, monkeypatch, last_step
):
    out = tmp_path / "run"
    owner = folder if last_step == "update_run" else shards
    with monkeypatch.context() as patched:
        patched.setattr(owner, last_step, stop)
        with pytest.raises(Stop):
            run_to(out, home, checkpoint)
    (out / ".tmp-0-run.json").write_text("{")  # as a kill leaves it
    assert (out / "predictions.parquet").is_file()
    run_to(out, home, checkpoint)
    assert data_bytes(out) == data_bytes(whole)
    assert "finished" in folder.read_run(out)
    assert not [*out.rglob(".tmp-*"), *out.rglob("part-*")]


def stop(*args, **kwargs):
    raise Stop


@pytest.mark.slow
def test_a_run_killed_at_twenty_random_points_resumes_to_the_same_bytes(home, whole, tmp_path):
    kill_at_random_points(home, whole, tmp_path, 20)


def interrupted(out: Path, home: Path, checkpoint, settings: Settings = SMALL) -> Path:
    """A run of which the first shard is done."""
    with pytest.raises(Stop):
        score(replace(checkpoint, module=StopsAfter(checkpoint.module, 2)), home / "manifest.csv",
              settings=settings, out=out)  # fmt: skip
    assert len(list((out / "parts").glob("part-*"))) == 1
    return out


class Stop(Exception):
    pass


class StopsAfter(torch.nn.Module):
    def __init__(self, module, n):
        super().__init__()
        self.module, self.left = module, n

    def forward(self, pixels, features):
        self.left -= 1
        if self.left < 0:
            raise Stop
        return self.module(pixels, features)


class Refusing(torch.nn.Module):
    def forward(self, pixels, features):
        raise AssertionError("the model ran")


@pytest.mark.parametrize("changed", ["manifest", "checkpoint", "dtype", "batch size", "tta", "split"])
def test_going_on_with_something_else_is_refused_by_its_name(home, checkpoint, tmp_path, changed):
    out = interrupted(tmp_path / "run", home, checkpoint)
    manifest, settings = home / "manifest.csv", SMALL
    if changed == "manifest":
        manifest = tmp_path / "manifest.csv"
        manifest.write_text((home / "manifest.csv").read_text().replace("p19", "p99"))
    elif changed == "checkpoint":
        checkpoint = load_checkpoint(make_artefact(tmp_path / "other", seed=1))
    else:
        change = {"dtype": {"dtype": "bf16"}, "batch size": {"batch_size": 4}, "tta": {"tta": "hflip"},
                  "split": {"split": "calibration"}}  # fmt: skip
        settings = replace(SMALL, **change[changed])
    with pytest.raises(InputError, match=rf"found {changed} .* with which this run began\. .*--out"):
        score(checkpoint, manifest, settings=settings, out=out, image_roots=[home])


def test_a_finished_run_is_not_overwritten_by_another(home, checkpoint, whole):
    with pytest.raises(InputError, match="found batch size 4; expected batch size 8"):
        score(checkpoint, home / "manifest.csv", settings=replace(SMALL, batch_size=4), out=whole)


def test_a_folder_with_other_files_is_not_scored_into(home, checkpoint, tmp_path):
    (tmp_path / "thesis.doc").write_text("x")
    with pytest.raises(InputError, match="a folder with other files in it"):
        score(checkpoint, home / "manifest.csv", settings=SMALL, out=tmp_path)


def test_a_kill_before_the_plan_was_written_leaves_a_folder_one_can_score_into(
    home, checkpoint, whole, tmp_path
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-x-run.json").write_text("{")
    assert data_bytes(run_to(tmp_path / "run", home, checkpoint)) == data_bytes(whole)
    assert not list((tmp_path / "run").glob(".tmp-*"))


def test_a_damaged_part_is_found_and_scored_again(home, checkpoint, whole, tmp_path):
    """One byte flipped at each of twenty places; the hash in the name no longer fits."""
    rng = np.random.default_rng(0)
    out = interrupted(tmp_path / "run", home, checkpoint)
    plan = prepare(checkpoint, home / "manifest.csv", settings=SMALL, out=out).plan
    part = next((out / "parts").glob("part-*"))
    sound = part.read_bytes()
    for _ in range(20):
        at = int(rng.integers(len(sound)))
        part.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        done, notes = shards.finished(out, plan)
        assert not done
        assert notes == [f"{part.name} is damaged or of another run; its shard is scored again"]
        part.write_bytes(sound)
    part.write_bytes(sound[:-1])
    notes = []
    score(checkpoint, home / "manifest.csv", settings=SMALL, out=out, note=notes.append)
    assert "is damaged" in notes[0]
    assert data_bytes(out) == data_bytes(whole)


def test_a_part_of_another_run_is_not_taken(home, checkpoint, tmp_path):
    """Same shard, same ids, other weights: the plan in the part differs."""
    other = load_checkpoint(make_artefact(tmp_path / "other", seed=1))
    ours = interrupted(tmp_path / "ours", home, checkpoint)
    theirs = interrupted(tmp_path / "theirs", home, other)
    stranger = next((theirs / "parts").glob("part-*"))
    for part in (ours / "parts").glob("part-*"):
        part.unlink()
    (ours / "parts" / stranger.name).write_bytes(stranger.read_bytes())
    plan = prepare(checkpoint, home / "manifest.csv", settings=SMALL, out=ours).plan
    assert shards.finished(ours, plan)[0] == {}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_shards_of_several_jobs_merge_to_the_same_bytes(home, checkpoint, whole, tmp_path, order):
    """0/4 … 3/4 over five shards, the first job two of them, in any order; the last one merges.

    The whole run was scored by one process in three shards: the bytes do not know how many there were.
    """
    out, five = tmp_path / "run", replace(SMALL, shard_size=8)
    for n, i in enumerate(order):
        assert not (out / "predictions.parquet").exists(), n
        score(checkpoint, home / "manifest.csv", settings=five, out=out, shard=(i, 4))
    assert data_bytes(out) == data_bytes(whole)
    assert not list((out / "parts").glob("part-*"))


def test_parts_in_another_order_are_never_merged(home, checkpoint, tmp_path, monkeypatch):
    """The last check before a run is called complete: every image once, in the order of the plan."""
    real = shards.finished

    def swapped(run, plan):
        parts, notes = real(run, plan)
        return {**parts, 0: parts[1], 1: parts[0]} if len(parts) == plan.n_shards else parts, notes

    monkeypatch.setattr(shards, "finished", swapped)
    with pytest.raises(RuntimeError, match="do not hold each image of the plan once, in order"):
        score(checkpoint, home / "manifest.csv", settings=SMALL, out=tmp_path / "run")
    assert not (tmp_path / "run" / "predictions.parquet").exists()


def test_more_jobs_than_shards_do_no_harm(home, checkpoint, whole, tmp_path):
    for i in range(5):
        score(checkpoint, home / "manifest.csv", settings=SMALL, out=tmp_path / "run", shard=(i, 5))
    assert data_bytes(tmp_path / "run") == data_bytes(whole)


def test_a_run_is_finished_without_its_checkpoint(home, checkpoint, whole, tmp_path):
    """The parts are there, the merge was interrupted: `ddeval score RUN` needs no weights."""
    out = tmp_path / "run"
    job = prepare(checkpoint, home / "manifest.csv", settings=SMALL, out=out)
    for i in range(2):
        execute(job, shard=(i, 3))
    with pytest.raises(InputError, match=r"found 2 of 3 shards \(missing: \[2\]\)"):
        finish(out)
    parts = {p.name: p.read_bytes() for p in (out / "parts").glob("part-*")}
    execute(job, shard=(2, 3))
    (out / "predictions.parquet").unlink()
    last = score(checkpoint, home / "manifest.csv", settings=SMALL, out=tmp_path / "b", shard=(2, 3))
    parts |= {p.name: p.read_bytes() for p in (last / "parts").glob("part-*")}
    for name, content in parts.items():
        (out / "parts" / name).write_bytes(content)
    finish(out)
    assert data_bytes(out) == data_bytes(whole)


def test_two_processes_do_not_score_one_run(home, checkpoint, tmp_path):
    out = tmp_path / "run"
    busy = pytest.raises(InputError, match="another process that is scoring it")
    with only_process(out / "parts" / ".lock-0-of-1"), busy:
        score(checkpoint, home / "manifest.csv", settings=SMALL, out=out)
    score(checkpoint, home / "manifest.csv", settings=SMALL, out=out)


def test_an_unreadable_image_is_a_quarantine_row_and_changes_no_other_answer(checkpoint, whole, tmp_path):
    """Truncated, empty, missing and unnamed: four rows with code and reason; 36 answers to the last bit."""
    manifest = make_manifest(tmp_path)
    images = tmp_path / "images"
    (images / "12.jpg").write_bytes((images / "12.jpg").read_bytes()[:200])
    (images / "13.jpg").write_bytes(b"")
    (images / "20.jpg").unlink()
    frame = pd.read_csv(manifest, dtype=object)
    frame.loc[21, "image"] = None
    frame.to_csv(manifest, index=False)

    run = score(checkpoint, manifest, settings=SMALL, out=tmp_path / "run")

    quarantine, _ = io.read_parquet(run / "quarantine.parquet")
    assert quarantine[["image_id", "code"]].to_numpy().tolist() == [
        ["im12", "truncated"], ["im13", "empty"], ["im20", "missing"], ["im21", "missing"]
    ]  # fmt: skip
    assert quarantine["reason"].str.len().min() > 5
    ours, all_of_them = (read_predictions(r / "predictions.parquet") for r in (run, whole))
    kept = all_of_them.frame["image_id"].isin(ours.frame["image_id"]).to_numpy()
    assert kept.sum() == 36
    np.testing.assert_array_equal(ours.logits, all_of_them.logits[kept])
    np.testing.assert_array_equal(np.load(run / "embeddings.npy"), np.load(whole / "embeddings.npy")[kept])


def test_no_readable_image_at_all_is_bad_input(checkpoint, tmp_path):
    manifest = make_manifest(tmp_path)
    for path in (tmp_path / "images").iterdir():
        path.unlink()
    with pytest.raises(InputError, match=r"image of im00: found no such file .* none of the 40 images"):
        score(checkpoint, manifest, settings=SMALL, out=tmp_path / "run")


def test_logits_that_are_not_finite_are_an_error_with_ids(home, checkpoint, tmp_path):
    class Overflows(torch.nn.Module):
        def forward(self, pixels, features):
            logits = torch.zeros(len(pixels), 4)
            logits[3] = torch.inf
            return logits, torch.zeros(len(pixels), 2)

    with pytest.raises(InputError, match=r"checkpoint tiny: found a logit that is NaN .* \(im03, im11\)"):
        score(
            replace(checkpoint, module=Overflows()), home / "manifest.csv", settings=SMALL, out=tmp_path / "r"
        )


def test_mirrored_scoring_is_the_mean_of_both_sides(home, checkpoint, whole, tmp_path):
    flipped = tmp_path / "flipped"
    manifest = make_manifest(flipped)
    for path in (flipped / "images").iterdir():
        ImageOps.mirror(Image.open(path)).save(path.with_suffix(".png"))
    manifest.write_text(manifest.read_text().replace(".jpg", ".png"))
    other = score(checkpoint, manifest, settings=SMALL, out=tmp_path / "other")
    both = score(
        checkpoint, home / "manifest.csv", settings=replace(SMALL, tta="hflip"), out=tmp_path / "both"
    )
    sides = [read_predictions(run / "predictions.parquet").logits for run in (whole, other)]
    found = read_predictions(both / "predictions.parquet").logits
    np.testing.assert_allclose(found, (sides[0] + sides[1]) / 2, atol=2e-2)
    assert np.abs(found - sides[0]).max() > 0.05


def test_multicrop_is_the_mean_over_the_corners_and_the_middle(home, checkpoint, whole, tmp_path):
    """Each crop is made with Pillow, saved, and scored as a photograph of its own."""
    size = checkpoint.preprocessing.size
    side = int(np.ceil(size * 8 / 7))
    room = side - size
    manifest = make_manifest(tmp_path / "crops")
    photos = sorted((tmp_path / "crops" / "images").iterdir())
    large = {}
    for path in photos:
        image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        large[path] = image.copy()
    manifest.write_text(manifest.read_text().replace(".jpg", ".png"))
    of_views = []
    for i, (left, top) in enumerate([(0, 0), (room, 0), (0, room), (room, room), (room // 2, room // 2)]):
        for path, image in large.items():
            image.crop((left, top, left + size, top + size)).save(path.with_suffix(".png"))
        of_views.append(score(checkpoint, manifest, settings=SMALL, out=tmp_path / f"view-{i}"))
    found = score(
        checkpoint, home / "manifest.csv", settings=replace(SMALL, tta="multicrop"), out=tmp_path / "run"
    )
    logits = [read_predictions(run / "predictions.parquet").logits for run in of_views]
    embeddings = [np.load(run / "embeddings.npy") for run in of_views]
    np.testing.assert_allclose(
        read_predictions(found / "predictions.parquet").logits, np.mean(logits, axis=0), atol=1e-5
    )
    np.testing.assert_allclose(np.load(found / "embeddings.npy"), np.mean(embeddings, axis=0), atol=1e-5)
    assert np.ptp(logits, axis=0).max() > 0.05  # the views do differ
    assert folder.read_run(found)["inputs"]["tta"] == "multicrop"
    assert folder.read_run(found)["fingerprint"] != folder.read_run(whole)["fingerprint"]
    with pytest.raises(InputError, match="found tta hflip; expected tta multicrop"):
        score(checkpoint, home / "manifest.csv", settings=replace(SMALL, tta="hflip"), out=found)


def test_the_middle_crop_is_the_plain_view_where_the_preprocessing_cuts():
    """256 to 224, the shorter side: the square of 256 holds the corners, its middle is always seen."""
    p = Preprocessing(224, resize="shortest_edge", edge=256)
    photo = np.random.default_rng(0).integers(0, 255, (300, 420, 3), dtype=np.uint8)
    square = torch.from_numpy(preprocess(photo, feed_preprocessing(p, "multicrop")))[None]
    seen = [view[0].numpy() for view in views(square, "multicrop", size=224)]
    assert [view.shape for view in seen] == [(3, 224, 224)] * 5
    np.testing.assert_array_equal(seen[-1], preprocess(photo, p))
    np.testing.assert_array_equal(seen[0][:, 32:, 32:], seen[3][:, :-32, :-32])


def test_a_manifest_without_splits_is_scored_whole_and_says_so(checkpoint, tmp_path):
    manifest = make_manifest(tmp_path)
    pd.read_csv(manifest, dtype=object).drop(columns="split").to_csv(manifest, index=False)
    notes = []
    run = score(checkpoint, manifest, settings=SMALL, out=tmp_path / "run", note=notes.append)
    assert notes == ["the manifest has no splits: every image is scored"]
    assert len(read_predictions(run / "predictions.parquet").frame) == 40


def test_an_unknown_split_is_refused_with_those_there_are(home, checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"no image of split 'val' \(test 30, calibration 10\)"):
        score(checkpoint, home / "manifest.csv", settings=Settings(split="val"), out=tmp_path / "run")


@pytest.mark.parametrize("text", ["4/4", "-1/4", "1", "a/b", "0/0", "1/2/3", ""])
def test_a_shard_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="expected i/n with i from 0 to n-1"):
        parse_shard(text)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="shard_size positive, got -1 and 16"):
        Settings(batch_size=-1, shard_size=16)
    with pytest.raises(ValueError, match="tta must be one of none, hflip, multicrop, got 'twice'"):
        Settings(tta="twice")


def test_models_saved_by_another_process_are_scored_to_their_own_forward_pass(tmp_path):
    """ResNet, ConvNeXt-V2, ViT, SigLIP classifiers and SigLIP, CLIP dual encoders; ddeval not imported."""
    script = Path(__file__).parent / "foreign_folders.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True, capture_output=True)
    expected = np.load(tmp_path / "expected.npz")
    n = len(list((tmp_path / "photos").iterdir()))
    frame = pd.DataFrame(
        {"image_id": [f"{i}" for i in range(n)], "image": [f"photos/{i}.png" for i in range(n)]}
    )
    frame.to_csv(tmp_path / "manifest.csv", index=False)
    names = json.loads((tmp_path / "resnet" / "config.json").read_text())["id2label"].values()
    zero_shot = f"zero_shot:\n  templates: ['a photo of {{}} skin']\n  classes: [{', '.join(names)}]\n"
    for name in expected.files:
        config = tmp_path / f"{name}.yaml"
        config.write_text(
            f"name: {name}\ncheckpoint: {tmp_path / name}\n" + zero_shot * name.endswith("dual")
        )
        run = score(
            load_checkpoint(config), tmp_path / "manifest.csv", settings=SMALL, out=tmp_path / "runs" / name
        )
        found = read_predictions(run / "predictions.parquet").logits
        np.testing.assert_allclose(found, expected[name], atol=1e-5, err_msg=name)
