"""A merge that ComfyUI saved: the nodes that made the file, in the header's `prompt`, as steps of a recipe.

A checkpoint there is three things, which are merged apart: a model (the denoiser), text encoders (CLIP) and a VAE. Every node here
says what comes out of it, by what went in. Its numbers are shares of the first model where ours are of the second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ...checkpoints.families import family_of
from ..recipe_file import DEEPEST
from .draft import Draft, Imported, Request, one_line
from .supermerger import numbers

# Where a node writes a file, and which parts of it.
_SAVES: dict[str, tuple[str, ...]] = {
    "CheckpointSave": ("model", "clip", "vae"),
    "ImageOnlyCheckpointSave": ("model", "vae"),
    "ModelSave": ("model",),
}
_MERGES = re.compile(r"ModelMerge|CLIPMerge|CheckpointSave|ModelSave")
# Nodes that change how a model is sampled, and no weight: they hand on what comes in under this name.
_SAMPLING = {
    **dict.fromkeys(
        (
            "ModelSamplingDiscrete", "ModelSamplingContinuousEDM", "ModelSamplingContinuousV", "ModelSamplingSD3",
            "ModelSamplingAuraFlow", "ModelSamplingFlux", "ModelSamplingStableCascade", "RescaleCFG", "FreeU", "FreeU_V2",
            "PerpNeg", "PatchModelAddDownscale", "HyperTile", "ModelComputeDtype",
        ),
        "model",
    ),
    "CLIPSetLastLayer": "clip",
}  # fmt: skip
# The parts of a denoiser that its block nodes name, as selectors; a name is the beginning of a key.
_PARTS = {"time_embed.": "TIME_EMBED", "out.": "OUT", "input": "IN*", "middle": "M00", "out": "OUT*"}
_NUMBERED = re.compile(r"(input_blocks|output_blocks|middle_block)\.(\d+)\.?")
_MIDDLE = "M00"
# A tensor of text encoders that CLIPMerge nodes leave out.
_LEFT = ".logit_scale"


@dataclass(frozen=True)
class Whole:
    """A model, text encoders or VAE: a model or step of the recipe."""

    name: str
    delta: bool = False


@dataclass(frozen=True)
class File:
    """Text encoders or a VAE of a file of their own."""

    path: str


def is_merge(prompt: Any) -> bool:
    """Whether a prompt's text has nodes that merge or save a model."""
    return isinstance(prompt, str) and bool(_MERGES.search(prompt))


def from_prompt(prompt: str, name: str, request: Request) -> Imported:
    """The recipe of the file `name`, whose header holds this prompt.

    Raises:
        RecipeError: the prompt is broken, saves no checkpoint, or has a node that cannot be said here.
    """
    draft = Draft(f"{name} (ComfyUI's nodes)", request)
    try:
        nodes = json.loads(prompt)
    except (ValueError, RecursionError):
        raise draft.error("its metadata holds ComfyUI's nodes (prompt), and they are broken: no valid JSON") from None
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise draft.error("its metadata holds ComfyUI's nodes (prompt), and they are broken: no mapping of nodes")
    return _Graph(nodes, draft).imported(name)


