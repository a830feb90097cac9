"""A recipe's YAML file as plain data: size and syntax checked, no name given twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from .errors import RecipeError

# More is a mistake, such as a checkpoint given as a recipe.
_MOST_BYTES = 10_000_000


def read_yaml(path: Path) -> Any:
    """The plain data in a YAML file.

    Raises:
        RecipeError: the file cannot be read, is too large, is no YAML, or names a key twice.
    """
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise RecipeError(f"{path}: has more than {_MOST_BYTES:,} bytes: this is no recipe")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise RecipeError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """The plain data in YAML text; `where` names it in errors.

    Raises:
        RecipeError: it is too large, is no YAML, or names a key twice.
    """
    if len(text) > _MOST_BYTES:
        raise RecipeError(f"{where}: has more than {_MOST_BYTES:,} characters: this is no recipe")
    try:
        return yaml.load(text, _UniqueKeys)
    # PyYAML lets errors of many types through when a value is not what its tag promises.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise RecipeError(f"{where}: is not valid YAML: {' '.join(str(error).split())[:300]}") from None


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a mapping that names a key twice, where YAML would silently keep the last."""


def _unique_mapping(loader: _UniqueKeys, node: yaml.MappingNode) -> dict:
    seen = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            continue
        if key_node.value in seen:
            line = key_node.start_mark.line + 1
            raise yaml.constructor.ConstructorError(None, None, f"line {line} names {key_node.value!r} a second time")
        seen.add(key_node.value)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
