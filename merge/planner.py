"""How a plan is made: which models are opened, where each component comes from, and what every tensor comes to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ..checkpoints import Checkpoint
from ..checkpoints.checkpoint import TensorInfo
from ..checkpoints.dtypes import I64, DType, dtype_named
from ..checkpoints.families import BUFFERS as STORED_BESIDE
from ..checkpoints.families import Family, components_in_order, is_buffer, is_text
from ..checkpoints.families.parts.position_ids import can_be_counted, is_position_ids
from ..checkpoints.families.parts.training import is_training_state
from ..checkpoints.files.targets import resolved
from ..checkpoints.notices import Notice
from ..checkpoints.text import free_name
from .collapse import Collapse
from .compatibility import check_architectures, check_predictions, common_shape, denoiser, renaming, tensor_in
from .ema import with_ema
from .errors import MergeError
from .forms import Form, Lacking, Model
from .recipe import MERGED, Lora, Recipe
from .tensor_plan import BUFFERS, TRAINED, TensorPlan
from .wholeness import Wholeness

# A model that the result does not use.
UNUSED = "plan.unused"


class Planner:
    """Opens the models of a recipe (headers only) and works out every tensor of the result.

    `tensors` does all of it once; what is found on the way is here.

    Attributes:
        checkpoints, names: the models by index, and the name of each in the recipe.
        family, prediction: of the result.
        warnings: what a user should know.
    """

    def __init__(self, recipe: Recipe, opened: Callable[[Path], Checkpoint]):
        self.recipe = recipe
        self._opened = opened
        self.names: list[str] = []
        self.checkpoints: list[Checkpoint] = []
        self.index: dict[str, int] = {}
        self.averaged: dict[int, int] = {}
        self.warnings: list[Notice] = []
        by_path: dict[Path, int] = {}
        files = {v: v for v in recipe.components.values() if recipe.is_file(v)}
        used = set(recipe.leaves(recipe.result))
        for source in recipe.components.values():
            if source in recipe.models or source in recipe.steps:
                used.update(recipe.leaves(source))
        wanted = {leaf for n, s in recipe.steps.items() if "ema" in s.kind.supplied for leaf in recipe.leaves(n)}
        for name in (*recipe.models, *recipe.loras):
            if name not in used:
                self.warnings.append(Notice(UNUSED, f"model {name!r} is not used by the result", (name,)))
        for name, path in {**{n: p for n, p in recipe.models.items() if n in used}, **files}.items():
            real = resolved(path)
            if real not in by_path:
                by_path[real] = len(self.checkpoints)
                self.checkpoints.append(self._opened(Path(path)))
                self.names.append(_distinct(Path(name).name if name in files else name, self.names))
            self.index[name] = by_path[real]
            if name in wanted and self.checkpoints[by_path[real]].architecture.ema_only:
                self._take_average(by_path[real])
        for name, lora in recipe.loras.items():
            if name in used:
                opened = self._open_lora(name, lora)  # which may open the model that it counts from
                self.index[name] = len(self.checkpoints)
                self.checkpoints.append(opened)
                self.names.append(_distinct(name, self.names))
        held = (held for checkpoint in self.checkpoints for held in checkpoint.family.components)
        self._texts = {each.id for each in held if each.part.text}
        for checkpoint, name in zip(self.checkpoints, self.names, strict=True):
            self.warnings += [note.of(name) for note in checkpoint.notes]

    def _open_lora(self, name: str, lora: Lora) -> Checkpoint:
        """A LoRA as a model of differences; the model that it counts from is the first one unless it names another."""
        from ..checkpoints.lora import lora_checkpoint

        base = lora.base or next(iter(self.recipe.models_of(self.recipe.result)), None)
        if base is not None and base not in self.index:  # used by no step: opened for the LoRA's sake
            self.index[base] = len(self.checkpoints)
            self.checkpoints.append(self._opened(Path(self.recipe.models[base])))
            self.names.append(_distinct(base, self.names))
        if base is None:
            return lora_checkpoint(Path(lora.path), adapter=lora.adapter)
        counted_from = self.checkpoints[self.index[base]]
        check_architectures([counted_from], [base])  # a LoRA counts from a model
        return lora_checkpoint(Path(lora.path), counted_from, adapter=lora.adapter)

    def _averaged(self, index: int) -> int:
        """The number of a model's EMA copy, which is a model like others: its UNET is the moving average."""
        if index not in self.averaged:
            checkpoint, name = self.checkpoints[index], self.names[index]
            self.averaged[index] = len(self.checkpoints)
            self.checkpoints.append(with_ema(checkpoint, name))
            self.names.append(_distinct(f"{name} (EMA)", self.names))
        return self.averaged[index]

    def _take_average(self, index: int) -> None:
        """Make the average of a model that has no other UNET its UNET."""
        name = self.names[index]
        self.checkpoints[index] = with_ema(self.checkpoints[index], name)
        self.averaged[index] = index
        text = f"{name} has its UNET as EMA weights only: they are its UNET"
        self.warnings.append(Notice("plan.ema_only", text, (name,)))

    # -- where each component comes from ------------------------------------------------------------------------------

    def source(self, component: str) -> tuple[str, bool]:
        """The step, model or file that a component comes from, and whether the recipe asks for it by name."""
        named = self.recipe.components
        for name in (component, "text_encoders" if self._is_text(component) else component):
            if name in named:
                return (self.recipe.result if named[name] == MERGED else named[name]), True
        return self.recipe.result, False

    def _is_text(self, component: str) -> bool:
        """Whether it is a text encoder, of a known family or beside one of these models."""
        return is_text(component) or component in self._texts

    def models_of(self, source: str) -> list[int]:
        """The indices of the models below a source, the first model first."""
        if source in self.index:
            return [self.index[source]]
        return list(dict.fromkeys(self.index[name] for name in self.recipe.models_of(source)))

    # -- the tensors ----------------------------------------------------------------------------------------------------

    def tensors(self) -> list[TensorPlan]:
        """The output, in the order in which it is written.

        Raises:
            MergeError: the models do not fit together, or the result has no tensors.
            LabelError: a block weight does not fit the architecture.
        """
        unets = self._denoisers()
        main = list(dict.fromkeys([*self.models_of(self.recipe.result), *unets]))
        self.family = check_architectures([self.checkpoints[i] for i in main], [self.names[i] for i in main])
        for i in unets:
            if self.checkpoints[i].architecture.ema_only:
                self._take_average(i)
        found = check_predictions(
            [self.checkpoints[i] for i in unets], [self.names[i] for i in unets], self.recipe.output.mix_predictions
        )
        self.prediction = found.kind
        self.marked_by = None if found.marked_by is None else unets[found.marked_by]
        self.warnings += found.notes
        self._check_loras(self.family)
        if "text_encoders" in self.recipe.components and not self.family.text_encoders:
            raise MergeError(
                f"components.text_encoders: {self.names[main[0]]} is {self.family.title} without text encoders; "
                "leave it out"
            )
        self.collapse = Collapse(
            self.recipe, self.family, self.index, lambda i, key: self._lookup(i, key) is not None, self._averaged
        )
        self._account = Wholeness(self.family, self.checkpoints, self.names, self.recipe.output.allow_missing)
        tensors = [t for component in self._merged_components() for t in self._component(component)]
        tensors += self._beside()
        if not tensors:
            raise MergeError("the models hold no weights of a UNET, text encoder or VAE: there is nothing to merge")
        self.warnings += self._account.warnings(tensors)
        self._check_effects(tensors)
        return self._in_file_order(tensors)

    def _denoisers(self) -> list[int]:
        """The models that the denoiser is made of."""
        core = denoiser(self.checkpoints[i] for i in self.models_of(self.recipe.result))
        return self.models_of(self.source(core)[0])

    def _merged_components(self) -> list[str]:
        """The components that are merged: those of the family, and others that a model holds."""
        held = {component for c in self.checkpoints for component in c.components} - set(STORED_BESIDE)
        return components_in_order(
            held | set(self.family.component_ids) | set(self.recipe.components) - {"text_encoders"}
        )

    def _check_loras(self, family: Family) -> None:
        """Refuse LoRAs of another architecture, and say what of them nothing in the models fits."""
        held = {key for i in self.models_of(self.recipe.result) for key in self.checkpoints[i].tensors}
        for name in self.recipe.loras:
            if name not in self.index:
                continue
            lora = self.checkpoints[self.index[name]]
            if lora.architecture.family not in (None, family.id):
                raise MergeError(
                    f"{name} ({lora.path}) is a LoRA for {lora.family.title}, but the models are "
                    f"{family.title}; leave it out"
                )
            if strange := [key for key in lora.tensors if key not in held]:
                text = f"{len(strange):,} of its tensors are in no model ({strange[0]}, ...): left out"
                self.warnings.append(Notice("plan.lora_without_model", text, tuple(strange)).of(name))

    def _component(self, component: str) -> Iterator[TensorPlan]:
        source, asked = self.source(component)
        models = self.models_of(source)
        foreign = self._is_text(component) and self.family.component(component) is None
        if foreign and component in self.recipe.components:
            raise MergeError(f"components.{component}: {self.family.title} has no such text encoder")
        if foreign and asked:  # `text_encoders` of another architecture: those that this one has
            return
        keys: dict[str, None] = {}
        renamed = renaming(self.family, component)
        for i in models:
            keys |= dict.fromkeys(map(renamed, self.checkpoints[i].keys_by_component.get(component, ())))
        if not keys and self.recipe.components.get(component) == MERGED:
            text = f"no model has a {component}: there is none to merge"
            self.warnings.append(Notice("plan.component_absent", text, (component,)))
            return
        if not keys and (
            component in self.recipe.components or (asked and component.upper() in self.family.text_encoders)
        ):
            held = ", ".join(self.names[i] for i in models)
            raise MergeError(f"components: {held} has no {component}; take it from a file that has one")
        if foreign and keys:
            text = f"{component} is left out: {self.family.title} has no such text encoder"
            self.warnings.append(Notice("plan.text_encoder_left_out", text, (component,)))
            return
        # Of files that hold nothing else, the VAE is what is meant.
        alone = all(self.checkpoints[i].components == {"vae"} for i in models)
        dtype = _output_dtype(self.recipe.output.dtype)
        for key in keys:
            if (form := self._form(source, component, key, models, asked or alone)) is not None:
                yield self._tensor(key, form, models, dtype)

    def _form(self, source: str, component: str, key: str, models: list[int], merge_vae: bool = False) -> Form | None:
        """What a tensor is made of, and an account of who lacks it; None: the result does without it."""
        known, everywhere = self._account.knows(component, key), all(self._lookup(i, key) for i in models)
        form = self.collapse.form(source, key, merge_vae)
        if known and everywhere:
            return form
        meant = [i for i in self.collapse.form(source, key, merge_vae, whole=True).models() if self._is_model(i)]
        if not known:
            return self._unplaced(component, key, form, meant or models[:1])
        owner = next(i for i in models if self._lookup(i, key))
        if is_buffer(key):
            return form if isinstance(form, Form) else Form.of(Model(owner))
        if isinstance(form, Lacking):
            self._account.unmet(form, component, key, owner)
            return Form.of(Model(owner))
        for i in meant:
            if self._lookup(i, key) is None:
                self._account.lacks(i, component, key, form)
        return form

    def _unplaced(self, component: str, key: str, form: Form | Lacking, meant: list[int]) -> Form | None:
        """What a tensor without a place in the layout is made of: merged where all have it, else the first model's."""
        found = {i: info for i in meant if (info := self._lookup(i, key))}
        alike = len({info.shape for info in found.values()}) == 1 and all(t.dtype.is_float for t in found.values())
        if len(found) == len(meant) and (alike or len(meant) == 1):
            if len(meant) > 1:
                self._account.merged(component, key)
            return form
        if meant[0] in found:
            self._account.kept(meant[0], key)
            return Form.of(Model(meant[0]))
        for i in found:
            self._account.left(i, key)
        return None

    def _is_model(self, index: int) -> bool:
        return self.checkpoints[index].architecture.what != "lora"

    def _lookup(self, model: int, key: str) -> TensorInfo | None:
        """A model's tensor of that key, wherever its own architecture keeps it."""
        return tensor_in(self.checkpoints[model], self.family, key)

    def _tensor(self, key: str, form: Form, models: list[int], dtype: DType | None) -> TensorPlan:
        """The plan of one tensor; all models of its form have it."""
        found = {i: self._lookup(i, key) for i in form.models()}
        owner = next(i for i in models if self._lookup(i, key) is not None)
        first = self._lookup(owner, key)
        place = self.family.block_of(key)
        name = key
        if self.family.keeps_names:
            name = first.stored.name if first.family is self.family else self.family.file_name(key)
        if not all(info.dtype.is_float for info in (first, *found.values())):
            # Integers are never averaged: they are the first model's, even where another one's share is 1.
            form, found = Form.of(Model(owner)), {owner: first}
        wanted = first.dtype.is_float or self.recipe.output.position_ids == "restore"
        positions = wanted and is_position_ids(key) and can_be_counted(first.shape)
        if positions:
            return TensorPlan(key, I64, first.shape, Form.of(Model(owner)), {owner: first}, place, name, positions=True)
        if key == self.family.first_key and any(info.shape != first.shape for info in found.values()):
            # The first model's extra input channels are kept even where its share is 0.
            found = {owner: first, **found}
        shape, widened = common_shape(
            key, self.family.first_key, [(self.names[i], info.shape) for i, info in found.items()]
        )
        # `keep` and tensors that are no floats keep the dtype of the first model that has them.
        out = dtype if dtype is not None and first.dtype.is_float else first.dtype
        return TensorPlan(key, out, shape, form, found, place, name, widened=widened)

    def _beside(self) -> Iterator[TensorPlan]:
        """What stands beside the blocks of the models that the UNET comes from: the first one's schedule, the markers of the one
        that says of what noise they predict, and what may be trained; EMA copies and what training left are not in the result."""
        source, models = self.source(self.family.core)[0], self._denoisers()
        for i in dict.fromkeys((models[0], *(() if self.marked_by is None else (self.marked_by,)))):
            for component in (c for c in BUFFERS if c not in TRAINED) if i == models[0] else ("marker",):
                for key in self.checkpoints[i].keys_by_component.get(component, ()):
                    yield self._tensor(key, Form.of(Model(i)), [i], None)
        for component in TRAINED:
            held = (key for i in models for key in self.checkpoints[i].keys_by_component.get(component, ()))
            for key in dict.fromkeys(held):
                if not is_training_state(key) and (form := self._form(source, component, key, models)) is not None:
                    yield self._tensor(key, form, models, None)
        counts = [len(c.keys_by_component.get("ema", ())) for c in self.checkpoints]
        # Two of them are only a counter and a rate, which pruned files keep.
        with_ema = [name for name, count in zip(self.names, counts, strict=True) if count > 2]
        if with_ema:
            text = f"the EMA weights of {', '.join(with_ema)} are left out: they describe no merged UNET"
            self.warnings.append(Notice("plan.ema_left_out", text, tuple(with_ema)))

    def _check_effects(self, tensors: list[TensorPlan]) -> None:
        """Refuse an input that changes nothing although the recipe gives it a weight."""
        weights = [tensor for tensor in tensors if not tensor.buffer and tensor.dtype.is_float]
        reached = {i for tensor in weights for i in tensor.form.models()}
        sources = [self.recipe.result, *(s for s in self.recipe.components.values() if s in self.recipe.steps)]
        for name in dict.fromkeys(leaf for source in sources for leaf in self.recipe.leaves(source)):
            i = self.index[name]
            if i in reached and name in self.recipe.loras:
                self._check_lora(name, [tensor.key for tensor in weights if i in tensor.form.models()])
            if reached & {i, self.averaged.get(i)} or not self._is_meant(i, weights):
                continue
            checkpoint = self.checkpoints[i]
            why = (
                f"{name} ({checkpoint.path}) is {checkpoint.architecture.name}: nothing of it would be in the result, although the "
                "recipe gives it a weight"
            )
            if checkpoint.components & {"vae"}:
                raise MergeError(f"{why}; take its VAE by name (components.vae, --vae), or leave it out")
            if name in self.recipe.loras:
                raise MergeError(
                    f"{name} ({checkpoint.path}) is {checkpoint.architecture.name}: it changes no tensor that the "
                    "recipe gives it a weight in; leave it out, or take a LoRA for these layers"
                )
            raise MergeError(f"{why}; leave it out, or take a file that fits the others")

    def _check_lora(self, name: str, keys: list[str]) -> None:
        """Refuse a LoRA whose changes are all 0; those that are have been counted when it was opened."""
        self.checkpoints[self.index[name]].lora.refuse_without_effect(name, keys)

    def _is_meant(self, index: int, tensors: list[TensorPlan]) -> bool:
        """Whether the recipe gives a model a weight in any tensor of the result, had it that."""
        own = {index, self.averaged.get(index)}
        for tensor in tensors:
            source, asked = self.source(tensor.place.component)
            merge_vae = asked or all(self.checkpoints[i].components == {"vae"} for i in self.models_of(source))
            if own & set(self.collapse.form(source, tensor.key, merge_vae, whole=True).models()):
                return True
        return False

    def _in_file_order(self, tensors: list[TensorPlan]) -> list[TensorPlan]:
        """The order of the first model's file, then the rest as planned: reading goes forward through the disk."""
        first = self.checkpoints[self.models_of(self.recipe.result)[0]]
        rank = {key: i for i, key in enumerate(first.tensors)}
        return sorted(tensors, key=lambda t: rank.get(t.key, len(rank)))


def _distinct(name: str, taken: list[str]) -> str:
    """The name, or one with a number: files of components have no names of their own and may be called alike."""
    return free_name(name, taken.__contains__, "{} ({})")


def _output_dtype(name: str) -> DType | None:
    """The output dtype, or None for `keep`."""
    return None if name == "keep" else dtype_named(name)
