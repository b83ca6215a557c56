"""Configurations as JSON, so that a checkpoint can rebuild its model.

Owns the stored form: a Call is an object with `_target_`, the importable name of its target, beside
its arguments; a tuple is `{"_tuple_": [...]}`, a path `{"_path_": "..."}`, an enum member its
value. Reading imports code by name, so it imports only below the allowed prefixes and takes only
the class or function that itself bears the name: a stored file can neither reach another package
through an import of ours nor pass arguments that `call` would refuse.

Data flow: tree -> `to_json` -> plain JSON values -> `from_json` -> equal tree.
"""

import enum
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limner.config.call import Call, arguments_of, call, join, name_of_target, target_of

ALLOWED_PREFIXES = ("limner.",)
MARKERS = ("_target_", "_tuple_", "_path_")


def to_json(tree: Any) -> Any:
    """Return a tree as values that `json.dumps` takes.

    Raises ValueError for a target that no name leads back to.
    """
    return _to_json(tree, path="")


def from_json(data: Any, *, allowed_prefixes: tuple[str, ...] = ALLOWED_PREFIXES) -> Any:
    """Return the tree that `to_json` stored.

    Raises ValueError for a target outside `allowed_prefixes` (each ends with a dot), one that does
    not exist, or arguments that no longer fit it.
    """
    return _from_json(data, path="", allowed_prefixes=allowed_prefixes)


def _to_json(node: Any, *, path: str) -> Any:
    if isinstance(node, Call):
        arguments = {k: _to_json(v, path=join(path, k)) for k, v in arguments_of(node).items()}
        return {"_target_": _importable_name(target_of(node), path=path)} | arguments
    if isinstance(node, dict):
        for marker in MARKERS:
            if marker in node:
                raise ValueError(f"`{path}` has the key `{marker}`, which marks stored types\nhint: rename the key")
        return {k: _to_json(v, path=join(path, k)) for k, v in node.items()}
    if isinstance(node, list | tuple):
        items = [_to_json(item, path=join(path, str(index))) for index, item in enumerate(node)]
        return {"_tuple_": items} if isinstance(node, tuple) else items
    if isinstance(node, Path):
        return {"_path_": str(node)}
    return node.value if isinstance(node, enum.Enum) else node


def _from_json(data: Any, *, path: str, allowed_prefixes: tuple[str, ...]) -> Any:
    def below(value: Any, key: str) -> Any:
        return _from_json(value, path=join(path, key), allowed_prefixes=allowed_prefixes)

    if isinstance(data, list):
        return [below(item, str(index)) for index, item in enumerate(data)]
    if not isinstance(data, dict):
        return data
    if "_tuple_" in data:
        return tuple(below(item, str(index)) for index, item in enumerate(data["_tuple_"]))
    if "_path_" in data:
        return Path(data["_path_"])
    values = {key: below(value, key) for key, value in data.items() if key != "_target_"}
    if "_target_" not in data:
        return values
    target = _import_target(data["_target_"], path=path, allowed_prefixes=allowed_prefixes)
    try:
        return call(target, **values)
    except ValueError as error:
        raise ValueError(f"stored configuration, `{path or '<root>'}`: {error}") from None


def _import_target(name: Any, *, path: str, allowed_prefixes: tuple[str, ...]) -> Callable[..., Any]:
    place = f"stored configuration, `{path or '<root>'}`"
    if not isinstance(name, str) or not name.startswith(allowed_prefixes):
        raise ValueError(
            f"{place}: the target {name!r} is outside {', '.join(allowed_prefixes)}\n"
            "hint: pass allowed_prefixes=... if you trust where the file comes from"
        )
    target = _find(name)
    if target is None:
        raise ValueError(f"{place}: there is no `{name}`\nhint: it may have been renamed; see CHANGELOG.md")
    return target


def _importable_name(target: Callable[..., Any], *, path: str) -> str:
    name = f"{target.__module__}.{target.__qualname__}"
    if _find(name) is not target:
        raise ValueError(
            f"cannot store `{path or '<root>'}`: {name_of_target(target)} cannot be imported "
            f"as `{name}`\n"
            "hint: define it in an importable module, not in a config file"
        )
    return name


def _find(name: str) -> Callable[..., Any] | None:
    """Return the class or function defined under a dotted name, None where there is none."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module_name = ".".join(parts[:length])
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                continue
            raise  # the module exists, but something that it needs is not installed
        for part in parts[length:]:
            found = getattr(found, part, None)
        # What is merely imported there, like `limner.x.os.system`, bears another name.
        own_name = f"{getattr(found, '__module__', '')}.{getattr(found, '__qualname__', '')}"
        return found if callable(found) and own_name == name else None
    return None
