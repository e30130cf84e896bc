"""Duplicates: two photographs side by side, one decision; nothing of labels, splits or scores."""

import time
from urllib.parse import quote

import streamlit as st

from apps.vet import server
from apps.vet.desk import Desk
from ddeval.vet.accounts import Account
from ddeval.vet.batches import Batch
from ddeval.vet.pairs import Decision, Pair, decide, next_pair, take_back
from ddeval.vet.reading import DWELL_SECONDS, Refused

WORDS: dict[Decision, str] = {
    "same_photograph": "Same photograph",
    "same_lesion": "Same lesion, two photographs",
    "different": "Different",
    "cannot_tell": "Cannot tell",
}


def answer(desk: Desk, batch: Batch, account: Account, pair: Pair, decision: Decision) -> None:
    """One press: a decision on the pair it was pressed for, once that pair has been on the screen."""
    if time.monotonic() - st.session_state["pair_since"] < DWELL_SECONDS:
        return
    try:
        decide(desk.store, batch, account.code, pair, decision)
        st.session_state["pair_note"] = f"saved ✓ {WORDS[decision].lower()}"
    except Refused as refusal:
        st.session_state["pair_note"] = str(refusal)


def back(desk: Desk, batch: Batch, account: Account) -> None:
    """The last decision taken back."""
    try:
        take_back(desk.store, batch, account.code)
        st.session_state["pair_note"] = "taken back"
    except Refused as refusal:
        st.session_state["pair_note"] = str(refusal)


desk, account = st.session_state["desk"], st.session_state["account"]
if not account.may("adjudicate"):
    st.stop()
st.title("Duplicates")
batches = [b for b in desk.open_batches() if next_pair(desk.store, b)] or desk.open_batches()
if not batches:
    st.info("There is no open batch, so there is nothing to decide.")
    st.stop()
batch = batches[0]
pair = next_pair(desk.store, batch)
st.text(st.session_state.pop("pair_note", ""))
if pair is None:
    st.info("Every pair of this batch is decided.")
else:
    if st.session_state.get("pair_shown") != (pair.pair, pair.revision):
        st.session_state["pair_shown"] = (pair.pair, pair.revision)
        st.session_state["pair_since"] = time.monotonic()
    st.text(f"Are these two photographs one? {pair.n_left} left.")
    source = f"{server.PREFIX}/api/pair/{pair.pair}"
    query = f"batch={quote(batch.name, safe='')}&r={pair.revision}"
    style = "flex:1 1 18rem;max-width:100%;max-height:60vh;object-fit:contain;background:#777"
    st.html(
        "<div style='display:flex;flex-wrap:wrap;gap:.75rem'>"
        + "".join(
            f"<img src='{source}/{side}?{query}' alt='{word} photograph of the pair' style='{style}'>"
            for side, word in (("a", "First"), ("b", "Second"))
        )
        + "</div>"
    )
    with st.container(horizontal=True):
        for decision, word in WORDS.items():
            st.button(
                word,
                key=f"{decision}-{pair.pair}-{pair.revision}",
                on_click=answer,
                args=(desk, batch, account, pair, decision),
            )
st.button("Take the last one back", key="back", on_click=back, args=(desk, batch, account))
