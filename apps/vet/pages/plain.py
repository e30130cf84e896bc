"""Plain form: the same blind reading with the platform's own widgets, where the viewer does not serve.

For a browser without scripts of ours, a screen reader that prefers plain controls, or a broken viewer. The
same screen, nonce and checks stand behind it.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import streamlit as st

from apps.vet import server
from apps.vet.desk import Desk
from ddeval.vet.accounts import Account
from ddeval.vet.batches import Batch
from ddeval.vet.consensus import EXITS, Answer
from ddeval.vet.reading import Refused, next_case, record_reading, set_aside, undo

WORDS = {"cannot_tell": "Cannot tell", "poor_image": "Poor image", "off_topic": "Off topic"}
WORDS |= {"duplicate": "Duplicate"}


def given(nonce: str) -> tuple[Answer, dict[str, Any]]:
    """The answer as it stands in the form of that screen."""
    form: Mapping[str, Any] = st.session_state
    exit_, names = form[f"exit-{nonce}"], form[f"names-{nonce}"]
    if exit_ and names:
        raise Refused("bad_answer", "Give either diagnoses or a reason for none. Nothing was saved.")
    if not exit_ and not names:
        raise Refused("bad_answer", "Name a diagnosis, or say why there is none. Nothing was saved.")
    details = {"gradable": form[f"gradable-{nonce}"], "note": form[f"note-{nonce}"], "form": "plain"}
    if not exit_ and not details["gradable"]:
        raise Refused("bad_answer", "Say first whether you can tell. Nothing was saved.")
    answer = Answer(tuple(names), (), exit_, bool(form[f"several-{nonce}"]))
    return answer, {key: value for key, value in details.items() if value}


def save(desk: Desk, batch: Batch, account: Account, nonce: str) -> None:
    """Commit the answer under the screen it was given on; the next run shows the next case."""
    try:
        answer, details = given(nonce)
        record_reading(desk.store, batch, account.code, nonce, answer, details=details, role=account.role)
        st.session_state["plain_note"] = "saved ✓"
    except Refused as refusal:
        st.session_state["plain_note"] = f"NOT SAVED. {refusal}"


def skip(desk: Desk, batch: Batch, account: Account, nonce: str) -> None:
    """Put the case last."""
    try:
        set_aside(desk.store, batch, account.code, nonce, "skip", reason="")
        st.session_state["plain_note"] = "skipped"
    except Refused as refusal:
        st.session_state["plain_note"] = f"NOT SAVED. {refusal}"


def back(desk: Desk, batch: Batch, account: Account) -> None:
    """The last answer taken back; its case comes back."""
    try:
        undo(desk.store, batch, account.code, reason="undone by the reader")
        st.session_state["plain_note"] = "taken back"
    except Refused as refusal:
        st.session_state["plain_note"] = str(refusal)


desk, account = st.session_state["desk"], st.session_state["account"]
if not account.may("read"):
    st.stop()
st.title("Vet, plain form")
batch = desk.reading_now(account)
screen = next_case(desk.store, batch, account.code) if batch else None
st.text(st.session_state.pop("plain_note", ""))
if batch is None or screen is None:
    st.info("Nothing is left for you to read." if batch else "There is no open batch.")
    st.stop()
shown = desk.screen(screen, account, batch)
place = f"Case {shown['n_done'] + 1} of {shown['n_done'] + shown['n_left']}"
st.subheader("Practice case, not counted" if shown["is_practice"] else place)
source = f"{server.PREFIX}/api/photograph/{screen.nonce}"
query = f"batch={quote(batch.name, safe='')}&size=full"
n = shown["n_photographs"]
style = "flex:1 1 18rem;max-width:min(100%,36rem);max-height:70vh;object-fit:contain;background:#777"
st.html(
    "<div style='display:flex;flex-wrap:wrap;gap:.75rem;align-items:flex-start'>"
    + "".join(
        f"<img src='{source}/{k}?{query}' alt='Photograph {k + 1} of {n} of this case' style='{style}'>"
        for k in range(n)
    )
    + "</div>"
)
told = shown["told"]
if told["said"]:
    st.text("\n".join(f"{subject}: {answer}" for subject, answer in told["said"]))
if told["denied"]:
    st.text("said no to: " + ", ".join(told["denied"]))
draft, nonce = shown["draft"] or {}, screen.nonce
synonyms = {d["name"]: d["synonyms"] for d in desk.diagnoses()}
said = ["yes", "partly", "no"]
st.radio(
    "Can you tell from these photos?",
    said,
    index=said.index(draft["gradable"]) if draft.get("gradable") in said else None,
    horizontal=True,
    key=f"gradable-{nonce}",
)
st.multiselect(
    "What is it? Surest first, up to three",
    list(synonyms),
    default=[name for name in draft.get("diagnoses") or [] if name in synonyms],
    max_selections=3,
    format_func=lambda name: ", ".join([name, *synonyms[name]]),
    key=f"names-{nonce}",
)
st.checkbox(
    "more than one disease is present",
    value=bool(draft.get("more_than_one_disease")),
    key=f"several-{nonce}",
)
st.selectbox(
    "No diagnosis, because",
    EXITS,
    index=EXITS.index(draft["exit"]) if draft.get("exit") in EXITS else None,
    format_func=WORDS.__getitem__,
    placeholder="not chosen",
    key=f"exit-{nonce}",
)
st.text_area("Note, optional", value=draft.get("note") or "", max_chars=4000, key=f"note-{nonce}")
with st.container(horizontal=True):
    st.button(
        "Save and next",
        type="primary",
        key=f"save-{nonce}",
        on_click=save,
        args=(desk, batch, account, nonce),
    )
    st.button("Skip for now", key=f"skip-{nonce}", on_click=skip, args=(desk, batch, account, nonce))
    st.button("Undo last", key="undo", on_click=back, args=(desk, batch, account))
