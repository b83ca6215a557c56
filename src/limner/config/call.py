"""Recorded calls: what to build, with which arguments, checked when they are written.

Owns `Call`, the only node type of a configuration. `call(Target, key=value)` binds the arguments to
the target's signature at once, so a wrong one fails on the line that writes it; nothing is
constructed until `build`. A configuration is a tree: Calls, dicts with text keys, lists, tuples and
plain values. Trees are composed by calling functions that return fresh ones, and a Call may
therefore be changed freely: only the keys that the target has can be set.

Data flow: `call(...) -> Call -> (overrides, show, JSON) -> build -> object`.
"""

import copy
import dataclasses
import enum
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from limner.config.annotations import Described, conform
from limner.config.suggestion import suggest

PLAIN_TYPES = (bool, int, float, str, Path, enum.Enum)
NAMED_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Call(Described):
    """A recorded call. Its keys are attributes: reading an unset key gives the target's default.

    Built by `call`, never directly. Setting a key that the target does not have raises
    AttributeError; setting a value of a wrong type raises ValueError.
    """

    # Dunder names cannot collide with the parameter names of a target.
    __slots__ = ("__arguments__", "__target__")
    __hash__ = None  # type: ignore[assignment]  # mutable

    def __init__(self, target: Callable[..., Any], arguments: dict[str, Any]) -> None:
        object.__setattr__(self, "__target__", target)
        object.__setattr__(self, "__arguments__", arguments)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("__"):
            raise AttributeError(key)
        values = defaults_of(self) | arguments_of(self)
        if key not in values:
            raise AttributeError(unknown_key(self, key))
        return values[key]

    def __setattr__(self, key: str, value: Any) -> None:
        if key not in parameters_of(self) and key not in arguments_of(self):
            raise AttributeError(unknown_key(self, key))
        arguments_of(self)[key] = checked_argument(target_of(self), key, value)

    def __delattr__(self, key: str) -> None:
        """Forget a set key: the target's default holds again.

        Raises AttributeError where it has none.
        """
        parameters, arguments = parameters_of(self), arguments_of(self)
        if key not in parameters and key not in arguments:
            raise AttributeError(unknown_key(self, key))
        if key in parameters and parameters[key].default is inspect.Parameter.empty:
            raise AttributeError(
                f"{name_of_target(target_of(self))} needs `{key}`: it has no default\nhint: set another value instead"
            )
        arguments.pop(key, None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Call):
            return NotImplemented
        same_target = target_of(self) is target_of(other)
        return same_target and arguments_of(self) == arguments_of(other)

    def __repr__(self) -> str:
        arguments = ", ".join(f"{key}={value!r}" for key, value in arguments_of(self).items())
        return f"{name_of_target(target_of(self))}({arguments})"

    def __dir__(self) -> list[str]:
        return [*parameters_of(self)]

    def __copy__(self) -> "Call":
        return Call(target_of(self), dict(arguments_of(self)))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Call":
        return Call(target_of(self), copy.deepcopy(arguments_of(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return Call, (target_of(self), arguments_of(self))

    def __built_type__(self) -> type | None:
        target = target_of(self)
        built = target if isinstance(target, type) else signature_of(target).return_annotation
        plain_class = isinstance(built, type) and built is not inspect.Signature.empty
        return built if plain_class else None


def call(target: Callable[..., Any], /, **arguments: Any) -> Call:
    """Record the call `target(**arguments)` without making it.

    `target` is a class or a function that can be imported by name. Raises ValueError, here and now,
    when an argument is unknown, missing, or does not fit its annotation.
    """
    name = name_of_target(target)
    signature = signature_of(target)
    named = {p.name: p for p in signature.parameters.values() if p.kind in NAMED_KINDS}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    for key in arguments:
        if key not in named and not takes_any:
            raise ValueError(f"{name} has no argument `{key}`\n{suggest(key, among=named)}")
    missing = [k for k, p in named.items() if p.default is p.empty and k not in arguments]
    if missing:
        listed = ", ".join(f"`{key}`" for key in missing)
        raise ValueError(f"{name} needs {listed}\nhint: write call({name}, {missing[0]}=...)")
    return Call(target, {key: checked_argument(target, key, v) for key, v in arguments.items()})


def build(tree: Any) -> Any:
    """Make the recorded calls, innermost first, and return what the tree describes.

    Dicts, lists and tuples are copied, plain values returned as they are. Every Call is made once;
    one that appears at two places is refused, since it is unclear whether one object or two are
    meant. An exception raised by a target passes through unchanged, with a note that names the key.
    """
    return _build(tree, path="", seen={})


def _build(node: Any, *, path: str, seen: dict[int, str]) -> Any:
    if isinstance(node, Call):
        first = seen.setdefault(id(node), path)
        if first != path:
            raise ValueError(
                f"the same {name_of_target(target_of(node))} stands at `{first}` and `{path}`; "
                "expected a tree\n"
                "hint: call the function that describes it once for each place"
            )
    built = {k: _build(v, path=join(path, k), seen=seen) for k, v in children(node)}
    if isinstance(node, Call):
        try:
            return target_of(node)(**built)
        except Exception as error:
            error.add_note(f"while building `{path or '<root>'}`: {name_of_target(target_of(node))}")
            raise
    if isinstance(node, dict):
        return built
    return type(node)(built.values()) if isinstance(node, list | tuple) else node


def target_of(node: Call) -> Callable[..., Any]:
    """Return the class or function that a Call records."""
    return object.__getattribute__(node, "__target__")


def arguments_of(node: Call) -> dict[str, Any]:
    """Return the arguments that were set, by name, in the order of writing; not a copy."""
    return object.__getattribute__(node, "__arguments__")


def parameters_of(node: Call) -> Mapping[str, inspect.Parameter]:
    """Return the named parameters of a Call's target, set or not."""
    parameters = signature_of(target_of(node)).parameters.values()
    return {p.name: p for p in parameters if p.kind in NAMED_KINDS}


def defaults_of(node: Call) -> dict[str, Any]:
    """Return the value that each parameter has when it is not set; a required one has `empty`."""
    target = target_of(node)
    defaults = {key: parameter.default for key, parameter in parameters_of(node).items()}
    if dataclasses.is_dataclass(target):
        for field in dataclasses.fields(target):
            if field.name in defaults and field.default_factory is not dataclasses.MISSING:
                defaults[field.name] = field.default_factory()
    return defaults


def children(node: Any) -> list[tuple[str, Any]]:
    """Return (key, value) for what lies directly below a node; keys of lists are their indices as
    text.
    """
    if isinstance(node, Call):
        return list(arguments_of(node).items())
    if isinstance(node, dict):
        return list(node.items())
    if isinstance(node, list | tuple):
        return [(str(index), item) for index, item in enumerate(node)]
    return []


def join(path: str, key: str) -> str:
    """Return the dotted path of a key below `path`; the root's path is empty."""
    return f"{path}.{key}" if path else key


def name_of_target(target: Callable[..., Any]) -> str:
    """Return the short name of a target as the source would write it."""
    return getattr(target, "__qualname__", None) or repr(target)


def unknown_key(node: Call, key: str) -> str:
    """Return the error text for a key that a Call's target does not have."""
    hint = suggest(key, among=[*dict.fromkeys([*parameters_of(node), *arguments_of(node)])])
    return f"{name_of_target(target_of(node))} has no argument `{key}`\n{hint}"


def signature_of(target: Callable[..., Any]) -> inspect.Signature:
    """Return a target's signature. Raises ValueError where the target cannot be recorded."""
    name = getattr(target, "__qualname__", None)
    if not callable(target) or name is None:
        raise ValueError(f"cannot record a call of {target!r}\nhint: pass a class or a function")
    if "<" in name:
        raise ValueError(
            f"cannot record a call of {name}: it has no importable name\nhint: define it at the top of a module"
        )
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:  # an annotation that exists for type checkers only
        return inspect.signature(target)
    except (TypeError, ValueError):
        raise ValueError(
            f"cannot read the signature of {name}\nhint: wrap it in a function with named arguments"
        ) from None


def checked_argument(target: Callable[..., Any], key: str, value: Any) -> Any:
    """Return `value` as the annotation of `key` wants it.

    Raises ValueError where it does not fit.
    """
    refuse_live_objects(value, where=f"{name_of_target(target)}.{key}")
    parameter = signature_of(target).parameters.get(key)
    if parameter is None or parameter.annotation is parameter.empty:
        return value
    if value is None and parameter.default is None:
        return value
    try:
        return conform(value, parameter.annotation)
    except TypeError as error:
        name = name_of_target(target)
        raise ValueError(f"{name}.{key}: {error}\nhint: see the signature of {name}") from None


def refuse_live_objects(value: Any, *, where: str) -> None:
    """Raise ValueError for a value that cannot be shown, stored and compared."""
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        for key, item in value.items():
            refuse_live_objects(item, where=f"{where}.{key}")
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            refuse_live_objects(item, where=f"{where}.{index}")
    elif value is not None and not isinstance(value, (*PLAIN_TYPES, Call)):
        raise ValueError(
            f"{where}: a {type(value).__name__} cannot be recorded; expected text, numbers, lists, "
            "dicts with text keys or calls\nhint: describe how to make it with call(...)"
        )
