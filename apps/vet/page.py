"""The page a reader opens: who they are, and which pages their role has."""

from pathlib import Path

import streamlit as st

from apps.vet import server
from apps.vet.guard import COOKIE
from ddeval.vet.accounts import account_of

VIEWER = Path(__file__).parent / "viewer"

st.set_page_config(page_title="ddeval vet", layout="wide", initial_sidebar_state="collapsed")

desk = server.DESK
account = account_of(desk.store, st.context.cookies.get(COOKIE)) if desk else None
if desk is None or account is None:
    st.error("Your session has ended. Reload the page to log in.")
    st.stop()

viewer = st.components.v2.component(
    "ddeval_viewer",
    html=(VIEWER / "viewer.html").read_text(),
    css=(VIEWER / "viewer.css").read_text(),
    js=(VIEWER / "viewer.js").read_text(),
)
batch = desk.batch_of(None)
viewer(
    data={
        "api": f"{server.PREFIX}/api",
        "reader": account.code,
        "batch": batch.name,
        "is_synthetic": desk.is_synthetic,
    },
    key="viewer",
)
