"""mergekit's YAML: `merge_method`, `models` with parameters, `base_model`.

mergekit merges language models; its files are read for the methods that both have, for people use it on other checkpoints too.
A parameter is a number, or a list of `{filter, value}` of which the first that fits a key counts; a list of numbers is a gradient
over a language model's layers and has no meaning for a UNET.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..methods import METHODS
from .draft import Draft, Imported, Request, one_line

_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
_KNOWN = ("merge_method", "models", "parameters", "base_model", "dtype", "out_dtype", "name")
_HARMLESS = ("tokenizer_source", "tokenizer", "chat_template")


@dataclass(frozen=True)
class Kind:
    """How one of mergekit's methods is called here.

    Attributes:
        method: ours.
        base: the first input is `base_model`.
        weights: models have a `weight`.
        parameters: mergekit's name -> ours, of those that hold for all models.
        fixed: parameters that its name implies.
        defaults: mergekit's own defaults where ours differ, by our names.
    """

    method: str
    base: bool = True
    weights: bool = True
    parameters: dict[str, str] | None = None
    fixed: dict[str, Any] | None = None
    defaults: dict[str, Any] | None = None


_TASKS = {"lambda": "alpha"}
_SPARSE = {**_TASKS, "density": "density"}
METHODS_OF_MERGEKIT = {
    "linear": Kind("weighted_average", base=False, parameters={"normalize": "normalise"}),
    "slerp": Kind("slerp", weights=False, parameters={"t": "alpha"}, fixed={"kind": "vectors"}),
    "task_arithmetic": Kind("task_arithmetic", parameters=_TASKS),
    "ties": Kind("ties", parameters=_SPARSE),
    "dare_linear": Kind("dare", parameters=_SPARSE, fixed={"signs": "none"}),
    "dare_ties": Kind("dare", parameters=_SPARSE, fixed={"signs": "sum"}),
    "della": Kind("della", parameters={**_SPARSE, "epsilon": "epsilon"}),
    "della_linear": Kind("della", parameters={**_SPARSE, "epsilon": "epsilon"}, fixed={"signs": "none"}),
    "breadcrumbs": Kind("breadcrumbs", parameters={**_SPARSE, "gamma": "gamma"}),
    "breadcrumbs_ties": Kind("breadcrumbs", parameters={**_SPARSE, "gamma": "gamma"}, fixed={"signs": "sum"}),
    "model_stock": Kind("model_stock", weights=False),
    "nuslerp": Kind("nuslerp", parameters={}),
    "sce": Kind("sce", weights=False, parameters={"select_topk": "density"}),
    "karcher": Kind(
        "karcher_mean", base=False, weights=False, parameters={"tol": "tolerance", "max_iter": "iterations"}
    ),
    "passthrough": Kind("copy", base=False, weights=False),
}


def is_mergekit(data: Any) -> bool:
    """Whether YAML data is a configuration of mergekit."""
    return isinstance(data, dict) and "merge_method" in data


def from_mergekit(data: dict, name: str, request: Request) -> Imported:
    """The recipe of a configuration.

    Raises:
        RecipeError: a method or parameter that has no equivalent here, or no models.
    """
    draft = Draft(f"{name} (mergekit configuration)", request)
    method = data["merge_method"]
    kind = METHODS_OF_MERGEKIT.get(method) if isinstance(method, str) else None
    for unknown in [x for x in data if x not in _KNOWN]:
        if unknown in _HARMLESS:
            draft.note(f"{one_line(unknown, 60)} has no meaning for these models")
        elif unknown in ("slices", "modules"):
            raise draft.error(f"{unknown}: layers of several models are put together, which has no equivalent here")
        else:
            draft.refuse(f"{one_line(unknown, 60)} has no equivalent here")
    if kind is None or kind.method not in METHODS:
        known = [x for x, k in METHODS_OF_MERGEKIT.items() if k.method in METHODS]
        raise draft.error(f"merge_method {one_line(method, 40)!r} has no equivalent here; read are {', '.join(known)}")
    return _Configuration(data, kind, draft).imported()


class _Configuration:
    """One configuration on its way to a step."""

    def __init__(self, data: dict, kind: Kind, draft: Draft):
        self.data, self.kind, self.draft = data, kind, draft
        shared = data.get("parameters")
        self.shared: dict = shared if isinstance(shared, dict) else {}
        self.models = self._models()

    def imported(self) -> Imported:
        kind, draft, base = self.kind, self.draft, self._base()
        models = [(path, own) for path, own in self.models if not (kind.base and path == base)]
        if kind.method == "slerp" and base is None:
            base, models = models[0][0], models[1:]
        if kind.base and base is None and METHODS[kind.method].inputs[:1] == ("base",):
            raise draft.error(f"merge_method {self.data['merge_method']} needs a base_model")
        if not models:
            raise draft.error("names no models beside the base")
        inputs = [draft.model(path) for path in ([base] if kind.base and base else []) + [path for path, _ in models]]
        values = self._values([own for _, own in models])
        METHODS[kind.method].check_inputs(len(inputs), one_line(draft.origin))
        result = draft.step(kind.method, inputs, values, near=str(self.data.get("name") or ""))
        return draft.finish(result, output=self._output())

    def _models(self) -> list[tuple[str, dict]]:
        listed, out = self.data.get("models"), []
        for entry in listed if isinstance(listed, list) else []:
            entry = {"model": entry} if isinstance(entry, str) else entry
            path = _path(entry.get("model")) if isinstance(entry, dict) else None
            if path is None:
                raise self.draft.error("an entry of models has no model")
            own = entry.get("parameters")
            out.append((path, own if isinstance(own, dict) else {}))
        if not out:
            raise self.draft.error("has no list of models")
        return out

    def _base(self) -> str | None:
        base = self.data.get("base_model")
        if base is None:
            return None
        path = _path(base)
        if path is None:
            raise self.draft.error("base_model is no name")
        return path

    def _values(self, own: list[dict]) -> dict[str, Any]:
        """Parameters by our names; `weight` stands with each model, the others are the same for all."""
        kind, draft = self.kind, self.draft
        known = METHODS[kind.method].parameters
        values: dict[str, Any] = {x: v for x, v in (kind.fixed or {}).items() if x in known}
        for lost in [x for x in kind.fixed or {} if x not in known]:
            draft.refuse(f"{kind.method} has no {lost} here, which {self.data['merge_method']} implies")
        if kind.weights and "weights" in known:
            values["weights"] = [self._weight(each) for each in own]
        names = kind.parameters or {}
        for name, ours in names.items():
            given = [each[name] for each in (*own, self.shared) if name in each]
            if not given:
                continue
            if any(x != given[0] for x in given[: -1 if name in self.shared and len(given) > 1 else None]):
                draft.refuse(
                    f"{name} differs from model to model; here it is one for all, and {one_line(given[0], 40)} was taken"
                )
            values[ours] = bool(given[0]) if ours == "normalise" else self._number(given[0], name)
        for name in dict.fromkeys(x for each in (self.shared, *own) for x in each):
            self._unused(name, names)
        return values

    def _weight(self, own: dict) -> Any:
        return self._number(own.get("weight", self.shared.get("weight", 1.0)), "weight")

    def _unused(self, name: Any, names: dict[str, str]) -> None:
        if name in names or (name == "weight" and self.kind.weights):
            return
        if name in ("int8_mask", "rescale", "embed_slerp"):
            self.draft.note(f"{name} has no equivalent here, and no effect on what is meant")
        elif name == "normalize" and self.data["merge_method"] in (
            "ties",
            "task_arithmetic",
            "dare_linear",
            "dare_ties",
        ):
            self.draft.refuse("normalize: weights are taken as they are here")
        else:
            self.draft.refuse(f"parameter {one_line(name, 60)} has no equivalent here")

    def _number(self, value: Any, name: str) -> Any:
        """A number, or block weights that choose by parts of keys: mergekit takes the first filter that fits, we the last."""
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value
        if isinstance(value, list) and value and all(isinstance(x, dict) and "value" in x for x in value):
            lines: dict[str, Any] = {}
            for entry in reversed(value):
                inner = entry["value"]
                if isinstance(inner, bool) or not isinstance(inner, int | float):
                    self.draft.refuse(f"{name}: a value of a filter is no number ({one_line(inner, 60)})")
                    continue
                word = entry.get("filter")
                if word is None or word == "*":
                    lines["default"] = inner
                elif isinstance(word, str) and word and not set(word) & set(" ,*?[]:"):
                    lines.pop(f"key:*{word}*", None)
                    lines[f"key:*{word}*"] = inner
                else:
                    self.draft.refuse(f"{name}: the filter {one_line(word, 60)!r} has no equivalent")
            return lines or 0.0
        self.draft.refuse(
            f"{name}: {one_line(value, 60)} is no number; gradients over layers have no meaning for a UNET"
        )
        return 0.5 if name == "t" else 1.0

    def _output(self) -> dict[str, str]:
        dtype = self.data.get("out_dtype") or self.data.get("dtype")
        if dtype is None:
            return {}
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            self.draft.note(f"dtype {one_line(dtype, 40)} is not known here; fp16 is written")
            return {}
        if self.data.get("dtype") and self.data.get("dtype") != "float32":
            self.draft.note(f"the original works in {self.data['dtype']}; here all is worked out in fp32")
        return {"dtype": _DTYPES[dtype]}


def _path(value: Any) -> str | None:
    """A model's name, also where it is written as a mapping."""
    while isinstance(value, dict) and "model" in value:
        value = value["model"]
    if isinstance(value, dict):
        value = value.get("path")
    return value if isinstance(value, str) and value.strip() else None
