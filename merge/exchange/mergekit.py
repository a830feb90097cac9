"""mergekit's YAML: `merge_method`, `models` with parameters, `base_model`.

mergekit merges language models; its files are read for the methods that both have, for people use it on other checkpoints too.
"""

from __future__ import annotations

import re
from typing import Any

from ...checkpoints.formats import is_model_name
from ..methods import METHODS, Method
from ..methods.other_tools import Mergekit
from ..recipe import MERGED
from .draft import Draft, Imported, Request, one_line
from .mergekit_settings import MergekitSettings

_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
_KNOWN = ("merge_method", "models", "slices", "parameters", "base_model", "dtype", "out_dtype", "name")
_HARMLESS = ("tokenizer_source", "tokenizer", "chat_template")
_REVISION = re.compile(r"([^@]+)@([\w.-]+)")


# Parameters that change how mergekit computes, not what.
_TECHNICAL = ("int8_mask", "max_iter", "tol", "eps")


def methods_of_mergekit() -> dict[str, tuple[Method, Mergekit]]:
    """mergekit's methods by name: ours, and how they differ. What is registered first has a name."""
    found: dict[str, tuple[Method, Mergekit]] = {}
    for method in METHODS.values():
        for name, kind in method.mergekit.items():
            found.setdefault(name, (method, kind))
    return found


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
    known = methods_of_mergekit()
    found = known.get(method) if isinstance(method, str) else None
    for unknown in [x for x in data if x not in _KNOWN]:
        if unknown in _HARMLESS:
            draft.note("import.setting", f"{one_line(unknown, 60)} has no meaning for these models")
        elif unknown == "modules":
            raise draft.error("modules: parts of several models are put together, which has no equivalent here")
        else:
            draft.refuse(f"{one_line(unknown, 60)} has no equivalent here")
    if found is None:
        raise draft.error(f"merge_method {one_line(method, 40)!r} has no equivalent here; read are {', '.join(known)}")
    return _Configuration(data, *found, draft).imported()


