"""Adjudicate: a case on which readers differ, their readings under letters."""

import streamlit as st

from apps.vet.view import viewer
from ddeval.vet.outcomes import case_outcomes, open_cases

desk, account = st.session_state["desk"], st.session_state["account"]
if not account.may("adjudicate"):
    st.stop()
batches = desk.open_batches()
if not batches:
    st.info("There is no open batch, so there is nothing to settle.")
    st.stop()
waiting = [
    b
    for b in batches
    if open_cases(case_outcomes(desk.store, b, class_of=desk.class_of), adjudicator=account.code)
]
viewer(desk, account, (waiting or batches)[0], task="adjudicate")
