"""What a file says it was merged from, as a tree.

Read are `sd_merge_recipe` and `sd_merge_models` as the A1111 web UI, supermerger and their relatives write them, and the
recipes of Unetscope. The text comes from strangers: whatever it holds, the tree is finite and printable.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

# A tree of more nodes is cut off, and so are longer lines of descent: nobody reads them, and a record may be hostile.
MAX_NODES = 2000
MAX_DEPTH = 40
_MAX_TEXT = 300
# Longer recipes in YAML are not parsed: it takes seconds per megabyte.
_MAX_YAML = 1 << 20
_HASH = re.compile(r"[0-9a-f]{8,64}", re.IGNORECASE)

# Fields that name a merge's models, by the tools that write them: hashes, sometimes names.
_MODEL_FIELDS = (
    "primary_model_hash", "secondary_model_hash", "tertiary_model_hash",
    "model_a", "model_b", "model_c", "model_d", "model_e",
)  # fmt: skip
# Fields that say how it was merged, the first that is there.
_METHOD_FIELDS = ("interp_method", "merge_method", "mode", "method", "type")
# Fields worth a word in a line; what is absent, empty or false says nothing.
_DETAIL_FIELDS = (
    "multiplier", "alpha", "beta", "alpha_info", "beta_info", "base_alpha", "base_beta", "weights_alpha", "weights_beta",
    "calcmode", "elemental_merge", "bake_in_vae", "discard_weights", "is_inpainting",
)  # fmt: skip
# How many models the web UI's methods take: a null hash among them is a model that it could not identify.
_TAKES = {"No interpolation": 1, "Weighted sum": 2, "Add difference": 3}
_UNKNOWN = "unknown model"


@dataclass(frozen=True, slots=True)
class HistoryNode:
    """A model, and how it came to be.

    Attributes:
        name: of the file, or of a step inside a recipe.
        hash: SHA-256 as recorded, None where it is not.
        method: how its children were merged into it; empty where nothing is known (most models at the leaves).
        detail: weights and options, in one short line; or why the record ends here.
        children: what it was merged from, in the method's order.
    """

    name: str
    hash: str | None = None
    method: str = ""
    detail: str = ""
    children: tuple[HistoryNode, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """The tree as dictionaries and lists."""
        return {
            "name": self.name,
            "hash": self.hash,
            "method": self.method,
            "detail": self.detail,
            "children": [child.to_plain() for child in self.children],
        }


def merge_history(metadata: Mapping[str, str], name: str) -> HistoryNode | None:
    """The merge history in a header's metadata; None when it records none.

    Args:
        metadata: a checkpoint's.
        name: of the file itself, the root of the tree.
    """
    record = MergeRecord.read(metadata)
    reader = _Reader(record)
    if record.ours:
        root = reader.from_steps(*record.ours, name, ())
    elif record.recipe:
        root = reader.from_recipe(record.recipe, name, ())
    elif record.models:
        children = tuple(reader.model(digest, ()) for digest in list(record.models)[:MAX_NODES])
        root = HistoryNode(_text(name), detail="how these were merged is not recorded", children=children)
    else:
        root = None
    return root


class MergeRecord:
    """A header's record of merges, as it was written: the last one's recipe, and what is said of the models below it.

    Attributes:
        recipe: `sd_merge_recipe`, of any tool; empty when there is none.
        ours: the recipe of Unetscope and the hashes of its models by name, when it describes the last merge; else None.
        models: `sd_merge_models`: SHA-256 (or a name, where no hash was known) -> name, hash, recipe.
    """

    def __init__(self, recipe: dict, ours: tuple[dict, dict[str, str]] | None, models: dict):
        self.recipe, self.ours = recipe, ours
        self.models = {str(digest): entry for digest, entry in models.items()}
        self._by_name = {e["name"]: d for d, e in self.models.items() if isinstance(e, dict) and _is_name(e)}

    @classmethod
    def read(cls, metadata: Mapping[str, str]) -> MergeRecord:
        """The record in a header's metadata; empty where it holds none."""
        recipe, ours = _object(metadata.get("sd_merge_recipe")), _our_recipe(metadata)
        if ours and _recorded_later(recipe, ours[1]):
            ours = None
        return cls(recipe, ours, _object(metadata.get("sd_merge_models")))

    def find(self, said: str) -> tuple[str, str | None, dict]:
        """A model by hash or name: what it is filed under (empty: nowhere), its name, and its recipe (empty: none)."""
        digest = said if said in self.models else self._by_name.get(said, "")
        entry = self.models.get(digest)
        if not isinstance(entry, dict):
            return digest, None, {}
        return digest, entry.get("name") or None, _object(entry.get("sd_merge_recipe"))

    def recorded(self, said: str) -> Any:
        """What is written down as the recipe of a model, read or not."""
        entry = self.models.get(said if said in self.models else self._by_name.get(said, ""))
        return entry.get("sd_merge_recipe") if isinstance(entry, dict) else None


