"""My work: what this reader has read, and nothing of anyone else."""

import pandas as pd
import streamlit as st

from ddeval.vet.reading import answers, progress

desk, account = st.session_state["desk"], st.session_state["account"]

st.title("My work")
for batch in desk.open_batches():
    done = progress(desk.store, batch, account.code)
    st.subheader(f"Batch {batch.name}")
    st.progress(
        done.n_done / max(done.n_done + done.n_left, 1), text=f"{done.n_done} read, {done.n_left} left"
    )
    mine = answers(desk.store, batch.name)
    mine = mine[mine["actor"] == account.code]
    table = pd.DataFrame(
        {
            "when (UTC)": mine["ts_utc"].str.slice(0, 16).str.replace("T", " "),
            "what I said": [a.exit or ", then ".join(a.diagnoses) for a in mine["answer"]],
            "could tell": [d.get("gradable") or "" for d in mine["details"]],
            "note": [d.get("note") or "" for d in mine["details"]],
        }
    )
    st.dataframe(table.iloc[::-1], hide_index=True, width="stretch")
