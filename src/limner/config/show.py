"""Configurations as text: `show` reads like the Python source, `diff` like the overrides that lead
from one to another.

Owns the formatting. `show` writes only what was set; with the targets in scope its text is Python
that gives the tree back. `diff` compares what would be built: a key that is set to its default
equals one that is not set.
"""

import enum
import inspect
import json
import math
from pathlib import Path
from typing import Any

from limner.config.call import (
    Call,
    arguments_of,
    children,
    defaults_of,
    join,
    name_of_target,
    target_of,
)

WIDTH = 100
INDENT = " " * 4


def show(tree: Any) -> str:
    """Return a tree as Python source, one argument a line where it does not fit in 100 columns."""
    return _show(tree, indent="", used=0)


def diff(old: Any, new: Any) -> str:
    """Return what changed, one `key: old -> new` a line in the order of `new`; empty when nothing
    did.

    The keys are those of the command line, so a line can be pasted there as `key=new`.
    """
    return "\n".join(_diff(old, new, path=""))


def _show(node: Any, *, indent: str, used: int) -> str:
    """Format a node that starts at column `used` of a line indented by `indent`."""
    if not isinstance(node, Call | dict | list | tuple):
        return _show_plain(node)
    opening, closing = _brackets(node)
    flat = [_label(node, key) + _show(item, indent="", used=-(10**6)) for key, item in children(node)]
    single = isinstance(node, tuple) and len(flat) == 1
    line = opening + ", ".join(flat) + ("," if single else "") + closing
    if not flat or used + len(line) < WIDTH:
        return line
    inner = indent + INDENT
    lines = []
    for key, item in children(node):
        label = inner + _label(node, key)
        lines.append(label + _show(item, indent=inner, used=len(label)) + ",\n")
    return f"{opening}\n{''.join(lines)}{indent}{closing}"


def _brackets(node: Any) -> tuple[str, str]:
    if isinstance(node, Call):
        return f"{name_of_target(target_of(node))}(", ")"
    return {dict: ("{", "}"), list: ("[", "]"), tuple: ("(", ")")}[type(node)]


def _label(node: Any, key: str) -> str:
    if isinstance(node, Call):
        return f"{key}="
    return f"{_show_plain(key)}: " if isinstance(node, dict) else ""


def _show_plain(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return "<not set>"
    if isinstance(value, Path):
        return f"Path({_show_plain(str(value))})"
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def _diff(old: Any, new: Any, *, path: str) -> list[str]:
    if isinstance(old, Call) and isinstance(new, Call) and target_of(old) is target_of(new):
        return _diff_keys(_effective(old), _effective(new), path=path)
    if isinstance(old, dict) and isinstance(new, dict):
        return _diff_keys(old, new, path=path)
    if isinstance(old, list | tuple) and isinstance(new, list | tuple) and len(old) == len(new):
        return _diff_keys(dict(children(old)), dict(children(new)), path=path)
    if old == new and type(old) is type(new):
        return []
    return [f"{path or '<root>'}: {_flat(old)} -> {_flat(new)}"]


def _diff_keys(old: dict[str, Any], new: dict[str, Any], *, path: str) -> list[str]:
    missing = inspect.Parameter.empty
    lines = []
    for key in [*new, *(key for key in old if key not in new)]:
        lines += _diff(old.get(key, missing), new.get(key, missing), path=join(path, key))
    return lines


def _effective(node: Call) -> dict[str, Any]:
    """Return the arguments that building would pass, defaults included, in the order of the
    signature.
    """
    return defaults_of(node) | arguments_of(node)


def _flat(value: Any) -> str:
    return _show(value, indent="", used=-(10**6))
