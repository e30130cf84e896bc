"""Through a real nginx: TLS, a prefix, single sign-on, a restart, and a lock-out that meets one reader."""

import re
import shutil
import ssl
import subprocess
import time
from pathlib import Path

import httpx2 as httpx
import pytest
import sqlalchemy as sa
from selenium.webdriver.common.keys import Keys

from ddeval.vet import schema
from ddeval.vet.store import Store, now_utc
from tests.e2e.provider import PEOPLE, IdentityProvider
from tests.e2e.vet_browser import NONCE, keys, log_in, look, next_ready, read_one, ready
from tests.e2e.vet_server import PASSWORD, App, free_port, make_project

pytestmark = pytest.mark.e2e

DEPLOY = Path(__file__).parents[2] / "docs" / "deploy.md"


class Proxied:
    """The app behind nginx as docs/deploy.md writes it, at https://localhost:PORT/vet."""

    def __init__(self, folder: Path) -> None:
        nginx, openssl = shutil.which("nginx", path="/usr/sbin:/usr/bin"), shutil.which("openssl")
        if nginx is None or openssl is None:
            pytest.skip("not found: nginx")
        self.nginx, self.folder, self.port = nginx, folder, free_port()
        self.url = f"https://localhost:{self.port}/vet"
        make_project(folder / "project", n_cases=60, n_files=20)
        self.provider = IdentityProvider()
        self.app = App(folder / "project", public_url=self.url, oidc_issuer=self.provider.issuer)
        subprocess.run(
            [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", folder / "key.pem",
             "-out", folder / "cert.pem"],
            check=True, capture_output=True,
        )  # fmt: skip
        (folder / "nginx.conf").write_text(self.configuration())
        self.start()

    def configuration(self) -> str:
        """The block of the manual with this test's ports, names and files in it."""
        block = re.search(r"```nginx\n(.*?)```", DEPLOY.read_text(), re.DOTALL)[1]
        for before, after in (
            ("listen 443 ssl;", f"listen 127.0.0.1:{self.port} ssl;"),
            ("vet.clinic.example", "localhost"),
            ("127.0.0.1:8501", f"127.0.0.1:{self.app.port}"),
            ("/etc/ssl/vet/cert.pem", f"{self.folder}/cert.pem"),
            ("/etc/ssl/vet/key.pem", f"{self.folder}/key.pem"),
        ):
            assert before in block
            block = block.replace(before, after)
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        return (
            f"daemon off;\npid {self.folder}/pid;\nerror_log {self.folder}/error.log;\nevents {{}}\n"
            f"http {{\naccess_log off;\n{temporary}{block}}}\n"
        )

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.nginx, "-p", self.folder, "-c", self.folder / "nginx.conf"], stderr=subprocess.DEVNULL
        )
        with self.client() as client:
            for _ in range(200):
                try:
                    if client.get("/vet/_stcore/health").status_code == 200:
                        return
                except httpx.HTTPError:
                    time.sleep(0.05)
        raise TimeoutError((self.folder / "error.log").read_text())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()

    def end(self) -> None:
        self.stop()
        self.app.end()
        self.provider.end()

    def note_guesses(self, address: str, *, n: int) -> None:
        """Failed log-ins of as many unknown names, without waiting for each to be hashed."""
        store = Store(self.folder / "project" / "vet.db")
        rows = [{"account_sha256": f"nobody{i}", "address": address, "ts_utc": now_utc()} for i in range(n)]
        with store.write() as connection:
            connection.execute(sa.insert(schema.attempts), rows)
        store.close()

    def client(self, address: str = "127.0.0.1") -> httpx.Client:
        """A client at that address of loopback, which trusts the certificate."""
        trust = ssl.create_default_context(cafile=str(self.folder / "cert.pem"))
        transport = httpx.HTTPTransport(verify=trust, local_address=address)
        return httpx.Client(base_url=f"https://localhost:{self.port}", transport=transport)


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    running = Proxied(tmp_path_factory.mktemp("proxied"))
    yield running
    running.end()


@pytest.fixture
def trusting(browser):
    """The browser, taking the test's own certificate."""
    browser.execute_cdp_cmd("Security.setIgnoreCertificateErrors", {"ignore": True})
    return browser


def test_a_case_is_read_behind_tls_and_a_prefix_and_again_after_both_restarted(proxied, trusting):
    log_in(trusting, proxied.url, "anna")
    read_one(trusting, "acne")
    nonce = look(trusting, NONCE)
    keys(trusting, "vitiligo", Keys.ENTER)
    time.sleep(1.0)
    proxied.stop()
    proxied.app.kill()
    keys(trusting, Keys.ENTER)
    time.sleep(0.5)
    assert look(trusting, "$('state').textContent") in ("saving…", "NOT SAVED")
    proxied.app.start()
    proxied.start()
    next_ready(trusting, nonce)
    assert [a.diagnoses for a in proxied.app.answers("anna")["answer"]] == [("Acne",), ("Vitiligo",)]
    trusting.refresh()
    assert ready(trusting) == "Case 3 of 60"


