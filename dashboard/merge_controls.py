"""The left side of the Merge page: method, models, components. Session state holds the values, under `m.`."""

from __future__ import annotations

from typing import Any, get_args

import streamlit as st

from ..checkpoints.families import Family, is_text
from ..merge.methods import METHODS, Method
from .choices import Choices, propose
from .library import Entry, Library
from .merge_form import MergeForm, components_for
from .merge_parameters import KEEP, held, keep_parameters

FIRST_METHOD = "weighted_sum"
# Fields of `recipe.Output` that are one of several words -> what stands above them.
_OUTPUT_CHOICES = {
    "dtype": "Stored as",
    "position_ids": "Position ids",
    "nan": "NaN or infinity in a model",
    "overflow": "Results too large for the dtype",
}
_AS_RESULT, _MERGED = "as the method has it", "merged like the rest"


def choose_method() -> Method:
    """The method."""
    # What makes a difference and no model is for steps between, which recipes have and this page has not.
    names = [name for name, method in METHODS.items() if method.result != "delta"]
    name = st.selectbox("Method", names, format_func=lambda n: n.replace("_", " "), **held("m.method", FIRST_METHOD))
    method = METHODS[name]
    st.caption(method.summary)
    with st.expander("About this method", icon=":material/menu_book:"):
        _about(method)
    return method


def _about(method: Method) -> None:
    """What its documentation says next to the formula: the meaning of its parameters, what it is for, where it comes from."""
    said = {"For": method.said("Use"), "Source": method.said("Source")}
    for paragraph in method.details.split("\n\n"):
        if paragraph:
            st.caption(" ".join(paragraph.split()))
    for word, text in said.items():
        if text:
            st.caption(f"**{word}:** {text}")


def choose_models(method: Method, library: Library, choices: Choices) -> tuple[Entry, ...]:
    """The models and LoRAs, in the method's order; fewer than it takes while some are open or cannot be used."""
    found: list[Entry] = []
    for name in method.inputs:
        # Files of other architectures cannot be merged with the first model.
        family = found[0].family if found else None
        by_name = {e.name: e for e in (library.loras if name in method.deltas else library.models)}
        fitting = [n for n, e in by_name.items() if not found or e.family in (family, None)]
        before = [e.name for e in found]
        title = "LoRA" if name in method.deltas else "Base" if name == "base" else f"Model {name.upper()}"
        chosen = choices.one(
            title, fitting, f"m.model.{name}", basis=before, unfit=_unfit(found), placeholder="choose a file",
            proposal=None if name in method.deltas else _usual(name, fitting, by_name, before), **KEEP,
        )  # fmt: skip
        if chosen is None:
            return tuple(found)
        found.append(by_name[chosen])
    return (*found, *_more_models(method, library, found, choices)) if method.variadic else tuple(found)


def _unfit(found: list[Entry]) -> str:
    """What is said of a file that is there, and does not go with the first model."""
    first = f"{found[0].name} ({found[0].architecture})" if found else "this method"
    return f"does not go with {first}; choose another"


def _more_models(method: Method, library: Library, first: list[Entry], choices: Choices) -> list[Entry]:
    """Any number of models after the base, if there is one, which takes LoRAs as well."""
    offered = [*library.models, *library.loras] if method.on_deltas else library.models
    by_name = {e.name: e for e in offered if not first or e.family in (first[0].family, None)}
    about = "Models of the base's architecture, and LoRAs." if method.on_deltas else "Files of one architecture."
    chosen = choices.many(
        "Models and LoRAs" if method.on_deltas else "Models", list(by_name), "m.models", unfit=_unfit(first),
        placeholder="choose one or more" if method.on_deltas else "choose two or more", help=about, **KEEP,
    )  # fmt: skip
    return [by_name[name] for name in chosen]


