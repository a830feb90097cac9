"""How a plan is made of a recipe: its models are opened, and what every tensor of the result comes to is worked out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..checkpoints import Checkpoint, open_checkpoint
from ..checkpoints.checkpoint import TensorInfo
from ..checkpoints.dtypes import I64, DType, dtype_named
from ..checkpoints.errors import RecipeError
from ..checkpoints.families import BUFFERS, components_in_order, is_buffer
from ..checkpoints.families.parts.position_ids import can_be_counted, is_position_ids
from ..checkpoints.families.parts.training import is_training_state
from ..checkpoints.notices import Notice
from .compatibility import check_architectures, check_predictions, denoiser, renaming, tensor_in
from .compile import RecipeCompiler
from .linear_combination import LinearCombination, Missing, Result
from .models import Models
from .plan import TRAINED, Plan, TensorPlan
from .recipe import MERGED, Recipe
from .shape_rule import POSITION_IDS, rule_of
from .wholeness import Wholeness


def make_plan(recipe: Recipe, opened: Callable[[Path], Checkpoint] = open_checkpoint) -> Plan:
    """Open the models of a recipe (headers only) and work out every tensor of the result.

    `opened` opens a model: those who plan many recipes of the same models keep them open.

    Raises:
        CheckpointError: a model cannot be read.
        RecipeError: the models do not fit together, a block weight does not fit the architecture, or the result has no tensors.
    """
    return Planner(recipe, Models(recipe, opened)).plan()


@contextmanager
def planned(recipe: Recipe) -> Iterator[Plan]:
    """`make_plan`, whose files are closed at the end of the `with` block."""
    plan = make_plan(recipe)
    try:
        yield plan
    finally:
        plan.close()


class Planner:
    """Works out every tensor of a recipe's result from the headers of its models.

    Args:
        recipe: what is asked for.
        models: its models.

    Raises:
        RecipeError: the models do not fit together, or a block weight does not fit the architecture.
    """

    def __init__(self, recipe: Recipe, models: Models):
        self._recipe, self._models, self._output = recipe, models, recipe.output
        core = denoiser(models.checkpoints[i] for i in models.below(recipe.result))
        self._denoisers = models.below(self._source(core)[0])  # the models that the denoiser is made of
        main = list(dict.fromkeys([*models.below(recipe.result), *self._denoisers]))
        self._family = check_architectures(*models.chosen(main))
        for i in self._denoisers:
            if models.checkpoints[i].architecture.ema_only:
                models.take_average(i)
        predictions = check_predictions(*models.chosen(self._denoisers), self._output.mix_predictions)
        self._prediction, marked = predictions.kind, predictions.marked_by
        self._marked_by = None if marked is None else self._denoisers[marked]
        self._warnings = [*models.warnings, *predictions.notes, *self._check_loras()]
        if "text_encoders" in recipe.components and not self._family.text_encoders:
            raise RecipeError(
                f"components.text_encoders: {models.names[main[0]]} is {self._family.title} without text encoders; "
                "leave it out"
            )
        self._compiler = RecipeCompiler(
            recipe, self._family, models.index, lambda i, key: self._lookup(i, key) is not None, models.average
        )
        self._account = Wholeness(self._family, models.checkpoints, models.names, self._output.allow_missing)

    def plan(self) -> Plan:
        """The plan; its tensors in the order in which they are written.

        Raises:
            RecipeError: the result has no tensors, lacks some, or an input changes nothing although it has a weight.
        """
        tensors = [t for component in self._merged_components() for t in self._component(component)]
        tensors += self._beside()
        if not tensors:
            raise RecipeError("the models hold no weights of a UNET, text encoder or VAE: there is nothing to merge")
        warnings = [*self._warnings, *self._account.warnings(tensors)]
        self._check_effects(tensors)
        models = self._models
        return Plan(
            self._recipe,
            models.checkpoints,
            models.names,
            self._family,
            self._prediction,
            self._in_file_order(tensors),
            warnings,
        )

    def _source(self, component: str) -> tuple[str, bool]:
        return self._recipe.source_of(component, self._models.is_text(component))

    def _lookup(self, model: int, key: str) -> TensorInfo | None:
        """A model's tensor of that key, wherever its own architecture keeps it."""
        return tensor_in(self._models.checkpoints[model], self._family, key)

    def _check_loras(self) -> Iterator[Notice]:
        """Refuse LoRAs of another architecture, and say what of them nothing in the models fits."""
        models, family = self._models, self._family
        held = {key for i in models.below(self._recipe.result) for key in models.checkpoints[i].tensors}
        for name in self._recipe.loras:
            if name not in models.index:
                continue
            lora = models.checkpoints[models.index[name]]
            if lora.architecture.family not in (None, family.id):
                raise RecipeError(
                    f"{name} ({lora.path}) is a LoRA for {lora.family.title}, but the models are "
                    f"{family.title}; leave it out"
                )
            if strange := [key for key in lora.tensors if key not in held]:
                text = f"{len(strange):,} of its tensors are in no model ({strange[0]}, ...): left out"
                yield Notice("plan.lora_without_model", text, tuple(strange)).of(name)

    # -- the tensors of components --------------------------------------------------------------------------------------

    def _merged_components(self) -> list[str]:
        """The components that are merged: those of the family, and others that a model holds."""
        held = {component for c in self._models.checkpoints for component in c.components} - set(BUFFERS)
        named = set(self._recipe.components) - {"text_encoders"}
        return components_in_order(held | set(self._family.component_ids) | named)

    def _component(self, component: str) -> Iterator[TensorPlan]:
        source, asked = self._source(component)
        models, named = self._models.below(source), component in self._recipe.components
        foreign = self._models.is_text(component) and self._family.component(component) is None
        if foreign and named:
            raise RecipeError(f"components.{component}: {self._family.title} has no such text encoder")
        if foreign and asked:  # `text_encoders` of another architecture: those that this one has
            return
        keys: dict[str, None] = {}
        renamed = renaming(self._family, component)
        for i in models:
            keys |= dict.fromkeys(map(renamed, self._models.checkpoints[i].keys_by_component.get(component, ())))
        if not keys and self._recipe.components.get(component) == MERGED:
            text = f"no model has a {component}: there is none to merge"
            self._warnings.append(Notice("plan.component_absent", text, (component,)))
            return
        if not keys and (named or (asked and component.upper() in self._family.text_encoders)):
            held = ", ".join(self._models.names[i] for i in models)
            raise RecipeError(f"components: {held} has no {component}; take it from a file that has one")
        if foreign and keys:
            text = f"{component} is left out: {self._family.title} has no such text encoder"
            self._warnings.append(Notice("plan.text_encoder_left_out", text, (component,)))
            return
        dtype, merge_vae = _output_dtype(self._output.dtype), self._merges_vae(asked, models)
        for key in keys:
            if (combination := self._combination(source, component, key, models, merge_vae)) is not None:
                yield self._tensor(key, combination, models, dtype)

    def _merges_vae(self, asked: bool, models: list[int]) -> bool:
        """Whether the VAE is merged without a weight that names it: of files that hold nothing else, it is what is meant."""
        return asked or self._models.is_vae(models)

    def _combination(
        self, source: str, component: str, key: str, models: list[int], merge_vae: bool = False
    ) -> LinearCombination | None:
        """What a tensor is made of, and an account of who lacks it; None: the result does without it."""
        known, everywhere = self._account.knows(component, key), all(self._lookup(i, key) for i in models)
        combination = self._compiler.combination(source, key, merge_vae)
        if known and everywhere:
            return combination
        meant = self._compiler.combination(source, key, merge_vae, whole=True).models()
        meant = [i for i in meant if not self._models.is_lora(i)]
        if not known:
            return self._unplaced(component, key, combination, meant or models[:1])
        owner = next(i for i in models if self._lookup(i, key))
        if is_buffer(key):
            return combination if isinstance(combination, LinearCombination) else LinearCombination.of_model(owner)
        if isinstance(combination, Missing):
            self._account.unmet(combination, component, key, owner)
            return LinearCombination.of_model(owner)
        for i in meant:
            if self._lookup(i, key) is None:
                self._account.lacks(i, component, key, combination)
        return combination

    def _unplaced(self, component: str, key: str, combination: Result, meant: list[int]) -> LinearCombination | None:
        """What a tensor without a place in the layout is made of: merged where all have it, else the first model's."""
        found = {i: info for i in meant if (info := self._lookup(i, key))}
        alike = len({info.shape for info in found.values()}) == 1 and all(t.dtype.is_float for t in found.values())
        if len(found) == len(meant) and (alike or len(meant) == 1):
            if len(meant) > 1:
                self._account.merged(component, key)
            return combination
        if meant[0] in found:
            self._account.kept(meant[0], key)
            return LinearCombination.of_model(meant[0])
        for i in found:
            self._account.left(i, key)
        return None

    def _tensor(self, key: str, combination: LinearCombination, models: list[int], dtype: DType | None) -> TensorPlan:
        """The plan of one tensor; all models of its combination have it."""
        found = {i: self._lookup(i, key) for i in combination.models()}
        owner = next(i for i in models if self._lookup(i, key) is not None)
        first, family = self._lookup(owner, key), self._family
        place, name = family.block_of(key), key
        if family.keeps_names:
            name = first.stored.name if first.family is family else family.file_name(key)
        if not all(info.dtype.is_float for info in (first, *found.values())):
            # Integers are never averaged: they are the first model's, even where another one's share is 1.
            combination, found = LinearCombination.of_model(owner), {owner: first}
        wanted = first.dtype.is_float or self._output.position_ids == "restore"
        if wanted and is_position_ids(key) and can_be_counted(first.shape):
            alone = LinearCombination.of_model(owner)
            return TensorPlan(key, I64, first.shape, alone, {owner: first}, place, name, POSITION_IDS)
        if key == family.first_key and any(info.shape != first.shape for info in found.values()):
            # The first model's extra input channels are kept even where its share is 0.
            found = {owner: first, **found}
        shapes = [(self._models.names[i], info.shape) for i, info in found.items()]
        rule = rule_of(key, family.first_key, shapes)
        # `keep` and tensors that are not floats keep the dtype of the first model that has them.
        out = dtype if dtype is not None and first.dtype.is_float else first.dtype
        return TensorPlan(key, out, shapes[0][1], combination, found, place, name, rule)

    # -- what stands next to them ----------------------------------------------------------------------------------------

    def _beside(self) -> Iterator[TensorPlan]:
        """What stands next to the blocks of the models that the UNET comes from: the first one's schedule, the markers of the one
        that says of what noise they predict, and what may be trained; EMA copies and what training left are not in the result."""
        checkpoints, models, source = self._models.checkpoints, self._denoisers, self._source(self._family.core)[0]
        for i in dict.fromkeys((models[0], *(() if self._marked_by is None else (self._marked_by,)))):
            for component in ("schedule", "marker") if i == models[0] else ("marker",):
                for key in checkpoints[i].keys_by_component.get(component, ()):
                    yield self._tensor(key, LinearCombination.of_model(i), [i], None)
        for component in TRAINED:
            held = (key for i in models for key in checkpoints[i].keys_by_component.get(component, ()))
            for key in (key for key in dict.fromkeys(held) if not is_training_state(key)):
                if (combination := self._combination(source, component, key, models)) is not None:
                    yield self._tensor(key, combination, models, None)
        counts = [len(c.keys_by_component.get("ema", ())) for c in checkpoints]
        # Two of them are only a counter and a rate, which pruned files keep.
        with_ema = [name for name, count in zip(self._models.names, counts, strict=True) if count > 2]
        if with_ema:
            text = f"the EMA weights of {', '.join(with_ema)} are left out: they describe no merged UNET"
            self._warnings.append(Notice("plan.ema_left_out", text, tuple(with_ema)))

    # -- the whole ------------------------------------------------------------------------------------------------------

    def _check_effects(self, tensors: list[TensorPlan]) -> None:
        """Refuse an input that changes nothing although the recipe gives it a weight."""
        recipe, models = self._recipe, self._models
        weights = [tensor for tensor in tensors if tensor.weight]
        reached = {i for tensor in weights for i in tensor.combination.models()}
        sources = [recipe.result, *(s for s in recipe.components.values() if s in recipe.steps)]
        for name in dict.fromkeys(leaf for source in sources for leaf in recipe.leaves(source)):
            i = models.index[name]
            checkpoint = models.checkpoints[i]
            if i in reached and name in recipe.loras:
                # Changes that are all 0 have been counted when it was opened.
                keys = [tensor.key for tensor in weights if i in tensor.combination.models()]
                checkpoint.lora.refuse_without_effect(name, keys)
            if not reached & models.with_copies(i) and self._is_meant(i, weights):
                raise RecipeError(self._without_effect(name, checkpoint))

    def _without_effect(self, name: str, checkpoint: Checkpoint) -> str:
        """What is said of an input that changes nothing."""
        what = f"{name} ({checkpoint.path}) is {checkpoint.architecture.name}"
        why = f"{what}: nothing of it would be in the result, although the recipe gives it a weight"
        if checkpoint.components & {"vae"}:
            return f"{why}; take its VAE by name (components.vae, --vae), or leave it out"
        if name in self._recipe.loras:
            return (
                f"{what}: it changes no tensor that the recipe gives it a weight in; leave it out, or take a LoRA for these "
                "layers"
            )
        return f"{why}; leave it out, or take a file that fits the others"

    def _is_meant(self, index: int, tensors: list[TensorPlan]) -> bool:
        """Whether the recipe gives a model a weight in any tensor of the result, had it that."""
        own = self._models.with_copies(index)
        for tensor in tensors:
            source, asked = self._source(tensor.place.component)
            merge_vae = self._merges_vae(asked, self._models.below(source))
            if own & set(self._compiler.combination(source, tensor.key, merge_vae, whole=True).models()):
                return True
        return False

    def _in_file_order(self, tensors: list[TensorPlan]) -> list[TensorPlan]:
        """The order of the first model's file, then the rest as planned: reading goes forward through the disk."""
        first = self._models.checkpoints[self._models.below(self._recipe.result)[0]]
        rank = {key: i for i, key in enumerate(first.tensors)}
        return sorted(tensors, key=lambda t: rank.get(t.key, len(rank)))


def _output_dtype(name: str) -> DType | None:
    """The output dtype, or None for `keep`."""
    return None if name == "keep" else dtype_named(name)
