"""Adjudicate: a case on which two readers differ, their readings under letters."""

import streamlit as st

from apps.vet.view import viewer

batches = st.session_state["desk"].open_batches()
if not batches:
    st.info("There is no open batch, so there is nothing to settle.")
    st.stop()
viewer(st.session_state["desk"], st.session_state["account"], batches[0], task="adjudicate")
