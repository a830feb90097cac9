"""Recipes that are text: AutoMBW's recipe, and supermerger's weights and elemental lines as people paste them.

One thing a line: `name=value` (modelA, modelB, modelC, modelO, mode, alpha, beta, base_alpha, base_beta, calcmode), a vector of
numbers (the first is alpha, a second one beta), or an elemental line. 27 numbers are AutoMBW's for SD1, 22 its for SDXL; people
keep what the program printed below them, which is left out.
"""

from __future__ import annotations

import re
from typing import Any

from .draft import Draft, Imported, Request, one_line
from .supermerger import (
    Release,
    block_weights,
    elemental_lines,
    is_elemental,
    method_of,
    modes,
    numbers,
    numbers_of,
    typed_release,
    web_ui_method,
    with_lines,
)

AUTOMB_SIZES = (27, 22)
_WITHOUT_BASE = (25, 19, 109)
_SIZES = (26, 25, 21, 20, 19, 110, 109, *AUTOMB_SIZES)
_SETTINGS = ("modela", "modelb", "modelc", "modelo", "mode", "alpha", "beta", "base_alpha", "base_beta", "calcmode")
# What AutoMBW writes next to the models.
_AUTOMB_SETTINGS = ("position_id_fix", "output_mode")
_SETTING = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_ ]{0,30}?)\s*=\s*(.*?)\s*")
# The old AutoMBW exchanged the numbers of these two, in the order of its recipe line.
_OUT, _TIME = 25, 26


def is_weight_lines(text: str) -> bool:
    """Whether text looks like weights: it has a vector of a known length, or nothing but elemental lines and settings."""
    lines = _lines(text)
    vectors = [v for v in map(_vector, lines) if v]
    known = [line for line in lines if _vector(line) or _setting(line) or is_elemental(line)]
    return any(len(v) in _SIZES for v in vectors) or (bool(known) and len(known) == len(lines))


def from_weight_lines(text: str, name: str, request: Request) -> Imported:
    """The recipe that such text stands for.

    Args:
        text: the file's.
        name: the file's, for messages.
        request: `inputs` names the models where the text does not, `mode` the method.

    Raises:
        RecipeError: a line that is none of these, a vector of no known length, a mode that is not known.
    """
    first = next((v for v in map(_vector, _lines(text)) if v and len(v) in _SIZES), [])
    automb = len(first) in AUTOMB_SIZES
    draft = Draft(f"{name} ({'AutoMBW recipe' if automb else 'supermerger weights'})", request)
    settings, vectors, elemental = _sorted(text, automb, draft)
    for setting in settings:
        if setting not in (*_SETTINGS, *(_AUTOMB_SETTINGS if automb else ())):
            draft.note("import.line_setting", f"{setting}={settings[setting]} has no meaning here")
    if automb:
        _check_automb(settings, vectors, elemental, draft)
        weights = automb_weights(vectors[0], "automb-recipe", draft)
        return automb_recipe(
            weights,
            [settings.get("modela", ""), settings.get("modelb", "")],
            settings.get("modelo", ""),
            draft,
            _automb_output(settings, draft),
        )
    return _supermerger(settings, vectors, elemental, draft)


def automb_weights(values: list[float], convention: str, draft: Draft) -> dict[str, Any]:
    """Block weights of AutoMBW's 27 numbers (SD1) or 22 (SDXL).

    Args:
        values: in the order of `convention`.
        convention: `automb` (log and CSV) or `automb-recipe` (recipe line).
        draft: takes the notes.
    """
    values = list(values)
    if draft.request.old_automb:
        if len(values) == 27:
            out = _OUT if convention == "automb-recipe" else 13
        else:
            out = 11
        values[out], values[-1] = values[-1], values[out]
        draft.note(
            "import.automb_exchanged", "OUT and TIME_EMBED were exchanged, as the old AutoMBW wrote them (--old-automb)"
        )
    draft.note("import.automb_text_encoders", "AutoMBW leaves the text encoders and the VAE with model A")
    return {"vector": values, "convention": convention}


def automb_recipe(
    weights: dict[str, Any], recorded: list[str], title: str, draft: Draft, output: dict[str, str] | None = None
) -> Imported:
    """A weighted sum of two models, recorded or given by the user."""
    result = draft.step("weighted_sum", inputs_of(draft, recorded), {"alpha": weights})
    return draft.finish(result, title=one_line(_stem(title), 200), output=output)


def inputs_of(draft: Draft, recorded: list[str]) -> list[str]:
    """The models of a method: those that the user gave, else those that are recorded, else names to be filled in."""
    given, names = draft.request.inputs, []
    if len(given) > len(recorded):
        raise draft.error(f"takes {len(recorded)} models; --inputs gives {len(given)}")
    for i, said in enumerate(recorded):
        if i < len(given):
            names.append(draft.model(given[i], known=True))
        elif said:
            names.append(draft.model(said))
        else:
            letter = "ABCDE"[i]
            names.append(draft.model(f"model {letter}"))
            draft.note(
                "import.model_not_named",
                f"the file does not name model {letter}; write its path in below, or give --inputs",
            )
    return names


