"""Log out: the session ends on the server, the cookie is worth nothing afterwards."""

import streamlit as st

from apps.vet import server

st.title("Log out")
st.link_button("Leave", f"{server.PREFIX}/logout", type="primary")
