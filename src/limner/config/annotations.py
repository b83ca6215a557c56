"""Checks a configuration value against a parameter's annotation.

Owns the question "may this value be passed here?" for the annotations that configs use: plain
classes, enums, unions, Literal, tuples, lists, dicts and the abstract collections. Anything more
exotic is accepted unchecked, so that a target need not be written for this module. Values are
converted only where the meaning cannot change: int to float, str to Path or enum member, list to
tuple.

Data flow: `value, annotation -> conform -> value of the annotated type`, or TypeError.
"""

import collections.abc
import enum
import types
import typing
from pathlib import Path
from typing import Any

SEQUENCES = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)


class Described:
    """Base of values that stand for an object which is built later."""

    __slots__ = ()

    def __built_type__(self) -> type | None:
        """Return the class that building gives, or None where it is not known."""
        raise NotImplementedError


def name_of(annotation: Any) -> str:
    """Return an annotation as it is written in source: `int | None`, `Sequence[str]`."""
    if annotation is None or annotation is types.NoneType:
        return "None"
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("collections.abc.", "")


def conform(value: Any, annotation: Any) -> Any:
    """Return `value` as the annotated type. Raises TypeError, one line, where it does not fit."""
    if annotation is Any:  # a class since Python 3.11, but not one for isinstance
        return value
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return conform(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return _conform_union(value, annotation)
    if origin is typing.Literal:
        # bool is an int in Python: True must not pass for Literal[1].
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise _mismatch(value, annotation)
    if isinstance(value, Described):
        return _conform_described(value, origin or annotation)
    if origin is tuple or annotation is tuple:
        return _conform_tuple(value, annotation)
    if (origin or annotation) in SEQUENCES:
        if not isinstance(value, list | tuple):
            raise _mismatch(value, annotation)
        items = [conform(item, arguments[0]) for item in value] if arguments else list(value)
        return tuple(items) if isinstance(value, tuple) and origin is not list else items
    if (origin or annotation) in MAPPINGS:
        if not isinstance(value, dict):
            raise _mismatch(value, annotation)
        item_type = arguments[1] if arguments else Any
        return {key: conform(item, item_type) for key, item in value.items()}
    return _conform_class(value, annotation)


def element_annotation(annotation: Any, key: str) -> Any:
    """Return the annotation of one element of a container, Any where it says nothing about it."""
    origin, members = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        found = (element_annotation(member, key) for member in members)
        return next((element for element in found if element is not Any), Any)
    if origin is tuple and members[-1] is not Ellipsis:
        return members[int(key)] if key.isdecimal() and int(key) < len(members) else Any
    if origin is tuple or origin in SEQUENCES:
        return members[0]
    return members[1] if origin in MAPPINGS else Any


def _conform_union(value: Any, annotation: Any) -> Any:
    members = typing.get_args(annotation)
    # The exact type wins over a conversion: 1 stays an int for `float | int`.
    exact = [member for member in members if member is type(value)]
    for member in [*exact, *members]:
        try:
            return conform(value, member)
        except TypeError:
            continue
    raise _mismatch(value, annotation)


def _conform_described(value: Described, expected: Any) -> Any:
    built = value.__built_type__()
    if built is None or not isinstance(expected, type) or getattr(expected, "_is_protocol", False):
        return value
    if not issubclass(built, expected):
        raise _mismatch(value, expected)
    return value


def _conform_tuple(value: Any, annotation: Any) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _mismatch(value, annotation)
    members = typing.get_args(annotation)
    if not members:
        return tuple(value)
    if len(members) == 2 and members[1] is Ellipsis:
        return tuple(conform(item, members[0]) for item in value)
    if len(members) != len(value):
        raise _mismatch(value, annotation)
    return tuple(conform(item, member) for item, member in zip(value, members, strict=True))


def _conform_class(value: Any, annotation: Any) -> Any:
    if annotation is None:
        annotation = types.NoneType
    if not isinstance(annotation, type) or getattr(annotation, "_is_protocol", False):
        return value
    if isinstance(value, bool) and annotation in (int, float):
        raise _mismatch(value, annotation)
    if isinstance(value, annotation):
        return value
    if annotation is float and isinstance(value, int):
        return float(value)
    if issubclass(annotation, Path) and isinstance(value, str):
        return annotation(value)
    if issubclass(annotation, enum.Enum):
        return _conform_enum(value, annotation)
    raise _mismatch(value, annotation)


def _conform_enum(value: Any, annotation: type[enum.Enum]) -> enum.Enum:
    try:
        return annotation(value)
    except ValueError:
        choices = ", ".join(repr(member.value) for member in annotation)
        raise TypeError(f"expected one of {choices}, got {value!r}") from None


def _mismatch(value: Any, annotation: Any) -> TypeError:
    if isinstance(value, Described):
        return TypeError(f"expected {name_of(annotation)}, got a call of {name_of(value.__built_type__())}")
    return TypeError(f"expected {name_of(annotation)}, got {value!r} ({type(value).__name__})")
