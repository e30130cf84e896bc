"""The page a person opens: who they are, and the pages their role has; a role sees no other."""

import streamlit as st

from apps.vet import server
from apps.vet.guard import COOKIE
from ddeval.vet.accounts import account_of

st.set_page_config(page_title="ddeval vet", page_icon="🔎", layout="wide", initial_sidebar_state="collapsed")
st.html(
    "<style>[data-testid=stMainBlockContainer]{padding:3.75rem 0 0;max-width:none}"
    "[data-testid=stMainBlockContainer]:not(:has([data-viewer])){padding:4.5rem 2rem 2rem;max-width:70rem}"
    "[data-testid=stMain] [data-testid=stElementContainer]:has(style),"
    "[data-testid=stMain] [data-testid=stElementContainer]:has([data-viewer]){display:none}"
    "[data-testid=stVerticalBlock]{gap:.75rem}</style>"
)

desk = server.DESK
account = account_of(desk.store, st.context.cookies.get(COOKIE)) if desk else None
if desk is None or account is None:
    st.error("Your session has ended. Reload the page to log in.")
    st.stop()

st.session_state["account"] = account
st.session_state["desk"] = desk

PAGES = {
    "read": [
        st.Page("pages/read.py", title="Vet", default=True),
        st.Page("pages/my_work.py", title="My work"),
        st.Page("pages/plain.py", title="Plain form"),
    ],
    "adjudicate": [
        st.Page("pages/adjudicate.py", title="Adjudicate"),
        st.Page("pages/duplicates.py", title="Duplicates"),
    ],
    "see_dashboard": [st.Page("pages/dashboard.py", title="Dashboard", default=True)],
    "manage_users": [st.Page("pages/users.py", title="Users")],
}
pages = [page for action, found in PAGES.items() if account.may(action) for page in found]
page = st.navigation([*pages, st.Page("pages/leave.py", title="Log out")], position="top")
if desk.is_synthetic and page.title not in ("Vet", "Adjudicate"):  # there the photograph has its stamp
    stamp = "letter-spacing:.08em;border:2px solid;border-radius:4px;padding:.1rem .6rem;margin-right:.5rem"
    st.html(
        f"<p><strong style='{stamp}'>"
        "SYNTHETIC</strong> Drawn by a computer: no patient is shown or counted.</p>"
    )
page.run()
