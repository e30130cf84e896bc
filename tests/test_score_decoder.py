"""Photographs decoded in processes are those decoded here, and a dead worker is said in one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ddeval.data.images import Preprocessing, decode, preprocess
from ddeval.errors import ImageError, InputError
from ddeval.score import feed
from ddeval.score.decoder import LONGEST_ERROR, Workers, _error, fill
from tests.score_fixture import make_photos

P = Preprocessing.for_norm("siglip", 24)


def messy_folder(root: Path, n: int = 20) -> list[feed.Source]:
    """Photographs of every kind, broken ones, names that are no UTF-8, and one given up before."""
    make_photos(root, n)
    sources: list[feed.Source] = sorted(root.glob("*.jpg"))
    noise = np.random.default_rng(1).integers(0, 256, (30, 50, 4), dtype=np.uint8)
    Image.fromarray(noise).save(root / "alpha.png")
    Image.fromarray(noise[..., :3]).convert("CMYK").save(root / "cmyk.jpg")
    turned = Image.fromarray(noise[..., :3])
    turned.getexif()[0x0112] = 6
    turned.save(root / "turned.jpg", exif=turned.getexif())
    odd = Path(os.fsdecode(os.fsencode(root) + b"/\xe9t\xe9 \n.jpg"))
    odd.write_bytes(sources[0].read_bytes())
    (root / "short.jpg").write_bytes(sources[1].read_bytes()[:-40])
    (root / "empty.jpg").write_bytes(b"")
    (root / "words.jpg").write_text("not a photograph")
    more = ["alpha.png", "cmyk.jpg", "turned.jpg", odd, "short.jpg", "empty.jpg", "words.jpg", "absent.jpg"]
    return [*sources, *(root / name for name in more), ImageError("missing", "the manifest names no image")]


def reasons(failures: dict[int, ImageError]) -> dict[int, tuple[str, str]]:
    return {row: (error.code, error.reason) for row, error in failures.items()}


@pytest.mark.parametrize("fast", [False, True])
def test_processes_give_the_bytes_and_the_errors_of_threads(tmp_path, monkeypatch, fast):
    sources = messy_folder(tmp_path)
    slices = [range(i, min(i + 4, len(sources))) for i in range(0, len(sources), 4)]

    def all_batches(pay):
        monkeypatch.setattr(feed, "PROCESSES_PAY", pay)
        given = feed.batches(
            sources, slices, preprocessing=P, batch_size=4, workers=2, gpu=pay == 0, fast=fast
        )
        return [(b.rows, b.pixels.clone(), reasons(b.failures)) for b in given]

    here, there = all_batches(10**9), all_batches(0)
    assert [b[0] for b in there] == slices
    for ours, theirs in zip(here, there, strict=True):
        torch.testing.assert_close(theirs[1], ours[1], rtol=0, atol=0)
        assert theirs[2] == ours[2]
    failed = {row for b in there for row in b[2]}
    assert failed == set(range(len(sources) - 5, len(sources)))
    if not fast:
        exact = preprocess(decode(sources[3]), P)
        np.testing.assert_array_equal(there[0][1][3].numpy(), exact)


def test_batches_are_right_though_their_buffers_are_used_again(tmp_path, monkeypatch):
    """Fifty batches through six buffers; each is looked at after two more have been asked for."""
    monkeypatch.setattr(feed, "PROCESSES_PAY", 0)
    sources = sorted(make_photos(tmp_path, 10).glob("*.jpg")) * 10
    slices = [range(i, i + 2) for i in range(0, 100, 2)]
    expected = [preprocess(decode(source), P) for source in sources[:10]]
    held = []
    for batch in feed.batches(sources, slices, preprocessing=P, batch_size=2, workers=2, gpu=True):
        held.append(batch)
        if len(held) > feed.HELD:
            old = held[-1 - feed.HELD]
            for place, row in enumerate(old.rows):
                np.testing.assert_array_equal(old.pixels[place].numpy(), expected[row % 10])
    assert len(held) == 50


@pytest.fixture
def workers(tmp_path):
    sources = sorted(make_photos(tmp_path, 4).glob("*.jpg"))
    made = Workers(sources, P, n_slots=4, n_workers=2)
    yield made
    made.close()


def test_a_killed_worker_is_one_line_with_the_file_and_the_cure(workers):
    assert workers.submit(0, 0).result(timeout=60) is None
    for process in workers._processes:
        process.send_signal(signal.SIGSTOP)  # so that a job is surely in hand, or waiting, when they end
    future = workers.submit(1, 2)
    for process in workers._processes:
        process.kill()
    with pytest.raises(
        InputError,
        match=r"^decoding at or near .*02\.jpg: found a worker process killed by signal 9; expected 2",
    ):
        future.result(timeout=60)


def test_a_worker_killed_while_it_has_nothing_to_do_does_not_leave_the_rest_waiting(workers):
    """The other may go on until the death is seen; after that every image says so at once."""
    assert workers.submit(0, 0).result(timeout=60) is None
    workers._processes[0].kill()
    workers._reader.join(timeout=60)
    with pytest.raises(InputError, match="killed by signal 9"):
        workers.submit(1, 1).result(timeout=60)


def test_workers_end_with_their_parent_however_it_ends(tmp_path):
    """No process is left behind that holds memory or a lock."""
    make_photos(tmp_path, 2)
    code = (
        "import os, sys, pathlib, time\n"
        "from ddeval.data.images import Preprocessing\n"
        "from ddeval.score.decoder import Workers\n"
        f"sources = sorted(pathlib.Path({str(tmp_path)!r}).glob('*.jpg'))\n"
        "w = Workers(sources, Preprocessing.for_norm('siglip', 24), n_slots=2, n_workers=2)\n"
        "w.submit(0, 0).result()\n"
        "print(*[p.pid for p in w._processes], flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert len(pids) == 2
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_reason_that_does_not_fit_into_one_write_is_cut_and_stays_text():
    message = ("corrupt\n" + "ü" * 5000).encode()[:LONGEST_ERROR]
    error = _error(message)
    assert error.code == "corrupt"
    assert set(error.reason) == {"ü"}
    assert len(error.reason) == (LONGEST_ERROR - len("corrupt\n")) // 2


def test_an_unreadable_image_leaves_zeros_where_another_was(tmp_path):
    slot = np.full((3, 24, 24), 7, np.uint8)
    error = fill(slot, tmp_path / "absent.jpg", P)
    assert error.code == "missing"
    assert not slot.any()
