"""A recipe under construction: models and steps get names, and what could not be carried over is written down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ... import __version__
from ...checkpoints.errors import RecipeError, UnetscopeError
from ...checkpoints.families import Family, family_of
from ...checkpoints.formats import without_suffix
from ...checkpoints.notices import Notice, texts
from ...checkpoints.text import free_name
from ..methods import METHODS
from ..recipe import MERGED, Recipe
from ..recipe_file import MOST_STEPS
from .shares import shares_of

_LONGEST_NAME = 60
_LONGEST_LINE = 400


@dataclass(frozen=True)
class Request:
    """What the user said next to the file.

    Attributes:
        partial: write what is possible where something has no equivalent; without it that is an error.
        inputs: paths of the models, in the method's order, for formats that do not name them.
        mode: supermerger's mode, for weights that come without one.
        old_automb: weights of the old AutoMBW, which exchanged OUT and TIME_EMBED.
        family: the architecture that effective shares are worked out for; found out where that is possible.
        find: the file that a recorded hash or name means, or None.
    """

    partial: bool = False
    inputs: tuple[str, ...] = ()
    mode: str = ""
    old_automb: bool = False
    family: str | Family | None = None
    find: Callable[[str], Path | None] = lambda said: None


@dataclass(frozen=True)
class Imported:
    """A recipe from another tool.

    Attributes:
        recipe: in our terms.
        origin: which file it comes from, and of what kind that is.
        notes: what could not be carried over, or was taken for granted.
        hashes: model name -> hash, as recorded.
        missing: names of the models that are recorded by hash or bare name and were not found as files.
        shares: model name -> its share in the result's UNET; None where no single number says it. Empty when unknown.
        family: the architecture that the file says the models are of; None where it does not.
    """

    recipe: Recipe
    origin: str
    notes: tuple[Notice, ...] = ()
    hashes: dict[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    shares: dict[str, float | None] = field(default_factory=dict)
    family: Family | None = None

    def to_yaml(self, recipe: Recipe | None = None) -> str:
        """The recipe (or another version of it, with paths that count from elsewhere) under comments that tell the rest."""
        lines = [f"Imported by Unetscope {__version__} from {self.origin}."]
        if self.notes:
            lines += ["", "Not carried over, or taken for granted:", *(f"- {note}" for note in self.notes)]
        if self.missing:
            lines += ["", "Models that were not found; put their paths in below, or give --models FOLDER:"]
            lines += [f"- {name}: {self.hashes.get(name, 'no hash recorded')}" for name in self.missing]
        if self.shares:
            lines += ["", "Effective share of every model in the blocks of the result:"]
            lines += [f"- {_share(share)}  {name}" for name, share in self.shares.items()]
        comments = "".join(f"# {one_line(line)}".rstrip() + "\n" for line in lines)
        return comments + (recipe or self.recipe).to_yaml()

    def to_plain(self) -> dict[str, Any]:
        """All of it as plain data."""
        return {
            "origin": self.origin,
            "notes": texts(self.notes),
            "missing": list(self.missing),
            "hashes": dict(self.hashes),
            "shares": dict(self.shares),
            "recipe": self.recipe.to_plain(),
        }


def _share(share: float | None) -> str:
    return "(not linear)" if share is None else f"{share:+.6f}"


def one_line(value: Any, longest: int = _LONGEST_LINE) -> str:
    """Text as one printable line; whatever else stands in it becomes a space or a question mark."""
    text = str(value)[: longest + 1].encode("utf-8", "replace").decode("utf-8")
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= longest else shown[: longest - 3] + "..."


def fault(origin: str, text: str) -> RecipeError:
    """What is wrong with a file that other tools wrote, as an error to raise."""
    return RecipeError(f"{one_line(origin)}: {one_line(text)}", code="import.fault")


class Draft:
    """Collects models, LoRAs, steps and notes, and ends in an `Imported`."""

    def __init__(self, origin: str, request: Request):
        self.origin, self.request = origin, request
        self.models: dict[str, str] = {}
        self.loras: dict[str, Any] = {}
        self.steps: dict[str, dict[str, Any]] = {}
        self.hashes: dict[str, str] = {}
        self.missing: dict[str, None] = {}
        self._by_identity: dict[str, str] = {}
        self._by_content: dict[str, str] = {}
        self._notes: dict[Notice, None] = {}

    def note(self, code: str, text: str) -> None:
        """Something that the recipe does not say as the original did."""
        self._notes[Notice(code, one_line(text))] = None

    def differs(self, text: str) -> None:
        """How a method differs there from ours, as its record says; nothing where it says nothing."""
        if text:
            self.note("import.method", text)

    def refuse(self, text: str) -> None:
        """Something that has no equivalent: an error, or a note where the user asked for what is possible.

        Raises:
            RecipeError: unless the import is partial.
        """
        if not self.request.partial:
            text = f"{one_line(self.origin)}: {one_line(text)}; --partial writes what is possible"
            raise RecipeError(text, code="import.refused")
        self.note("import.no_equivalent", text)

    def error(self, text: str) -> RecipeError:
        """A fault of the file, as an error to raise."""
        return fault(self.origin, text)

    def model(
        self, path: str, *, digest: str | None = None, known: bool = False, named: str = "", lora: bool = False
    ) -> str:
        """The name of a model (or LoRA), new or known.

        Args:
            path: as recorded; the recipe's path unless the file is found by hash or name.
            digest: its hash, as recorded.
            known: the path is the user's own, not to be looked for.
            named: the name that it has to have, even where another model is the same file.
            lora: it is a LoRA.
        """
        identity = digest or path
        if identity in self._by_identity and not named:
            return self._by_identity[identity]
        found = None if known else self.found(digest or "") or self.found(path)
        if found and digest and not self.found(digest):
            self.note(
                "import.found_by_name", f"{found} was found by its name; whether it has the hash {digest} is not known"
            )
        name = named or self._new_name(_stem(path))
        (self.loras if lora else self.models)[name] = written = str(found) if found else _path_text(path)
        self._by_identity[identity] = name
        if digest:
            self.hashes[name] = one_line(digest, 80)
        if not found and not known and not _exists(written):
            self.missing[name] = None
        return name

    def found(self, said: str) -> Path | None:
        """The file that a recorded hash or name means; one that fits several is noted."""
        try:
            return self.request.find(said) if said else None
        except UnetscopeError as error:
            self.note("import.not_found", str(error))
            return None

    def step(self, method: str, inputs: list[str], parameters: dict[str, Any] | None = None, near: str = "") -> str:
        """The name of a step, new or equal to one before.

        Args:
            method: of the registry.
            inputs: names of models and steps.
            parameters: of the method; those that it does not have are refused.
            near: what the step would best be called.
        """
        if method not in METHODS:
            self.refuse(f"there is no method {method} here, so the step is replaced by its first input, {inputs[0]}")
            return inputs[0]
        known = METHODS[method].parameters
        for name in [p for p in parameters or {} if p not in known]:
            self.refuse(f"{method} has no {name} here ({one_line(parameters[name], 80)})")
        plain = {"method": method, "inputs": inputs, **{p: v for p, v in (parameters or {}).items() if p in known}}
        content = repr(plain)
        if content not in self._by_content:
            if len(self.steps) >= MOST_STEPS:
                raise self.error(f"has more than {MOST_STEPS:,} steps")
            name = self._new_name((near and _stem(near)) or method)
            self.steps[name] = plain
            self._by_content[content] = name
        return self._by_content[content]

    def finish(self, result: str, **fields: Any) -> Imported:
        """The recipe that ends in `result`, without steps and models that nothing uses.

        Raises:
            RecipeError: it is not a valid recipe (a difference where a model is meant, too many steps in a row...).
        """
        sources = [result, *fields.get("components", {}).values()]
        used: dict[str, None] = {}
        while sources:
            name = sources.pop()
            if name not in used:
                used[name] = None
                sources += self.steps.get(name, {}).get("inputs", ())
                said = self.loras.get(name)
                if isinstance(said, dict) and "base" in said:  # what it counts from is used by it
                    sources.append(said["base"])
        steps = {name: step for name, step in self.steps.items() if name in used}
        models = {name: path for name, path in self.models.items() if name in used}
        loras = {name: lora for name, lora in self.loras.items() if name in used}
        given = {name: value for name, value in {"loras": loras, **fields}.items() if value}
        data = {"models": models, "steps": steps, "result": result, **given}
        recipe = Recipe.parse(data, one_line(self.origin))
        notes = list(self._notes)
        shares, how = shares_of(recipe, self.request.family)
        if how:
            notes.append(Notice("import.shares", how))
        missing = tuple(name for name in self.missing if name in used)
        hashes = {name: digest for name, digest in self.hashes.items() if name in used}
        family = None if self.request.family is None else family_of(self.request.family)
        return Imported(recipe, self.origin, tuple(notes), hashes, missing, shares, family)

    def _new_name(self, wanted: str) -> str:
        return free_name(wanted, lambda name: name in (*self.models, *self.loras, *self.steps, MERGED))


def _stem(path: str) -> str:
    """A file's name without folders and suffix, as a name for recipes."""
    base = one_line(path).replace("\\", "/").rstrip("/").rpartition("/")[2]
    return without_suffix(base).strip()[:_LONGEST_NAME].strip() or "model"


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):
        return False


def _path_text(path: str) -> str:
    """A path that YAML can hold: recorded text may have lone surrogates and control characters."""
    return one_line(path, 4000) or "model"