def _our_recipe(metadata: Mapping[str, str]) -> tuple[dict, dict[str, str]] | None:
    """The YAML recipe of Unetscope and the hashes of its models by name."""
    text = metadata.get("unetscope.recipe", "")
    if not text or len(text) > _MAX_YAML:
        return None
    from ..checkpoints.files.yaml_text import plain_from_yaml

    try:
        recipe = plain_from_yaml(text, most_repeated=None)  # of whatever size, a part of it is shown
    except ValueError:
        return None
    if not isinstance(recipe, dict) or not isinstance(recipe.get("models"), dict):
        return None
    return recipe, _hashes_by_name(json_or_none(metadata.get("unetscope.inputs")))


def _recorded_later(recipe: dict, hashes: Mapping[str, str]) -> bool:
    """Whether `sd_merge_recipe` is of a later merge than our recipe: tools copy an input's metadata into their output."""
    if not recipe or recipe.get("type") == "unetscope":
        return False
    named = {recipe.get(field) for field in _MODEL_FIELDS if isinstance(recipe.get(field), str)}
    return bool(named - set(hashes.values()))


class _Reader:
    """Follows hashes through `sd_merge_models`, counting nodes."""

    def __init__(self, record: MergeRecord):
        self._record = record
        self._left = MAX_NODES

    def model(self, said: str, above: tuple[str, ...], name: str = "") -> HistoryNode:
        """A model by hash or name, with what it was merged from; `above` are the hashes that lead here."""
        digest, recorded, recipe = self._record.find(said)
        # An entry may stand under a name, where no hash was known.
        known = next((d for d in (digest, said) if _HASH.fullmatch(d)), None)
        shown = _text(recorded or name or (_UNKNOWN if known else said))
        node = HistoryNode(shown, _text(known) if known else None)
        self._left -= 1
        if not recipe:
            return node
        if digest in above:
            return replace(node, detail="named among its own ancestors: the record goes in a circle")
        if self._left <= 0 or len(above) >= MAX_DEPTH:
            return replace(node, detail="the record goes on; it is cut off here")
        return replace(self.from_recipe(recipe, shown, (*above, digest)), hash=node.hash)

    def from_recipe(self, recipe: dict, name: str, above: tuple[str, ...]) -> HistoryNode:
        """A model that a recipe of any tool describes."""
        steps = recipe.get("recipe")
        if recipe.get("type") == "unetscope" and isinstance(steps, dict) and isinstance(steps.get("models"), dict):
            return self.from_steps(steps, _hashes_by_name(recipe.get("models")), name, above)
        given = [recipe.get(field) for field in _MODEL_FIELDS if field in recipe]
        takes = _TAKES.get(str(recipe.get("interp_method")), 0)
        children = []
        for i, said in enumerate(given):
            if self._left <= 0:
                break
            if isinstance(said, str) and said.strip():
                children.append(self.model(said.strip(), above))
            elif i < takes:
                self._left -= 1
                children.append(HistoryNode(_UNKNOWN, detail="its hash was not recorded"))
        return HistoryNode(_text(name), None, _method(recipe), _detail(recipe, _DETAIL_FIELDS), tuple(children))

    def from_steps(self, recipe: dict, hashes: Mapping[str, str], name: str, above: tuple[str, ...]) -> HistoryNode:
        """A model that a recipe of Unetscope describes: the tree of its steps, and below them its models."""
        models, steps = recipe["models"], recipe.get("steps")
        steps = steps if isinstance(steps, dict) else {}

        def node(source: Any, way: tuple[str, ...]) -> HistoryNode:
            source = source if isinstance(source, str) else _text(source)  # lists may multiply by YAML aliases
            step = steps.get(source)
            if not isinstance(step, dict):
                file = models.get(source)
                file = file if isinstance(file, str) else source
                return self.model(hashes.get(source, file), above, file)
            self._left -= 1
            if source in way or self._left <= 0 or len(way) >= MAX_DEPTH:
                return HistoryNode(_text(source), detail="the steps go in a circle or on and on; cut off here")
            inputs = step.get("inputs")
            children = []
            for each in inputs if isinstance(inputs, list) else []:
                if self._left <= 0:
                    break
                children.append(node(each, (*way, source)))
            options = [field for field in step if field not in ("method", "inputs")]
            return HistoryNode(
                _text(source), None, _text(step.get("method", "")), _detail(step, options), tuple(children)
            )

        result = recipe.get("result") or next(reversed(steps or models), "")
        top = node(result, ())
        parts = _detail(recipe, ("components",))
        detail = "; ".join(part for part in (top.detail, parts) if part)
        if not isinstance(result, str) or result not in steps:
            return HistoryNode(_text(name), None, "copy", parts, (top,))
        return replace(top, name=_text(name), detail=detail)


