"""Recipes out of a checkpoint's metadata: A1111's merger, supermerger, SD.Next and our own, with what they say of their inputs.

The record nests: a model that was merged itself is filed with its own recipe. All of it becomes steps, down to the models of
which nothing more is known.
"""

from __future__ import annotations

import re
from typing import Any

from ...library.history import MergeRecord
from ..methods import METHODS, Method
from ..recipe import Recipe
from ..recipe_file import DEEPEST
from .draft import Draft, Imported, Request, fault, one_line
from .supermerger import (
    Release,
    block_weights,
    elemental_lines,
    is_xl,
    kept_where_0,
    method_of,
    numbers,
    numbers_of,
    recorded_release,
    web_ui_method,
    with_lines,
    without,
)

_WEBUI_MODELS = ("primary_model_hash", "secondary_model_hash", "tertiary_model_hash")
_SUPERMERGER_MODELS = ("model_a", "model_b", "model_c")
_HASH = re.compile(r"[0-9a-fA-F]{8,64}")
# How Chattiori-Model-Merger writes numbers: `0.4` or `0.4,[[0.1, ...],[elemental lines]]`.
_CHATTIORI_NUMBERS = re.compile(r"(-?\d[\d.eE+-]*)(?:,\[\[([^\[\]]*)\],\[(.*)\]\])?\s*$", re.DOTALL)
_CHATTIORI_DTYPES = {"fp16": "fp16", "fp32": "keep"}
# The hash of a model whose hash was not known, as JSON and Python write it.
_NULL = ("null", "None")
# Where merges are recorded in a header.
_RECORDS = ("sd_merge_recipe", "unetscope.recipe")
# supermerger's calculation of model A alone, and the tensors that it leaves as they are.
_SCALED = "self"
_NOT_SCALED = ("to_out", "proj_out", "norm")
_NO_VAE = (None, "", "None", False)


def from_metadata(metadata: dict[str, str], name: str, request: Request) -> Imported | None:
    """The recipe that a checkpoint's metadata records; None when it records none.

    Args:
        metadata: of the header.
        name: the file's, for messages.
        request: what the user said.

    Raises:
        RecipeError: the record holds something that has no equivalent here.
    """
    record = MergeRecord.read(metadata)
    if record.ours:
        return _ours(*record.ours, Draft(f"{name} (recipe of Unetscope)", request))
    if not record.recipe:
        if broken := next((field for field in _RECORDS if _is_broken(metadata.get(field))), None):
            text = f"its metadata holds a merge recipe ({broken}), and it is broken: it cannot be read as what it is"
            raise fault(name, text)
        return None
    kind = record.recipe.get("type")
    history = _History(record, Draft(f"{name} (merge metadata of {_text(kind) or 'an unnamed tool'})", request))
    return history.imported()


def _ours(data: dict, hashes: dict[str, str], draft: Draft) -> Imported:
    """Our own recipe: as it stands, with the files found."""
    recipe = Recipe.parse(data, one_line(draft.origin))
    for name, path in recipe.models.items():
        draft.model(path, digest=hashes.get(name), named=name)
    for name, lora in recipe.loras.items():
        draft.model(lora.path, digest=hashes.get(name), named=name, lora=True)
        if more := lora.model_dump(exclude_defaults=True, exclude={"path"}):
            draft.loras[name] = {"path": draft.loras[name], **more}
    plain = recipe.to_plain()
    for said, file in zip(plain.get("methods", ()), recipe.methods_files(), strict=True):
        said["path"] = str(file.path)
    draft.steps = plain.get("steps", {})
    fields = {key: plain[key] for key in ("components", "convention", "output", "title", "methods") if key in plain}
    return draft.finish(recipe.result, **fields)


