"""Buckets: manifests, photographs, artefacts and runs in S3, against moto's server on loopback."""

import hashlib
import json
import random
import time
from pathlib import Path

import pytest

from ddeval import bucket, cache, io
from ddeval.data.images import thumbnail_name
from ddeval.errors import InputError
from tests.buckets import BUCKET, store
from tests.command import run
from tests.score_fixture import make_artefact, make_manifest

__all__ = ["store"]

SAME = (
    "predictions.parquet",
    "embeddings.npy",
    "quarantine.parquet",
    "labels-v0/metrics.parquet",
    "labels-v0/metrics.json",
)


@pytest.fixture
def team(store, tmp_path, monkeypatch):
    """40 photographs (one is missing), a manifest and an artefact, on this machine and in the bucket."""
    make_manifest(tmp_path / "data")
    (tmp_path / "data" / "images" / "17.jpg").unlink()
    make_artefact(tmp_path / "models" / "tiny")
    store.put_folder(tmp_path / "data", "data")
    store.put_folder(tmp_path / "models", "models")
    store.clear()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def score(artefact, data, out, *more, code=0):
    return run("score", artefact, "--data", data, "--out", out, "--n-resamples", 50, "--batch-size", 8,
               "--shard-size", 16, "--calibrators", "none", *more, code=code)  # fmt: skip


def score_bucket(out, *more, code=0):
    return score(f"s3://{BUCKET}/models/tiny", f"s3://{BUCKET}/data/manifest.csv", out, *more, code=code)


@pytest.fixture
def at_home(team):
    """The run of the same files on this machine."""
    score(team / "models" / "tiny", team / "data" / "manifest.csv", team / "here" / "run")
    return team / "here" / "run"


def digests(read):
    found = {}
    for name in SAME:
        found[name] = hashlib.sha256(read(name)).hexdigest()
    return found


def test_a_run_from_bucket_to_bucket_is_byte_for_byte_the_run_at_home(store, at_home):
    result = score_bucket(f"s3://{BUCKET}/runs/run", "--json")
    there = digests(lambda name: store.content(f"runs/run/{name}"))
    assert there == digests(lambda name: (at_home / name).read_bytes())
    facts = json.loads(store.content("runs/run/run.json"))
    assert facts["manifest"]["path"] == f"s3://{BUCKET}/data/manifest.csv"
    assert facts["image_roots"] == [f"s3://{BUCKET}/data"]
    assert json.loads(result.stdout)["report"] == f"s3://{BUCKET}/runs/run/report.html"
    assert json.loads(store.content("data/manifest.looks.jsonl"))["run"] == "run"
    assert not store.keys("runs/run/parts")


def test_a_second_run_downloads_nothing(store, team):
    """Versions are asked for (LIST and HEAD), contents are not: for the same run, and for another one."""
    score_bucket(f"s3://{BUCKET}/runs/run")
    assert len(store.downloads()) > 40
    for out in (f"s3://{BUCKET}/runs/run", "another"):
        store.clear()
        score_bucket(out)
        assert store.downloads() == []
    assert store.counts()["GET"] <= 3  # listings: photographs, artefact
    assert store.counts()["HEAD"] < 20  # the 39 photographs are listed, not asked for one by one


def test_five_percent_errors_end_in_the_same_bytes(store, at_home, monkeypatch):
    """500, 503, bodies cut short and connections lost, on every kind of request, by a fixed draw."""
    monkeypatch.setattr(bucket, "FIRST_WAIT", 0.01)
    injected = []

    def fault(method, key):
        draw = int(hashlib.sha256(f"{method} {key} {len(store.asked)}".encode()).hexdigest()[:8], 16) / 16**8
        wrong = ("500", "503", "cut", "lost")[len(store.asked) % 4] if draw < 0.05 else None
        injected.extend([wrong] if wrong else [])
        return wrong

    store.fault = fault
    score_bucket(f"s3://{BUCKET}/runs/run")
    assert len(injected) >= 3
    store.fault = lambda method, key: None
    there = digests(lambda name: store.content(f"runs/run/{name}"))
    assert there == digests(lambda name: (at_home / name).read_bytes())


