"""An evening of a reader: `ddeval vet serve --demo`, log in as printed, read to the end by keyboard."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from ddeval.vet.reading import answers
from ddeval.vet.store import Store
from tests.e2e.vet_browser import CHOSEN, NONCE, READY, do, keys, log_in, look, next_ready, ready, wait_for
from tests.e2e.vet_server import free_port, wait_until_up

pytestmark = pytest.mark.e2e

SAID = ["eczema", "psoriasis", "tinea corporis", "acne", "urticaria", "vitiligo", "melanoma", "impetigo"]


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The server of the demo, its address, the first reader's password, its store."""
    monkeypatch.setenv("DDEVAL_CACHE", str(tmp_path))
    port = free_port()
    serving = subprocess.Popen(
        [sys.executable, "-m", "ddeval", "vet", "serve", "--demo", "--port", str(port)],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = ""
    while "serving" not in said:
        line = serving.stdout.readline()
        assert line, said
        said += line
    password = re.search(r"reader-1 +password (\S+)", said)[1]
    url = f"http://127.0.0.1:{port}"
    wait_until_up(url)
    store = Store(tmp_path / "vet-demo" / "vet.db")
    yield url, password, store
    store.close()
    serving.kill()
    serving.communicate()


def one_case(browser, i):
    """One answer of the evening, of the kinds an evening has; what was meant, as the store should have it."""
    if i % 12 == 5:
        keys(browser, "5")  # poor image
        return {"exit": "poor_image"}
    names = [SAID[i % len(SAID)]] + ([SAID[(i + 3) % len(SAID)]] if i % 3 == 1 else [])
    if i % 7 == 2:
        keys(browser, Keys.ARROW_RIGHT, "+", "+", "0")
    keys(browser, "2" if i % 5 == 4 else "1")
    for name in names:
        keys(browser, name, Keys.ENTER)
    return {"diagnoses": tuple(look(browser, CHOSEN)), "gradable": "partly" if i % 5 == 4 else "yes"}


@pytest.mark.parametrize("n", [8, pytest.param(125, marks=pytest.mark.slow)])
@pytest.mark.timeout(1800)
def test_the_whole_demo_is_read_by_keyboard_and_every_answer_is_the_one_that_was_meant(
    demo, browser, tmp_path, n
):
    """Five practice cases and 120 that count, with second thoughts, skips and undos; a line of log a case."""
    url, password, store = demo
    log_in(browser, url, "reader-1", password)
    meant, log, n_undone = [], [], 0
    for i in range(n):
        place = ready(browser)
        nonce, start = look(browser, NONCE), time.monotonic()
        assert (place == "Practice case") == (i < 5)
        said = one_case(browser, i)
        pressed = time.monotonic()
        keys(browser, Keys.ENTER)
        if i < 124:
            next_ready(browser, nonce)
        else:
            wait_for(browser, "!$('finished').hidden")
        log.append({"case": place, **said, "form_s": pressed - start, "next_s": time.monotonic() - pressed})
        meant.append(said)
        if i % 40 == 30:  # second thoughts: the last case comes back and is answered again
            before = look(browser, NONCE)
            do(browser, "$('undo').click()")
            next_ready(browser, before)
            ready(browser)
            nonce = look(browser, NONCE)
            keys(browser, Keys.ENTER)
            next_ready(browser, nonce)
            n_undone += 1
    found = answers(store, "demo")
    counted = meant[5:]
    assert len(found) == len(counted)
    for row, said in zip(found.itertuples(), counted, strict=True):
        assert (row.answer.exit or row.answer.diagnoses) == (said.get("exit") or said["diagnoses"])
        assert row.details.get("gradable") == said.get("gradable")
    assert not found.duplicated(["case_id"]).any()
    assert store.verify().is_intact
    (tmp_path / "evening.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    taken = np.array([line["next_s"] for line in log])
    print(
        f"{n} cases, {n_undone} taken back and given again, next case after a median of "
        f"{1000 * np.median(taken):.0f} ms, at most {1000 * taken.max():.0f} ms; log {tmp_path}/evening.jsonl"
    )
    assert look(browser, READY) or n == 125
