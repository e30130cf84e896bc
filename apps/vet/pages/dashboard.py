"""Dashboard: how a batch stands, for the admin, who does not read."""

from html import escape

import numpy as np
import pandas as pd
import streamlit as st

from ddeval.audit.progress import ENOUGH, WINDOW
from ddeval.vet.agreement import agreement_table, self_consistency
from ddeval.vet.batches import read_batches
from ddeval.vet.consensus import put_first
from ddeval.vet.outcomes import batch_status, ratings
from ddeval.vet.reading import reports as reports_table
from ddeval.vet.standing import Standing, standing

desk, account = st.session_state["desk"], st.session_state["account"]
if not account.may("see_dashboard"):
    st.stop()

NBSP = "\N{NO-BREAK SPACE}"
NAMES = {
    "raw_agreement": "Raw agreement",
    "krippendorff_alpha": "Krippendorff's alpha",
    "fleiss_kappa": "Fleiss' kappa",
    "gwet_ac1": "Gwet's AC1",
}
OUTCOMES = {
    "keep": "label kept",
    "compatible": "label among the answers, not first",
    "relabel": "label wrong",
    "unresolved": "readers differ, to be settled",
    "cannot_tell": "cannot tell",
    "poor_image": "poor image",
    "off_topic": "off topic",
    "duplicate": "duplicate",
}


def coefficient(row: pd.Series) -> str:
    """Value with its interval, or why there is none."""
    if row["n_units"] == 0:
        return "n/a (no case has two readings yet)"
    if not np.isfinite(row["value"]):
        return f"not defined (every reading names one class; n = {row['n_units']})"
    if row.name == "raw_agreement":  # a share, unlike the coefficients that take chance off
        return percent(row["value"], row["ci_low"], row["ci_high"], int(row["n_units"]))
    if not np.isfinite(row["ci_low"]):
        return f"{row['value']:.3f} (no interval: the same in every resample; n = {row['n_units']})"
    return f"{row['value']:.3f} [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def percent(value: float, low: float, high: float, n: int) -> str:
    """A share with its interval and n."""
    if n and not np.isfinite(low):
        return f"{100 * value:.1f}{NBSP}% (no interval), n{NBSP}={NBSP}{n}"
    return (
        f"{100 * value:.1f}{NBSP}% [{100 * low:.1f}, {100 * high:.1f}], n{NBSP}={NBSP}{n}"
        if n
        else "n/a (n = 0)"
    )