class _History:
    """Follows a record from the last merge down to its leaves."""

    def __init__(self, record: MergeRecord, draft: Draft):
        self._record, self._draft = record, draft
        self._names: dict[str, str] = {}
        self._unknown = 0
        self._rounded = 0

    def imported(self) -> Imported:
        """The whole of it, as a recipe."""
        recipe, draft = self._record.recipe, self._draft
        self._unroll(recipe)
        result = self._merged(recipe, "merged")
        components = {"vae": "merge"}
        if recipe.get("bake_in_vae") not in _NO_VAE:
            components["vae"] = self._baked(recipe["bake_in_vae"])
        if self._rounded:
            draft.note(
                "import.intermediate_rounding",
                f"the original saved {self._rounded} intermediate {'file' if self._rounded == 1 else 'files'}, each rounded to "
                "fp16 or to its inputs' dtype; here nothing is rounded between steps",
            )
        half, written = recipe.get("save_as_half"), _CHATTIORI_DTYPES.get(str(recipe.get("fp")))
        output = {"dtype": "keep" if half is False else written} if half is False or written else {}
        if half is None and not written:
            draft.note(
                "import.dtype_not_recorded", "the dtype of the original is not recorded; the result is written as fp16"
            )
        title = recipe.get("custom_name")
        title = one_line(title, 200) if isinstance(title, str) else ""
        return draft.finish(result, components=components, output=output, title=title)

    # -- models -------------------------------------------------------------------------------------------------------

    def _unroll(self, recipe: dict) -> None:
        """Names for all that a merge is made from, deepest first: records nest deeper than Python's calls."""
        record, unfinished = self._record, set()
        stack = [("", "", recipe, self._said(recipe))]
        while stack:
            identity, shown, merge, left = stack[-1]
            if not left:
                stack.pop()
                if identity:
                    self._names[identity] = self._merged(merge, shown)
                    unfinished.discard(identity)
                continue
            said = left.pop()
            digest, recorded, inner = record.find(said)
            child = digest or said
            if child in self._names or child in unfinished:
                continue
            shown = recorded if isinstance(recorded, str) else child
            if not inner and _is_broken(record.recorded(said)):
                self._draft.note(
                    "import.record_broken",
                    f"{shown} was merged itself, and the record of that is broken; the file itself is used",
                )
            if inner and self._opens(inner, shown, len(stack)):
                unfinished.add(child)
                stack.append((child, shown, inner, self._said(inner)))
            else:
                self._names[child] = self._draft.model(shown, digest=child if _HASH.fullmatch(child) else None)

    def _said(self, recipe: dict) -> list[str]:
        """The hashes or names of a merge's inputs, last one first; without those that are not recorded."""
        said = [recipe.get(field) for field in _fields(recipe)]
        return [text.strip() for text in reversed(said) if _is_said(text)]

    def _opens(self, recipe: dict, shown: str, depth: int) -> bool:
        """Whether a model's own record is unrolled; what that loses is noted."""
        draft = self._draft
        if not _fields(recipe):
            kind = _text(recipe.get("type")) or "an unnamed tool"
            draft.note(
                "import.record_not_unrolled",
                f"{shown} is itself a merge of {kind}, whose record is not unrolled; the file itself is used",
            )
            return False
        if depth >= DEEPEST:
            draft.refuse(f"the history of {shown} goes on below {DEEPEST} merges")
            return False
        self._rounded += 1
        if recipe.get("bake_in_vae") not in _NO_VAE:
            draft.note(
                "import.vae_of_inner",
                f"{shown}: VAE {_text(recipe['bake_in_vae'])} was baked in, which only the last merge can have here",
            )
        return True

    def _source(self, said: Any, what: str, filed: bool = False) -> str:
        """The name of a model or step for what a recipe says of an input: a hash, a name, or nothing.

        `filed`: of what is said by nothing, it is the one whose name is recorded.
        """
        if not _is_said(said):
            if filed and (recorded := next(filter(None, (self._record.find(key)[1] for key in _NULL)), None)):
                self._draft.note(
                    "import.filed_without_hash",
                    f"{what} has no hash in the record; the name that is filed without one, {recorded}, was taken",
                )
                return self._draft.model(str(recorded))
            self._unknown += 1
            name = self._draft.model(f"unknown model {self._unknown}")
            self._draft.note("import.no_hash", f"{what} has no hash in the record: {name} stands for it")
            return name
        digest, recorded, _ = self._record.find(said.strip())
        identity = digest or said.strip()
        if identity not in self._names:
            shown = recorded if isinstance(recorded, str) else identity
            self._draft.note("import.own_ancestor", f"{shown} is named among its own ancestors; its history ends there")
            return self._draft.model(f"{shown} (earlier)")
        return self._names[identity]

    def _baked(self, vae: Any) -> str:
        """The source of a VAE that was baked in: a file, written so that it is one for recipes."""
        if not isinstance(vae, str):
            self._draft.refuse("a VAE was baked in, but the record does not say which")
            return "merge"
        found = self._draft.found(vae)
        if not found:
            self._draft.note(
                "import.vae_not_found", f"VAE {vae} was baked in; it was not found, so put its path into components"
            )
        path = str(found or one_line(vae))
        return path if "/" in path else f"./{path}"

    # -- merges -------------------------------------------------------------------------------------------------------

    def _merged(self, recipe: dict, shown: str) -> str:
        """The step for a merge that some tool recorded."""
        if "interp_method" in recipe:
            return self._webui(recipe, shown)
        if _is_supermerger(recipe):
            return self._supermerger(recipe, shown)
        if recipe.get("type") == "SDNext":
            return self._sdnext(recipe, shown)
        if _is_chattiori(recipe):
            return self._chattiori(recipe, shown)
        kind = _text(recipe.get("type")) or "without a type"
        raise self._draft.error(
            f"the merge recipe of {shown} is of a kind that is not known ({kind}); known are webui, sd-webui-supermerger, "
            "SDNext, merge-models-chattiori and unetscope"
        )

    def _inputs(self, recipe: dict, shown: str) -> list[str]:
        fields = _fields(recipe)
        # Models without a hash are all filed under null, and the last one stays there.
        nameless = next((field for field in reversed(fields) if not _is_said(recipe.get(field))), "")
        return [self._source(recipe.get(field), f"{field} of {shown}", field == nameless) for field in fields]

    def _webui(self, recipe: dict, shown: str) -> str:
        mode = recipe["interp_method"]
        found = web_ui_method(mode)
        if not found:
            self._draft.refuse(f"{shown} was merged by {_text(mode)!r}, which is not a method of the web UI's merger")
            return self._inputs(recipe, shown)[0]
        self._lost(recipe, shown)
        self._draft.note(
            "import.web_ui_rounding",
            "the web UI averages the VAE with the rest (so does this recipe), works in the inputs' own dtypes and rounds "
            "after every operation; its half is for fp32 alone, bf16 stays bf16. Here all is worked out in fp32 and rounded once",
        )
        inputs = self._inputs(recipe, shown)
        values = {p: self._number(recipe.get("multiplier"), "multiplier", shown) for p in numbers_of(found)}
        return self._draft.step(found.name, inputs, values, shown)

    def _supermerger(self, recipe: dict, shown: str) -> str:
        draft, mode, calculation = self._draft, recipe.get("mode"), recipe.get("calcmode") or "normal"
        found = method_of(mode, calculation)
        if not found and calculation != _SCALED:
            draft.refuse(
                f"{shown} was merged by {_text(mode)!r} with calculation {_text(calculation)!r}: there is none here"
            )
            return self._inputs(recipe, shown)[0]
        self._lost(recipe, shown)
        vectors = self._vectors(recipe)
        release = recorded_release(recipe, list(vectors.values()), draft.request.family, draft)
        if calculation == _SCALED:
            return self._scaled(recipe, shown, vectors, release)
        method, said = found
        draft.differs(said.note)
        values: dict[str, Any] = dict(said.fixed)
        for parameter in numbers_of(method):
            by_block = vectors if parameter in said.blocks else {}
            values[parameter] = self._weights(recipe, parameter, shown, by_block, release)
        self._choose(recipe, shown, said.chosen, values, release)
        return draft.step(method.name, self._inputs(recipe, shown), values, shown)

    def _scaled(self, recipe: dict, shown: str, vectors: dict[str, list[float]], release: Release) -> str:
        """Model A alone times alpha, but where that is 0, and but for what supermerger leaves out."""
        values = {"alpha": self._weights(recipe, "alpha", shown, vectors, release)}
        self._choose(recipe, shown, True, values, release)
        for part in _NOT_SCALED:
            values["alpha"] = with_lines(values["alpha"], [f":{part}:0"], self._draft, release)
        weights = kept_where_0(values["alpha"])
        inputs = self._inputs(recipe, shown)[:1]
        return self._draft.step("weighted_average", inputs, {"weights": [weights], "normalise": False}, shown)

    def _choose(self, recipe: dict, shown: str, possible: bool, values: dict[str, Any], release: Release) -> None:
        """Leave out what Exclude names, or Include does not."""
        for field in ("Include", "Exclude"):
            chosen = [x for x in _list(recipe.get(field)) if isinstance(x, str) and x not in ("", "print")]
            if not chosen:
                continue
            if not possible:
                self._draft.refuse(
                    f"{shown}: {field} {', '.join(chosen[:40])} with this calculation has no equivalent here"
                )
                continue
            if len(chosen) > 1:
                self._draft.note(
                    "import.blocks_twice",
                    f"{shown}: {field} {', '.join(chosen[:40])}: what two of these name counts once here; supermerger's releases "
                    "before 2025-11-27 took it for neither",
                )
            for parameter in ("alpha", "beta"):
                if parameter in values:
                    values[parameter] = without(values[parameter], field, chosen, self._draft, release)

    def _vectors(self, recipe: dict) -> dict[str, list[float]]:
        """The vectors of alpha and beta; the text as typed, which begins with BASE, serves where the numbers used were not
        written down."""
        found = {}
        for parameter in ("alpha", "beta") if recipe.get("mbw") else ():
            for field in (f"weights_{parameter}", f"weights_{parameter}_orig"):
                vector = numbers(recipe.get(field))
                if vector and len(vector) > 1:
                    found[parameter] = vector
                    break
        return found

    def _weights(
        self, recipe: dict, parameter: str, shown: str, vectors: dict[str, list[float]], release: Release
    ) -> Any:
        """The block weights of alpha or beta, or the one number that there is."""
        base = self._number(recipe.get(f"base_{parameter}"), f"base_{parameter}", shown)
        vector = vectors.get(parameter)
        weights: Any = release.number(base)
        if vector:
            # The numbers used are a list, without BASE; a text begins with it.
            used = recipe.get(f"weights_{parameter}")
            as_used = isinstance(used, list) and numbers(used) is not None
            typed = len(vector) in (26, 61, 110) or (len(vector) == 20 and not as_used)
            if len(vector) in (60, 61):
                self._draft.refuse(
                    f"{shown}: its {len(vector)} block weights are Flux's, for which no convention is known here"
                )
            else:
                weights = block_weights(vector, None if typed else base, release)
        elif recipe.get("mbw") and (parameter == "alpha" or (vectors and recipe.get("weights_beta") is not None)):
            said = _text(recipe.get(f"weights_{parameter}"))
            self._draft.refuse(f"{shown}: the block weights of {parameter} are not numbers ({said})")
        if parameter == "beta" and vector and release.extended:
            self._draft.note(
                "import.beta_vector", f"{shown}: supermerger took beta's 110 numbers for alpha; here they are beta's"
            )
        lines = elemental_lines(recipe.get("elemental_merge")) if parameter == "alpha" else []
        if lines and release.xl and not release.extended:
            self._draft.note(
                "import.elemental_blocks",
                "supermerger looks SDXL's blocks up in the list of SD1's in elemental lines (M00 is OUT02); here they stand as the "
                "blocks that were changed",
            )
        return with_lines(weights, lines, self._draft, release) if lines else weights

    def _sdnext(self, recipe: dict, shown: str) -> str:
        mode = recipe.get("merge_mode")
        method = _of_sdnext(mode)
        if method is None:
            self._draft.refuse(f"{shown} was merged by SD.Next's {_text(mode)!r}: there is none here")
            return self._inputs(recipe, shown)[0]
        values: dict[str, Any] = {}
        for parameter in numbers_of(method):
            vector = numbers(recipe.get(parameter))
            if vector and len(vector) > 1:
                values[parameter] = {"vector": vector, "convention": "merge-block-weighted"}
            else:
                values[parameter] = vector[0] if vector else self._number(recipe.get(parameter), parameter, shown)
        self._lost(recipe, shown)
        return self._draft.step(method.name, self._inputs(recipe, shown), values, shown)

    def _chattiori(self, recipe: dict, shown: str) -> str:
        """A merge of Chattiori-Model-Merger, which leaves the VAE and the embeddings where supermerger's older releases did."""
        draft, method = self._draft, _of_chattiori(recipe.get("merge_method"))
        if method is None:
            draft.refuse(
                f"{shown} was merged by Chattiori-Model-Merger's {_text(recipe.get('merge_method'))!r}: there is none here"
            )
            return self._inputs(recipe, shown)[0]
        if recipe.get("calculation"):
            draft.refuse(f"{shown}: calculation {_text(recipe['calculation'])} has no equivalent here")
        self._lost(recipe, shown)
        draft.note(
            "import.chattiori",
            "Chattiori-Model-Merger leaves the VAE as it is in the first model, and records its numbers to three places",
        )
        values: dict[str, Any] = {}
        for parameter in numbers_of(method):
            said = _CHATTIORI_NUMBERS.search(str(recipe.get(f"{parameter}_info") or ""))
            if not said:
                draft.refuse(f"{shown}: {parameter}_info is not a number ({_text(recipe.get(f'{parameter}_info'))})")
                continue
            if said[3] and re.search(r"[^\s,\[\]'\"]", said[3]):
                draft.refuse(
                    f"{shown}: elemental lines ({_text(said[3])}), off by one block there, have no equivalent here"
                )
            vector = numbers(said[2]) or []
            # It appends supermerger's 0 to SDXL's numbers after it has written them down, or before.
            xl = is_xl([vector] if vector else [], draft.request.family)
            release = Release(xl, recorded=True, embeddings="" if xl else "OUT11")
            weights = block_weights(vector, float(said[1]), release) if vector else release.number(float(said[1]))
            values[parameter] = (weights if isinstance(weights, dict) else {"default": weights}) | {"VAE": 0.0}
        return draft.step(method.name, self._inputs(recipe, shown), values, shown)

    # -- the rest -----------------------------------------------------------------------------------------------------

    def _number(self, value: Any, field: str, shown: str) -> float:
        found = numbers([value]) if not isinstance(value, bool) else None
        if found is None:
            self._draft.refuse(f"{shown}: {field} is not a number ({_text(value)})")
            return 0.0
        return found[0]

    def _lost(self, recipe: dict, shown: str) -> None:
        """Names the options of a merge that recipes here do not have."""
        if recipe.get("discard_weights"):
            self._draft.note(
                "import.discarded",
                f"{shown}: keys that fit {_text(recipe['discard_weights'])!r} were discarded (discard_weights); here they are kept",
            )
        if recipe.get("config_source") not in (None, 0, 3):
            self._draft.note(
                "import.config_source",
                f"{shown}: config_source {_text(recipe['config_source'])} (a .yaml file next to the result)",
            )
        if recipe.get("is_instruct_pix2pix"):
            self._draft.note(
                "import.instruct_pix2pix",
                f"{shown}: is_instruct_pix2pix; the extra channels are those of the first model",
            )


