"""Command-line overrides of a configuration: existing keys only, typed, with did-you-mean.

Owns the way from `["model.width=16", "~seed"]` to a changed copy of a tree. A key exists when the
target has the parameter, set or not, or when the list or dict has the item. A value must fit the
parameter's annotation, or else the type of the value that is there; a bare number given for a text
parameter is taken as text. A list or a dict is replaced, not merged. `~key` goes back to the
target's default, or drops a dict item.

Data flow: `tree, texts -> parse_override -> apply_overrides -> new tree`.
"""

import copy
import inspect
from collections.abc import Iterable
from typing import Any

from limner.config.annotations import conform, element_annotation
from limner.config.call import (
    Call,
    arguments_of,
    checked_argument,
    children,
    defaults_of,
    join,
    name_of_target,
    parameters_of,
    target_of,
)
from limner.config.grammar import Override, parse_override
from limner.config.suggestion import suggest


def apply_overrides(tree: Call, overrides: Iterable[str]) -> Call:
    """Return a copy of `tree` with the overrides applied in order; the given tree stays as it was.

    Raises ValueError, naming the key, for a text outside the grammar, a key that does not exist, or
    a value that does not fit.
    """
    changed = copy.deepcopy(tree)
    for text in overrides:
        override = parse_override(text)
        _apply(changed, override)
    return changed


def _apply(tree: Call, override: Override) -> None:
    # `owner` is the innermost Call above the key: its annotation of `path[start]` types all below.
    owner, start = tree, 0
    node: Any = tree
    for position, key in enumerate(override.path[:-1]):
        node = _child(tree, node, key, path=override.path[: position + 1])
        if isinstance(node, Call):
            owner, start = node, position + 1
    last = override.path[-1]
    current = _child(tree, node, last, path=override.path)
    if override.deletes:
        _delete(node, last, path=override.path)
        return
    annotation = _annotation(owner, override.path[start:])
    value = _typed(override, annotation=annotation, current=current)
    key, *below = override.path[start:]
    replaced = _replace(getattr(owner, key, None), below, value)
    arguments_of(owner)[key] = checked_argument(target_of(owner), key, replaced)


def _child(tree: Call, node: Any, key: str, *, path: tuple[str, ...]) -> Any:
    """Return what stands at `key` below `node`; for an unset parameter, its default."""
    existing = dict(children(node))
    if isinstance(node, Call):
        existing = defaults_of(node) | existing
    if key in existing:
        return existing[key]
    parent, dotted = ".".join(path[:-1]), ".".join(path)
    if not existing and not isinstance(node, Call | dict | list | tuple):
        raise ValueError(
            f"no key `{dotted}`: `{parent}` is {node!r}, which has no keys\nhint: override `{parent}` itself"
        )
    holder = f"`{parent}`" if parent else name_of_target(target_of(tree))
    raise ValueError(f"no key `{dotted}`: {holder} has no `{key}`\n{_hint(tree, key, list(existing), parent=parent)}")


def _hint(tree: Call, key: str, siblings: list[str], *, parent: str) -> str:
    near = suggest(key, among=siblings)
    if "did you mean" in near:
        return suggest(join(parent, key), among=[join(parent, near.split("`")[1])])
    elsewhere = [path for path in _paths(tree) if path.split(".")[-1] == key]
    return f"hint: did you mean `{elsewhere[0]}`?" if elsewhere else near


def _paths(node: Any, path: str = "") -> list[str]:
    keys = dict(children(node))
    if isinstance(node, Call):
        keys = dict.fromkeys(parameters_of(node)) | keys
    below = [found for key, child in keys.items() for found in _paths(child, join(path, key))]
    return [join(path, key) for key in keys] + below


def _delete(node: Any, key: str, *, path: tuple[str, ...]) -> None:
    dotted = ".".join(path)
    if isinstance(node, dict):
        del node[key]
        return
    if not isinstance(node, Call):
        raise ValueError(f"cannot delete `{dotted}`: it is a list item\nhint: override the whole list")
    try:
        delattr(node, key)
    except AttributeError as error:
        raise ValueError(f"cannot delete `{dotted}`: {error}") from None


def _annotation(owner: Call, path: tuple[str, ...]) -> Any:
    parameter = parameters_of(owner).get(path[0])
    annotation = Any if parameter is None else parameter.annotation
    annotation = Any if annotation is inspect.Parameter.empty else annotation
    for key in path[1:]:
        annotation = element_annotation(annotation, key)
    return annotation


def _typed(override: Override, *, annotation: Any, current: Any) -> Any:
    """Return the override's value in the type that its place wants."""
    dotted = ".".join(override.path)
    if isinstance(current, Call) and override.value is not None:
        name, keys = name_of_target(target_of(current)), list(parameters_of(current))
        hint = f"override one of its keys, as in {dotted}.{keys[0]}=..." if keys else "change it in the config file"
        raise ValueError(f"`{dotted}` is a call of {name}; got {override.value!r}\nhint: {hint}")
    if annotation is Any:
        annotation = _type_like(current)
    if override.value is None and current is None:
        return None
    try:
        return conform(override.value, annotation)
    except TypeError as error:
        refused = ValueError(f"`{dotted}`: {error}\nhint: it is now {current!r}")
    if not override.text or override.value is None:
        raise refused
    try:
        return conform(override.text, annotation)  # `name=123` given for a text parameter
    except TypeError:
        raise refused from None


def _type_like(current: Any) -> Any:
    if current is None or isinstance(current, Call) or current is inspect.Parameter.empty:
        return Any
    return type(current)


def _replace(node: Any, path: list[str], value: Any) -> Any:
    """Return a copy of `node` with the item at `path` exchanged."""
    if not path:
        return value
    items = dict(children(node))
    items[path[0]] = _replace(items[path[0]], path[1:], value)
    return items if isinstance(node, dict) else type(node)(items.values())
