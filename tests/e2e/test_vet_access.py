"""Who reaches what: nothing without a session, each role its own, and no text of anybody's runs anywhere."""

import http.client
import json
import re
import sqlite3
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2 as httpx
import pytest

from ddeval.vet.accounts import invite, set_active, use_link
from ddeval.vet.store import Store
from tests.e2e.vet_browser import log_in, look, outside
from tests.e2e.vet_server import PASSWORD, App, make_project

pytestmark = pytest.mark.e2e

APP = Path(__file__).parents[2] / "apps" / "vet" / "routes.py"
OWN_ROUTES = re.findall(r'\("(/[^"]*)", "(GET|POST)", \w+\)', APP.read_text())
PLATFORM_ROUTES = [
    "/",
    "/read",
    "/my_work",
    "/users",
    "/dashboard",
    "/index.html",
    "/media/0123456789abcdef.jpg",
    "/_stcore/host-config",
    "/_stcore/metrics",
    "/_stcore/allowed-message-origins",
    "/_stcore/script-health-check",
    "/_stcore/upload_file/x/y",
    "/_stcore/bidi-components/ddeval_viewer/x.js",
    "/static/js/index.js",
    "/component/x/index.html",
    "/oauth2callback",
    "/auth/login",
    "/auth/logout",
    "/api/../users",
    "//users",
    "/%2e%2e/users",
]


@contextmanager
def logged_in(app, who):
    with httpx.Client(base_url=app.url) as client:
        assert client.post("/login", data={"name": who, "password": PASSWORD}).status_code == 303
        yield client


def test_the_table_of_routes_was_found():
    assert len(OWN_ROUTES) >= 16


@pytest.mark.parametrize(
    ("method", "path"), [(m, p) for p, m in OWN_ROUTES] + [("GET", p) for p in PLATFORM_ROUTES]
)
def test_without_a_session_every_route_is_shut(app, method, path):
    filled = path.replace("{nonce}", "x").replace("{number:int}", "0").replace("{pair:int}", "1")
    filled = filled.replace("{side}", "a").replace("{token}", "x")
    if path in ("/login", "/link/{token}"):
        return  # the way in itself
    answer = httpx.request(method, app.url + filled, follow_redirects=False)
    assert answer.status_code in (401, 403) or (path, answer.headers.get("location")) == ("/", "/login")
    assert "content-security-policy" in answer.headers
    assert len(answer.content) < 100


@pytest.mark.parametrize("cookie", ["", "ddeval_session=forged"])
@pytest.mark.parametrize("path", ["/_stcore/stream", "/"])
def test_no_websocket_opens_without_a_session(app, path, cookie):
    status = handshake(app, path, {"Cookie": cookie})
    assert status in (401, 403)


def test_a_websocket_opens_with_a_session_and_not_from_another_site(app):
    with logged_in(app, "ben") as client:
        cookie = f"ddeval_session={client.cookies['ddeval_session']}"
    assert handshake(app, "/_stcore/stream", {"Cookie": cookie}) == 101
    assert handshake(app, "/_stcore/stream", {"Cookie": cookie, "Origin": "http://evil.example"}) == 403


def handshake(app, path, headers):
    """Status of a websocket handshake; 101 is an open one."""
    connection = http.client.HTTPConnection("127.0.0.1", app.port, timeout=10)
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13",
               "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==", "Origin": app.url}  # fmt: skip
    connection.request("GET", path, headers={**upgrade, **headers})
    status = connection.getresponse().status
    connection.close()
    return status


def _expire(app, column, age):
    past = (datetime.now(UTC) - age).isoformat(timespec="microseconds")
    raw = sqlite3.connect(app.folder / "vet.db")
    with raw:
        raw.execute(f"UPDATE sessions SET {column} = ? WHERE user = 'mona'", (past,))
    raw.close()


@pytest.fixture
def mona(app):
    """A reader of this test alone, and her cookie."""
    store = Store(app.folder / "vet.db")
    if not any(a == "mona" for a in codes(app)):
        use_link(store, invite(store, "mona", role="reader"), PASSWORD)
    set_active(store, "mona", is_active=True)
    with logged_in(app, "mona") as client:
        yield client, store
    store.close()


