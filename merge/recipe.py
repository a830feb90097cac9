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

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from ..checkpoints.errors import UnetscopeError, nearest
from .block_weights import BlockWeights
from .errors import RecipeError
from .methods import Method, method_named

# The parts of a checkpoint that a recipe can take from somewhere else.
COMPONENT_NAMES = ("unet", "text_encoders", "clip_l", "clip_h", "clip_g", "vae")
MERGED = "merge"
_DEEPEST = 250
_SUFFIXES = (".safetensors", ".ckpt", ".pt")

OutputDType = Literal["fp16", "bf16", "fp32", "fp8_e4m3", "keep"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Output(_Strict):
    """How the result is stored.

    Attributes:
        dtype: of the merged weights; `keep` takes each tensor's dtype from the first model that has it. Buffers keep theirs.
        position_ids: `restore` writes them as integers 0..76; `keep` does so only where they are floats.
        nan: a NaN or infinity in an input is refused (`error`), counted as 0 (`zero`), or replaced by the value of the first
            input that is finite there (`copy`).
        overflow: a result beyond the range of `dtype` is refused (`error`) or becomes its largest value (`clamp`).
        mix_predictions: allow inputs that predict differently (epsilon and v).
    """

    dtype: OutputDType = "fp16"
    position_ids: Literal["keep", "restore"] = "keep"
    nan: Literal["error", "zero", "copy"] = "error"
    overflow: Literal["error", "clamp"] = "error"
    mix_predictions: bool = False


class Step(BaseModel):
    """One step: a method, its inputs, and the method's parameters under their own names (`alpha: 0.3`)."""

    model_config = ConfigDict(extra="allow", frozen=True)

    method: str
    inputs: list[str]
    convention: str | None = None

    @property
    def kind(self) -> Method:
        return method_named(self.method)

    @property
    def given(self) -> dict[str, Any]:
        """The parameters that the recipe gives."""
        return dict(self.__pydantic_extra__ or {})

    def weights(self, convention: str) -> dict[str, BlockWeights | list[BlockWeights] | bool]:
        """Every parameter of the method, given or by default, numbers read as block weights."""
        convention, values = self.convention or convention, {}
        for name, parameter in self.kind.parameters.items():
            value = self.given.get(name, parameter.default)
            if parameter.kind == "switch":
                values[name] = value
            elif parameter.kind == "number":
                values[name] = BlockWeights.parse(value, convention)
            else:
                values[name] = [BlockWeights.parse(v, convention) for v in value]
        return values


def _by_name(value: Any) -> Any:
    """`{name: {path: x}}` and `{name: x}` mean the same."""
    if isinstance(value, dict):
        return {k: v["path"] if isinstance(v, dict) and set(v) == {"path"} else v for k, v in value.items()}
    return value


class Recipe(_Strict):
    """A merge, written down.

    Attributes:
        models: name -> path; relative paths are relative to the recipe's folder.
        steps: name -> step, in any order.
        result: the step (or model) that is written; the last step when left out.
        components: `unet`, `text_encoders`, `clip_l`, `clip_h`, `clip_g`, `vae` -> a model, a step, a file, or `merge`.
            Left out, everything follows the result, but for the VAE, which is copied from the first model unless a weight
            names VAE.
        convention: how weight vectors are read unless a step says otherwise.
        output: dtype and the like.
        title: a name for the result, kept in its metadata.
    """

    models: Annotated[dict[str, str], BeforeValidator(_by_name)] = Field(min_length=1)
    steps: dict[str, Step] = Field(default_factory=dict)
    result: str = ""
    components: dict[str, str] = Field(default_factory=dict)
    convention: str = "supermerger"
    output: Output = Field(default_factory=Output)
    title: str = ""

    # -- reading and writing ------------------------------------------------------------------------------------------

    @classmethod
    def parse(cls, data: Any, where: str = "recipe") -> Recipe:
        """A recipe from plain data (what YAML or JSON holds).

        Raises:
            RecipeError: naming the place in the recipe, what is wrong and what would be right.
        """
        if not isinstance(data, dict):
            raise RecipeError(f"{where}: a recipe is a mapping with models and steps, not {type(data).__name__}")
        try:
            return cls(**_named_steps(data))
        except ValidationError as error:
            raise RecipeError(f"{where}: {_explain(error)}") from None
        except UnetscopeError as error:
            raise RecipeError(f"{where}: {error}") from None
        except TypeError:
            raise RecipeError(f"{where}: the names at the top must be words") from None

    @classmethod
    def load(cls, path: Path) -> Recipe:
        """A recipe from a YAML file, its model paths made relative to the file's folder.

        Raises:
            RecipeError: the file cannot be read, is no YAML, or is no valid recipe.
        """
        path = Path(path)
        try:
            data = yaml.load(path.read_text(encoding="utf-8"), _UniqueKeys)
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise RecipeError(f"{path}: is not valid YAML: {' '.join(str(error).split())[:300]}") from None
        recipe = cls.parse(data, str(path))
        return recipe.relative_to(path.parent)

    def relative_to(self, folder: Path) -> Recipe:
        """The same recipe with every relative path taken from `folder`."""
        models = {name: str(_joined(folder, path)) for name, path in self.models.items()}
        components = {k: str(_joined(folder, v)) if self.is_file(v) else v for k, v in self.components.items()}
        return self.model_copy(update={"models": models, "components": components})

    def to_plain(self) -> dict:
        """Plain data that `parse` reads back, without what has its default value."""
        return self.model_dump(exclude_defaults=True, mode="json")

    def to_yaml(self) -> str:
        """The recipe as YAML text."""
        return yaml.safe_dump(self.to_plain(), sort_keys=False, allow_unicode=True, width=120)

    # -- what it says ---------------------------------------------------------------------------------------------------

    def is_file(self, source: str) -> bool:
        """Whether a component's source is a file rather than a name."""
        return source not in (*self.models, *self.steps, MERGED) and (
            source.lower().endswith(_SUFFIXES) or "/" in source or "\\" in source
        )

    def models_of(self, name: str) -> list[str]:
        """The models below a step (or model), leftmost first, each once. The first one is "the first model"."""
        found: dict[str, None] = {}
        stack, seen = [name], set()
        while stack:
            at = stack.pop()
            if at in seen:
                continue
            seen.add(at)
            if at in self.models:
                found[at] = None
            else:
                stack.extend(reversed(self.steps[at].inputs))
        return list(found)

    def order(self, name: str) -> list[str]:
        """The steps that `name` is made from, each after all of its inputs, `name` last; empty for a model."""
        ordered: dict[str, None] = {}

        def visit(at: str, above: tuple[str, ...]) -> None:
            if at in above:
                raise RecipeError(f"steps.{at}: is made from itself ({' <- '.join((*above, at))}); break the circle")
            if len(above) > _DEEPEST:
                raise RecipeError(f"steps.{at}: steps are nested more than {_DEEPEST} deep")
            if at in self.steps and at not in ordered:
                for source in self.steps[at].inputs:
                    visit(source, (*above, at))
                ordered[at] = None

        visit(name, ())
        return list(ordered)

    @model_validator(mode="before")
    @classmethod
    def _default_result(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("result") and isinstance(data.get("models"), dict):
            steps, models = data.get("steps") or {}, data["models"]
            if steps or len(models) == 1:
                data = {**data, "result": next(reversed(steps or models))}
        return data

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        from ..checkpoints.conventions import convention_named

        names = [*self.models, *self.steps]
        if clash := set(self.models) & set(self.steps):
            raise RecipeError(f"{sorted(clash)[0]!r} names both a model and a step; give them different names")
        convention_named(self.convention)
        for name, step in self.steps.items():
            self._check_step(f"steps.{name}", step, names)
        if self.result not in names:
            raise RecipeError(f"result: {self.result!r} is no step and no model{nearest(self.result, names)}")
        for component, source in self.components.items():
            if component not in COMPONENT_NAMES:
                raise RecipeError(
                    f"components.{component}: no such component{nearest(component, COMPONENT_NAMES)}; "
                    f"there are {', '.join(COMPONENT_NAMES)}"
                )
            if source not in names and source != MERGED and not self.is_file(source):
                raise RecipeError(
                    f"components.{component}: {source!r} is no model, no step, no file{nearest(source, [*names, MERGED])}"
                )
        for name in self.steps:
            self.order(name)
        return self

    def _check_step(self, where: str, step: Step, names: list[str]) -> None:
        method = step.kind
        for source in step.inputs:
            if source not in names:
                raise RecipeError(f"{where}.inputs: {source!r} is no model and no step{nearest(source, names)}")
        method.check_inputs(len(step.inputs), where)
        for name, value in step.given.items():
            if name not in method.parameters:
                takes = ", ".join(method.parameters) or "no parameters"
                raise RecipeError(f"{where}.{name}: {method.name} takes {takes}{nearest(name, method.parameters)}")
            if method.parameters[name].kind == "switch" and not isinstance(value, bool):
                raise RecipeError(f"{where}.{name}: must be true or false, not {value!r}")
        for name, parameter in method.parameters.items():
            if parameter.kind == "numbers":
                given = step.given.get(name)
                if not isinstance(given, list) or len(given) != len(step.inputs):
                    count = len(given) if isinstance(given, list) else "none"
                    raise RecipeError(
                        f"{where}.{name}: needs a list of {len(step.inputs)} weights, one for each input; {count} given"
                    )
        try:
            step.weights(self.convention)
        except UnetscopeError as error:
            raise RecipeError(f"{where}: {error}") from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, where YAML would silently keep the last."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        if key_node.value in seen and isinstance(key_node, yaml.ScalarNode):
            line = key_node.start_mark.line + 1
            raise yaml.constructor.ConstructorError(None, None, f"line {line} names {key_node.value!r} a second time")
        if isinstance(key_node, yaml.ScalarNode):
            seen.add(key_node.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)


def _joined(folder: Path, path: str) -> Path:
    """A recipe may have been written on Windows: backslashes separate folders there."""
    plain = Path(path)
    if not plain.exists() and "\\" in path:
        plain = Path(path.replace("\\", "/"))
    return plain if plain.is_absolute() else Path(folder) / plain


def _named_steps(data: dict) -> dict:
    """Steps that are written inside another step's inputs get names of their own (`mix.1`, `mix.1.2`...)."""
    steps = data.get("steps")
    if not isinstance(steps, dict):
        return data
    flat: dict[str, Any] = {}

    def flatten(name: str, step: Any, depth: int = 0) -> None:
        if depth > _DEEPEST:
            raise RecipeError(f"steps.{name}: steps are nested more than {_DEEPEST} deep; give the inner ones names")
        if isinstance(step, dict) and isinstance(step.get("inputs"), list):
            inputs = []
            for i, source in enumerate(step["inputs"], 1):
                if isinstance(source, dict):
                    flatten(f"{name}.{i}", source, depth + 1)
                    source = f"{name}.{i}"
                inputs.append(source)
            step = {**step, "inputs": inputs}
        flat[name] = step

    for name, step in steps.items():
        flatten(str(name), step)
    return {**data, "steps": flat}


def _explain(error: ValidationError) -> str:
    """The first thing that pydantic found wrong, as a sentence of ours."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        fields = Output.model_fields if place.startswith("output.") else Recipe.model_fields
        name = str(first["loc"][-1])
        return f"{place}: unknown name{nearest(name, fields)}; known are {', '.join(fields)}"
    if first["type"] == "missing":
        return f"{place}: is missing"
    return f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}, found {first['input']!r:.80}"
