"""My work: what this reader has read, and nothing of anyone else."""

import pandas as pd
import streamlit as st

from ddeval.vet.batches import read_batches
from ddeval.vet.reading import answers, progress
from ddeval.vet.reveal import may_reveal, reveal

desk, account = st.session_state["desk"], st.session_state["account"]

st.title("My work")
for batch in [b for b in read_batches(desk.store) if b.is_assigned_to(account.code)]:
    mine = answers(desk.store, batch.name)
    mine = mine[mine["actor"] == account.code]
    if not batch.is_open and not len(mine):
        continue
    done = progress(desk.store, batch, account.code)
    st.subheader(f"Batch {batch.name}" + ("" if batch.is_open else ", closed"))
    if batch.is_open:
        share = done.n_done / max(done.n_done + done.n_left, 1)
        st.progress(share, text=f"{done.n_done} read, {done.n_left} left")
    table = pd.DataFrame(
        {
            "when (UTC)": mine["ts_utc"].str.slice(0, 16).str.replace("T", " "),
            "what I said": [str(a) for a in mine["answer"]],
            "could tell": [d.get("gradable") or "" for d in mine["details"]],
            "note": [d.get("note") or "" for d in mine["details"]],
        }
    )
    if len(table):
        st.dataframe(table.iloc[::-1], hide_index=True, width="stretch")
    if may_reveal(batch) and st.button("Show what the labels said", key=f"reveal-{batch.name}"):
        seen = reveal(desk.store, batch, account.code)
        seen["answer"] = [str(a) for a in seen["answer"]]
        words = ["case", "what I said", "label in the data", "the model said", "why it was asked"]
        st.dataframe(seen.set_axis(words, axis=1), hide_index=True, width="stretch")
