"""Vet: one case a screen, blind."""

import streamlit as st

from apps.vet.view import viewer

desk, account = st.session_state["desk"], st.session_state["account"]
batch = desk.reading_now(account)
if batch is None:
    st.info("There is no open batch for you. Your admin opens one with `ddeval vet open`.")
    st.stop()
viewer(desk, account, batch, task="read")