def codes(app):
    raw = sqlite3.connect(app.folder / "vet.db")
    found = [row[0] for row in raw.execute("SELECT code FROM users")]
    raw.close()
    return found


@pytest.mark.parametrize("ending", ["logged out", "too old", "idle", "disabled", "forged", "changed"])
def test_a_cookie_is_worth_nothing_when_its_session_has_ended(app, mona, ending):
    client, store = mona
    stolen = client.cookies["ddeval_session"]
    assert client.get("/api/diagnoses").status_code == 200
    if ending == "logged out":
        client.post("/logout")
    elif ending == "too old":
        _expire(app, "expires_utc", timedelta(seconds=1))
    elif ending == "idle":
        _expire(app, "seen_utc", timedelta(hours=12, seconds=1))
    elif ending == "disabled":
        set_active(store, "mona", is_active=False)
    elif ending == "forged":
        stolen = "forged"
    else:
        stolen = stolen[:-1] + ("A" if stolen[-1] != "A" else "B")
    with httpx.Client(base_url=app.url, cookies={"ddeval_session": stolen}) as thief:
        assert thief.get("/api/diagnoses").status_code == 401
        assert thief.post("/api/answer", json={"nonce": "x"}).status_code == 401
    assert handshake(app, "/_stcore/stream", {"Cookie": f"ddeval_session={stolen}"}) == 403


def test_the_session_cookie_is_hidden_from_scripts_and_kept_to_this_site(app):
    answer = httpx.post(app.url + "/login", data={"name": "ben", "password": PASSWORD})
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie


def test_a_cookie_set_before_log_in_is_not_taken_over(app):
    """No fixation: whatever cookie a browser had, log-in gives a new one."""
    with httpx.Client(base_url=app.url, cookies={"ddeval_session": "chosen by a thief"}) as client:
        answer = client.post("/login", data={"name": "ben", "password": PASSWORD})
        assert "chosen" not in answer.headers["set-cookie"]
    with httpx.Client(base_url=app.url, cookies={"ddeval_session": "chosen by a thief"}) as thief:
        assert thief.get("/api/screen").status_code == 401


def test_a_change_asked_for_by_another_site_is_refused(app):
    with logged_in(app, "ben") as client:
        for headers in (
            {"origin": "http://evil.example"},
            {"sec-fetch-site": "cross-site"},
            {"origin": "null"},
        ):
            assert client.post("/api/undo", json={}, headers=headers).status_code == 403
            assert client.post("/logout", headers=headers).status_code == 403


ROLES = {"anna": "reader", "cleo": "adjudicator", "root": "admin"}
MAY = {
    "/api/diagnoses": {"anna", "cleo", "root"},
    "/api/screen": {"anna", "cleo"},
    "/api/answer": {"anna", "cleo"},
    "/api/draft": {"anna", "cleo"},
    "/api/aside": {"anna", "cleo"},
    "/api/undo": {"anna", "cleo"},
    "/api/hearing": {"cleo"},
    "/api/adjudicate": {"cleo"},
    "/api/pair/1/a": {"cleo"},
}
POSTED = ("answer", "draft", "aside", "undo", "adjudicate")


@pytest.mark.parametrize("who", ROLES)
def test_a_role_reaches_its_own_routes_only(app, who):
    reached = set()
    with logged_in(app, who) as client:
        for path in MAY:
            method = "POST" if path.rsplit("/", 1)[1] in POSTED else "GET"
            answer = client.request(method, path, **({"json": {}} if method == "POST" else {}))
            reached |= {path} if answer.status_code != 403 else set()
    assert reached == {path for path, allowed in MAY.items() if who in allowed}


PAGES = {"anna": {"Vet", "My work", "Plain form"},
         "cleo": {"Vet", "My work", "Plain form", "Adjudicate", "Duplicates"},
         "root": {"Dashboard", "Users"}}  # fmt: skip
ADDRESSES = {"Vet": "read", "My work": "my_work", "Plain form": "plain", "Adjudicate": "adjudicate",
             "Duplicates": "duplicates", "Dashboard": "dashboard", "Users": "users"}  # fmt: skip


