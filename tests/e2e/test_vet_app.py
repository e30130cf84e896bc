"""The vetting app in a real browser: nothing lost, nothing doubled, nothing seen that must not be seen."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from ddeval.vet.reading import answers
from ddeval.vet.store import Store
from tests.e2e.chromium import axe_source, barriers, chromium
from tests.e2e.vet_server import PASSWORD, SECRETS, make_project

pytestmark = pytest.mark.e2e


class App:
    """A running server that can be killed and started again."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.vet_server", str(self.folder), str(self.port)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            try:
                if httpx.get(f"{self.url}/_stcore/health", timeout=2).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise TimeoutError("the server did not start in 60 s")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def answers(self, reader):
        store = Store(self.folder / "vet.db")
        try:
            found = answers(store, "b")
            return found[found["actor"] == reader]
        finally:
            store.close()

    def n_events(self, reader):
        with sqlite3.connect(self.folder / "vet.db") as raw:
            n = raw.execute("SELECT count(*) FROM events WHERE actor = ?", (reader,)).fetchone()[0]
        raw.close()
        return n


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vet")
    make_project(folder, n_cases=400)
    running = App(folder)
    yield running
    running.kill()


@pytest.fixture(scope="module")
def browser():
    with chromium() as driver:
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": 1440, "height": 900, "deviceScaleFactor": 1, "mobile": False},
        )
        yield driver


def log_in(driver, app, name):
    driver.get(f"{app.url}/login")
    driver.delete_all_cookies()
    driver.get(f"{app.url}/login")
    driver.find_element("id", "name").send_keys(name)
    driver.find_element("id", "password").send_keys(PASSWORD)
    driver.find_element("css selector", "button").click()


IN_VIEWER = (
    "const host = [...document.querySelectorAll('*')].find(e => e.shadowRoot?.getElementById('desk'));"
    "const root = host?.shadowRoot; const $ = id => root?.getElementById(id);"
)


def look(driver, expression):
    """A value from inside the viewer component; None while it is not there."""
    return driver.execute_script(f"{IN_VIEWER} if (!root) return null; return ({expression});")


def wait_for(driver, expression, *, seconds=20):
    end = time.time() + seconds
    while time.time() < end:
        if (value := look(driver, expression)) is not None and value is not False:
            return value
        time.sleep(0.03)
    raise TimeoutError(f"{expression} stayed false for {seconds} s")


READY = "!$('save').disabled && $('position').textContent"
NONCE = "root.host.getAttribute('data-seen')"


def ready(driver):
    """Wait until a case can be answered and the dwell is over; its place in the batch."""
    place = wait_for(driver, READY)
    time.sleep(0.3)
    return place


def keys(driver, *texts):
    chain = ActionChains(driver)
    for text in texts:
        chain.send_keys(text)
    chain.perform()


def read_one(driver, diagnosis="psoriasis"):
    """One case by keyboard alone; waits for the next one."""
    before = ready(driver)
    keys(driver, diagnosis, Keys.ENTER, Keys.ENTER)
    wait_for(driver, f"{READY} && $('position').textContent !== {json.dumps(before)}")


def test_a_case_is_read_by_keyboard_alone_and_shown_as_saved_after_its_commit(app, browser):
    log_in(browser, app, "anna")
    before = app.n_events("anna")
    read_one(browser)
    assert look(browser, "$('state').textContent") == "saved ✓"
    assert app.n_events("anna") == before + 1
    assert app.answers("anna")["answer"].iloc[-1].diagnoses == ("Psoriasis",)


