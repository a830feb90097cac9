"""Block weights with something free in them: whole, by block, in groups, in lines, vectors, gradients and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..checkpoints.families import Family, family_of
from ..checkpoints.families.conventions import convention_named
from ..merge.block_weights import OPTIONS
from ..merge.selectors import BASE, Selector, labels_of, parse_selector
from .errors import SearchError
from .parameters import FreeParameter
from .placeholders import choice, free_number, is_choice, is_free, only_free_words


@dataclass(frozen=True)
class Role:
    """Which number of a recipe a parameter is a part of.

    Attributes:
        step, field: the step and its parameter: `mix`, `alpha`.
        position, count: of a list with a number for each model: which one, of how many; None of a single number.
        whole: whether it is a line that selects whole blocks, and so has to move some.
    """

    step: str
    field: str
    position: int | None = None
    count: int = 1
    whole: bool = False


@dataclass
class _Reader:
    """Reads one number of a recipe."""

    name: str
    convention: str
    family: str | Family | None
    found: list[FreeParameter]
    roles: dict[str, Role]
    role: Role

    def number(self, value: Mapping, where: str, whole_line: bool = False, whole: bool = False):
        placeholder = free_number(value, where, self.found, self.name, whole)
        self.roles[where] = Role(self.role.step, self.role.field, self.role.position, self.role.count, whole_line)
        return placeholder

    def one(self, value: Any, where: str) -> Any:
        """A place for one number."""
        if is_choice(value):
            return choice(value, where, self.found, self.name)
        if not is_free(value):
            return value
        only_free_words(value, where)
        return self.number(value, where)

    def slots(self) -> list[str]:
        """The labels that have a number of their own in the convention's vectors."""
        if self.family is None:
            raise SearchError(
                f"{self.name}: per: block needs to know the architecture; give the study a family, such as sd1"
            )
        chosen = convention_named(self.convention)
        lengths = chosen.lengths(self.family)
        if not lengths:
            raise SearchError(
                f"{self.name}: convention {chosen.name} has no vectors for {family_of(self.family).title}"
            )
        slots = dict.fromkeys(x.partition(".")[0] for x in chosen.slots(self.family, lengths[0]))
        return [x for x in slots if x in labels_of(self.family)]

    def labels(self, selector: Selector) -> set[str]:
        """What a selector selects; text encoders one by one."""
        return set(selector.labels(self.family)) - {BASE} if self.family else set()

    def by_block(self, value: Mapping, text: str = "") -> dict[str, Any]:
        """`{free: ..., per: ...}` as lines; `text` is the line that it stands in, if it is one."""
        where, per = f"{self.name}.{text}" if text else self.name, value.get("per")
        if per == "block":
            lines = self._block_lines(text)
        elif isinstance(per, list) and per and all(isinstance(x, str) for x in per) and not text:
            lines = per
        else:
            lists = "" if text else " or a list of blocks such as [BASE, IN*, M00, OUT*]"
            raise SearchError(f"{where}: per must be block{lists}, found {per!r:.80}")
        kept = {x: value[x] for x in ("free", "step") if x in value}
        return dict.fromkeys(lines, kept)

    def _block_lines(self, text: str) -> list[str]:
        slots = self.slots()
        if not text:
            return slots
        selector = parse_selector(text)
        if selector.patterns:
            raise SearchError(f"{self.name}.{text}: per: block needs blocks, and this line selects keys")
        wanted = self.labels(selector)
        chosen = [
            x for x in slots if x in wanted or (x == BASE and set(family_of(self.family).text_encoders) <= wanted)
        ]
        if not chosen:
            raise SearchError(
                f"{self.name}.{text}: selects no block that the convention {self.convention} has a number for"
            )
        return [" ".join([x, *selector.kinds]) for x in chosen]

    def mapping(self, value: Mapping) -> dict[str, Any]:
        """Lines and options."""
        lines: list[tuple[str, Any]] = []
        rest = value
        if "free" in value:
            # The blocks come first: lines that follow freeze some of them, or set them free in another way.
            rest = {k: x for k, x in value.items() if k not in ("free", "step", "per")}
            if "per" not in value and rest:
                raise SearchError(
                    f"{self.name}: lines next to free need per: block; or write default: {{free: [0, 1]}}"
                )
            later = [self.labels(s) for s in (parse_selector(k) for k in rest if self._is_line(k)) if s.whole]
            named = set().union(*later)
            blocks = self.by_block(value)
            lines += [(k, x) for k, x in blocks.items() if not named or not self.labels(parse_selector(k)) <= named]
        for key, each in rest.items():
            if self._is_line(key) and is_free(each) and "per" in each:
                only_free_words(each, f"{self.name}.{key}", per=True)
                lines += self.by_block(each, key).items()
            else:
                lines.append((key, each))
        out: dict[str, Any] = {}
        for key, each in lines:
            # A key that comes again moves to the end: later lines win.
            out.pop(key, None)
            out[key] = each
        return {key: self._entry(key, each) for key, each in out.items()}

    @staticmethod
    def _is_line(key: Any) -> bool:
        return isinstance(key, str) and key.strip().lower() not in OPTIONS

    def _entry(self, key: Any, value: Any) -> Any:
        where = f"{self.name}.{key}"
        if self._is_line(key) and isinstance(value, Mapping) and "gradient" in value:
            stops = value["gradient"]
            stops = [self.one(x, f"{where}.{i}") for i, x in enumerate(stops, 1)] if isinstance(stops, list) else stops
            curve = value.get("curve")
            return {**value, "gradient": stops} | (
                {"curve": self.one(curve, f"{where}.curve")} if curve is not None else {}
            )
        if self._is_line(key):
            whole = parse_selector(key).whole
            if is_free(value):
                only_free_words(value, where)
                return self.number(value, where, whole_line=whole)
            return self.one(value, where)
        if key == "vector" and isinstance(value, list):
            return self.vector(value)
        return self.one(value, where)

    def vector(self, values: list) -> list[Any]:
        """A vector, each number by the name of its slot."""
        if not any(is_free(x) or is_choice(x) for x in values):
            return values
        if self.family is None:
            raise SearchError(
                f"{self.name}: a vector needs to know the architecture; give the study a family, such as sd1"
            )
        slots = convention_named(self.convention).slots(self.family, len(values))
        return [self.one(x, f"{self.name}.{slot}") for slot, x in zip(slots, values, strict=True)]


def read_weights(
    value: Any,
    name: str,
    convention: str,
    family: str | Family | None,
    found: list[FreeParameter],
    roles: dict[str, Role],
    role: Role,
    *,
    whole_numbers: bool = False,
) -> Any:
    """A number of a recipe with placeholders where something is free.

    Args:
        value: as written.
        name: `mix.alpha`: what its parameters' names begin with.
        convention: names the blocks.
        family: of the models, where it is known.
        found, roles: what is found is added to them.
        role: of every parameter in it.
        whole_numbers: it is not a block weight but a whole number.

    Raises:
        SearchError: something free is written wrongly.
        RecipeError: a line that selects nothing.
    """
    if isinstance(value, Mapping) and isinstance(value.get("convention"), str):
        convention = value["convention"]
    reader = _Reader(name, convention, family, found, roles, role)
    if is_choice(value):
        return choice(value, name, found)
    if is_free(value) and set(value) <= {"free", "step"}:
        return reader.number(value, name, whole=whole_numbers)
    if isinstance(value, Mapping):
        return reader.mapping(value)
    return reader.vector(value) if isinstance(value, list) else value
