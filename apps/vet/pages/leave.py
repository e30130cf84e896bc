"""Log out: the session ends on the server, the cookie is worth nothing afterwards."""

import streamlit as st

from apps.vet import server

st.title("Log out")
st.text("What you have read is saved. A case you have begun waits for you with what you entered.")
style = "color:inherit;font-weight:600"
st.html(f'<p><a style="{style}" href="{server.PREFIX}/logout" target="_self">Log out now</a></p>')
