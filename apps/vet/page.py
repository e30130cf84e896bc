"""The page a reader opens: navigation by role."""

import streamlit as st

st.write("vet")