@pytest.mark.parametrize(
    "who", ["anna", *(pytest.param(w, marks=pytest.mark.slow) for w in ("cleo", "root"))]
)
def test_a_role_sees_its_own_pages_and_cannot_open_another_by_its_address(app, browser, who):
    log_in(browser, app.url, who)
    text = settle(browser)
    assert {name for name in ADDRESSES if re.search(rf"(?m)^{name}$", text)} >= PAGES[who] - {
        "Vet",
        "Dashboard",
    }
    for name in ADDRESSES.keys() - PAGES[who]:
        browser.get(f"{app.url}/{ADDRESSES[name]}")
        text = settle(browser)
        assert not re.search(rf"(?m)^{name}$", text), f"{who} sees {name}"
        assert look(browser, "$('readings') && !$('readings').hidden") in (None, False)


def settle(browser):
    """Text of the page once it has stopped changing."""
    text, end = "", time.monotonic() + 10
    while time.monotonic() < end:
        time.sleep(0.25)
        now = browser.execute_script("return document.body.innerText")
        if now == text and "Log out" in now:
            break
        text = now
    return text


def test_a_photograph_of_somebody_elses_screen_is_not_shown(app):
    with logged_in(app, "anna") as anna, logged_in(app, "ben") as ben:
        nonce = anna.get("/api/screen").json()["nonce"]
        assert anna.get(f"/api/photograph/{nonce}/0").status_code == 200
        assert ben.get(f"/api/photograph/{nonce}/0").status_code == 403
        assert ben.post("/api/draft", json={"nonce": nonce, "draft": {}}).json() == {"kept": False}
        assert ben.post("/api/aside", json={"nonce": nonce, "kind": "skip"}).status_code == 409


def test_a_huge_or_broken_request_is_refused_and_the_server_goes_on(app):
    with logged_in(app, "ben") as client:
        assert client.post("/api/answer", content=b"x" * 1_000_000).status_code == 409
        nonce = client.get("/api/screen").json()["nonce"]
        good = {"nonce": nonce, "diagnoses": ["Acne"], "gradable": "yes"}
        broken = [
            b"", b"[]", b"{", b'{"nonce": 1}', b"\xff\xfe",
            b'{"diagnoses": ["no such disease"], "nonce": "x"}',
            *(json.dumps({**good, **bad}).encode() for bad in (
                {"gradable": "<b>"}, {"sure": 9}, {"sure": "5"}, {"poor_photographs": ["x"]},
                {"display": [1]},
                {"display": {"a": "x"}}, {"exit": "sleepy", "diagnoses": []}, {"diagnoses": "Acne"},
                {"diagnoses": ["Acne"] * 4}, {"confidences": [7]}, {"note": "x" * 4001}, {"nonce": None},
            )),
        ]  # fmt: skip
        before = app.n_events("ben")
        for content in broken:
            answer = client.post("/api/answer", content=content)
            assert answer.status_code in (400, 409), content
            assert "Traceback" not in answer.text
            assert "Error" not in answer.text
        assert app.n_events("ben") == before
        assert client.get("/api/screen").json()["nonce"] == nonce


HIT = "window.hit=1"
TRACK = "http://127.0.0.1:9/track.png"
PAYLOADS = [
    f"<script>{HIT}</script>", f"<img src=x onerror={HIT}>", f"![x]({TRACK})", f"[x](javascript:{HIT})",
    f"<svg onload={HIT}>", f"<iframe src=javascript:parent.{HIT}>", f"<a href=javascript:{HIT}>x</a>",
    f"<body onload={HIT}>", f"<details open ontoggle={HIT}>", f"<video src=x onerror={HIT}>",
    f"<input autofocus onfocus={HIT}>", f"<link rel=stylesheet href={TRACK}>", f"<img src={TRACK}>",
    f"<style>@import '{TRACK}'</style>", f"<div style='background:url({TRACK})'>", f"<object data={TRACK}>",
    f"<meta http-equiv=refresh content='0;url={TRACK}'>", f"<form action={TRACK}><button>x</button></form>",
    f'" onmouseover="{HIT}" x="', f"' autofocus onfocus='{HIT}", f"</textarea><script>{HIT}</script>",
    f"</strong><script>{HIT}</script>", f"{{{{constructor.constructor('{HIT}')()}}}}", f"${{{HIT}}}",
    f"`{HIT}`", f"$$\\href{{javascript:{HIT}}}{{x}}$$", f"<{TRACK}>",
    f"[![x]({TRACK})]({TRACK})",
    f"![x][1]\n\n[1]: {TRACK}", f":material/x: ![x]({TRACK})", f":red[<img src=x onerror={HIT}>]",
    f"&lt;script&gt;{HIT}&lt;/script&gt;", f"<scr<script>ipt>{HIT}</scr</script>ipt>",
    f"<math><mi xlink:href='data:x,<script>{HIT}</script>'>",
    f"javascript:{HIT}", f"data:text/html,<script>{HIT}</script>", f"\u202e<script>{HIT}</script>\x07",
    f"=HYPERLINK(\"{TRACK}\")", "'; DROP TABLE events; --", f"<base href={TRACK}>",
]  # fmt: skip


