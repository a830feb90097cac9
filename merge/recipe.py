"""A merge recipe: what a YAML file says, checked for everything that can be checked without opening a model.

    models:
      a: base.safetensors
      b: tuned.safetensors
    steps:
      mix: {method: weighted_sum, inputs: [a, b], alpha: {IN04-IN08: 0.7, OUT*: 0.3}}
    result: mix
    components: {vae: b}
    output: {dtype: fp16}

A step's inputs are names of models or of other steps, or whole steps written in place. Nothing intermediate is written or
rounded. `docs/recipes.md` describes every field.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from ..checkpoints.errors import RecipeError, UnetscopeError, nearest
from ..checkpoints.families import component_names
from ..checkpoints.families.conventions import convention_named
from ..checkpoints.formats import is_model_name
from ..checkpoints.settings import Settings
from ..checkpoints.spelling import spelt
from ..checkpoints.text import shown
from .block_weights import BlockWeights, plain_data
from .methods import METHODS, Method, Space, method_named
from .methods.files import MethodsFile, file_of, loaded_methods, with_methods_loaded
from .methods.method import wrong_space
from .recipe_file import DEEPEST, named_steps, read_yaml, too_deep
from .validation_errors import explained

MERGED = "merge"
# By pydantic's kind of error; any other is a wrong value.
_FAULTS = {"missing": "recipe.missing", "extra_forbidden": "recipe.unknown_field"}

OutputDType = Literal["fp16", "bf16", "fp32", "fp8_e4m3", "keep"]


class Output(Settings):
    """How the result is stored.

    Attributes:
        dtype: of the merged weights; `keep` takes each tensor's dtype from the first model that has it. Buffers keep theirs.
        position_ids: `restore` writes them as integers 0..76; `keep` does so only where they are floats.
        nan: a NaN or infinity in an input is refused (`error`), counted as 0 (`zero`), or replaced by the value of the first
            input with a share in the tensor that is finite there, 0 where none is (`copy`). Schedule buffers are exempt.
        overflow: a result beyond the range of `dtype` is refused (`error`) or becomes its largest value (`clamp`).
        mix_predictions: allow inputs that predict differently (epsilon and v).
        allow_missing: merge a model with holes without what it lacks, and write a result with holes.
    """

    dtype: OutputDType = "fp16"
    position_ids: Literal["keep", "restore"] = "keep"
    nan: Literal["error", "zero", "copy"] = "error"
    overflow: Literal["error", "clamp"] = "error"
    mix_predictions: bool = False
    allow_missing: bool = False


class LoraSource(Settings):
    """A LoRA: a file of differences.

    Attributes:
        path: the file.
        base: the model that it changes, for kinds whose difference depends on the weights that they are added to ((IA)^3, DoRA);
            the recipe's first model when left out.
        adapter: PEFT's name of the one that is meant, of a file that holds several.
    """

    path: str
    base: str | None = None
    adapter: str | None = None


class MethodsSource(Settings):
    """A Python file of merge methods.

    Attributes:
        path: the file.
        sha256: of its text; a file with another one is refused. None: whatever it holds.
    """

    path: str
    sha256: str | None = None


def _by_path(value: Any) -> Any:
    """`x` and `{path: x}` mean the same."""
    return [{"path": x} if isinstance(x, str) else x for x in value] if isinstance(value, list) else value


def _by_name(value: Any) -> Any:
    """`{name: {path: x}}` and `{name: x}` mean the same."""
    if isinstance(value, dict):
        return {k: v["path"] if isinstance(v, dict) and set(v) == {"path"} else v for k, v in value.items()}
    return value


def _lora_by_name(value: Any) -> Any:
    """`{name: x}` and `{name: {path: x}}` mean the same."""
    return {k: {"path": v} if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value


class Step(Settings):
    """One step: a method, its inputs, and the method's parameters under their own names (`alpha: 0.3`)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    inputs: list[str]
    convention: str | None = None

    @classmethod
    def words(cls, given: Mapping[Any, Any]) -> dict[str, tuple[str, ...]]:
        method = METHODS.get(spelt(str(given.get("method")).replace("-", "_"), METHODS))
        own = {name: p.choices if p.kind == "choice" else () for name, p in method.parameters.items()} if method else {}
        return super().words(given) | own

    @property
    def kind(self) -> Method:
        return method_named(self.method)

    @property
    def given(self) -> dict[str, Any]:
        """The parameters that the recipe gives."""
        return dict(self.__pydantic_extra__ or {})

    def to_plain(self) -> dict[str, Any]:
        """Plain data, block weights as their user wrote them."""
        plain = {"method": self.method, "inputs": list(self.inputs)}
        if self.convention is not None:
            plain["convention"] = self.convention
        return plain | {name: plain_data(value) for name, value in self.given.items()}

    def weights(self, convention: str) -> dict[str, BlockWeights | list[BlockWeights] | bool | int | str]:
        """Every parameter of the method, given or by default, numbers read as block weights."""
        convention, values = self.convention or convention, {}
        for name, parameter in self.kind.parameters.items():
            value = self.given.get(name, parameter.default)
            if not parameter.weighs:
                values[name] = value
            elif parameter.kind == "number":
                values[name] = BlockWeights.parse(value, convention)
            else:
                each = value if isinstance(value, list) else [value] * self.kind.models(len(self.inputs))
                values[name] = [BlockWeights.parse(v, convention) for v in each]
        return values

    def check(self, where: str, names: Collection[str], convention: str) -> None:
        """Whether the method takes these inputs and parameters.

        Args:
            where: names the step in errors.
            names: of everything that may be an input.
            convention: how weight vectors are read unless the step says otherwise.

        Raises:
            RecipeError: naming the place in the step, what is wrong and what would be right.
        """
        method = self.kind
        for source in self.inputs:
            if source not in names:
                raise _unknown(f"{where}.inputs", source, "is neither a model nor a step", names)
        method.check_inputs(len(self.inputs), where)
        for name, value in self.given.items():
            if name not in method.parameters:
                takes = ", ".join(method.parameters) or "no parameters"
                text = f"{where}.{name}: {method.name} takes {takes}{nearest(name, method.parameters)}"
                raise RecipeError(text, code="recipe.parameter")
            method.parameters[name].check(value, f"{where}.{name}")
        for name, parameter in method.parameters.items():
            if parameter.kind == "numbers" and (name in self.given or parameter.default is None):
                given, wanted = self.given.get(name), method.models(len(self.inputs))
                if isinstance(given, Real) and not isinstance(given, bool):
                    continue  # one number counts for every model
                if not isinstance(given, list) or len(given) != wanted:
                    count = f"{len(given)} given" if isinstance(given, list) else f"found {shown(given)}"
                    each = "model after the base" if method.on_deltas else "input"
                    raise RecipeError(
                        f"{where}.{name}: needs a list of {wanted} weights, one for each {each}; "
                        f"{'none given' if given is None else count}",
                        code="recipe.weights",
                    )
            elif name not in self.given and parameter.default is None:
                raise RecipeError(f"{where}.{name}: is missing; {method.name} needs it")
        try:
            self.weights(convention)
        except UnetscopeError as error:
            raise RecipeError(f"{where}: {error}", code=error.code) from None