def _is_said(said: Any) -> bool:
    """Whether a record names an input."""
    return isinstance(said, str) and bool(said.strip()) and said not in _NULL


def _is_broken(said: Any) -> bool:
    """Whether a record is there, and is not what records are: text that holds a mapping."""
    return said not in (None, "", "null", "{}", {}, False)


def _fields(recipe: dict) -> tuple[str, ...]:
    """The fields that name the inputs of a merge; empty for a record of a kind that is not known."""
    if "interp_method" in recipe:
        fields, found = _WEBUI_MODELS, web_ui_method(recipe["interp_method"])
    elif _is_supermerger(recipe):
        known = method_of(recipe.get("mode"), recipe.get("calcmode"))
        fields, found = _SUPERMERGER_MODELS, known[0] if known else None
    elif recipe.get("type") == "SDNext":
        fields, found = _WEBUI_MODELS, _of_sdnext(recipe.get("merge_mode"))
    elif _is_chattiori(recipe):
        fields, found = _WEBUI_MODELS, _of_chattiori(recipe.get("merge_method"))
    else:
        return ()
    return fields[: len(found.inputs) if found else 1]


def _of_sdnext(mode: Any) -> Method | None:
    """The method of a mode of SD.Next, which are called as ours are: it merges with the code of sd-meh."""
    found = METHODS.get(mode) if isinstance(mode, str) else None
    return found if found and found.sdnext else None


def _of_chattiori(mode: Any) -> Method | None:
    """The method of a mode of Chattiori-Model-Merger."""
    words = "_".join(mode.casefold().split()) if isinstance(mode, str) else ""
    return next((m for m in METHODS.values() if words and m.chattiori == words), None)


def _is_chattiori(recipe: dict) -> bool:
    """Whether it is a whole record of that tool: all its fields are always written."""
    return (
        recipe.get("type") == "merge-models-chattiori" and "alpha_info" in recipe and "secondary_model_hash" in recipe
    )


def _is_supermerger(recipe: dict) -> bool:
    return recipe.get("type") == "sd-webui-supermerger" or "calcmode" in recipe


def _list(value: Any) -> list:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    """A recorded value in a few words."""
    if value is None:
        return ""
    try:
        return one_line(value, 120)
    except ValueError:  # an integer that Python refuses to print
        return "a huge number"
