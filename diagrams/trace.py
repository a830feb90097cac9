"""Trace the UNETs with torchview and write `traces/*.json`: `python -m unetscope.diagrams.trace [FAMILY...]`.

Run when diagrams are built, in a process of its own: torchview replaces `nn.Module.__call__` and many torch functions
while it traces. The models live on the meta device, so they hold no weights. Drawing reads the files and imports none of
torch, diffusers and torchview.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable

from ..checkpoints.families import FAMILIES, family_of
from ..checkpoints.families.diffusers import unet_config
from .architectures import input_shapes
from .graph import TRACES, Graph, Node, write_graph

# Inside a residual block: diffusers' name -> the single-file name.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "dropout": "out_layers.2",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TOP = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_act": "out.1",
    "conv_out": "out.2",
    "time_proj": "time_embed",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.act": "time_embed.1",
    "time_embedding.linear_2": "time_embed.2",
    "time_embedding": "time_embed",
    "add_time_proj": "label_emb",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.act": "label_emb.0.1",
    "add_embedding.linear_2": "label_emb.0.2",
    "add_embedding": "label_emb.0",
}
_PART = re.compile(
    r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(resnets|attentions|downsamplers|upsamplers)\.(\d+)"
)
# What a block of the module level is: the part of a path up to here.
_UNIT = re.compile(rf"{_PART.pattern}|conv_in|conv_norm_out|conv_act|conv_out|time_embedding|time_proj|add_\w+")

# Parts without parameters that are shown with the part next to them.
_JOINED = {"time_proj": "time_embedding", "add_time_proj": "add_embedding", "conv_act": "conv_norm_out"}


def single_file_name(path: str, modules: Iterable[str]) -> str | None:
    """The single-file name (without `model.diffusion_model.`) of a UNET module of diffusers; None where it has none.

    `modules` are the names of all modules: an upsampler's number follows from whether an attention stands before it.
    """
    if path in _TOP:
        return _TOP[path]
    if not (part := _PART.match(path)):
        return None
    side, level, kind, n = part[1], int(part[2] or 0), part[3], int(part[4])
    rest = path[part.end() + 1 :]
    if kind == "resnets":
        head, _, tail = rest.partition(".")
        rest = ".".join(x for x in (_RESNET.get(head, head), tail) if x)
    if side == "mid_block":
        name = f"middle_block.{1 if kind == 'attentions' else 2 * n}"
    elif kind == "downsamplers":
        name = f"input_blocks.{3 * level + 3}.0"
        rest = rest.replace("conv", "op")
    elif kind == "upsamplers":
        name = f"output_blocks.{3 * level + 2}.{2 if f'up_blocks.{level}.attentions.0' in modules else 1}"
    else:
        block = f"input_blocks.{3 * level + 1 + n}" if side == "down_blocks" else f"output_blocks.{3 * level + n}"
        name = f"{block}.{int(kind == 'attentions')}"
    return f"{name}.{rest}" if rest else name


def trace(family: str) -> Graph:
    """Build a UNET without weights, run it once, and return the graph of what ran."""
    import torch
    from diffusers import UNet2DConditionModel
    from torchview import draw_graph

    with torch.device("meta"):
        model = UNet2DConditionModel(**unet_config(family))
    shapes = input_shapes(family)
    given = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    inputs = {
        "sample": given["latent"],
        "timestep": torch.tensor(1, device="meta"),
        "encoder_hidden_states": given["text"],
    }
    if "size" in given:
        inputs["added_cond_kwargs"] = {"text_embeds": given["pooled text"], "time_ids": given["size"]}
    with torch.no_grad():
        drawn = draw_graph(model, input_data=inputs, device="meta", expand_nested=True, depth=100, roll=False)
    return _Reader(family, model, drawn).graph()


class _Reader:
    """Turns torchview's graph, whose nodes know only a class name, into ours."""

    def __init__(self, family: str, model, drawn):
        self.family, self.record = family, family_of(family)
        self.modules = dict(model.named_modules())
        self.path_of = {id(module): path for path, module in self.modules.items()}
        self.enclosing: dict = {}
        self._enclose(drawn.node_hierarchy, "")
        self.nodes = list(dict.fromkeys(node for edge in drawn.edge_list for node in edge))
        self.edges = list(drawn.edge_list)
        self.after: dict = {node: [] for node in self.nodes}
        self.before: dict = {node: [] for node in self.nodes}
        for a, b in self.edges:
            self.after[a].append(b)
            self.before[b].append(a)
        self._units: dict = {}
        self._sources: dict = {}

    def _enclose(self, tree, path: str) -> None:
        """Walk the hierarchy; note the path of the module that each function ran in."""
        if isinstance(tree, dict):
            for node, children in tree.items():
                inside = self.path_of.get(getattr(node, "compute_unit_id", None), path)
                self.enclosing[node] = inside
                for child in children:
                    self._enclose(child, inside)
        else:
            self.enclosing[tree] = self.path_of.get(getattr(tree, "compute_unit_id", None), path)

    def _input(self, node) -> str | None:
        if node.name != "auxiliary-tensor":
            return None
        shape = tuple(node.tensor_shape)
        return next(name for name, expected in input_shapes(self.family).items() if shape == expected)

    def unit(self, node) -> str:
        """The module-level part that a node belongs to.

        A node inside a part belongs to it. A function between parts belongs to the part that consumes it; what only the
        embeddings feed and several parts consume stays with the time embedding.
        """
        if node not in self._units:
            self._units[node] = self._find_unit(node)
        return self._units[node]

    def _find_unit(self, node) -> str:
        if name := self._input(node):
            return f"input {name}"
        if node.name == "output-tensor":
            return "output latent"
        if found := _UNIT.match(self.enclosing.get(node, "")):
            return _JOINED.get(found[0], found[0])
        consumers = {self.unit(n) for n in self.after[node]}
        if len(consumers) == 1:
            return consumers.pop()
        if self._fed_by(node) <= {"input timestep", "input pooled text", "input size"}:
            return "time_embedding"
        raise ValueError(f"{self.family}: {node.name} in {self.enclosing.get(node)!r} feeds {sorted(consumers)}")

    def _fed_by(self, node) -> set[str]:
        """The inputs of the network that reach a node."""
        if node not in self._sources:
            own = self._input(node)
            self._sources[node] = {own and f"input {own}"} - {None} | {
                source for n in self.before[node] for source in self._fed_by(n)
            }
        return self._sources[node]

    def graph(self) -> Graph:
        ids, calls = {}, Counter()
        for node in self.nodes:
            path = self.enclosing.get(node, "")
            own = path if self.path_of.get(getattr(node, "compute_unit_id", None)) else f"{path}/{node.name}"
            if " " in self.unit(node):  # an input: one node, however many modules read it
                ids[node] = self.unit(node)
                continue
            calls[own] += 1
            ids[node] = own if calls[own] == 1 else f"{own}#{calls[own]}"
        holders = {path: ids[node] for node in self.nodes for path in [self._module_path(node)] if path}
        first = {ids[node]: node for node in reversed(self.nodes)}
        nodes = tuple(self._node(node, ids[node], holders) for node in self.nodes if first[ids[node]] is node)
        edges = tuple(dict.fromkeys((ids[a], ids[b]) for a, b in self.edges))
        return Graph(self.family, nodes, edges)

    def _module_path(self, node) -> str | None:
        return self.path_of.get(getattr(node, "compute_unit_id", None))

    def _node(self, node, own: str, holders: dict[str, str]) -> Node:
        path, unit = self._module_path(node), self.unit(node)
        name = None if " " in unit else single_file_name(path or self.enclosing.get(node, ""), self.modules)
        tensors = ()
        if path and holders[path] == own:
            tensors = tuple(
                (f"{self.record.prefix}{name}.{p}", tuple(w.shape))
                for p, w in self.modules[path].named_parameters(recurse=False)
            )
        unit_name = single_file_name(unit, self.modules)
        return Node(
            id=own,
            module=unit if " " in unit else path or self.enclosing.get(node, ""),
            unit=unit,
            label=self.record.label_of(unit_name) if unit_name else "",
            key=self.record.prefix + name if name else "",
            kind=node.name if " " not in unit else unit.split(" ")[0],
            inputs=tuple(tuple(s) for s in getattr(node, "input_shape", ())),
            outputs=tuple(tuple(s) for s in getattr(node, "output_shape", None) or [node.tensor_shape]),
            tensors=tensors,
        )


def main(families: list[str]) -> None:
    for family in families or [family.id for family in FAMILIES.values() if family.traced]:
        graph = trace(family)
        path = TRACES / f"{family}.json"
        write_graph(graph, path)
        print(json.dumps({"trace": path.name, "nodes": len(graph.nodes), "params": graph.params}))


if __name__ == "__main__":
    main(sys.argv[1:])