def _supermerger(settings: dict[str, str], vectors: list[list[float]], elemental: list[str], draft: Draft) -> Imported:
    mode = settings.get("mode") or draft.request.mode
    if not mode:
        mode = "Weight sum"
        draft.note("import.no_mode", "the weights came without a mode; Weight sum was taken (--mode says another)")
    said, note = method_of(mode, settings.get("calcmode", "normal")), ""
    if said:
        found, note, values = said[0], said[1].note, dict(said[1].fixed)
    elif "calcmode" not in settings and (found := web_ui_method(mode)):
        values = {}
    else:
        raise draft.error(f"there is no mode {mode!r} {settings.get('calcmode', '')}; there are {', '.join(modes())}")
    draft.differs(note)
    release, parameters = typed_release(vectors, draft.request.family, draft), numbers_of(found)
    for i, parameter in enumerate(parameters):
        base = _number(settings, f"base_{parameter}", draft)
        if i < len(vectors):
            values[parameter] = _weights(vectors[i], base, draft, release)
        else:
            plain = _number(settings, parameter, draft)
            values[parameter] = plain if plain is not None else base if base is not None else 0.0
            if plain is None and base is None and not elemental:
                draft.note("import.number_zero", f"no {parameter} is given; 0 was taken")
    if elemental:
        values["alpha"] = with_lines(values.get("alpha", 0.0), elemental, draft, release)
    if len(vectors) > len(parameters):
        draft.refuse(f"{len(vectors)} vectors are given; {mode} takes {len(parameters)}")
    recorded = [settings.get(f"model{letter}", "") for letter in "abc"[: len(found.inputs)]]
    result = draft.step(found.name, inputs_of(draft, recorded), values)
    return draft.finish(result, components={"vae": "merge"}, title=one_line(_stem(settings.get("modelo", "")), 200))


def _weights(vector: list[float], base: float | None, draft: Draft, release: Release) -> Any:
    if base is not None and len(vector) not in _WITHOUT_BASE:
        draft.note(
            "import.base_in_vector",
            f"the vector of {len(vector)} numbers begins with BASE, which wins over the base that is given",
        )
        base = None
    return block_weights(vector, base, release)


def _number(settings: dict[str, str], name: str, draft: Draft) -> float | None:
    if name not in settings:
        return None
    value = numbers([settings[name]])
    if value is None:
        raise draft.error(f"{name}={settings[name]} is not a number")
    return value[0]


def _automb_output(settings: dict[str, str], draft: Draft) -> dict[str, str]:
    """What AutoMBW's own settings say of the result."""
    if "output_mode" in settings:
        draft.note(
            "import.output_mode",
            f"output_mode={settings['output_mode']}: the result is written as fp16 here; output.dtype says another",
        )
    fix = settings.get("position_id_fix", "keep")
    return {} if fix.casefold().startswith("keep") else {"position_ids": "restore"}


def _check_automb(settings: dict[str, str], vectors: list, elemental: list[str], draft: Draft) -> None:
    """AutoMBW's recipe is a weighted sum by one vector; whatever else stands there is named."""
    if "mode" in settings and method_of(settings["mode"]) != method_of("weight sum"):
        draft.refuse(f"AutoMBW's mode {settings['mode']!r} is not known here; a weighted sum is")
    for name in ("modelc", "alpha", "beta", "base_alpha", "base_beta", "calcmode"):
        if name in settings:
            draft.note("import.no_part", f"{name}={settings[name]} has no part in a weighted sum by 27 or 22 numbers")
    if len(vectors) > 1:
        draft.refuse(f"{len(vectors)} lines of weights are given; AutoMBW has one")
    if elemental:
        draft.refuse("AutoMBW has no elemental lines")


def _sorted(text: str, automb: bool, draft: Draft) -> tuple[dict[str, str], list[list[float]], list[str]]:
    """Settings, vectors and elemental lines, each in its order."""
    settings: dict[str, str] = {}
    vectors, elemental, printed = [], [], 0
    for line in _lines(text):
        vector, setting = _vector(line), _setting(line)
        known = setting and setting[0] in (*_SETTINGS, *_AUTOMB_SETTINGS)
        if automb and vectors and not known and not _is_weights(line):
            printed += 1
            continue
        if vector and len(vector) in _SIZES:
            vectors.append(vector)
        elif vector:
            raise draft.error(f"a vector has {len(vector)} numbers; known are {', '.join(map(str, sorted(_SIZES)))}")
        elif setting:
            settings[setting[0]] = setting[1]
        elif all(map(is_elemental, elemental_lines(line))):
            elemental += elemental_lines(line)
        else:
            draft.refuse(f"the line {line!r} is neither a setting, a vector nor an elemental line")
    if printed:
        draft.note(
            "import.printed_lines", f"{printed} lines below the weights, which the program printed, were left out"
        )
    return settings, vectors, elemental


def _is_weights(line: str) -> bool:
    vector = _vector(line)
    return len(vector) in _SIZES if vector else all(map(is_elemental, elemental_lines(line)))


def _lines(text: str) -> list[str]:
    found = [line.strip() for line in text.replace("\r", "\n").split("\n")]
    return [line for line in found if line and not line.startswith("#")]


def _vector(line: str) -> list[float] | None:
    """Numbers parted by commas or spaces, at least two."""
    values = numbers(line.strip("[](), "))
    return values if values and len(values) > 1 else None


def _setting(line: str) -> tuple[str, str] | None:
    """`name=value`; the value may be in quotes."""
    match = _SETTING.fullmatch(line)
    if not match:
        return None
    value = match[2].rstrip(",").strip()
    if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
        value = value[1:-1]
    return match[1].strip().replace(" ", "_").casefold(), value


def _stem(title: str) -> str:
    return title.replace("\\", "/").rpartition("/")[2]
