"""The viewer component: photographs, keyboard and form in the browser, mounted once a page."""

from functools import cache
from pathlib import Path
from typing import Any, Literal

import streamlit as st

from apps.vet import server
from apps.vet.desk import Desk
from ddeval.vet.accounts import Account
from ddeval.vet.batches import Batch

VIEWER = Path(__file__).parent / "viewer"


def viewer(desk: Desk, account: Account, batch: Batch, *, task: Literal["read", "adjudicate"]) -> None:
    """Mount the screen. Cases and answers travel between it and the server's own routes, not through here."""
    st.html("<span data-viewer></span>")
    _component()(
        data={
            "api": f"{server.PREFIX}/api",
            "reader": account.code,
            "batch": batch.name,
            "is_synthetic": desk.is_synthetic,
            "task": task,
        },
        key=f"viewer-{task}",
    )


@cache
def _component() -> Any:
    return st.components.v2.component(
        "ddeval_viewer",
        html=(VIEWER / "viewer.html").read_text(),
        css=(VIEWER / "viewer.css").read_text(),
        js=(VIEWER / "viewer.js").read_text(),
    )