def _unknown(where: str, name: str, is_what: str, known: Iterable[str]) -> RecipeError:
    """A name that nothing has."""
    return RecipeError(f"{where}: {name!r} {is_what}{nearest(name, known)}", code="recipe.unknown_name")


class Recipe(Settings):
    """A merge, written down.

    Attributes:
        models: name -> path; relative paths are relative to the recipe's folder.
        loras: name -> file of a LoRA; in steps they are differences, not models.
        steps: name -> step, in any order.
        result: the step (or model) that is written; the last step when left out.
        components: `unet`, `text_encoders`, `clip_l`, `clip_h`, `clip_g`, `vae` -> a model, a step, a file, or `merge`.
            Left out, everything follows the result, but for the VAE, which is copied from the first model unless a weight
            names VAE.
        convention: how weight vectors are read unless a step says otherwise.
        output: dtype and the like.
        title: a name for the result, kept in its metadata.
        methods: Python files with merge methods of the user's own, which steps use. `load` runs them; `parse` runs nothing, and
            refuses files that have not been loaded (`load_methods`).

    Example:
        >>> step = {"method": "weighted_sum", "inputs": ["photo", "anime"], "alpha": 0.3}
        >>> models = {"photo": "photo.safetensors", "anime": "anime.ckpt"}
        >>> recipe = Recipe.parse({"models": models, "steps": {"mix": step}})
        >>> recipe.result, recipe.output.dtype
        ('mix', 'fp16')
        >>> Recipe.parse({"models": models, "steps": {"mix": step | {"method": "weighted_sun"}}})
        Traceback (most recent call last):
        RecipeError: recipe: there is no merge method 'weighted_sun' (did you mean 'weighted_sum' or 'weighted_subtraction'?); ...
    """

    models: Annotated[dict[str, str], BeforeValidator(_by_name)] = Field(min_length=1)
    loras: Annotated[dict[str, LoraSource], BeforeValidator(_lora_by_name)] = Field(default_factory=dict)
    steps: dict[str, Step] = Field(default_factory=dict)
    result: str = ""
    components: dict[str, str] = Field(default_factory=dict)
    convention: str = "supermerger"
    output: Output = Field(default_factory=Output)
    title: str = ""
    methods: Annotated[list[MethodsSource], BeforeValidator(_by_path)] = Field(default_factory=list)
    _spaces: dict[str, Space] = PrivateAttr(default_factory=dict)

    # -- reading and writing ------------------------------------------------------------------------------------------

    @classmethod
    def parse(cls, data: Any, where: str = "recipe") -> Recipe:
        """A recipe from plain data (what YAML or JSON holds).

        Raises:
            RecipeError: naming the place in the recipe, what is wrong and what would be right.
        """
        if not isinstance(data, dict):
            text = f"{where}: a recipe is a mapping with models and steps, not {type(data).__name__}"
            raise RecipeError(text, code="recipe.not_mapping")
        if any(not isinstance(name, str) for name in data):
            raise RecipeError(f"{where}: the names at the top must be words", code="recipe.names")
        try:
            return cls(**named_steps(data))._with_methods()
        except ValidationError as error:
            code = _FAULTS.get(error.errors()[0]["type"], "recipe.value")
            raise RecipeError(f"{where}: {explained(error, cls._known)}", code=code) from None
        except UnetscopeError as error:
            raise RecipeError(f"{where}: {error}", code=error.code) from None

    @classmethod
    def _known(cls, place: Sequence[str]) -> Collection[str]:
        """The names that may stand in a place."""
        return Output.model_fields if place[:1] == ["output"] else cls.model_fields

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """A recipe from a YAML file, its paths made relative to the file's folder. Runs the Python files that its `methods` name.

        Raises:
            RecipeError: the file cannot be read, is not YAML, or is not a valid recipe, or names a file of
                methods that is not there or cannot be taken.
        """
        return cls.as_written(path).relative_to(Path(path).parent)

    @classmethod
    def as_written(cls, path: Path) -> Recipe:
        """`load` with the paths as they stand in the file."""
        path = Path(path)
        return cls.parse(with_methods_loaded(read_yaml(path), path.parent), str(path))

    def relative_to(self, folder: Path) -> Recipe:
        """The same recipe with every relative path taken from `folder`."""
        return self.with_paths(lambda path: str(_joined(folder, path)))

    def with_paths(self, change: Callable[[str], str], *, methods: bool = True) -> Recipe:
        """The same recipe with every path changed; without `methods` those of Python files stay."""

        def changed(source: str) -> str:
            # A slash tells a file from a name where the name alone does not.
            path = change(source)
            return path if self.is_file(path) else f"./{path}"

        models = {name: change(path) for name, path in self.models.items()}
        loras = {name: lora.model_copy(update={"path": change(lora.path)}) for name, lora in self.loras.items()}
        components = {k: changed(v) if self.is_file(v) else v for k, v in self.components.items()}
        update: dict[str, Any] = {"models": models, "loras": loras, "components": components}
        if methods:
            update["methods"] = [source.model_copy(update={"path": change(source.path)}) for source in self.methods]
        return self.model_copy(update=update)

    def to_plain(self) -> dict:
        """Plain data that `parse` reads back, without what has its default value."""
        plain = self.model_dump(exclude_defaults=True, mode="json", exclude={"steps"})
        if self.loras:
            said = {name: lora.model_dump(exclude_defaults=True) for name, lora in self.loras.items()}
            plain["loras"] = {name: lora if len(lora) > 1 else lora["path"] for name, lora in said.items()}
        steps = {name: step.to_plain() for name, step in self.steps.items()}
        # The order of the fields, which is how people write a recipe.
        return {
            f: steps if f == "steps" else plain[f]
            for f in Recipe.model_fields
            if f in plain or (f == "steps" and steps)
        }

    def to_yaml(self) -> str:
        """The recipe as YAML text."""
        return yaml.safe_dump(self.to_plain(), sort_keys=False, allow_unicode=True, width=120)

    # -- what it says ---------------------------------------------------------------------------------------------------

    def is_file(self, source: str) -> bool:
        """Whether a component's source is a file rather than a name."""
        return source not in (*self.models, *self.loras, *self.steps, MERGED) and (
            is_model_name(source) or "/" in source or "\\" in source
        )

    def files(self) -> list[str]:
        """Every file or folder that the recipe names."""
        parts = [source for source in self.components.values() if self.is_file(source)]
        methods = [source.path for source in self.methods]
        return [*self.models.values(), *(lora.path for lora in self.loras.values()), *parts, *methods]

    def methods_files(self) -> list[MethodsFile]:
        """The files of methods that it names, as they were loaded.

        Raises:
            RecipeError: one has not been.
        """
        return [loaded_methods(source.path, source.sha256) for source in self.methods]

    def _with_methods(self) -> Recipe:
        """The same with every file of methods that its steps use, each with its hash: what a merge needs to be repeated."""
        named = self.methods_files()
        sources = [
            source.model_copy(update={"sha256": file.sha256}) for source, file in zip(self.methods, named, strict=True)
        ]
        used = [file for step in self.steps.values() if (file := file_of(step.kind)) is not None]
        for file in dict.fromkeys(used):
            if file not in named:
                sources.append(MethodsSource(path=str(file.path), sha256=file.sha256))
        return self.model_copy(update={"methods": sources}) if sources else self

    def source_of(self, component: str, text: bool) -> tuple[str, bool]:
        """The step, model or file that a component comes from, and whether the recipe names it.

        Args:
            text: whether it is a text encoder: `components.text_encoders` means all of them.
        """
        for name in (component, "text_encoders") if text else (component,):
            if name in self.components:
                said = self.components[name]
                return (self.result if said == MERGED else said), True
        return self.result, False

    def models_of(self, name: str) -> list[str]:
        """The models below a step (or model), leftmost first, each once. The first one is "the first model"."""
        return [leaf for leaf in self.leaves(name) if leaf in self.models]

    def leaves(self, name: str) -> list[str]:
        """The models and LoRAs below a step (or model), leftmost first, each once."""
        found: dict[str, None] = {}
        stack, seen = [name], set()
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            if at in self.steps:
                stack.extend(reversed(self.steps[at].inputs))
            else:
                found[at] = None
        return list(found)

    def space_of(self, name: str) -> Space:
        """Whether a model, LoRA or step is a model (`weight`) or a difference (`delta`)."""
        return self._spaces.get(name) or ("delta" if name in self.loras else "weight")

    def order(self, name: str) -> list[str]:
        """The steps that `name` is made from, each after all of its inputs, `name` last; empty for a model."""
        return self._ordered([name])

    def _ordered(self, names: Iterable[str]) -> list[str]:
        ordered: dict[str, None] = {}

        def visit(at: str, above: tuple[str, ...]) -> None:
            if at in above:
                text = f"steps.{at}: is made from itself ({' <- '.join((*above, at))}); break the circle"
                raise RecipeError(text, code="recipe.circle")
            if len(above) > DEEPEST:
                raise too_deep(at)
            if at in self.steps and at not in ordered:
                for source in self.steps[at].inputs:
                    visit(source, (*above, at))
                ordered[at] = None

        for name in names:
            visit(name, ())
        return list(ordered)

    @model_validator(mode="before")
    @classmethod
    def _default_result(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("result") and isinstance(data.get("models"), dict):
            steps, models = data.get("steps") or {}, data["models"]
            if isinstance(steps, dict) and (steps or len(models) == 1):
                data = {**data, "result": next(reversed(steps or models))}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        names = [*self.models, *self.loras, *self.steps]
        if clash := [name for name, count in Counter(names).items() if count > 1]:
            name, kinds = sorted(clash)[0], {"a model": self.models, "a LoRA": self.loras, "a step": self.steps}
            both = " and ".join(kind for kind, known in kinds.items() if name in known)
            raise RecipeError(f"{name!r} names both {both}; give them different names", code="recipe.name_twice")
        if MERGED in self.models:
            raise RecipeError(f"models.{MERGED}: components use this word for the merge itself; choose another name")
        for name, lora in self.loras.items():
            if lora.base is not None and lora.base not in self.models:
                raise _unknown(f"loras.{name}.base", lora.base, "is not a model", self.models)
        convention_named(self.convention)
        self.methods_files()
        for name, step in self.steps.items():
            step.check(f"steps.{name}", names, self.convention)
        if not self.result:
            raise RecipeError("result: is missing; there is no step, so name the model to take")
        if self.result not in names:
            raise _unknown("result", self.result, "is neither a step nor a model", names)
        for component, source in self.components.items():
            if component not in component_names():
                raise RecipeError(
                    f"components.{component}: no such component{nearest(component, component_names())}; "
                    f"there are {', '.join(component_names())}",
                    code="recipe.component",
                )
            if source not in names and source != MERGED and not self.is_file(source):
                known = [*names, MERGED]
                raise _unknown(f"components.{component}", source, "is neither a model, a step nor a file", known)
        for name in self._ordered(self.steps):
            step = self.steps[name]
            self._spaces[name] = step.kind.space([(s, self.space_of(s)) for s in step.inputs], f"steps.{name}")
        for what, source in (("result", self.result), *((f"components.{c}", s) for c, s in self.components.items())):
            if source in names and self.space_of(source) == "delta":
                raise wrong_space(f"{what}: {source!r} is a difference, no model; add it to one (task_arithmetic, add)")
        return self


def _joined(folder: Path, path: str) -> Path:
    """A recipe may have been written on Windows: backslashes separate folders there."""
    if PureWindowsPath(path).is_absolute():  # it names its drive, wherever it is read
        return Path(path)
    joined = Path(folder) / path
    return joined if "\\" not in path or os.path.exists(joined) else Path(folder) / path.replace("\\", "/")
