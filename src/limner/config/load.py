"""Config files: ordinary Python files whose functions return a configuration.

Owns the way from an address such as `configs/tiny/demo.py` or `configs/tiny/demo.py:stage_two` to a
tree. Loading runs the file: it is source code, to be trusted like any other. A config file that
builds on another one loads it: `load(Path(__file__).with_name("stage_one.py"))`.

Data flow: address -> file -> function -> `load` -> fresh tree.
"""

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from limner.config.call import Call
from limner.config.suggestion import suggest


def load(address: str | Path, *, function: str = "config") -> Call:
    """Return the tree that a function of a config file describes, fresh at every call.

    `address` is a path, or `path.py:function`. Raises ValueError when the file, the function or its
    result is not what is expected; an exception raised by the file itself passes through with a
    note.
    """
    path, function = _split(str(address), function)
    module = _execute(path)
    functions = _functions(module)
    if function not in functions:
        raise ValueError(f"{path} has no function `{function}`\n{suggest(function, among=functions)}")
    chosen = functions[function]
    required = _required(chosen)
    if required:
        raise ValueError(
            f"{path}:{function} needs {', '.join(required)}; expected no required arguments\n"
            "hint: give them defaults, or call it from another function"
        )
    tree = chosen()
    if not isinstance(tree, Call):
        raise ValueError(
            f"{path}:{function} returned a {type(tree).__name__}; expected a Call\nhint: return call(Target, ...)"
        )
    return tree


def list_functions(path: str | Path) -> list[str]:
    """Return the names of a config file's functions that `load` can call, in the file's order.

    A function whose return annotation is another type than Call is a piece for the others.
    """
    file, _ = _split(str(path), "config")
    functions = _functions(_execute(file))
    return [name for name, function in functions.items() if not _required(function) and _returns_call(function)]


def _functions(module: ModuleType) -> dict[str, Callable[..., Any]]:
    return {
        name: value
        for name, value in vars(module).items()
        if inspect.isfunction(value) and value.__module__ == module.__name__ and name[0] != "_"
    }


def _required(function: Callable[..., Any]) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.default is p.empty]


def _returns_call(function: Callable[..., Any]) -> bool:
    return inspect.signature(function).return_annotation in (Call, inspect.Signature.empty)


def _split(address: str, function: str) -> tuple[Path, str]:
    before, colon, after = address.rpartition(":")
    if colon and before.endswith(".py"):
        if not after.isidentifier():
            raise ValueError(f"`{address}` names no function\nhint: write path.py:function")
        address, function = before, after
    path = Path(address)
    if path.suffix != ".py":
        raise ValueError(f"`{address}` is no config file; expected path.py or path.py:function\nhint: see configs/")
    if not path.is_file():
        folder = path.parent
        names = sorted(found.name for found in folder.glob("*.py")) if folder.is_dir() else []
        hint = suggest(path.name, among=names) if names else f"hint: there are no config files in {folder}"
        raise ValueError(f"no config file `{address}`\n{hint}")
    return path, function


def _execute(path: Path) -> ModuleType:
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]
    name = f"limner_config_{path.stem}_{digest}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # the suffix is .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while they are defined
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        error.add_note(f"while loading the config file {path}")
        raise
    return module
