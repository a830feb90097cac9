"""A tree of merges: many models, two (or more) at a time, each merge searched, and the best of each an input of the next.

    tree:
      models: {a: a.safetensors, b: b.safetensors, c: c.safetensors, d: d.safetensors}     # or a list of files
      step: {method: weighted_sum, alpha: {free: [0, 1], per: block}}
      nodes: {ab: [a, b], cd: [c, d], top: [ab, cd]}     # left out: neighbours in pairs, round after round

Nothing intermediate is written: a node's recipe holds the best steps of the nodes below it, and rounds once. Each node is a run
folder of its own, `nodes/<name>`, with the study's budget; the last node's best recipe becomes that of the whole.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.errors import nearest
from ..checkpoints.files.output import replace_file
from ..checkpoints.files.system import windows_fault
from ..merge.inline_steps import named_steps
from ..merge.plan import planned
from ..merge.recipe import Recipe
from .errors import SearchError
from .loop import Outcome, Say, best_text, search
from .preparation import load_run
from .run_folder import TREE, RunFolder, read_tree_state
from .storage import Workers
from .study import Study

# What the recipe of every node takes over as it is.
_SHARED = ("convention", "components", "output", "loras")
_FIELDS = ("models", "step", "nodes", *_SHARED)
_WAIT_SECONDS = 1.0
# What no system takes in the name of a folder, or what hides it; `windows_fault` knows what Windows does not take.
_NO_FOLDER = re.compile(r"[/\\\x00]|^[. ]|^$")


@dataclass(frozen=True)
class Node:
    """A merge of the tree.

    Attributes:
        name: of the step, too.
        inputs: models, or nodes that come before it.
        step: method and parameters, something free among them.
    """

    name: str
    inputs: tuple[str, ...]
    step: Mapping[str, Any]


@dataclass(frozen=True)
class Tree:
    """All merges, each after those that it needs.

    Attributes:
        models: name -> path.
        nodes: in the order in which they are searched.
        shared: other fields of every node's recipe.
    """

    models: Mapping[str, str]
    nodes: tuple[Node, ...]
    shared: Mapping[str, Any]

    def recipe(self, node: Node, below: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """A node's recipe as plain data.

        Args:
            node: whose.
            below: node -> the steps that its best recipe has.
        """
        steps: dict[str, Any] = {}
        for name in node.inputs:
            steps |= below.get(name, {})
        steps[node.name] = {**node.step, "inputs": list(node.inputs)}
        used = {source for step in steps.values() for source in step["inputs"]}
        used |= set((self.shared.get("components") or {}).values())
        models = {name: path for name, path in self.models.items() if name in used}
        return {"models": models, "steps": steps, "result": node.name, **self.shared}


def read_tree(data: Any, where: str) -> Tree:
    """A tree from plain data.

    Raises:
        SearchError: naming the place in it and what would be right.
    """
    if not isinstance(data, Mapping):
        raise SearchError(f"{where}: must be a mapping with models and a step")
    if unknown := [str(x) for x in data if x not in _FIELDS]:
        raise SearchError(
            f"{where}.{unknown[0]}: unknown name{nearest(unknown[0], _FIELDS)}; known are {', '.join(_FIELDS)}"
        )
    models = _models(data.get("models"), f"{where}.models")
    step = data.get("step")
    if not isinstance(step, Mapping) or "method" not in step:
        raise SearchError(f"{where}.step: must be a mapping with a method and something free, without inputs")
    if "inputs" in step:
        raise SearchError(f"{where}.step.inputs: the nodes say what is merged; leave it out")
    nodes = _nodes(data["nodes"], models, step, f"{where}.nodes") if data.get("nodes") else _pairwise(models, step)
    return Tree(models, nodes, {name: data[name] for name in _SHARED if name in data})


def _models(data: Any, where: str) -> dict[str, str]:
    if isinstance(data, list) and all(isinstance(x, str) for x in data):
        named = {Path(x.replace("\\", "/")).stem: x for x in data}
        if len(named) < len(data):
            raise SearchError(f"{where}: two files have the same name; write {{name: path}}")
        data = named
    if not isinstance(data, Mapping) or not all(isinstance(x, str) for x in data.values()) or len(data) < 2:
        raise SearchError(f"{where}: must be two or more models, {{name: path}} or a list of paths")
    return {str(name): path for name, path in data.items()}


def _nodes(data: Any, models: Mapping[str, str], step: Mapping, where: str) -> tuple[Node, ...]:
    """The nodes as they are listed: each may use models and the nodes before it."""
    if not isinstance(data, Mapping):
        raise SearchError(f"{where}: must be a mapping of names to their inputs")
    nodes: list[Node] = []
    known = dict.fromkeys(models)
    for name, given in data.items():
        name = str(name)
        own = {k: x for k, x in given.items() if k != "inputs"} if isinstance(given, Mapping) else {}
        inputs = given.get("inputs") if isinstance(given, Mapping) else given
        if not isinstance(inputs, list) or not inputs or not all(isinstance(x, str) for x in inputs):
            raise SearchError(f"{where}.{name}: must be a list of models and nodes, or a mapping with inputs")
        if name in known:
            raise SearchError(f"{where}.{name}: another node or model has this name")
        if (fault := windows_fault(name)) or _NO_FOLDER.search(name):
            raise SearchError(
                f"{where}.{name}: a node's name is a folder's too{f', and {fault}' if fault else ''}; "
                "write it with letters, digits, - and _"
            )
        if alike := next((node.name for node in nodes if node.name.casefold() == name.casefold()), None):
            raise SearchError(
                f"{where}.{name}: some systems take its folder for that of {alike!r}; give it another name"
            )
        for source in inputs:
            if source not in known:
                raise SearchError(
                    f"{where}.{name}: {source!r} is no model and no node before it{nearest(source, known)}"
                )
        known[name] = None
        nodes.append(Node(name, tuple(inputs), {**step, **own}))
    if loose := [n.name for n in nodes[:-1] if not any(n.name in other.inputs for other in nodes)]:
        raise SearchError(f"{where}.{loose[0]}: no other node uses it; the last node is the result")
    return tuple(nodes)


def _pairwise(models: Mapping[str, str], step: Mapping) -> tuple[Node, ...]:
    """Neighbours in pairs, round after round; an odd one waits for the next round."""
    nodes: list[Node] = []
    level, number = list(models), 0
    while len(level) > 1:
        number += 1
        above = []
        for i in range(0, len(level) - 1, 2):
            name = f"round{number}-{i // 2 + 1}"
            while name in models:
                name += "'"
            nodes.append(Node(name, (level[i], level[i + 1]), step))
            above.append(name)
        level = above + level[len(above) * 2 :]
    return tuple(nodes)


def search_tree(
    study: Study,
    path: Path,
    *,
    resume: bool = False,
    storage: str | None = None,
    trials: int | None = None,
    say: Say = print,
) -> Outcome:
    """Search the nodes of a tree, one after the other; what is done already is left as it is.

    Args, errors: as `loop.search`. The budget and the clock are those of each node.

    Returns:
        how the last node went, or the one that was stopped; the run is the whole tree's.
    """
    tree = read_tree(study.tree, f"{study.where}: tree")
    if trials is not None:
        study = study.changed(trials=trials)
    _check(study, tree)
    run = RunFolder(path)
    record = run.path / TREE
    names = [node.name for node in tree.nodes]
    state = {"title": study.title, "nodes": names, "inputs": {n.name: list(n.inputs) for n in tree.nodes}, "done": {}}
    if record.is_file():
        old = read_tree_state(path)
        if not (resume or storage):
            raise SearchError(
                f"{path}: has a tree of searches; go on with it by --resume, or choose another folder by -o"
            )
        if old.inputs != state["inputs"]:
            raise SearchError(f"{path}: the tree's nodes have changed since it was begun; choose another folder by -o")
        state["done"] = dict(old.done)
    run.path.mkdir(parents=True, exist_ok=True)
    replace_file(record, json.dumps(state, indent=1))
    below: dict[str, Mapping[str, Any]] = {}
    outcome = None
    for i, node in enumerate(tree.nodes, 1):
        at = run.path / "nodes" / node.name
        if node.name not in state["done"]:
            say(f"node {i} of {len(tree.nodes)}: {node.name} = {' + '.join(node.inputs)}")
            outcome = search(_node_study(study, tree, node, below, at), at, resume=True, storage=storage, say=say)
            if outcome.ending.why == "asked" or outcome.ending.is_bad:
                return outcome
            if outcome.best is None:
                raise SearchError(f"{at}: no trial of this node is complete, so the next one has nothing to merge")
            _wait_for_others(at)
            state["done"][node.name] = outcome.ending.text
            replace_file(record, json.dumps(state, indent=1))
        below[node.name] = _best_steps(at)
    return _finish(run, study, tree, outcome)


def _check(study: Study, tree: Tree) -> None:
    """Every node's recipe, with the middle of what is free below it."""
    below: dict[str, Mapping[str, Any]] = {}
    for node in tree.nodes:
        template = study.changed(tree=None, recipe=tree.recipe(node, below), confirm=False).template()
        below[node.name] = template.plain(template.middle())["steps"]
    # Of all models, though most of them are needed only days later.
    with planned(template.recipe(template.middle())):
        pass


