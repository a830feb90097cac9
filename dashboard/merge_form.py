"""What the controls of the Merge page say, as a recipe and back. Models are named by their path below the models folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import FAMILIES, Family
from ..checkpoints.formats import is_model_name
from ..checkpoints.text import free_name, readable
from .folders import Folders
from .weights_editing import Weights, to_lines, weighted_labels

if TYPE_CHECKING:
    from ..merge import Recipe

_RESULT = "mix"


def components_for(family: Family | None = None) -> dict[str, str]:
    """Components that a merge can take from elsewhere, as the page offers them; of one family, or of all."""
    cores = {f.core: f.core_title for f in ([family] if family else FAMILIES.values())}
    return {**cores, "text_encoders": "Text encoders", "vae": "VAE"}


# The code of an error that says which models are still to be chosen.
UNFINISHED = "draft.unfinished"


@dataclass(frozen=True)
class MergeForm:
    """The controls.

    Attributes:
        method: name in the registry.
        models: names in the library, in the method's order, LoRAs among them.
        parameters: name -> a number, block weights, a list of numbers (one a model), a switch, a whole number, or a choice.
        components: the denoiser (`unet`), `text_encoders`, `vae` -> `merge`, or a name in the library; without one it is as the
            method has it.
        output: fields of `recipe.Output` that differ from its defaults.
        title: kept in the result's metadata.
        loras: those of `models` that are LoRAs.
    """

    method: str
    models: tuple[str, ...]
    parameters: Mapping[str, float | Weights | list[float] | bool | int | str] = field(default_factory=dict)
    components: Mapping[str, str] = field(default_factory=dict)
    output: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    loras: frozenset[str] = frozenset()

    def recipe(self) -> Recipe:
        """The recipe that the controls say, its paths below the models folder.

        Raises:
            UnetscopeError: models are missing (code `UNFINISHED`). RecipeError: whatever else a recipe cannot say.
        """
        from ..merge import Recipe
        from ..merge.methods import method_named

        method = method_named(self.method)
        if not method.fits(len(self.models)) or not all(self.models):
            raise UnetscopeError(f"choose the models first: {self.method} takes {method.wanted}", code=UNFINISHED)
        first = len(method.inputs)
        names = [*method.inputs, *model_names(self.models[first:], method.inputs)]
        step: dict[str, Any] = {"method": self.method, "inputs": names}
        step |= {name: _parameter(value) for name, value in self.parameters.items()}
        by_path = dict(zip(self.models, names, strict=True))
        named = list(zip(names, self.models, strict=True))
        data: dict[str, Any] = {
            "models": {name: path for name, path in named if path not in self.loras},
            "loras": {name: path for name, path in named if path in self.loras},
            "steps": {_RESULT: step},
            "result": _RESULT,
        }
        if components := {c: by_path.get(s, _source(s)) for c, s in self.components.items() if s}:
            data["components"] = components
        if self.output:
            data["output"] = dict(self.output)
        if self.title:
            data["title"] = self.title
        return Recipe.parse(data, "the controls")


def from_recipe(
    recipe: Recipe, find: Callable[[str], str | None], family_of: Callable[[str], Family | None]
) -> MergeForm:
    """The controls that say this recipe.

    Args:
        recipe: any.
        find: a path or base name in a recipe -> the library's name for it, or None.
        family_of: the record of a file of the library, to spread its block weights over labels.

    Raises:
        UnetscopeError: files are missing, or the recipe says more than the controls can: several steps, weights by layer or key.
    """
    if recipe.result not in recipe.steps:
        raise UnetscopeError("this recipe takes one model as it is; choose the method copy to do that")
    if len(recipe.order(recipe.result)) > 1:
        raise UnetscopeError(
            f"this recipe has {len(recipe.order(recipe.result))} steps and the controls have one; run it as text"
        )
    step = recipe.steps[recipe.result]
    if extra := set(recipe.components) - set(components_for()):
        raise UnetscopeError(
            f"this recipe takes {', '.join(sorted(extra))} from another model, for which there is no control; run it as text"
        )
    if foreign := [s for s in recipe.components.values() if s in recipe.steps]:
        raise UnetscopeError(
            f"this recipe takes a component from the step {foreign[0]!r}, for which there is no control; run it as text"
        )
    if based := [name for name in step.inputs if name in recipe.loras and recipe.loras[name].base is not None]:
        raise UnetscopeError(
            f"this recipe says which model the LoRA {based[0]!r} changes, for which there is no control; run it as text"
        )
    if chosen := [name for name in step.inputs if name in recipe.loras and recipe.loras[name].adapter is not None]:
        raise UnetscopeError(
            f"this recipe says which adapter of the LoRA {chosen[0]!r} is meant, for which there is no control; run it as text"
        )
    given = recipe.models | {name: lora.path for name, lora in recipe.loras.items()}
    used = {name: given[name] for name in step.inputs}
    files = {s: s for s in recipe.components.values() if recipe.is_file(s)}
    files |= {s: recipe.models[s] for s in recipe.components.values() if s in recipe.models}
    paths = {name: find(path) for name, path in (used | files).items()}
    if missing := [path for name, path in (used | files).items() if paths[name] is None]:
        raise UnetscopeError(
            f"not in the models folder: {', '.join(dict.fromkeys(missing))}; copy them there and load the recipe again"
        )
    models = tuple(paths[name] for name in step.inputs)
    return MergeForm(
        method=step.kind.name,
        models=models,
        parameters=_parameters(recipe, family_of(models[0])),
        components={c: source if source == "merge" else paths[source] for c, source in recipe.components.items()},
        output=recipe.output.model_dump(exclude_defaults=True),
        title=recipe.title,
        loras=frozenset(paths[name] for name in step.inputs if name in recipe.loras),
    )


def _parameters(recipe: Recipe, family: Family | None) -> dict[str, Any]:
    step = recipe.steps[recipe.result]
    found: dict[str, Any] = {}
    for name, value in step.weights(recipe.convention).items():
        if not step.kind.parameters[name].weighs:
            found[name] = value
        elif isinstance(value, list):
            found[name] = [_one_number(name, weights, family) for weights in value]
        else:
            found[name] = _number_or_weights(name, value, family)
    return found


def _number_or_weights(name: str, weights: Any, family: Family | None) -> float | Weights:
    if isinstance(weights.start, float) and not weights.lines:
        return weights.start
    if family is None:
        raise UnetscopeError(f"{name}: block weights need models of a known architecture; run the recipe as text")
    resolved = weights.resolve(family)
    if resolved.changed_inside() or resolved.vae is not None:
        raise UnetscopeError(
            f"{name}: weighs single layers, keys or the VAE, for which the diagram has no handle; run it as text"
        )
    by_label = resolved.by_label()
    if resolved.is_uniform:
        return next(iter(by_label.values()))
    return {label: by_label[label] for label in weighted_labels(family)}


def _one_number(name: str, weights: Any, family: Family | None) -> float:
    value = _number_or_weights(name, weights, family)
    if not isinstance(value, float):
        raise UnetscopeError(
            f"{name}: has block weights for single models, for which there is no control; run the recipe as text"
        )
    return value


def model_names(models: tuple[str, ...], taken: tuple[str, ...] = ()) -> list[str]:
    """A name in the recipe for every file: its stem, with a number where stems are equal or taken."""
    names: list[str] = []
    for model in models:
        stem = PurePosixPath(model).stem
        wanted = "model" if stem in ("merge", _RESULT) else stem
        names.append(free_name(wanted, lambda name: name in names or name in taken))
    return names


def runnable(recipe: Recipe, folders: Folders) -> dict[str, Any]:
    """The recipe as plain data with whole paths, for the merge's job; every path is held against the models folder.

    Raises:
        UnetscopeError: a path leads out of the models folder or to nothing in it.
    """
    return recipe.with_paths(lambda path: str(folders.find(path)), methods=False).to_plain()


def typed(recipe: Recipe, folders: Folders, names: tuple[str, ...]) -> Recipe:
    """A recipe that was typed, its paths as the library (`names`) writes them: the very files that it names, and no others.

    Raises:
        UnetscopeError: a path leads to nothing in the models folder, or out of it.
    """
    likely = finder(names, folders.models)

    def named(path: str) -> str:
        name = _same_file(path, names, folders.models) or path
        try:
            folders.find(name)
        except UnetscopeError as error:
            other = likely(path)
            raise UnetscopeError(f"{error}{f'; there is {other}' if other else ''}") from None
        return name

    return recipe.with_paths(named, methods=False)


def replaced_paths(recipe: Recipe, names: tuple[str, ...], models: Path | None = None) -> dict[str, str]:
    """Path in a recipe -> the library's file of the same base name, for each that the library has in another place only."""
    find, paths = finder(names, models), list[str]()
    recipe.with_paths(lambda path: paths.append(path) or path, methods=False)
    return {
        path: found for path in paths if (found := find(path)) is not None and found != _same_file(path, names, models)
    }


