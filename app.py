"""Starts the app: `streamlit run app.py`, or `unetscope app`. The pages are in `dashboard/`."""

from unetscope.dashboard.shell import main

main()