class _Configuration:
    """One configuration on its way to a step."""

    def __init__(self, data: dict, ours: Method, kind: Mergekit, draft: Draft):
        self.data, self.ours, self.kind, self.draft, self.method = data, ours, kind, draft, data["merge_method"]
        listed, self.scopes, base = self._listed()
        self.base = None if kind.base == "ignored" else base
        self.models = [(name, own) for name, own in listed if name != self.base]
        if base is not None and self.base is None and base not in [name for name, _ in listed]:
            draft.refuse(f"base_model: {self.method} takes it for a model, and it is not listed among them")
        if self.base is not None and any(own for name, own in listed if name == self.base):
            draft.note(
                "import.base_parameters", "parameters of the base model have no effect in mergekit, and are left out"
            )

    def imported(self) -> Imported:
        kind, draft = self.kind, self.draft
        if kind.base == "required" and self.base is None:
            raise draft.error(f"merge_method {self.method} needs a base_model")
        if not self.models:
            raise draft.error("names no models besides the base")
        owns = [MergekitSettings([own, *self.scopes], draft) for _, own in self.models]
        values = self._values(owns)
        result = self._step([name for name, _ in self.models], owns, values)
        draft.differs(kind.note)
        return draft.finish(result, components={"vae": MERGED}, output=self._output())

    def _step(self, models: list[str], owns: list[MergekitSettings], values: dict[str, Any]) -> str:
        """The step, for methods that are called otherwise without a base, or with one, in more than one."""
        draft, base = self.draft, self.base
        kind, method, near = self.kind, self.ours.name, str(self.data.get("name") or "")
        if kind.place:
            values[kind.place] = self._second_share(values.pop("weights"))
        if kind.without_base and base is None:
            method, more = kind.without_base
            values |= more
        if kind.on_changes and base is not None:
            changes = [draft.step("subtract", [model, base]) for model in models]
            return draft.step("add", [base, draft.step(method, changes, values)], near=near)
        if kind.scaled and (scale := owns[0].number("scale", 1.0)) != 1.0:
            method, values = "weighted_average", {"weights": [scale], "normalise": False}
        inputs = [*([base] if base is not None else []), *models]
        METHODS[method].check_inputs(len(inputs), one_line(draft.origin))
        return draft.step(method, inputs, values, near=near)

    # -- models -------------------------------------------------------------------------------------------------------

    def _listed(self) -> tuple[list[tuple[str, dict]], list[Any], str | None]:
        """Models with their own parameters, the scopes around them, and the base: of `models`, or of the only slice."""
        data, entries, scopes = self.data, self.data.get("models"), [self.data.get("parameters")]
        base = data.get("base_model")
        if "slices" in data:
            one = data["slices"][0] if isinstance(data["slices"], list) and len(data["slices"]) == 1 else None
            sources = one.get("sources") if isinstance(one, dict) else None
            ranges = [x.get("layer_range") for x in sources if isinstance(x, dict)] if isinstance(sources, list) else []
            if not ranges or any(x != ranges[0] for x in ranges):
                raise self.draft.error(
                    "slices: layers of several models are put together, which has no equivalent here"
                )
            self.draft.note(
                "import.layer_range", f"layer_range {one_line(ranges[0], 40)} was taken for the whole model"
            )
            entries, scopes, base = sources, [one.get("parameters"), *scopes], one.get("base_model") or base
        out = []
        for entry in entries if isinstance(entries, list) else []:
            entry = {"model": entry} if isinstance(entry, str) else entry
            name = self._model(entry.get("model")) if isinstance(entry, dict) else None
            if name is None:
                raise self.draft.error("an entry of models has no model")
            own = entry.get("parameters")
            out.append((name, own if isinstance(own, dict) else {}))
        if not out:
            raise self.draft.error("has no list of models")
        if base is not None and (base := self._model(base)) is None:
            raise self.draft.error("base_model is not a name")
        return out, scopes, base

    def _model(self, value: Any) -> str | None:
        """The name of a model or step: `name`, `name@revision`, `name+lora`, or the same as a mapping."""
        lora = None
        if isinstance(value, dict) and isinstance(value.get("model"), dict | str):
            lora, value = value.get("lora"), value["model"]
        elif isinstance(value, str) and value.count("+") == 1:
            value, lora = value.split("+")
        path, added = self._path(value), self._path(lora)
        if path is None:
            return None
        name = self.draft.model(path)
        return self.draft.step("add", [name, self.draft.model(added, lora=True)]) if added else name

    def _path(self, value: Any) -> str | None:
        revision = value.get("revision") if isinstance(value, dict) else None
        value = value.get("path") if isinstance(value, dict) else value
        if not isinstance(value, str) or not value.strip():
            return None
        if (match := _REVISION.fullmatch(value)) and not is_model_name(value):
            value, revision = match.groups()
        if revision is not None:
            self.draft.note("import.revision", f"revision {one_line(revision, 60)} of {value} has no meaning for files")
        return value

    # -- parameters ---------------------------------------------------------------------------------------------------

    def _values(self, owns: list[MergekitSettings]) -> dict[str, Any]:
        """Parameters by our names."""
        kind, draft = self.kind, self.draft
        shared = MergekitSettings(self.scopes, draft)
        values: dict[str, Any] = {}
        if kind.weighted:
            values["weights"] = [own.number("weight", None) for own in owns]
        for name, (ours, default) in kind.numbers.items():
            # What is shared is not read from models' own parameters.
            each = [(shared if name in ("lambda", "t", "select_topk") else own).number(name, default) for own in owns]
            if any(x != each[0] for x in each):
                draft.refuse(
                    f"{name} differs from model to model; here it is one for all, and {one_line(each[0], 40)} was taken"
                )
            values[ours] = each[0]
        values |= kind.fixed
        self._normalize(shared, values)
        if kind.rescale is not None:
            values["rescale"] = "l1" if shared.switch("rescale", kind.rescale) else "none"
        for name in kind.half_widths:
            values[name] = self._width(values[name], values["density"])
        for name, usual in kind.left_out.items():
            if shared.switch(name, usual) != usual:
                draft.refuse(f"{name}: {str(not usual).lower()} has no equivalent here")
        self._unused(owns)
        return values

    def _normalize(self, shared: MergekitSettings, values: dict[str, Any]) -> None:
        if self.kind.normalize is None:
            return
        how, default = self.kind.normalize
        asked = shared.switch("normalize", default)
        if how == "share":
            values["normalise"] = asked
        elif how == "mean":
            values["combine"] = "mean" if asked else "sum"
            if asked and any(x < 0 for w in values["weights"] for x in (w.values() if isinstance(w, dict) else [w])):
                self.draft.note(
                    "import.negative_weight",
                    f"a weight is negative: mergekit's {self.method} divides by the signed sum of the weights that agree, "
                    "which turns changes round or makes them as large as you like; here the sum is of their sizes, and the "
                    "elected sign stays",
                )
        elif asked and not all(isinstance(w, float) for w in values["weights"]):
            self.draft.refuse("normalize: weights that differ from key to key are taken as they are here")
        elif asked:
            total = sum(values["weights"])
            values["weights"] = [w / total for w in values["weights"]] if abs(total) >= 1e-8 else values["weights"]

    def _width(self, epsilon: Any, density: Any) -> Any:
        """Our epsilon is the whole width of chances; mergekit's is half of it, and none where all is kept."""
        if density == 1.0:
            return 0.0
        return {x: 2 * e for x, e in epsilon.items()} if isinstance(epsilon, dict) else 2 * epsilon

    def _second_share(self, weights: list[Any]) -> float:
        """The place between two models that their weights mean."""
        if len(weights) != 2:
            raise self.draft.error(f"merge_method {self.method} takes two models, {len(weights)} given")
        if not all(isinstance(w, float) for w in weights):
            self.draft.refuse("weight: weights that differ from key to key have no equivalent here; 0.5 was taken")
            return 0.5
        total = sum(weights)
        return weights[1] / total if abs(total) >= 1e-6 else 0.5

    def _unused(self, owns: list[MergekitSettings]) -> None:
        kind, draft = self.kind, self.draft
        read = {*kind.numbers, *kind.left_out, *(["weight"] if kind.weighted else [])}
        read |= {"normalize"} if kind.normalize else set()
        read |= {"rescale"} if kind.rescale is not None else set()
        read |= {"scale"} if kind.scaled else set()
        for name in dict.fromkeys(x for own in owns for x in own.names()):
            if name in read:
                continue
            if name in _TECHNICAL:
                draft.note("import.parameter_unused", f"{name} has no equivalent here, and no effect on what is meant")
            elif name in kind.without_effect:
                draft.note(
                    "import.parameter_without_effect",
                    f"{name} has no effect in mergekit's {self.method}, and is left out",
                )
            else:
                draft.refuse(f"parameter {one_line(name, 60)} has no equivalent here")

    def _output(self) -> dict[str, str]:
        dtype, worked = (
            x.removeprefix("torch.") if isinstance(x, str) else x for x in map(self.data.get, ("out_dtype", "dtype"))
        )
        if worked and worked != "float32":
            self.draft.note(
                "import.worked_dtype", f"the original works in {one_line(worked, 40)}; here all is worked out in fp32"
            )
        dtype = dtype or worked
        if dtype is None:
            return {}
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            self.draft.note("import.dtype_unknown", f"dtype {one_line(dtype, 40)} is not known here; fp16 is written")
            return {}
        return {"dtype": _DTYPES[dtype]}
