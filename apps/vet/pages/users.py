"""Users: who may read, adjudicate and administer."""

import streamlit as st

from apps.vet import server
from ddeval.errors import InputError
from ddeval.vet.accounts import accounts, invite, reset_link, set_active


def link(token: str) -> str:
    """The whole address where it is known, else its path on this server."""
    return f"{server.PUBLIC_URL}/link/{token}" if server.PUBLIC_URL else f"{server.PREFIX}/link/{token}"


desk, account = st.session_state["desk"], st.session_state["account"]
if not account.may("manage_users"):
    st.stop()

st.title("Users")
people = accounts(desk.store)
st.dataframe(
    [
        {
            "code": a.code,
            "role": a.role,
            "active": "yes" if a.is_active else "no",
            "qualification": a.qualification or "",
        }
        for a in people
    ],
    hide_index=True,
    width="stretch",
)

with st.form("invite", clear_on_submit=True):
    st.subheader("Invite")
    code = st.text_input("Code", help="Appears in exports: do not use the person's name.")
    role = st.selectbox("Role", ["reader", "adjudicator", "admin"])
    name = st.text_input("Name (kept in this table alone)")
    email = st.text_input("E-mail (for single sign-on)")
    qualification = st.text_input("Qualification, as it will be reported")
    if st.form_submit_button("Create invitation"):
        try:
            token = invite(
                desk.store,
                code,
                role=role,
                name=name or None,
                email=email or None,
                qualification=qualification or None,
            )
            st.success("Created. Send this link; it works once, for 72 hours:")
            st.code(link(token), language=None)
        except InputError as error:
            st.error(
                f"{error.found}: expected {error.expected}. {error.todo}".replace("[", "(").replace("]", ")")
            )

st.subheader("Change an account")
chosen = st.selectbox("Account", [a.code for a in people if a.code != account.code], index=None)
if chosen:
    left, right = st.columns(2)
    is_active = next(a.is_active for a in people if a.code == chosen)
    if left.button("Disable" if is_active else "Enable"):
        set_active(desk.store, chosen, is_active=not is_active)
        st.rerun()
    if right.button("New password link"):
        st.text("Send this link; it works once, for 2 hours:")
        st.code(link(reset_link(desk.store, chosen)), language=None)