class _Graph:
    """The nodes, and what has come out of those so far."""

    def __init__(self, nodes: Mapping[str, dict], draft: Draft):
        self._nodes, self._draft = nodes, draft
        self._done: dict[str, tuple[Any, ...]] = {}

    def imported(self, name: str) -> Imported:
        """What the node that saved the file was given."""
        draft, save = self._draft, self._save(name)
        parts = _SAVES[self._kind(save)]
        model, *others = (self._input(save, part) for part in parts)
        if not isinstance(model, Whole) or model.delta:
            what = "a difference of two models" if isinstance(model, Whole) else "no model that can be read"
            raise draft.error(f"node {save} saves {what}, which a recipe does not have as its result")
        components = {}
        for part, source in zip(parts[1:], others, strict=True):
            component = {"clip": "text_encoders", "vae": "vae"}[part]
            if isinstance(source, Whole) and not source.delta:
                components[component] = source.name
            elif isinstance(source, File):
                components[component] = source.path
            elif source is not None:
                draft.refuse(f"node {save} saves a {part} that cannot be read; that of the first model was taken")
        if len(parts) < 3:
            draft.note(
                "import.parts_alone",
                f"{self._kind(save)} wrote {' and '.join(parts)} alone; text encoders that the models hold are merged in the same "
                f"steps here{'' if 'vae' in parts else ', and a VAE is that of the first'}",
            )
        draft.note(
            "import.loaded_dtype",
            "ComfyUI saves the dtype that it loaded the models in, and rounds each patched tensor to it once; fp16 is written here",
        )
        return draft.finish(model.name, components=components)

    def _kind(self, node: str) -> str:
        return str(self._nodes[node].get("class_type"))

    def _save(self, name: str) -> str:
        """The node that saved the file: of several the one whose prefix the file's name has."""
        found = [node for node in self._nodes if self._kind(node) in _SAVES]
        if len(found) > 1:
            named = [
                node for node in found if _prefix(self._nodes[node]) and name.startswith(_prefix(self._nodes[node]))
            ]
            longest = max((len(_prefix(self._nodes[node])) for node in named), default=0)
            found = [node for node in named if len(_prefix(self._nodes[node])) == longest] or found
        if not found:
            raise self._draft.error("ComfyUI's nodes save no checkpoint")
        if len(found) > 1:
            raise self._draft.error(
                f"ComfyUI's nodes save {len(found)} files ({', '.join(_prefix(self._nodes[n]) or '?' for n in found[:6])}), "
                "and the file's name tells none of them; give it the name that it was saved under"
            )
        return found[0]

    # -- walking ------------------------------------------------------------------------------------------------------

    def _input(self, node: str, field: str) -> Any:
        """What comes into a node under a name: a value as written, or what another node puts out."""
        value = self._inputs(node).get(field)
        if not _is_link(value):
            return value
        for each in self._order(value[0]):
            if each not in self._done:
                self._done[each] = self._out(each)
        done = self._done.get(value[0], ())
        return done[value[1]] if value[1] < len(done) else None

    def _inputs(self, node: str) -> dict[str, Any]:
        inputs = self._nodes[node].get("inputs")
        return inputs if isinstance(inputs, dict) else {}

    def _order(self, last: str) -> list[str]:
        """A node and all that it needs, first things first."""
        order: dict[str, None] = {}
        stack, open_ = [(last, iter(self._links(last)))], {last}
        while stack:
            node, links = stack[-1]
            child = next(links, None)
            if child is None:
                stack.pop()
                open_.discard(node)
                order[node] = None
            elif child in open_:
                raise self._draft.error(f"node {child} stands among its own inputs")
            elif child not in order and child not in self._done:
                if len(stack) > DEEPEST:
                    raise self._draft.error(f"its nodes go on for more than {DEEPEST} in a row")
                stack.append((child, iter(self._links(child))))
                open_.add(child)
        return list(order)

    def _links(self, node: str) -> list[str]:
        if node not in self._nodes:
            raise self._draft.error(f"node {one_line(node, 40)} is linked to and is not there")
        return [value[0] for value in self._inputs(node).values() if _is_link(value)]

    def _out(self, node: str) -> tuple[Any, ...]:
        """What a node puts out, by place."""
        kind, draft = self._kind(node), self._draft
        if build := _BUILT.get(kind):
            return build(self, node)
        if kind.startswith("ModelMerge") and any("." in x or x in _PARTS for x in self._inputs(node)):
            # One for each architecture: numbers by the beginning of keys. Others of that name are not known.
            return self._blocks(node)
        if kind in _SAMPLING:
            draft.note("import.sampling", f"{kind} changes how a model is sampled, not its weights, and is left out")
            return (self._input(node, _SAMPLING[kind]),)
        links = [field for field, value in self._inputs(node).items() if _is_link(value)]
        if kind == "Reroute":
            return (self._input(node, links[0]),) if links else (None,)
        values = [v for v in self._inputs(node).values() if isinstance(v, int | float) and not isinstance(v, bool)]
        if not links and len(values) == 1:  # a number as a node
            return (float(values[0]),)
        if found := [x for field in links if isinstance(x := self._input(node, field), Whole | File)]:
            draft.refuse(f"node {node}, {one_line(kind, 60)}, is not known; what comes into it was taken")
            models = [
                x for field in links if "clip" not in field for x in [self._input(node, field)] if isinstance(x, Whole)
            ]
            return (*(models or found)[:1], *found[1:2])
        return (None, None, None)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def _text(self, node: str, field: str) -> str:
        value = self._input(node, field)
        if not isinstance(value, str) or not value.strip():
            raise self._draft.error(f"node {node}, {self._kind(node)}, has no {field}")
        return value

    def _number(self, node: str, field: str, usual: float = 1.0) -> float:
        value = self._input(node, field)
        found = numbers([value]) if value is not None and not isinstance(value, bool) else None
        if found is None:
            self._draft.refuse(f"node {node}, {self._kind(node)}: {field} is not a number; {usual:g} was taken")
            return usual
        return found[0]

    def _whole(self, node: str, field: str) -> Whole:
        value = self._input(node, field)
        if isinstance(value, File):  # text encoders of their own, merged with others
            return Whole(self._draft.model(value.path))
        if not isinstance(value, Whole):
            raise self._draft.error(f"node {node}, {self._kind(node)}: what comes in as {field} cannot be read")
        return value

    def _checkpoint(self, node: str) -> tuple[Any, ...]:
        name = Whole(self._draft.model(self._text(node, "ckpt_name")))
        return name, name, name

    def _denoiser(self, node: str) -> tuple[Any, ...]:
        return (Whole(self._draft.model(self._text(node, "unet_name"))),)

    def _encoders(self, node: str) -> tuple[Any, ...]:
        return (self._file(self._text(node, "clip_name")),)

    def _vae(self, node: str) -> tuple[Any, ...]:
        return (self._file(self._text(node, "vae_name")),)

    def _file(self, path: str) -> File:
        found = str(self._draft.found(path) or one_line(path))
        if not self._draft.found(path):
            self._draft.note("import.loaded_alone", f"{found} was loaded by itself; write its path into components")
        return File(found if "/" in found else f"./{found}")

    def _several(self, node: str) -> tuple[Any, ...]:
        self._draft.refuse(
            f"node {node}, {self._kind(node)}, loads text encoders from several files, which cannot be told apart here"
        )
        return (None,)

    def _loras(self, node: str) -> tuple[Any, ...]:
        lora = self._text(node, "lora_name")
        out = []
        for field, strength in (("model", "strength_model"), ("clip", "strength_clip")):
            if field not in self._inputs(node):
                continue
            whole, value = self._whole(node, field), self._number(node, strength)
            if value:
                added = self._draft.model(lora, lora=True)
                whole = Whole(self._draft.step("add", [whole.name, added], {"alpha": value}), whole.delta)
            out.append(whole)
        return tuple(out)

    def _two(self, node: str) -> tuple[str, list[Whole]]:
        what = "clip" if self._kind(node).startswith("CLIP") else "model"
        return what, [self._whole(node, f"{what}{n}") for n in (1, 2)]

    def _simple(self, node: str) -> tuple[Any, ...]:
        """ratio x + (1 - ratio) y."""
        what, (a, b) = self._two(node)
        return (self._mixed(node, a, b, self._share(what, _rest(self._number(node, "ratio")))),)

    def _mixed(self, node: str, a: Whole, b: Whole, alpha: Any) -> Whole:
        if a.delta != b.delta:
            raise self._draft.error(
                f"node {node}, {self._kind(node)}, mixes a model with a difference, which has no equivalent here"
            )
        return Whole(self._draft.step("weighted_sum", [a.name, b.name], {"alpha": alpha}), a.delta)

    def _share(self, what: str, value: float) -> Any:
        """The share of the second; of text encoders ComfyUI leaves `logit_scale` as it is in the first."""
        return {"default": value, f"key:*{_LEFT}": 0.0} if what == "clip" and self._has_left() else value

    def _has_left(self) -> bool:
        """Whether the text encoders may have what ComfyUI never merges."""
        said = self._draft.request.family
        return said is None or any(key.endswith(_LEFT) for key in family_of(said).layout())

    def _subtract(self, node: str) -> tuple[Any, ...]:
        """multiplier (x - y)."""
        what, (a, b) = self._two(node)
        multiplier = self._number(node, "multiplier")
        if a.delta or b.delta:
            raise self._draft.error(
                f"node {node}, {self._kind(node)}, subtracts from or by a difference, which has no equivalent here"
            )
        name = self._draft.step("subtract", [a.name, b.name])
        if what == "clip" and self._has_left():
            self._draft.note(
                "import.logit_scale",
                "ComfyUI leaves logit_scale out of differences of text encoders; here it is in them",
            )
        if multiplier != 1:
            name = self._draft.step("weighted_average", [name], {"weights": [multiplier], "normalise": False})
        return (Whole(name, delta=True),)

    def _add(self, node: str) -> tuple[Any, ...]:
        """x + y."""
        _, (a, b) = self._two(node)
        if b.delta or a.delta:
            first, second = (a, b) if b.delta else (b, a)
            return (Whole(self._draft.step("add", [first.name, second.name]), first.delta),)
        weights = {"weights": [1.0, 1.0], "normalise": False}
        return (Whole(self._draft.step("weighted_average", [a.name, b.name], weights)),)

    def _blocks(self, node: str) -> tuple[Any, ...]:
        """ratio x + (1 - ratio) y, each key by the longest name that it begins with; by the first where it begins with none."""
        a, b = self._whole(node, "model1"), self._whole(node, "model2")
        given = {field: self._number(node, field) for field in self._inputs(node) if field not in ("model1", "model2")}
        usual = _rest(next(iter(given.values())))
        lines = {_selector(field): _rest(value) for field, value in sorted(given.items(), key=lambda x: len(x[0]))}
        middle = {x for x in lines if x.startswith(f"{_MIDDLE} ")}
        if len(middle) == 3 and len({lines[x] for x in middle}) == 1:
            lines = {_MIDDLE if x in middle else x: value for x, value in lines.items()}
        same = all(value == usual for value in lines.values())
        # By this convention no block follows another's line.
        return (self._mixed(node, a, b, usual if same else {"convention": "comfyui", "default": usual, **lines}),)