def test_the_cookie_is_secure_and_belongs_to_the_prefix(proxied):
    with proxied.client() as client:
        answer = client.post("/vet/login", data={"name": "ben", "password": PASSWORD})
        cookie = answer.headers["set-cookie"].lower()
        assert answer.status_code == 303
        assert answer.headers["location"] == "/vet/"
        assert "strict-transport-security" in answer.headers
    assert {"secure", "httponly", "samesite=lax", "path=/vet/"} <= set(re.split(r"; ", cookie))


@pytest.mark.parametrize(
    "path",
    ["/vet/", "/vet/api/screen", "/vet/media/0123456789abcdef.jpg", "/vet/_stcore/stream", "/vet/static/x"],
)
def test_nothing_is_open_behind_the_proxy_without_a_session(proxied, path):
    upgrade = {"upgrade": "websocket", "connection": "upgrade", "sec-websocket-version": "13",
               "sec-websocket-key": "x3JJHMbDL1EzLkh9GBhXDw==",
               "origin": f"https://localhost:{proxied.port}"}  # fmt: skip
    with proxied.client() as client:
        answer = client.get(path, headers=upgrade if "stream" in path else {})
    assert answer.status_code in (401, 403) or answer.headers.get("location") == "/vet/login"


@pytest.mark.parametrize("who", PEOPLE)
def test_single_sign_on_opens_the_account_the_provider_proves_and_no_other(proxied, who):
    with proxied.client() as client:
        assert "/vet/login/oidc" in client.get("/vet/login").text
        at_provider = client.get("/vet/login/oidc", follow_redirects=False).headers["location"]
        assert "code_challenge_method=S256" in at_provider
        back = httpx.get(f"{at_provider}&who={who}", follow_redirects=False).headers["location"]
        assert back.startswith(f"{proxied.url}/login/callback")
        answer = client.get(back.removeprefix(f"https://localhost:{proxied.port}"))
        inside = client.get("/vet/api/screen").status_code
        again = client.get(back.removeprefix(f"https://localhost:{proxied.port}")).status_code
    assert (answer.status_code, inside) == ((303, 200) if who == "anna" else (403, 401))
    assert again == 403  # a code and a state serve once
    assert "Traceback" not in answer.text


def test_an_answer_of_the_provider_to_another_browser_opens_nothing(proxied):
    with proxied.client() as mine, proxied.client() as theirs:
        at_provider = mine.get("/vet/login/oidc").headers["location"]
        back = httpx.get(f"{at_provider}&who=anna").headers["location"]
        path = back.removeprefix(f"https://localhost:{proxied.port}")
        assert theirs.get(path).status_code == 403
        assert mine.get(path).status_code == 303


def test_single_sign_on_works_in_the_browser(proxied, trusting):
    trusting.get(f"{proxied.url}/login")
    trusting.delete_all_cookies()
    trusting.get(f"{proxied.url}/login")
    trusting.find_element("link text", "Log in with your organisation").click()
    trusting.find_element("id", "anna").click()
    ready(trusting)
    assert look(trusting, "$('reader').textContent") == "reader anna"


def test_a_guesser_locks_one_account_and_shuts_out_nobody_else(proxied):
    """Ten guesses at one account: it waits, others do not; a hundred guesses shut the guesser's address."""
    guesser_address = "127.0.0.7"
    with proxied.client(guesser_address) as guesser, proxied.client("127.0.0.8") as ben:
        for _ in range(10):
            assert (
                guesser.post("/vet/login", data={"name": "cleo", "password": "a guess too many"}).status_code
                == 401
            )
        assert guesser.post("/vet/login", data={"name": "cleo", "password": PASSWORD}).status_code == 429
        assert ben.post("/vet/login", data={"name": "ben", "password": PASSWORD}).status_code == 303
        proxied.note_guesses(guesser_address, n=90)
        assert guesser.post("/vet/login", data={"name": "ben", "password": PASSWORD}).status_code == 429
        forged = {"x-forwarded-for": "10.1.2.3"}
        answer = guesser.post("/vet/login", data={"name": "ben", "password": PASSWORD}, headers=forged)
        assert answer.status_code == 429  # nginx says where a request came from, the guesser does not
        assert ben.post("/vet/login", data={"name": "ben", "password": PASSWORD}).status_code == 303
