"""The left side of the Merge page: method, models, parameters, components. Session state holds the values, under `m.`."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ..checkpoints.architecture import Family
from ..merge.methods import METHODS, Method, Parameter
from .library import Entry, Shelf
from .merge_form import COMPONENTS, MergeForm
from .wording import plain

KEEP = {"persist_state": "session"}
FIRST_METHOD = "weighted_sum"
_DTYPES = ("fp16", "bf16", "fp32", "fp8_e4m3", "keep")
_AS_RESULT, _MERGED = "as the method has it", "merged like the UNET"


def choose_method() -> Method:
    """The method."""
    # What makes a difference and no model is for steps between, which recipes have and this page has not.
    names = [name for name, method in METHODS.items() if method.result != "delta"]
    name = st.selectbox(
        "Method",
        names,
        index=names.index(FIRST_METHOD),
        key="m.method",
        format_func=lambda n: n.replace("_", " "),
        **KEEP,
    )
    method = METHODS[name]
    st.caption(plain(method.summary))
    return method


def choose_models(method: Method, shelf: Shelf) -> tuple[Entry, ...]:
    """The models and LoRAs, in the method's order; fewer than it takes while some are open."""
    found: list[Entry] = []
    for position, name in enumerate(method.inputs):
        # Files of other architectures cannot be merged with the first model.
        family = found[0].family if found else None
        by_name = {e.name: e for e in (shelf.loras if name in method.deltas else shelf.models)}
        fitting = [n for n, e in by_name.items() if not found or e.family in (family, None)]
        key = f"m.model.{name}"
        _drop_unknown(key, fitting)
        usual = None if name in method.deltas else _usual(position, fitting, by_name)
        title = "LoRA" if name in method.deltas else "Base" if name == "base" else f"Model {name.upper()}"
        chosen = st.selectbox(title, fitting, index=usual, key=key, placeholder="choose a file", **KEEP)
        if chosen is None:
            return tuple(found)
        found.append(by_name[chosen])
    return (*found, *_more_models(method, shelf, found)) if method.variadic else tuple(found)


def _more_models(method: Method, shelf: Shelf, first: list[Entry]) -> list[Entry]:
    """Any number of models after the base, if there is one, which takes LoRAs as well."""
    offered = [*shelf.models, *shelf.loras] if method.on_deltas else shelf.models
    by_name = {e.name: e for e in offered if not first or e.family in (first[0].family, None)}
    _drop_unknown("m.models", by_name)
    about = "Models of the base's architecture, and LoRAs." if method.on_deltas else "Files of one architecture."
    chosen = st.multiselect(
        "Models and LoRAs" if method.on_deltas else "Models",
        list(by_name),
        key="m.models",
        placeholder="choose one or more" if method.on_deltas else "choose two or more",
        help=about,
        **KEEP,
    )
    return [by_name[name] for name in chosen]


def _usual(position: int, names: list[str], by_name: dict[str, Entry]) -> int | None:
    """The first choice for the model at this position: files that are no merges themselves, each another one."""
    order = sorted(range(len(names)), key=lambda i: by_name[names[i]].merged)
    return order[min(position, len(order) - 1)] if order else None


def choose_parameters(method: Method, models: tuple[Entry, ...]) -> dict[str, Any]:
    """The parameters but for block weights: name -> value; a list of numbers, one a model; None where the diagram has it."""
    return {p.name: _parameter(p, method, models) for p in method.parameters.values()}


def _parameter(p: Parameter, method: Method, models: tuple[Entry, ...]) -> Any:
    if p.kind == "switch":
        return st.checkbox(p.name, value=bool(p.default), key=f"m.switch.{p.name}", **KEEP)
    if p.kind == "choice":
        first = p.choices.index(p.default) if p.default is not None else 0
        return st.selectbox(p.name, p.choices, index=first, key=f"m.choice.{p.name}", **KEEP)
    if p.kind == "integer":
        return int(st.number_input(p.name, value=p.default or 0, step=1, key=f"m.integer.{p.name}", **KEEP))
    if p.kind == "number":
        return _number(p.name, p.default if p.default is not None else 0.5)
    weighed = models[len(method.inputs) :] if method.variadic else models
    usual = 1.0 if p.default is None else p.default
    return [
        st.number_input(
            f"{p.name}: {plain(entry.name)}",
            value=float(usual),
            step=0.05,
            format="%.4g",
            key=f"m.each.{p.name}.{entry.name}",
            **KEEP,
        )
        for entry in weighed
    ]


