"""A real browser for a page: headless Chromium without a network, and axe-core to look for barriers."""

import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

AXE_VERSION = "4.14.1"
WCAG_AA = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa")
DESK, PHONE = 1440, 390


@contextmanager
def chromium() -> Iterator[webdriver.Chrome]:
    """A browser that notes its requests and its console; the test is skipped by name where there is none."""
    binary, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or chromedriver is None:
        pytest.skip("not found: chromium")
    options = Options()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
                     "--disable-dev-shm-usage", "--hide-scrollbars"):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(chromedriver))
    try:
        yield driver
    finally:
        driver.quit()


def show(
    driver: webdriver.Chrome, path: Path, *, width: int = DESK, scheme: str = "light", media: str = ""
) -> None:
    """Open the file without a network, in a window or a phone of `width`, in a colour scheme."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width <= 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    driver.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    driver.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    driver.get(path.as_uri())


def requests_since(driver: webdriver.Chrome) -> list[str]:
    """Addresses asked for since the last call, but for the file itself and images written into it."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return [url for url in urls if not url.startswith(("data:", "file:"))]


def complaints(driver: webdriver.Chrome) -> list[str]:
    """What the browser wrote into its console: errors and refusals of the page's policy."""
    return [entry["message"] for entry in driver.get_log("browser")]


def axe_source() -> str:
    """axe-core as text, installed once by npm into a folder for temporary files."""
    folder = Path(tempfile.gettempdir()) / f"ddeval-axe-core-{AXE_VERSION}"
    script = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not script.is_file():
        npm = shutil.which("npm")
        if npm is None:
            pytest.skip("not found: npm")
        folder.mkdir(exist_ok=True)
        install = [npm, "install", "--silent", "--no-audit", "--no-fund", f"axe-core@{AXE_VERSION}"]
        done = subprocess.run(
            [*install, "--prefix", str(folder)], capture_output=True, text=True, check=False
        )
        if not script.is_file():
            pytest.skip(f"not found: axe-core (npm said: {done.stderr.strip()[-200:]})")
    return script.read_text()


def barriers(driver: webdriver.Chrome, axe: str) -> list[str]:
    """Violations of WCAG A and AA on the page as it stands, one line each."""
    driver.execute_cdp_cmd("Runtime.evaluate", {"expression": axe})
    driver.set_script_timeout(120)
    found: list[dict[str, Any]] = driver.execute_async_script(
        "const [tags, done] = arguments; axe.run(document, {runOnly: {type: 'tag', values: tags}})"
        ".then(r => done(r.violations.map(v => ({id: v.id, nodes: v.nodes.length,"
        " first: v.nodes[0].html.slice(0, 160), why: v.nodes[0].failureSummary}))))",
        list(WCAG_AA),
    )
    return [f"{v['id']} x{v['nodes']}: {v['first']} {v['why']}" for v in found]
