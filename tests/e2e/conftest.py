"""Fixtures of the browser tests."""

from collections.abc import Iterator

import pytest
from selenium import webdriver

from tests.e2e.chromium import chromium
from tests.e2e.vet_browser import resize
from tests.e2e.vet_server import App, make_project


@pytest.fixture(scope="module")
def app(tmp_path_factory) -> Iterator[App]:
    """A vetting server over 400 cases; nothing that kills it may use this one."""
    folder = tmp_path_factory.mktemp("vet")
    make_project(folder, n_cases=400)
    running = App(folder)
    yield running
    running.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as driver:
        resize(driver, 1440)
        yield driver
