"""The server: Streamlit's pages and our routes behind one guard, on one address.

It binds to loopback unless told otherwise, and refuses to be reached from elsewhere without accounts.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from apps.vet.desk import Desk
from apps.vet.guard import Guard
from apps.vet.routes import routes
from apps.vet.sign_on import SignOn
from ddeval.errors import InputError
from ddeval.vet.accounts import accounts
from ddeval.vet.store import is_private

HERE = Path(__file__).parent

LOOPBACK = ("127.0.0.1", "localhost", "::1")

OPTIONS: dict[str, Any] = {
    "browser.gatherUsageStats": False,
    "client.showErrorDetails": "none",
    "client.toolbarMode": "minimal",
    "client.disableDataExport": True,
    "server.enableStaticServing": False,
    "server.headless": True,
    "server.fileWatcherType": "none",
    "server.maxUploadSize": 1,
    "server.maxMessageSize": 10,
    "theme.light.primaryColor": "#0b5c8f",
    "theme.dark.primaryColor": "#7cc0ee",
}
"""Streamlit settings: nothing is sent out, no error detail reaches a browser, nothing can be uploaded."""


@dataclass(frozen=True)
class Address:
    """Where the server listens and under which address readers reach it."""

    host: str = "127.0.0.1"
    port: int = 8501
    public_url: str = ""
    """As readers type it, e.g. https://vet.clinic.example/vet; empty on one's own machine."""
    trusted_proxies: tuple[str, ...] = ()
    """Networks whose X-Forwarded-For is believed."""
    is_exposed_on_purpose: bool = False
    sign_on: SignOn | None = None
    """An OpenID provider whose users may log in too."""

    @property
    def prefix(self) -> str:
        return urlsplit(self.public_url).path.rstrip("/")


DESK: Desk | None = None
"""The desk of this process, for Streamlit's page scripts, which take no arguments."""

PREFIX = ""
"""Path under which this process is reached."""

PUBLIC_URL = ""
"""Address readers type; empty where none was named."""


def check_exposure(desk: Desk, address: Address) -> None:
    """An InputError unless the server is reachable from this machine only, or meant to be and locked."""
    if address.host in LOOPBACK:
        return
    people = [a for a in accounts(desk.store) if a.is_active]
    problem = ""
    if not address.is_exposed_on_purpose:
        problem = "no --expose"
    elif not people:
        problem = "no account"
    elif desk.store.path is not None and not is_private(desk.store.path):
        problem = f"a store others can read ({desk.store.path})"
    if problem:
        raise InputError(
            f"--host {address.host}",
            problem,
            expected="accounts, a private store and --expose before anyone else can reach the server",
            todo="Stay on 127.0.0.1 behind a proxy (docs/deploy.md); `ddeval vet user add` adds accounts.",
        )


def build(desk: Desk, address: Address) -> Any:
    """The ASGI application."""
    global DESK, PREFIX, PUBLIC_URL
    DESK, PREFIX, PUBLIC_URL = desk, address.prefix, address.public_url.rstrip("/")
    import streamlit as st
    from streamlit import config

    for name, value in OPTIONS.items():
        config.set_option(name, value)
    if address.prefix:
        config.set_option("server.baseUrlPath", address.prefix.strip("/"))
    app = st.App(
        HERE / "page.py",
        routes=routes(desk, prefix=address.prefix, public_url=address.public_url, sign_on=address.sign_on),
        on_script_error=_hide_error,
    )
    return Guard(
        app,
        store=desk.store,
        prefix=address.prefix,
        public_url=address.public_url,
        trusted_proxies=address.trusted_proxies,
    )


def serve(desk: Desk, address: Address) -> None:
    """Serve until interrupted."""
    import uvicorn

    check_exposure(desk, address)
    uvicorn.run(
        build(desk, address),
        host=address.host,
        port=address.port,
        log_level="warning",
        server_header=False,
        proxy_headers=False,  # the guard decides whose forwarded address counts
        ws_max_size=1024 * 1024,
    )


def _hide_error(error: Exception) -> bool:
    """Log an error under an id; the browser learns the id and nothing else."""
    import logging
    import secrets

    import streamlit as st

    number = secrets.token_hex(4)
    logging.getLogger("ddeval.vet").error("error %s in a page", number, exc_info=error)
    st.error(f"Something went wrong on our side (number {number}). Your saved readings are safe.")
    return True