def table(rows: pd.DataFrame) -> None:
    """A plain table: a screen reader reads it, a phone scrolls it, and no cell is taken for Markdown."""
    cell = "padding:.35rem .75rem;border-bottom:1px solid #8a949e80;text-align:left;vertical-align:top"
    head = "".join(f"<th scope='col' style='{cell}'>{escape(str(c))}</th>" for c in rows.columns)
    number = cell.replace("left", "right;font-variant-numeric:tabular-nums")
    body = "".join(
        "<tr>"
        + "".join(f"<td style='{number if isinstance(v, int) else cell}'>{escape(str(v))}</td>" for v in row)
        + "</tr>"
        for row in rows.itertuples(index=False)
    )
    st.html(
        f"<table style='border-collapse:collapse'><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def reports(found: pd.DataFrame, batch: str) -> None:
    """Cases a reader took out, and why: nobody reads them until an admin has looked."""
    if not len(found):
        return
    st.subheader("Reported cases")
    table(found)
    st.text(f"To put one back before the readers: ddeval vet release {batch} CASE --reason ...")


def labels(found: Standing) -> None:
    """What the readings say of the labels."""
    st.subheader("Are the labels wrong?")
    if len(found.precision):
        last = found.precision.iloc[-1]
        k, n_errors = int(last["k"]), int(last["n_errors"])
        shown = percent(last["precision"], last["ci_low"], last["ci_high"], k)
        st.text(f"Precision of the queue: {shown} ({n_errors} of {k} ranked labels are wrong)")
    else:
        st.text("Precision of the queue: n/a (no ranked case has a verdict yet)")
    if found.errors is None:
        n = found.n_strata_unread
        waiting = "1 stratum has no reading yet" if n == 1 else f"{n} strata have no reading yet"
        st.text(f"Errors left: n/a ({waiting})")
    else:
        e = found.errors
        st.text(
            f"Errors left: about {e.left:,.0f} [{e.left_low:,.0f}, {e.left_high:,.0f}] cases of the split, "
            f"beside {e.n_found:,} found"
        )
    stop = found.stop
    if stop.n_window < WINDOW:
        st.text(f"Stop rule: read on ({stop.n_window} of the {WINDOW} ranked verdicts it needs)")
    else:
        word = "enough, readers are better spent elsewhere" if stop.is_enough else "read on"
        st.text(
            f"Stop rule: {word} (of the last {WINDOW} ranked cases at most "
            f"{100 * stop.precision_high:.0f} % are wrong; enough is below {100 * ENOUGH:.0f} %)"
        )
    names = [OUTCOMES.get(str(o), str(o)) for o in found.outcomes.index]
    if names:
        table(pd.DataFrame({"outcome": names, "cases": found.outcomes.to_numpy()}))


def model(found: Standing) -> None:
    """The model against the readings, and beside the readers."""
    st.subheader("How good is the model?")
    a = found.accuracy
    if a is None or not np.isfinite(a.value):
        st.text("Accuracy against the vetted reference so far: n/a")
        st.text("It needs a batch opened from an audit folder, and a verdict in every stratum.")
    else:
        st.text(
            "Accuracy against the vetted reference so far: "
            + percent(a.value, a.ci_low, a.ci_high, a.n_vetted)
            + (
                f"; {100 * a.without_verdict:.1f} % of cases have no verdict "
                f"(bounds {100 * a.worst_case:.1f} to {100 * a.best_case:.1f} %)"
                if a.n_without_verdict
                else ""
            )
        )
    if len(found.agreement):
        rows = found.agreement
        shown = [percent(*row) for row in rows[["agrees", "ci_low", "ci_high", "n"]].itertuples(index=False)]
        table(pd.DataFrame({"who": rows["who"], "names the same class first as the other readers": shown}))
    st.text("So far, over cases read by enough readers. Final: ddeval truth RUN --labels V.")


st.title("Dashboard")
batches = read_batches(desk.store)
if not batches:
    st.info("No batch yet. Open one with `ddeval vet open RUN/audit`.")
    st.stop()
chosen = st.selectbox("Batch", [b.name for b in batches])
batch = next(b for b in batches if b.name == chosen)
if not batch.is_open:
    st.info("This batch is closed: its numbers are final once it is frozen (`ddeval vet freeze`).")
status = batch_status(desk.store, batch, class_of=desk.class_of)
with st.container(horizontal=True):
    st.metric("Cases", f"{status['n_cases']:,}")
    st.metric("Read by enough", f"{status['n_complete']:,}")
    st.metric("To adjudicate", f"{status['n_to_adjudicate']:,}")
    st.metric("Reported", f"{status['n_reported']:,}")

reports(reports_table(desk.store, batch.name), batch.name)
read, repeats = ratings(desk.store, batch, name_of=lambda answer: put_first(answer, desk.class_of))
rng = np.random.default_rng(batch.seed)
agreement = agreement_table(read.to_numpy(dtype=object), rng=rng).set_index("coefficient")
st.subheader("Do the readers agree?")
st.text(
    f"On the class named first, over {int(agreement['n_units'].iloc[0]):,} cases with two or more blind "
    "readings; 95 % intervals over cases."
)
for name in ("raw_agreement", "krippendorff_alpha"):
    st.text(f"{NAMES[name]}: {coefficient(agreement.loc[name])}")
with st.expander("Other coefficients"):
    for name in ("fleiss_kappa", "gwet_ac1"):
        st.text(f"{NAMES[name]}: {coefficient(agreement.loc[name])}")
same, n_repeats = self_consistency(repeats["first"], repeats["second"])
st.text(
    f"A reader repeats their own answer: {100 * same:.1f} % of {n_repeats} hidden repeats"
    if n_repeats
    else "A reader repeats their own answer: n/a (no hidden repeat read yet)"
)
found = standing(desk.store, batch, class_of=desk.class_of, rng=rng)
labels(found)
model(found)

st.subheader("Who has read")
qualification = {a.code: a.qualification or "not stated" for a in desk.people()}
counts = status["readings"]
if counts:
    table(
        pd.DataFrame(
            {
                "reader": list(counts),
                "first readings": list(counts.values()),
                "qualification": [qualification.get(code, "not stated") for code in counts],
            }
        )
    )
else:
    st.text("Nobody yet.")