def _is_name(entry: dict) -> bool:
    return isinstance(entry.get("name"), str) and bool(entry["name"])


def _hashes_by_name(inputs: Any) -> dict[str, str]:
    """name -> SHA-256 out of a list of `{name, sha256}`; entries that are not so are left out."""
    found = (e for e in inputs if isinstance(e, dict)) if isinstance(inputs, list) else ()
    return {e["name"]: e["sha256"] for e in found if _is_name(e) and isinstance(e.get("sha256"), str)}


def _method(recipe: dict) -> str:
    said = next((recipe[f] for f in _METHOD_FIELDS if isinstance(recipe.get(f), str) and recipe[f]), "")
    # supermerger appends the formula: `Weight sum:A*(1-alpha)+B*alpha`.
    return _text(said.partition(":")[0].strip() or "unnamed method")


def _detail(fields: dict, names) -> str:
    said = []
    for name in names:
        value = fields.get(name)
        if value is not None and value is not False and value != "" and value != [] and value != {}:
            said.append(_text(name) if value is True else f"{_text(name)} {_shorter(value, 2)}")
        if sum(map(len, said)) > _MAX_TEXT:
            break
    return _text(", ".join(said))


def _shorter(value: Any, levels: int) -> str:
    """A value in few words. Nothing deep is walked: a few levels, and a few entries of each."""
    if isinstance(value, dict | list) and not levels:
        return "..."
    if isinstance(value, dict):
        items = [f"{_text(k)}: {_shorter(v, levels - 1)}" for k, v in list(value.items())[:40]]
        return "{" + ", ".join(items) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_shorter(v, levels - 1) for v in value[:40]) + "]"
    return f"{value:.10g}" if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    """One printable line: no control characters (a terminal would obey them), and not too long."""
    if isinstance(value, dict | list):
        return "..."
    text = value if isinstance(value, str) else "a huge number" if _huge(value) else str(value)
    shown = "".join(c if c.isprintable() else " " for c in text[: _MAX_TEXT + 1]).strip()
    return shown if len(shown) <= _MAX_TEXT else shown[: _MAX_TEXT - 3] + "..."


def _huge(value: Any) -> bool:
    """An integer that Python refuses to print."""
    return isinstance(value, int) and abs(value) >= 10**18


def _object(text: Any) -> dict:
    """A JSON object, given as one or as its text; empty for anything else."""
    value = json_or_none(text) if isinstance(text, str) else text
    return value if isinstance(value, dict) else {}


def json_or_none(text: str | None) -> Any:
    """What a text of somebody else's says as JSON; None where it is not JSON."""
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None