@pytest.fixture
def poisoned(tmp_path, n):
    """A server whose store holds payloads in each text a person may write."""
    make_project(tmp_path, n_cases=n + 2, n_files=5)
    running = App(tmp_path)
    write_payloads(running, PAYLOADS[:n])
    yield running
    running.end()


def write_payloads(app, payloads):
    """Two readers differ on every case, a payload in each note; one case is reported, one half done."""
    with logged_in(app, "anna") as anna, logged_in(app, "ben") as ben:
        report = {"nonce": ben.get("/api/screen").json()["nonce"], "kind": "report"}
        assert ben.post("/api/aside", json={**report, "reason": "\n".join(payloads)}).status_code == 200
        for client, said, n in ((anna, "Acne", len(payloads) + 1), (ben, "Vitiligo", len(payloads))):
            for i in range(n):
                nonce = client.get("/api/screen").json()["nonce"]
                time.sleep(0.26)
                note = payloads[i % len(payloads)]
                body = {"nonce": nonce, "diagnoses": [said], "gradable": "yes", "note": note}
                assert client.post("/api/answer", json=body).status_code == 200
        nonce = ben.get("/api/screen").json()["nonce"]
        draft = {"diagnoses": payloads[:3], "note": "\n".join(payloads)[:4000], "exit": payloads[0]}
        assert ben.post("/api/draft", json={"nonce": nonce, "draft": draft}).status_code == 200
    store = Store(app.folder / "vet.db")
    for i, payload in enumerate(payloads):
        invite(store, f"p{i}", role="reader", name=payload, email=f"{i}{payload}", qualification=payload)
    store.close()
    raw = sqlite3.connect(app.folder / "vet.db")
    with raw:  # the dashboard shows the qualification of who has read
        raw.execute("UPDATE users SET qualification = ? WHERE code = 'anna'", ("\n".join(payloads),))
    raw.close()


@pytest.mark.parametrize("n", [4, pytest.param(len(PAYLOADS), marks=pytest.mark.slow)])
@pytest.mark.timeout(1200)
def test_text_a_person_writes_is_text_wherever_it_is_shown(poisoned, browser, n):
    """Nothing in it runs and nothing is fetched, on any page of any role that shows it."""
    assert len(PAYLOADS) == 40
    browser.get_log("performance")
    shown = ""

    def visit(page):
        browser.get(f"{poisoned.url}/{page}")
        text = settle(browser)
        assert browser.execute_script("return window.hit") is None, page
        assert "Something went wrong" not in text, page
        return text + str(look(browser, "$('heard').textContent + $('note').value"))

    for who, pages in (("ben", ["", "my_work", "plain"]), ("root", ["", "users"])):
        log_in(browser, poisoned.url, who)
        for page in pages:
            shown += visit(page)
    log_in(browser, poisoned.url, "cleo")
    with logged_in(poisoned, "cleo") as cleo:
        for _ in range(n):
            shown += visit("adjudicate")
            body = {
                "nonce": cleo.get("/api/hearing").json()["nonce"],
                "diagnoses": ["Acne"],
                "gradable": "yes",
            }
            assert cleo.post("/api/adjudicate", json=body).status_code == 200
    for payload in PAYLOADS[:n]:
        answer = httpx.post(poisoned.url + "/login", data={"name": payload, "password": payload})
        assert payload not in answer.text or not set("<>\"'&") & set(payload)
    assert outside(browser, poisoned.url) == []
    missing = [p for p in PAYLOADS[:n] if " ".join(p.split()) not in " ".join(shown.split())]
    assert missing == []  # all of it was shown, as text