def in_library(recipe: Recipe, find: Callable[[str], str | None]) -> Recipe:
    """The recipe with the library's names in place of the paths of the machine that it comes from; unknown ones stay."""
    return recipe.with_paths(lambda path: find(path) or path, methods=False)


def finder(names: tuple[str, ...], models: Path | None = None) -> Callable[[str], str | None]:
    """Finds a recipe's path among the library's names: the same path, else a file of the same base name, if there is one."""
    by_base: dict[str, list[str]] = {}
    for name in names:
        by_base.setdefault(PurePosixPath(name).name, []).append(name)

    def find(path: str) -> str | None:
        if same := _same_file(path, names, models):
            return same
        alike = by_base.get(PurePosixPath(readable(path)).name) or by_base.get(PureWindowsPath(path).name, [])
        return alike[0] if len(alike) == 1 else None

    return find


def _same_file(path: str, names: tuple[str, ...], models: Path | None) -> str | None:
    """The library's name of this very path: below the models folder, or a whole path into it."""
    forms = [readable(path).removeprefix("./"), path.replace("\\", "/").removeprefix("./")]
    if models is not None and Path(path).is_relative_to(models):
        forms.append(readable(Path(path).relative_to(models).as_posix()))
    return next((form for form in forms if form in names), None)


def _parameter(value: Any) -> Any:
    return to_lines(value) if isinstance(value, Mapping) else value


def _source(source: str) -> str:
    """A component's source: a folder without suffix must look like a path, or it would be taken for a model's name."""
    if source == "merge":
        return source
    return source if "/" in source or is_model_name(source) else f"./{source}"
