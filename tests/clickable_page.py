"""A page with nothing but the diagram, for tests in a browser; `?edit=1` gives it weights."""

import streamlit as st
from places import UNET_LABELS

from unetscope.dashboard.diagram import unet_diagram
from unetscope.diagrams import draw

LABELS = UNET_LABELS["sd1"]
MODELS = ["first", "<img src=x onerror='window.evil=1'>"]
st.set_page_config(layout="wide")
st.session_state["runs"] = st.session_state.get("runs", 0) + 1
editable = st.query_params.get("edit") == "1"
shares = {"IN01": [(0.75, "#4e79a7"), (0.25, "#f28e2b")]} if st.query_params.get("shares") else None
svg = draw("sd1", badges=dict.fromkeys(LABELS, 0.0) if editable or shares else None).svg
svg = svg.replace("</svg>", "<script>window.evil=1</script><image href='x' onerror='window.evil=1'/></svg>")
gram = {"labels": {label: [[4.0, 3.9], [3.9, 4.1]] for label in LABELS}, "models": MODELS, "target": 0}
fills = {"IN04": "#440154", "block-IN05": "#fde725"} if st.toggle("fills") else {}
state = unet_diagram(
    svg,
    fills=fills,
    printed={"IN05": "12.3"} if fills else {},
    weights=dict.fromkeys(LABELS, 0.5) if editable else None,
    editable=editable,
    gram=gram if editable else None,
    shares=shares,
    legend=[("#4e79a7", MODELS[1])],
    key="diagram",
)
st.text(f"selected: {','.join(state.selected)};")
st.text(f"weights: {','.join(f'{k}={v:g}' for k, v in state.weights.items() if v != 0.5)};")
st.text(f"run {st.session_state['runs']};")
