"""Hands and eyes for the vetting app in a browser: log in, look, press keys, read all traffic."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.e2e.vet_server import PASSWORD

IN_VIEWER = (
    "const host = [...document.querySelectorAll('*')].find(e => e.shadowRoot?.getElementById('desk'));"
    "const root = host?.shadowRoot; const $ = id => root?.getElementById(id);"
)
READY = "!$('save').disabled && $('position').textContent"
NONCE = "root.host.getAttribute('data-seen')"
STATE = "$('state').textContent"
CHOSEN = "[...root.querySelectorAll('#chosen strong')].map(e => e.textContent)"
DWELL = 0.3
"""The app's 250 ms before a press counts, and a little."""


def resize(
    driver: webdriver.Chrome, width: int, height: int = 900, *, scale: float = 1, scheme: str = "light"
):
    """A window of that size in CSS pixels; `scale` 2 with half the width is what 200 % zoom makes of it."""
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 500},
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def log_in(driver: webdriver.Chrome, url: str, name: str, password: str = PASSWORD) -> None:
    driver.get(f"{url}/login")
    driver.delete_all_cookies()
    driver.get(f"{url}/login")
    driver.find_element("id", "name").send_keys(name)
    driver.find_element("id", "password").send_keys(password)
    driver.find_element("css selector", "button").click()
    end = time.monotonic() + 20
    while driver.current_url.endswith("/login") and time.monotonic() < end:
        time.sleep(0.05)


def look(driver: webdriver.Chrome, expression: str) -> Any:
    """A value from inside the viewer component; None while it is not there."""
    return driver.execute_script(f"{IN_VIEWER} if (!root) return null; return ({expression});")


def do(driver: webdriver.Chrome, statement: str) -> None:
    driver.execute_script(f"{IN_VIEWER} {statement}")


def wait_for(driver: webdriver.Chrome, expression: str, *, seconds: float = 20) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if (value := look(driver, expression)) is not None and value is not False:
            return value
        time.sleep(0.02)
    raise TimeoutError(f"{expression} stayed false for {seconds} s")


def ready(driver: webdriver.Chrome) -> str:
    """Wait until a case can be answered and the dwell is over; its place in the batch."""
    place = str(wait_for(driver, READY))
    time.sleep(DWELL)
    return place


def next_ready(driver: webdriver.Chrome, nonce: str, *, seconds: float = 20) -> None:
    """Wait until another case than that of `nonce` is on the screen."""
    wait_for(driver, f"{READY} && {NONCE} !== {json.dumps(nonce)}", seconds=seconds)


def keys(driver: webdriver.Chrome, *texts: str, gap: float = 0.0) -> None:
    chain = ActionChains(driver, duration=0)
    for text in texts:
        for key in text if gap else [text]:
            chain.send_keys(key)
            if gap:
                chain.pause(gap)
    chain.perform()


def read_one(driver: webdriver.Chrome, diagnosis: str = "psoriasis") -> None:
    """One case by keyboard alone; waits for the next one."""
    ready(driver)
    nonce = look(driver, NONCE)
    keys(driver, diagnosis, Keys.ENTER, Keys.ENTER)
    next_ready(driver, nonce)


def traffic(driver: webdriver.Chrome) -> Iterator[tuple[str, bytes]]:
    """(address, body) of every answer and websocket frame since the last call, decoded."""
    urls: dict[str, str] = {}
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        method, params = message["method"], message["params"]
        if method == "Network.webSocketCreated":
            urls[params["requestId"]] = params["url"]
        elif method == "Network.webSocketFrameReceived":
            frame = params["response"]
            text = frame["payloadData"]
            body = base64.b64decode(text) if frame["opcode"] == 2 else text.encode()
            yield urls.get(params["requestId"], "websocket"), body
        elif method == "Network.responseReceived":
            url = params["response"]["url"]
            yield url, json.dumps(params["response"]["headers"]).encode()
            if "/static/" in url or url.startswith(("data:", "blob:")):
                continue
            try:
                found = driver.execute_cdp_cmd("Network.getResponseBody", {"requestId": params["requestId"]})
            except WebDriverException:  # a body the browser has let go of
                continue
            body = found["body"]
            yield url, base64.b64decode(body) if found["base64Encoded"] else body.encode()


def outside(driver: webdriver.Chrome, url: str) -> list[str]:
    """Addresses of other hosts the page has asked for since the last call."""
    asked = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            asked.append(message["params"]["request"]["url"])
    own = (url, url.replace("http", "ws", 1), "data:", "blob:", "chrome:", "about:")
    return [address for address in asked if not address.startswith(own)]