def _number(name: str, default: float) -> float | None:
    left, right = st.columns([1, 1], vertical_alignment="bottom")
    by_block = right.toggle(
        "by block",
        value=name == "alpha",
        key=f"m.by_block.{name}",
        help=f"Set {name} for each block in the diagram.",
        **KEEP,
    )
    value = left.number_input(
        name, value=float(default), step=0.05, format="%.4g", key=f"m.number.{name}", disabled=by_block,
        help="0 takes all of the first model, 1 all of what is added.", **KEEP,
    )  # fmt: skip
    return None if by_block else value


def choose_components(shelf: Shelf, family: Family | None) -> dict[str, str]:
    """Components that come from elsewhere: component -> library name or `merge`."""
    found: dict[str, str] = {}
    with st.popover(
        "Components", icon=":material/extension:", help="Take the UNET, text encoders or VAE from another model."
    ):
        for component, title in COMPONENTS.items():
            part = "unet" if component == "unet" else "vae" if component == "vae" else "clip"
            files = [
                e.name
                for e in shelf.models
                if any(c.startswith(part) for c in e.components) and family in (None, e.family)
            ]
            fixed = [_AS_RESULT, _MERGED] if component == "vae" else [_AS_RESULT]
            key = f"m.component.{component}"
            _drop_unknown(key, [*fixed, *files])
            chosen = st.selectbox(f"{title} from", [*fixed, *files], key=key, **KEEP)
            if chosen == _MERGED:
                found[component] = "merge"
            elif chosen != _AS_RESULT:
                found[component] = chosen
        st.caption("The VAE is copied from the first model unless another is chosen here.")
    return found


def choose_output() -> dict[str, Any]:
    """Fields of `recipe.Output` that differ from the defaults."""
    usual = {"position_ids": "keep", "nan": "error", "overflow": "error"}
    with st.popover("Output", icon=":material/tune:", help="Dtype, and what to do with values that do not fit."):
        about = "Dtype of the merged weights."
        found = {"dtype": st.selectbox("Stored as", _DTYPES, key="m.output.dtype", help=about, **KEEP)}
        choices = {
            "position_ids": ("keep", "restore"),
            "nan": ("error", "zero", "copy"),
            "overflow": ("error", "clamp"),
        }
        labels = {
            "position_ids": "Position ids",
            "nan": "NaN or infinity in a model",
            "overflow": "Results too large for the dtype",
        }
        for name, options in choices.items():
            found[name] = st.selectbox(labels[name], options, key=f"m.output.{name}", **KEEP)
        mixed = st.checkbox("Allow epsilon and v models together", key="m.output.mix_predictions", **KEEP)
    changed = {name: value for name, value in found.items() if value != usual.get(name, "fp16")}
    return changed | ({"mix_predictions": True} if mixed else {})


def apply(form: MergeForm) -> None:
    """Set every control as a form says. To be called before they are drawn."""
    from .merge_weights import keep_weights

    state, method = st.session_state, METHODS[form.method]
    state["m.method"] = form.method
    first = form.models[: len(method.inputs)]
    state.update({f"m.model.{name}": model for name, model in zip(method.inputs, first, strict=True)})
    rest = form.models[len(method.inputs) :] if method.variadic else form.models
    if method.variadic:
        state["m.models"] = list(dict.fromkeys(rest))
    for name, value in form.parameters.items():
        kind = method.parameters[name].kind
        if kind == "numbers":
            state.update({f"m.each.{name}.{model}": weight for model, weight in zip(rest, value, strict=True)})
        elif kind == "number":
            by_block = isinstance(value, dict)
            state[f"m.by_block.{name}"] = by_block
            if by_block:
                keep_weights(name, value)
            else:
                state[f"m.number.{name}"] = float(value)
        else:
            state[f"m.{kind}.{name}"] = value
    for component in COMPONENTS:
        source = form.components.get(component)
        state[f"m.component.{component}"] = _MERGED if source == "merge" else source or _AS_RESULT
    usual = {"dtype": "fp16", "position_ids": "keep", "nan": "error", "overflow": "error", "mix_predictions": False}
    for name, value in (usual | dict(form.output)).items():
        state[f"m.output.{name}"] = value


def _drop_unknown(key: str, known) -> None:
    """Forget a choice that is no longer offered: the file is gone, or has another architecture."""
    value = st.session_state.get(key)
    if isinstance(value, list):
        st.session_state[key] = [one for one in value if one in known]
    elif value is not None and value not in known:
        del st.session_state[key]