@pytest.mark.parametrize("gap", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_fast_presses_double_and_skip_nothing(app, browser, gap):
    """Twenty presses of Enter after one answer: one event for it, and no case is left without an answer."""
    log_in(browser, app, "anna")
    ready(browser)
    before = app.n_events("anna")
    place = look(browser, "$('position').textContent")
    keys(browser, "acne", Keys.ENTER)
    chain = ActionChains(browser)
    for _ in range(20):
        chain.send_keys(Keys.ENTER).pause(gap)
    chain.perform()
    wait_for(browser, f"{READY} && $('position').textContent !== {json.dumps(place)}")
    assert app.n_events("anna") == before + 1
    done = int(look(browser, "$('position').textContent").split()[1])
    assert done == len(app.answers("anna")) + 1


def test_a_key_held_down_is_one_press(app, browser):
    log_in(browser, app, "anna")
    place, before = ready(browser), app.n_events("anna")
    keys(browser, "acne", Keys.ENTER)
    down = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
    for i in range(60):  # what a keyboard sends in three seconds
        browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyDown", **down, "autoRepeat": i > 0})
        time.sleep(0.05)
    browser.execute_cdp_cmd("Input.dispatchKeyEvent", {"type": "keyUp", **down})
    wait_for(browser, f"{READY} && $('position').textContent !== {json.dumps(place)}")
    assert app.n_events("anna") == before + 1


def test_nothing_is_recorded_behind_a_dialog_or_from_a_text_field(app, browser):
    log_in(browser, app, "anna")
    ready(browser)
    before = app.n_events("anna")
    keys(browser, "acne", Keys.ENTER)
    browser.execute_script(f"{IN_VIEWER} $('helping').showModal()")
    keys(browser, "a", "1")
    browser.execute_script(
        f"{IN_VIEWER} document.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter'}}))"
    )
    browser.execute_script(f"{IN_VIEWER} $('helping').close(); $('note').focus()")
    keys(browser, "two lines", Keys.ENTER, "of a note", Keys.ENTER)
    time.sleep(0.5)
    assert app.n_events("anna") == before
    assert look(browser, "$('note').value").count("\n") == 2


def test_nothing_is_recorded_before_the_photograph_is_on_the_screen(app, browser):
    log_in(browser, app, "anna")
    ready(browser)
    before = app.n_events("anna")
    browser.execute_cdp_cmd("Network.enable", {})
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": ["*photograph*"]})
    browser.refresh()
    wait_for(browser, "$('position').textContent.startsWith('Case')")
    browser.execute_script(f"{IN_VIEWER} $('picture').onerror = null")
    keys(browser, "acne", Keys.ENTER)
    browser.execute_script(
        f"{IN_VIEWER} document.dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter'}}))"
    )
    browser.execute_cdp_cmd("Network.setBlockedURLs", {"urls": []})
    time.sleep(0.5)
    assert app.n_events("anna") == before


@pytest.mark.parametrize("every", [8, pytest.param(1, marks=pytest.mark.slow)])
def test_typing_any_name_or_synonym_records_nothing_but_the_answer_chosen(app, browser, every):
    """Letters only type: each name, typed and entered, chooses its own diagnosis and does nothing else."""
    log_in(browser, app, "ben")
    ready(browser)
    before = app.n_events("ben")
    listed = browser.execute_async_script(
        "const done = arguments[0]; fetch('/api/diagnoses?batch=b').then(r => r.json()).then(done)"
    )
    wrong = []
    for entry in listed[::every]:
        for name in [entry["name"], *entry["synonyms"]][:: 2 if every > 1 else 1]:
            keys(browser, name, Keys.ENTER)
            chosen = look(browser, "[...root.querySelectorAll('#chosen strong')].map(e => e.textContent)")
            if chosen != [entry["name"]]:
                wrong.append((name, chosen))
            keys(browser, Keys.BACKSPACE * (1 + len(chosen or [])))
            browser.execute_script(f"{IN_VIEWER} $('search').value = ''; $('stage').focus()")
    assert wrong == []
    assert app.n_events("ben") == before


def test_leaving_and_coming_back_finds_the_same_case_and_the_draft(app, browser):
    log_in(browser, app, "anna")
    ready(browser)
    nonce = look(browser, NONCE)
    keys(browser, "2", "rosacea", Keys.ENTER)
    time.sleep(1.2)
    browser.refresh()
    ready(browser)
    assert look(browser, NONCE) == nonce
    assert look(browser, "root.querySelector('#chosen strong').textContent") == "Rosacea"
    assert look(browser, "root.querySelector('#gradable input:checked').value") == "partly"


@pytest.mark.parametrize("n_kills", [2, pytest.param(50, marks=pytest.mark.slow)])
def test_a_server_killed_between_key_and_acknowledgement_loses_and_invents_nothing(app, browser, n_kills):
    """The state word never says saved for what is not stored, and the answer arrives once it is back."""
    rng = np.random.default_rng(0)
    for _ in range(n_kills):
        log_in(browser, app, "anna")
        place, before = ready(browser), app.n_events("anna")
        keys(browser, "acne", Keys.ENTER, Keys.ENTER)
        time.sleep(float(rng.random()) * 0.05)
        app.kill()
        time.sleep(0.4)
        word, stored = look(browser, "$('state').textContent"), app.n_events("anna") - before
        assert word in ("saving…", "NOT SAVED") or (word == "saved ✓" and stored == 1)
        app.start()
        wait_for(browser, f"{READY} && $('position').textContent !== {json.dumps(place)}", seconds=10)
        assert app.n_events("anna") == before + 1
        assert look(browser, "$('state').textContent") == "saved ✓"


def test_a_lost_server_is_said_and_the_answer_kept(app, browser):
    log_in(browser, app, "anna")
    ready(browser)
    app.kill()
    try:
        wait_for(browser, "!$('banner').hidden && $('banner').textContent.includes('cannot be reached')")
    finally:
        app.start()
    wait_for(browser, "$('banner').hidden", seconds=12)


def test_undo_brings_the_last_case_back_with_its_answer(app, browser):
    log_in(browser, app, "anna")
    read_one(browser, "vitiligo")
    browser.execute_script(f"{IN_VIEWER} $('undo').click()")
    wait_for(browser, "root.querySelector('#chosen strong')?.textContent === 'Vitiligo'")
    ready(browser)
    keys(browser, Keys.ENTER)
    wait_for(browser, "!root.querySelector('#chosen strong')")
    kinds = app.answers("anna")
    assert kinds["answer"].iloc[-1].diagnoses == ("Vitiligo",)


def test_all_traffic_of_a_blind_reader_holds_nothing_of_label_model_or_queue(app, browser):
    """DOM, every response body and every websocket frame of a second reader, after the first has answered."""
    log_in(browser, app, "anna")
    for _ in range(3):
        read_one(browser, "melanoma")
    browser.get_log("performance")
    log_in(browser, app, "ben")
    for _ in range(5):
        read_one(browser, "lentigo")
    seen = browser.page_source + json.dumps(look(browser, "root.innerHTML"))
    for entry in browser.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        seen += json.dumps(message)
        if message["method"] == "Network.responseReceived":
            try:
                body = browser.execute_cdp_cmd(
                    "Network.getResponseBody", {"requestId": message["params"]["requestId"]}
                )
                if "/static/" not in message["params"]["response"]["url"]:
                    seen += body["body"]
            except WebDriverException:  # a body the browser has let go of
                continue
    first_answers = {a.diagnoses[0] for a in app.answers("anna")["answer"] if a.diagnoses}
    assert "Melanoma" in first_answers
    found = [secret for secret in SECRETS if secret in seen.replace('"Herpes zoster"', "")]
    assert found == []
    assert "anna" not in look(browser, "root.innerHTML")


def test_photographs_reach_the_browser_upright_and_without_metadata(app):
    with httpx.Client(base_url=app.url) as client:
        client.post("/login", data={"name": "anna", "password": PASSWORD})
        nonce = client.get("/api/screen?batch=b").json()["nonce"]
        for size in ("view", "full"):
            body = client.get(f"/api/photograph/{nonce}/0?batch=b&size={size}").content
            assert body.startswith(b"\xff\xd8")
            assert b"SECRET" not in body
            assert b"Exif" not in body


ROUTES = [
    "/",
    "/api/screen",
    "/api/diagnoses",
    "/api/photograph/x/0",
    "/api/hearing",
    "/media/0123.jpg",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/allowed-message-origins",
    "/static/js/index.js",
    "/component/x/index.html",
    "/users",
    "/dashboard",
]


@pytest.mark.parametrize("path", ROUTES)
def test_without_a_session_every_route_is_shut(app, path):
    answer = httpx.get(app.url + path, follow_redirects=False)
    assert answer.status_code in (401, 403) or (
        answer.status_code == 303 and answer.headers["location"] == "/login"
    )
    assert "content-security-policy" in answer.headers


def test_a_forged_or_logged_out_cookie_opens_nothing(app):
    with httpx.Client(base_url=app.url) as client:
        client.post("/login", data={"name": "ben", "password": PASSWORD})
        assert client.get("/api/diagnoses").status_code == 200
        stolen = dict(client.cookies)
        client.post("/logout")
    for cookies in (stolen, {"ddeval_session": "forged"}):
        assert httpx.get(app.url + "/api/diagnoses", cookies=cookies).status_code == 401


def test_the_session_cookie_is_hidden_from_scripts_and_kept_to_this_site(app):
    answer = httpx.post(app.url + "/login", data={"name": "ben", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_a_change_asked_for_by_another_site_is_refused(app):
    with httpx.Client(base_url=app.url) as client:
        client.post("/login", data={"name": "ben", "password": PASSWORD})
        for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
            assert client.post("/api/undo", json={}, headers=headers).status_code == 403


ROLE_ROUTES = {
    ("anna", "/api/screen"): 200,
    ("anna", "/api/hearing"): 403,
    ("cleo", "/api/screen"): 200,
    ("cleo", "/api/hearing"): 200,
    ("root", "/api/screen"): 403,
    ("root", "/api/hearing"): 403,
}


@pytest.mark.parametrize(("who", "path"), ROLE_ROUTES)
def test_a_role_reaches_its_own_routes_only(app, who, path):
    with httpx.Client(base_url=app.url) as client:
        client.post("/login", data={"name": who, "password": PASSWORD})
        assert client.get(path).status_code == ROLE_ROUTES[who, path]


def test_a_photograph_of_somebody_elses_screen_is_not_shown(app):
    with httpx.Client(base_url=app.url) as anna, httpx.Client(base_url=app.url) as ben:
        anna.post("/login", data={"name": "anna", "password": PASSWORD})
        ben.post("/login", data={"name": "ben", "password": PASSWORD})
        nonce = anna.get("/api/screen").json()["nonce"]
        assert anna.get(f"/api/photograph/{nonce}/0").status_code == 200
        assert ben.get(f"/api/photograph/{nonce}/0").status_code == 403


PAYLOADS = [
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "![x](http://127.0.0.1:9/track.png)",
    "[x](javascript:window.hit=1)",
    "<svg onload=window.hit=1>",
    "'; DROP TABLE events; --",
    "\u202e evil \x07",
]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_text_a_reader_writes_is_text_wherever_it_is_shown(app, browser, payload):
    """A note travels to the adjudicator's panel and to My work; nothing in it runs or is fetched."""
    with httpx.Client(base_url=app.url) as client:
        client.post("/login", data={"name": "ben", "password": PASSWORD})
        screen = client.get("/api/screen").json()
        time.sleep(0.3)
        body = {"nonce": screen["nonce"], "diagnoses": ["Acne"], "gradable": "yes", "note": payload}
        assert client.post("/api/answer", json=body).status_code == 200
    log_in(browser, app, "ben")
    ready(browser)
    browser.get_log("performance")
    browser.get(f"{app.url}/my_work")
    time.sleep(2.5)
    assert browser.execute_script("return window.hit") is None
    log = json.dumps(browser.get_log("performance"))
    assert "track.png" not in log


def test_a_huge_or_broken_request_is_refused_and_the_server_goes_on(app):
    with httpx.Client(base_url=app.url) as client:
        client.post("/login", data={"name": "ben", "password": PASSWORD})
        assert client.post("/api/answer", content=b"x" * 1_000_000).status_code == 409
        for content in (
            b"",
            b"[]",
            b"{",
            b'{"nonce": 1}',
            b'{"diagnoses": ["no such disease"], "nonce": "x"}',
        ):
            answer = client.post("/api/answer", content=content)
            assert answer.status_code in (400, 409)
            assert "Traceback" not in answer.text
        assert client.get("/api/screen").status_code == 200


@pytest.mark.parametrize("width", [1440, 834, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_screen_has_no_barrier_of_wcag_a_or_aa(app, browser, width, scheme):
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    log_in(browser, app, "anna")
    ready(browser)
    assert barriers(browser, axe_source()) == []
    assert look(browser, "document.documentElement.scrollWidth <= innerWidth")