@pytest.mark.parametrize("wrong", ["cut", "500", "503", "lost"])
def test_each_kind_of_passing_error_is_tried_again(store, wrong, monkeypatch):
    monkeypatch.setattr(bucket, "FIRST_WAIT", 0.01)
    store.put("a.txt", "x" * 1000)
    store.clear()
    store.fault = lambda method, key: wrong if method == "GET" and len(store.downloads()) < 3 else None
    assert io.local(f"s3://{BUCKET}/a.txt").read_text() == "x" * 1000
    assert len(store.downloads()) == 3


def test_an_error_that_stays_is_named_with_how_often_it_was_tried(store, monkeypatch):
    monkeypatch.setattr(bucket, "FIRST_WAIT", 0.001)
    store.put("a.txt", "x")
    store.fault = lambda method, key: "503"
    with pytest.raises(InputError, match=r"s3://team/a\.txt: found 503.*, 7 times; .* Run the command again"):
        io.local(f"s3://{BUCKET}/a.txt")


PLACES = {
    "manifest": "data/manifest.csv",
    "artefact": "models/tiny/config.json",
    "photograph": "data/images/05.jpg",
}


@pytest.mark.parametrize("what", PLACES)
def test_403_is_named_at_once(store, team, what):
    """An object that may not be read stops the command; trying it again would help nobody."""
    store.fault = lambda method, key: "403" if key == PLACES[what] and method in ("GET", "HEAD") else None
    began = time.monotonic()
    result = score_bucket("out", code=3)
    assert time.monotonic() - began < 10
    assert f"s3://{BUCKET}/{PLACES[what]}: found 403 " in result.stderr
    assert str(cache.home()) not in result.stderr


@pytest.mark.parametrize(
    ("artefact", "data", "says"),
    [
        ("models/tiny", "data/gone.csv", "s3://team/data/gone.csv: found no such object"),
        ("models/gone", "data/manifest.csv", "nothing at s3://team/models/gone"),
        ("models/tiny", "nowhere/manifest.csv", "s3://team/nowhere/manifest.csv: found no such object"),
    ],
)
def test_404_is_named_at_once(store, team, artefact, data, says):
    began = time.monotonic()
    result = score(f"s3://{BUCKET}/{artefact}", f"s3://{BUCKET}/{data}", "out", code=3)
    assert time.monotonic() - began < 10
    assert says in result.stderr


def test_a_bucket_without_any_of_the_photographs_is_named_before_the_model_runs(store, team):
    store.put("alone/manifest.csv", store.content("data/manifest.csv"))
    result = score(f"s3://{BUCKET}/models/tiny", f"s3://{BUCKET}/alone/manifest.csv", "out", code=3)
    assert "s3://team/alone/images/00.jpg: found no such object, nor any of the 40 images" in result.stderr


