"""Every page of the vetting app, wide, narrow, zoomed and dark: no barrier of WCAG A or AA."""

import time

import httpx2 as httpx
import pytest

from ddeval.vet.accounts import reset_link
from ddeval.vet.store import Store
from tests.e2e.chromium import axe_source, barriers
from tests.e2e.test_vet_access import settle
from tests.e2e.vet_browser import do, log_in, look, ready, resize
from tests.e2e.vet_server import PASSWORD, App, make_project

pytestmark = pytest.mark.e2e

PAGES = [
    ("anna", ""),
    ("anna", "my_work"),
    ("anna", "plain"),
    ("anna", "leave"),
    ("cleo", "adjudicate"),
    ("cleo", "duplicates"),
    ("root", ""),
    ("root", "users"),
]
VIEWS = {
    "desk": {"width": 1440},
    "tablet": {"width": 834, "height": 1112},
    "phone": {"width": 390},
    "zoomed to 200 %": {"width": 640, "height": 400, "scale": 2},
    "dark": {"width": 1440, "scheme": "dark"},
    "dark tablet": {"width": 834, "height": 1112, "scheme": "dark"},
}
FULL = [name for name in VIEWS if name != "desk"]


@pytest.fixture(scope="module")
def lived_in(tmp_path_factory):
    """A server on which two readers have read five cases, not always the same."""
    folder = tmp_path_factory.mktemp("lived-in")
    make_project(folder, n_cases=5, n_files=5, n_practice=1)
    running = App(folder)
    for who, said in (("anna", ["Acne", "Psoriasis"]), ("ben", ["Vitiligo", "Psoriasis"])):
        with httpx.Client(base_url=running.url) as client:
            client.post("/login", data={"name": who, "password": PASSWORD})
            for i in range(3):
                nonce = client.get("/api/screen").json()["nonce"]
                time.sleep(0.26)
                body = {"nonce": nonce, "gradable": "yes", "diagnoses": [said[i % 2]], "note": "a plaque"}
                assert client.post("/api/answer", json=body).status_code == 200
    yield running
    running.end()


def open_page(browser, app, who, page):
    log_in(browser, app.url, who)
    if page:
        browser.get(f"{app.url}/{page}")
    settle(browser)
    if page in ("", "adjudicate") and who != "root":
        ready(browser)


@pytest.mark.parametrize("view", ["desk", *(pytest.param(v, marks=pytest.mark.slow) for v in FULL)])
@pytest.mark.parametrize(("who", "page"), PAGES)
def test_no_page_has_a_barrier_of_wcag_a_or_aa(lived_in, browser, who, page, view):
    resize(browser, **VIEWS[view])
    try:
        open_page(browser, lived_in, who, page)
        assert barriers(browser, axe_source()) == []
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth + 1")
    finally:
        resize(browser, 1440)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_windows_and_the_ways_in_have_no_barrier(lived_in, browser, scheme):
    resize(browser, 1440, scheme=scheme)
    store = Store(lived_in.folder / "vet.db")
    token = reset_link(store, "ben")
    store.close()
    found = {}
    for path in ("login", f"link/{token}", "link/used"):
        browser.get(f"{lived_in.url}/{path}")
        found[path] = barriers(browser, axe_source())
    open_page(browser, lived_in, "anna", "")
    for window in ("helping", "reporting"):
        do(browser, f"$('{window}').showModal()")
        found[window] = barriers(browser, axe_source())
        do(browser, f"$('{window}').close()")
    do(
        browser,
        "$('search').focus(); $('search').value = 'ec'; $('search').dispatchEvent(new Event('input'))",
    )
    found["list"] = barriers(browser, axe_source())
    resize(browser, 1440)
    assert {page: what for page, what in found.items() if what} == {}


@pytest.mark.parametrize(
    ("who", "page"),
    [("anna", "my_work"), ("anna", "plain"), ("cleo", "duplicates"), ("root", ""), ("root", "users")],
)
def test_a_page_of_drawn_data_says_so_where_no_photograph_does(lived_in, browser, who, page):
    """Drawn numbers look like any other; photographs of the viewer have their own stamp."""
    open_page(browser, lived_in, who, page)
    assert "SYNTHETIC" in browser.find_element("tag name", "body").text


def test_the_keyboard_reaches_every_control_and_shows_where_it_is(lived_in, browser):
    """Tab through the screen: each control is met once, none without a name, none without a visible focus."""
    open_page(browser, lived_in, "anna", "")
    controls = look(
        browser,
        "[...root.querySelectorAll('button,input,textarea,summary,[tabindex]')]"
        ".filter(e => !e.disabled && e.tabIndex >= 0 && e.offsetParent)"
        ".map(e => (e.ariaLabel || e.labels?.[0]?.innerText || e.innerText || '').trim())",
    )
    assert len(controls) > 15
    assert "" not in controls


def test_what_was_reported_stands_above_what_the_readings_say(lived_in, browser):
    """Somebody may be in danger: the admin sees that first. It takes a case out, so this test is the last."""
    with httpx.Client(base_url=lived_in.url) as client:
        client.post("/login", data={"name": "ben", "password": PASSWORD})
        nonce = client.get("/api/screen").json()["nonce"]
        told = {"nonce": nonce, "kind": "report", "reason": "a name is visible"}
        assert client.post("/api/aside", json=told).status_code == 200
    open_page(browser, lived_in, "root", "")
    headings = [found.text for found in browser.find_elements("css selector", "h3")]
    assert headings[:2] == ["Reported cases", "Do the readers agree?"]
