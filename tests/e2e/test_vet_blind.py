"""Blindness: nothing a reader's browser receives depends on what anybody else said or what the data hold."""

import json
import re
import time
from collections import defaultdict

import httpx2 as httpx
import pytest

from tests.e2e.vet_browser import log_in, look, read_one, ready, traffic
from tests.e2e.vet_server import PASSWORD, SECRETS, App, make_project

pytestmark = pytest.mark.e2e

CHANGING = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"  # ids of a session or a run of a page
    r"|[0-9a-f]{32,64}"  # nonces
    r"|127\.0\.0\.1:\d+|\d{13,}|\d+\.\d{6,}"  # ports and clocks
    r"|(?:date|etag|last-modified|server-timing|set-cookie|content-length)\": \"[^\"]*",
    re.IGNORECASE,
)


def seen_by_second_reader(folder, browser, *, first_answer, n):
    """Everything that reaches ben's browser over n cases after anna gave `first_answer` to all of them."""
    make_project(folder, n_cases=8, n_files=8)
    app = App(folder)
    try:
        with httpx.Client(base_url=app.url) as anna:
            anna.post("/login", data={"name": "anna", "password": PASSWORD})
            while screen := anna.get("/api/screen").json():
                time.sleep(0.26)
                body = {"nonce": screen["nonce"], "gradable": "yes", "note": f"{first_answer} for sure"}
                assert anna.post("/api/answer", json={**body, "diagnoses": [first_answer]}).status_code == 200
        list(traffic(browser))
        log_in(browser, app.url, "ben")
        bodies, markup = [], ""
        for _ in range(n):
            read_one(browser, "lentigo")
            bodies += traffic(browser)
            markup += browser.page_source + look(browser, "root.innerHTML")
        return [(url.split("?")[0], body) for url, body in bodies], markup
    finally:
        app.end()


def strings(body):
    """What can be read in a message, without what changes from one run to the next."""
    text = body.decode("latin-1")
    return frozenset(CHANGING.sub("·", found) for found in re.findall(r"[\x20-\x7e]{4,}", text))


@pytest.mark.parametrize("n", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_a_second_readers_traffic_is_the_same_whatever_the_first_reader_said(tmp_path, browser, n):
    """Pages, answers, photographs and websocket frames, compared but for ids, nonces and clocks."""
    by_answer = {}
    for answer in ("Melanoma", "Psoriasis"):
        bodies, markup = seen_by_second_reader(tmp_path / answer, browser, first_answer=answer, n=n)
        found = defaultdict(set)
        for url, body in bodies:
            place = CHANGING.sub("·", url)
            if "/api/photograph/" in place and body.startswith(b"\xff\xd8"):
                found[place].add(body)
            else:
                found["text"] |= strings(body)
            if "/api/diagnoses" not in url:  # the list to choose from names every disease
                assert answer.encode() not in body
                assert b"for sure" not in body
                assert [s for s in SECRETS if s.encode() in body] == []
        assert any("stream" in url for url, _ in bodies), "no websocket was seen"
        assert [s for s in (*SECRETS, "anna", "for sure") if s in markup] == []
        by_answer[answer] = found
    one, two = by_answer.values()
    assert one.keys() == two.keys()
    photographs = [place for place in one if place != "text"]
    assert photographs
    assert all(one[place] == two[place] for place in photographs)
    differing = sorted(one["text"] ^ two["text"])
    print(f"{len(one['text'])} strings and {sum(len(one[p]) for p in photographs)} photographs compared")
    assert differing == []


@pytest.mark.parametrize("n", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_photographs_reach_the_browser_upright_and_without_metadata(app, n):
    """The files hold a marker in EXIF and in a JPEG comment; not a byte of either is sent."""
    with httpx.Client(base_url=app.url) as client:
        client.post("/login", data={"name": "ben", "password": PASSWORD})
        for _ in range(n):
            nonce = client.get("/api/screen?batch=b").json()["nonce"]
            for number in (0, 1):
                for size in ("view", "full"):
                    body = client.get(f"/api/photograph/{nonce}/{number}?batch=b&size={size}").content
                    assert body.startswith(b"\xff\xd8")
                    assert b"SECRET" not in body
                    assert b"Exif" not in body
            time.sleep(0.26)
            answer = {"nonce": nonce, "exit": "cannot_tell"}
            assert client.post("/api/answer", json=answer).status_code == 200
    files = [path.read_bytes() for path in (app.folder / "cache").rglob("*.jpg")]
    assert files
    assert not any(b"SECRET" in content for content in files)


def test_the_name_of_a_photograph_says_nothing_of_its_case(app, browser):
    log_in(browser, app.url, "ben")
    ready(browser)
    sent = json.dumps([url for url, _ in traffic(browser)]) + look(browser, "root.innerHTML")
    assert not re.search(r"(?<![0-9a-f])c\d{5}(?![0-9a-f])", sent)  # a nonce is hexadecimal, and may hold one