def test_without_credentials_one_line_says_so(store, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    bucket._file_system.cache_clear()
    with pytest.raises(InputError, match="no credentials for the store"):
        io.local(f"s3://{BUCKET}/a.txt")
    bucket._file_system.cache_clear()


def test_an_object_that_changed_is_fetched_again_and_the_old_content_goes(store):
    store.put("a.txt", "old")
    assert io.local(f"s3://{BUCKET}/a.txt").read_text() == "old"
    store.put("a.txt", "new")
    cache.forget()
    assert io.local(f"s3://{BUCKET}/a.txt").read_text() == "new"
    kept = [path for path in (cache.home() / "objects").rglob("*") if path.is_file()]
    assert [path.read_text() for path in kept] == ["new"]


def test_a_damaged_file_of_the_cache_is_noticed_and_fetched_again(store):
    """Same length, other bytes: only the hash tells."""
    store.put("a.txt", "whole")
    path = io.local(f"s3://{BUCKET}/a.txt")
    for kept in [path, *(p for p in (cache.home() / "objects").rglob("*") if p.is_file())]:
        kept.write_text("whale")
    store.clear()
    assert cache.read(f"s3://{BUCKET}/a.txt") == b"whole"
    assert io.local(f"s3://{BUCKET}/a.txt").read_text() == "whole"
    assert len(store.downloads()) == 1


def test_large_objects_come_in_parts_and_each_part_is_tried_again(store, monkeypatch):
    monkeypatch.setattr(bucket, "PART_BYTES", 1000)
    monkeypatch.setattr(bucket, "FIRST_WAIT", 0.01)
    content = bytes(range(256)) * 20
    store.put("weights.pt", content)
    store.clear()
    store.fault = lambda method, key: "cut" if method == "GET" and len(store.downloads()) == 3 else None
    assert io.local(f"s3://{BUCKET}/weights.pt").read_bytes() == content
    assert len(store.downloads()) == 7  # six parts, one of them twice


def test_a_large_file_is_written_in_parts(store, tmp_path, monkeypatch):
    monkeypatch.setattr(bucket, "PART_BYTES", 1000)
    io.write_bytes(io.place(f"s3://{BUCKET}/w.pt"), b"x" * 5000)
    assert store.content("w.pt") == b"x" * 5000
    store.clear()
    cache.forget()
    assert io.local(f"s3://{BUCKET}/w.pt").read_bytes() == b"x" * 5000
    assert store.downloads() == []


def test_what_the_bucket_refuses_is_not_written_here_either(store):
    store.fault = lambda method, key: "403" if method == "PUT" else None
    path = io.place(f"s3://{BUCKET}/a.txt")
    with pytest.raises(InputError, match=r"s3://team/a\.txt: found 403"):
        io.write_text(path, "x")
    assert list(path.parent.iterdir()) == []


def test_two_who_write_to_one_ledger_lose_no_line(store, monkeypatch):
    """The second one's write is refused (412), it reads again and adds its line behind the first one's."""
    path = io.place(f"s3://{BUCKET}/m.looks.jsonl")
    io.append_line(path, "one")
    written, barged = bucket.write, []

    def meanwhile(uri, content, **condition):
        if not barged:
            barged.append(store.put("m.looks.jsonl", "one\nsomebody\n"))
        return written(uri, content, **condition)

    monkeypatch.setattr(bucket, "write", meanwhile)
    io.append_line(path, "two")
    assert store.content("m.looks.jsonl") == b"one\nsomebody\ntwo\n"


def test_two_machines_share_a_run_in_the_bucket(store, at_home, tmp_path, monkeypatch):
    """Each scores its shards with a cache of its own; the last to finish merges both, to the same bytes."""
    for i in range(2):
        monkeypatch.setenv("DDEVAL_CACHE", str(tmp_path / f"machine-{i}"))
        result = score_bucket(f"s3://{BUCKET}/runs/run", "--shard", f"{i}/2")
        assert ("is done; the last of the other shards" in result.stdout) == (i == 0)
    there = digests(lambda name: store.content(f"runs/run/{name}"))
    assert there == digests(lambda name: (at_home / name).read_bytes())
    assert not store.keys("runs/run/parts")


def test_a_run_in_a_bucket_is_read_by_other_commands(store, team):
    score_bucket(f"s3://{BUCKET}/runs/run")
    assert "top_1_accuracy" in run("trace", f"s3://{BUCKET}/runs/run", "top_1_accuracy").stdout
    run("verify", f"s3://{BUCKET}/runs/run")
    result = run("score", f"s3://{BUCKET}/runs/run", "--n-resamples", 50, "--calibrators", "none")
    assert f"next     ddeval audit s3://{BUCKET}/runs/run" in result.stdout or "next" in result.stdout


def test_withdrawing_a_patient_purges_the_cache_and_writes_to_the_bucket(store, team):
    score_bucket(f"s3://{BUCKET}/runs/run")
    held = {p.read_bytes() for p in (cache.home() / "objects").rglob("*") if p.is_file()}
    thumbnails = store.keys("runs/run/thumbnails")
    image = next(i for i in range(10, 40) if f"runs/run/thumbnails/{thumbnail_name(f'im{i}')}" in thumbnails)
    theirs = store.content(f"data/images/{image}.jpg")
    assert theirs in held
    result = run("data", "withdraw", f"p{image // 2}", "--manifest", f"s3://{BUCKET}/data/manifest.csv",
                 "--runs", f"s3://{BUCKET}/runs", "--reports", f"s3://{BUCKET}/runs", code=1)  # fmt: skip
    assert f"run that still holds them (delete it, or score again): s3://{BUCKET}/runs/run" in result.stdout
    held = {p.read_bytes() for p in (cache.home() / "objects").rglob("*") if p.is_file()}
    assert theirs not in held
    assert f",p{image // 2},".encode() not in store.content("data/manifest.csv")
    assert b"patient_sha256" in store.content("data/withdrawn.json")
    assert len(store.keys("runs/run/thumbnails")) < len(thumbnails)
    # the tombstone holds on another machine, and for a table that still has the patient
    store.put("data/manifest.csv", (team / "data" / "manifest.csv").read_text())
    result = score_bucket("again")
    assert f"test {30 - 2} images" in result.stderr


@pytest.mark.parametrize(
    "path",
    [
        "s3://other/data/a.jpg",
        "s3://team/elsewhere/a.jpg",
        "s3://team/data/../secret/a.jpg",
        "s3://team/data/./a.jpg",
        "s3://team/data//a.jpg",
        "../secret/a.jpg",
        "x/../a.jpg",
        "s3:///data/a.jpg",
        "S3://team/data/a.jpg",
        "https://team/data/a.jpg",
        "/etc/passwd",
    ],
)
def test_the_roots_of_a_bucket_are_an_allow_list(path):
    """No request is made: there is no store here."""
    with pytest.raises(InputError):
        io.resolve(path, ["s3://team/data"])


def test_a_folder_of_this_machine_allows_no_bucket(monkeypatch, tmp_path):
    """Not even the root of the file system, below which the cache lies."""
    monkeypatch.setenv("DDEVAL_CACHE", str(tmp_path))
    for root in ("/", tmp_path, tmp_path / "s3"):
        with pytest.raises(InputError, match="expected a path under"):
            io.resolve("s3://team/data/a.jpg", [Path(root)])


def test_a_key_below_a_root_has_a_path_however_the_root_is_spelt(monkeypatch, tmp_path):
    monkeypatch.setenv("DDEVAL_CACHE", str(tmp_path))
    wanted = io.place("s3://team/data/x/ä b.jpg")
    for root in ("s3://team/data", "s3://team/data/", Path("s3://team/data"), io.place("s3://team")):
        assert io.resolve("s3://team/data/x/ä b.jpg", [root]) == wanted
    assert io.resolve("x/ä b.jpg", ["s3://team/data"]) == wanted
    assert io.shown(f"read {wanted}") == "read s3://team/data/x/ä b.jpg"


def test_of_several_roots_the_one_that_holds_the_object_is_taken(store, tmp_path):
    store.put("b/x.jpg", "x")
    store.clear()
    found = io.resolve("x.jpg", [tmp_path, "s3://team/a", "s3://team/b"])
    assert found == io.place("s3://team/b/x.jpg")


def test_photographs_are_fetched_many_at_once_ahead_of_the_decoder(store, team):
    """At 0.15 s an object, 39 photographs one after another would take 5.9 s, and by two decoders 2.9 s."""
    asked = []

    def slow(method, key):
        if method == "GET" and key.startswith("data/images/"):
            asked.append(time.monotonic())
            time.sleep(0.15)

    store.fault = slow
    score_bucket("out", "--workers", 2)
    assert len(asked) == 39
    assert asked[-1] - asked[0] < 2.0


@pytest.mark.slow
def test_five_percent_errors_of_a_larger_run_end_in_the_same_bytes(store, tmp_path, monkeypatch):
    """400 photographs, with the waits as they are."""
    make_manifest(tmp_path / "data", n=400)
    make_artefact(tmp_path / "models" / "tiny")
    store.put_folder(tmp_path / "data", "data")
    store.put_folder(tmp_path / "models", "models")
    monkeypatch.chdir(tmp_path)
    score(tmp_path / "models" / "tiny", tmp_path / "data" / "manifest.csv", tmp_path / "here" / "run")
    rng, injected = random.Random(0), []

    def fault(method, key):
        wrong = rng.choice(["500", "503", "cut", "lost"]) if rng.random() < 0.05 else None
        injected.extend([wrong] if wrong else [])
        return wrong

    store.fault = fault
    score_bucket(f"s3://{BUCKET}/runs/run")
    store.fault = lambda method, key: None
    assert len(injected) >= 15
    there = digests(lambda name: store.content(f"runs/run/{name}"))
    assert there == digests(lambda name: (tmp_path / "here" / "run" / name).read_bytes())
