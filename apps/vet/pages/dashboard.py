"""Dashboard: how a batch stands, for the admin, who does not read."""

import numpy as np
import pandas as pd
import streamlit as st

from ddeval.vet.agreement import agreement_table, self_consistency
from ddeval.vet.batches import read_batches
from ddeval.vet.outcomes import batch_status, case_outcomes, first_class, ratings

desk, account = st.session_state["desk"], st.session_state["account"]
if not account.may("see_dashboard"):
    st.stop()

NAMES = {
    "raw_agreement": "Raw agreement",
    "krippendorff_alpha": "Krippendorff's alpha",
    "fleiss_kappa": "Fleiss' kappa",
    "gwet_ac1": "Gwet's AC1",
}


def shown(row: pd.Series) -> str:
    """Value with its interval, or why there is none."""
    if row["n_units"] == 0:
        return "n/a (no case has two readings yet)"
    if not np.isfinite(row["value"]):
        return f"not defined (every reading names one class; n = {row['n_units']})"
    return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


st.title("Dashboard")
batches = read_batches(desk.store)
if not batches:
    st.info("No batch yet. Open one with `ddeval vet open QUEUE`.")
    st.stop()
batch = next(b for b in batches if b.name == st.selectbox("Batch", [b.name for b in batches]))
status = batch_status(desk.store, batch, class_of=desk.class_of)
for column, (label, value) in zip(
    st.columns(4),
    {
        "Cases": f"{status['n_cases']:,}",
        "Read by enough readers": f"{status['n_complete']:,}",
        "To adjudicate": f"{status['n_to_adjudicate']:,}",
        "Reported": f"{status['n_reported']:,}",
    }.items(),
    strict=True,
):
    column.metric(label, value)

table, repeats = ratings(desk.store, batch, name_of=lambda answer: first_class(answer, desk.class_of))
agreement = agreement_table(table.to_numpy(dtype=object), rng=np.random.default_rng(batch.seed))
agreement = agreement.set_index("coefficient")
st.subheader("Do the readers agree?")
st.caption(
    f"On the class named first, over {int(agreement['n_units'].iloc[0]):,} cases with two or more blind "
    "readings; 95 % intervals over cases."
)
for name in ("raw_agreement", "krippendorff_alpha"):
    st.text(f"{NAMES[name]}: {shown(agreement.loc[name])}")
with st.expander("Other coefficients"):
    for name in ("fleiss_kappa", "gwet_ac1"):
        st.text(f"{NAMES[name]}: {shown(agreement.loc[name])}")
same, n_repeats = self_consistency(repeats["first"], repeats["second"])
st.text(
    f"A reader repeats their own answer: {100 * same:.1f} % of {n_repeats} hidden repeats"
    if n_repeats
    else "A reader repeats their own answer: n/a (no hidden repeat read yet)"
)

st.subheader("What the readings say so far")
outcomes = case_outcomes(desk.store, batch, class_of=desk.class_of)
counts = pd.Series([o.consensus.outcome for o in outcomes if o.is_complete], dtype=object).value_counts()
st.dataframe(counts.rename_axis("outcome").rename("cases").reset_index(), hide_index=True, width="content")
st.caption("Estimates of accuracy come from the closed batch: ddeval truth RUN --labels V.")

st.subheader("Readers")
st.dataframe(
    pd.DataFrame(
        [{"reader": code, "first readings": n} for code, n in status["readings"].items()],
        columns=["reader", "first readings"],
    ),
    hide_index=True,
    width="content",
)