def _rest(ratio: float) -> float:
    """The second model's share, without the dust of binary fractions."""
    return round(1 - ratio, 12)


def _selector(beginning: str) -> str:
    """The keys of a denoiser that begin so."""
    if beginning in _PARTS:
        return _PARTS[beginning]
    if found := _NUMBERED.fullmatch(beginning):
        kind, number = found[1], int(found[2])
        if kind == "middle_block":
            return f"{_MIDDLE} key:*.middle_block.{number}.*"
        return f"{'IN' if kind == 'input_blocks' else 'OUT'}{number:02d}"
    return f"/^(?:model\\.diffusion_model\\.)?{re.escape(beginning)}/"


def _is_link(value: Any) -> bool:
    """Whether an input is another node's output: its number and the place."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        and isinstance(value[1], int) and not isinstance(value[1], bool) and value[1] >= 0
    )  # fmt: skip


def _prefix(node: dict) -> str:
    """What the names of a save node's files begin with."""
    inputs = node.get("inputs")
    prefix = inputs.get("filename_prefix") if isinstance(inputs, dict) else None
    return prefix.replace("\\", "/").rpartition("/")[2] if isinstance(prefix, str) else ""


_BUILT: dict[str, Callable[[_Graph, str], tuple[Any, ...]]] = {
    "CheckpointLoaderSimple": _Graph._checkpoint,
    "CheckpointLoader": _Graph._checkpoint,
    "unCLIPCheckpointLoader": _Graph._checkpoint,
    "UNETLoader": _Graph._denoiser,
    "UnetLoaderGGUF": _Graph._denoiser,
    "CLIPLoader": _Graph._encoders,
    "DualCLIPLoader": _Graph._several,
    "TripleCLIPLoader": _Graph._several,
    "QuadrupleCLIPLoader": _Graph._several,
    "VAELoader": _Graph._vae,
    "LoraLoader": _Graph._loras,
    "LoraLoaderModelOnly": _Graph._loras,
    "ModelMergeSimple": _Graph._simple,
    "ModelMergeSubtract": _Graph._subtract,
    "ModelMergeAdd": _Graph._add,
    "CLIPMergeSimple": _Graph._simple,
    "CLIPMergeSubtract": _Graph._subtract,
    "CLIPMergeAdd": _Graph._add,
}
