"""Vet: one case a screen, blind."""

import streamlit as st

from apps.vet.view import viewer

batches = st.session_state["desk"].open_batches()
if not batches:
    st.info("There is no open batch. Your admin opens one with `ddeval vet open`.")
    st.stop()
viewer(st.session_state["desk"], st.session_state["account"], batches[0], task="read")