def _usual(name: str, offered: list[str], by_name: dict[str, Entry], taken: list[str]) -> str | None:
    """What an input has at first: a file that is not a merge and that no input before it has; as base one that is called so."""

    def last_wanted(file: str) -> tuple[bool, ...]:
        entry = by_name[file]
        strange = any(by_name[one].model != entry.model for one in taken if one in by_name)
        return file in taken, strange, entry.merged, name == "base" and "base" not in file.lower()

    return min(offered, key=last_wanted, default=None)


def choose_components(library: Library, family: Family | None, choices: Choices) -> dict[str, str]:
    """Components that come from elsewhere: component -> library name or `merge`."""
    found: dict[str, str] = {}
    with st.popover(
        "Components",
        icon=":material/extension:",
        help="Take the denoiser (UNET), text encoders or VAE from another model.",
    ):
        for component, title in components_for(family).items():
            files = [
                e.name
                for e in library.models
                if (family is None or e.family in (family.id, None)) and _holds(e, component)
            ]
            fixed = [_AS_RESULT, _MERGED] if component == "vae" else [_AS_RESULT]
            chosen = choices.one(
                f"{title} from", [*fixed, *files], unfit=f"has no {title} that goes with the first model; choose another",
                **held(f"m.component.{component}", _AS_RESULT),
            )  # fmt: skip
            if chosen == _MERGED:
                found[component] = "merge"
            elif chosen not in (_AS_RESULT, None):
                found[component] = chosen
        st.caption("The VAE is copied from the first model unless another is chosen here.")
    return found


def _holds(entry: Entry, component: str) -> bool:
    return any(c == component or (component == "text_encoders" and is_text(c)) for c in entry.components)


def choose_output() -> dict[str, Any]:
    """Fields of `recipe.Output` that differ from the defaults."""
    from ..merge.recipe import Output

    found: dict[str, Any] = {}
    with st.popover("Output", icon=":material/tune:", help="Dtype, and what to do with values that do not fit."):
        for name, title in _OUTPUT_CHOICES.items():
            options = get_args(Output.model_fields[name].annotation)
            about = "Dtype of the merged weights." if name == "dtype" else None
            found[name] = st.selectbox(title, options, help=about, key=f"m.output.{name}", **KEEP)
        found["mix_predictions"] = st.checkbox(
            "Allow epsilon and v models together", key="m.output.mix_predictions", **KEEP
        )
        found["allow_missing"] = st.checkbox(
            "Allow models that lack tensors",
            help="Merges a model with holes without what it lacks, and writes a result with holes.",
            key="m.output.allow_missing",
            **KEEP,
        )
    usual = Output().model_dump()
    return {name: value for name, value in found.items() if value != usual[name]}


def begin_with(name: str, library: Library) -> None:
    """Choose a file of the library: as the first model, or, a LoRA, as what is added to one. Called before controls are drawn."""
    state, entry = st.session_state, library.named(name)
    if entry is None or entry.what != "lora":
        state["m.model.a"] = name
        return
    state["m.method"], state["m.model.difference"] = "add", entry.name
    now = library.named(state.get("m.model.a"))
    by_name = {model.name: model for model in library.models if model.family == entry.family}
    if by_name and ("m.model.a" not in state or (now is not None and now.family != entry.family)):
        propose("m.model.a", _usual("a", list(by_name), by_name, []), [])


def apply(form: MergeForm) -> None:
    """Set every control as a form says. To be called before they are drawn."""
    from ..merge.recipe import Output

    state, method = st.session_state, METHODS[form.method]
    state["m.method"] = form.method
    first = form.models[: len(method.inputs)]
    state.update({f"m.model.{name}": model for name, model in zip(method.inputs, first, strict=True)})
    rest = form.models[len(method.inputs) :] if method.variadic else form.models
    if method.variadic:
        state["m.models"] = list(dict.fromkeys(rest))
    keep_parameters(method, rest, form.parameters)
    for component in components_for():
        source = form.components.get(component)
        state[f"m.component.{component}"] = _MERGED if source == "merge" else source or _AS_RESULT
    for name, value in (Output().model_dump() | dict(form.output)).items():
        state[f"m.output.{name}"] = value