def _node_study(study: Study, tree: Tree, node: Node, below: Mapping[str, Mapping[str, Any]], at: Path) -> Study:
    """A node's study. One that was begun keeps its recipe: another worker may build on what it has."""
    recipe = load_run(at)[1].recipe if RunFolder(at).exists else named_steps(tree.recipe(node, below))
    return study.changed(tree=None, recipe=recipe, title=f"{study.title}/{node.name}")


def _wait_for_others(at: Path) -> None:
    """Until no worker is at a node any more: its best recipe is final then."""
    workers = Workers(RunFolder(at))
    while workers.others():
        time.sleep(_WAIT_SECONDS)


def _best_steps(at: Path) -> dict[str, Any]:
    """The steps of a node's best recipe, as plain data."""
    path = RunFolder(at).best_recipe()
    if path is None:
        raise SearchError(f"{at}: has no best.yaml, though its search is done")
    return {name: step.to_plain() for name, step in Recipe.load(path).steps.items()}


def _finish(run: RunFolder, study: Study, tree: Tree, outcome: Outcome | None) -> Outcome:
    """Make the last node's best recipe that of the tree."""
    from .stopping import Ending

    last = RunFolder(run.path / "nodes" / tree.nodes[-1].name)
    best = last.best()
    recipe = Recipe.load(last.best_recipe())
    run.write_best(best, best_text(recipe.model_copy(update={"title": ""}), best, run.path, study.title))
    ending = outcome.ending if outcome is not None else Ending("trials", "every node of the tree is done")
    return Outcome(run, ending, best, True)


def nodes_of(path: Path) -> Sequence[RunFolder]:
    """The run folders of a tree's nodes, in order; empty for a run that is no tree."""
    if not (Path(path) / TREE).is_file():
        return []
    return [RunFolder(Path(path) / "nodes" / name) for name in read_tree_state(path).nodes]
