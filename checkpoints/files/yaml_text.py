"""YAML as plain data: the one loader, for recipes, studies, weights, and files that come with a model.

YAML's aliases can make gigabytes of a kilobyte: a list of nine lists of nine lists... Such a text is refused by counting what its
aliases stand for, before anything is made of it. So is a name that stands twice in one mapping, where YAML would keep the last.
"""

from __future__ import annotations

from typing import Any

import yaml

# What aliases may repeat, in values: far more than people write, and made in a moment.
_MOST_REPEATED = 100_000


def plain_from_yaml(text: str, *, most_repeated: int | None = _MOST_REPEATED) -> Any:
    """The plain data in YAML text; None of an empty one.

    Args:
        most_repeated: how many values aliases may repeat; None for readers that look at a bounded part of what comes.

    Raises:
        ValueError: it is not valid YAML, names a key twice, or its aliases repeat too many values; in one line.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if most_repeated is not None:
                _check_aliases(node, most_repeated)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    # PyYAML lets errors of many types through when a value is not what its tag promises.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())[:300] or type(error).__name__) from None


def _check_aliases(root: yaml.Node, most: int) -> None:
    """Refuse a document whose aliases repeat too much, or a value that holds itself."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()

    def size(node: yaml.Node) -> int:
        known = sizes.get(id(node))
        if known is not None:
            return known
        if id(node) in open_nodes:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: the value of an anchor holds itself")
        open_nodes.add(id(node))
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        if isinstance(node, yaml.MappingNode):
            inner = (part for pair in inner for part in pair)
        sizes[id(node)] = found = 1 + sum(size(part) for part in inner)
        open_nodes.discard(id(node))
        if found - len(sizes) > most:
            raise yaml.YAMLError(
                f"line {node.start_mark.line + 1}: aliases (*name) repeat more than {most:,} values; write them out"
            )
        return found

    size(root)


class _Loader(yaml.SafeLoader):
    """Refuses a mapping that names a key twice."""

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Put what is merged into a mapping (`<<`) in its place, each name once: merges of merges would multiply."""
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                line = key.start_mark.line + 1
                raise yaml.constructor.ConstructorError(None, None, f"line {line} names {key.value!r} a second time")
            seen.add(key.value)
        super().flatten_mapping(node)
        # The last one counts: a mapping's own, or that of the first of those that are merged into it.
        last = {
            (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key): (key, v) for key, v in node.value
        }
        node.value = list(last.values())


# Whole at once, so that a mapping that holds itself is refused.
_Loader.add_constructor(
    yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, lambda loader, node: loader.construct_mapping(node, deep=True)
)
