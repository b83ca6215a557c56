"""Benchmarks by name: which file reads which, and how one is opened.

Public ones read what others publish; Limner's own (`naming`, `drawing*`, `stories`, `scene_*`) need the repository or
no files at all.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from limner.config.suggestion import suggest
from limner.evaluate.benchmark import Benchmark

_OPENERS = {
    "coco_captions": "coco_captions:load",
    "coco_drawing": "coco_drawing:load",
    "docvqa": "docvqa:load",
    "drawing": "drawing:load",
    "drawing_networks": "drawing_networks:load",
    "easy_vqa": "easy_vqa:load",
    "flickr30k": "flickr30k:load",
    "gqa": "gqa:load",
    "image_paragraphs": "image_paragraphs:load",
    "infographicvqa": "infographicvqa:load",
    "ln_coco_drawing": "ln_coco_drawing:load",
    "mmbench": "mmbench:load",
    "mmvet": "mmvet:load",
    "naming": "naming:load",
    "nocaps": "nocaps:load",
    "okvqa": "okvqa:load",
    "pope": "pope:load",
    "scene_drawing": "scenes:load_drawing",
    "scene_pages": "scenes:load_pages",
    "scene_prompts": "scene_prompts:load_prompts",
    "scene_reading": "scenes:load_reading",
    "stories": "stories:load",
    "textvqa": "textvqa:load",
    "vizwiz": "vizwiz:load",
    "vqav2": "vqav2:load",
}
"""Module of `limner.evaluate.benchmarks` and its function, by name."""

TASKS = tuple(_OPENERS)
GROUPS = {
    "scenes": ("scene_reading", "scene_drawing", "scene_prompts", "scene_pages"),
    "language": tuple(f"lm_eval:{task}" for task in ("mmlu", "boolq", "piqa", "social_iqa", "hellaswag", "winogrande")),
}
"""Names that stand for several."""
SUITES = {"lm_eval": 'pip install "limner[language]"', "lmms_eval": "pip install lmms-eval"}
"""Other people's suites, whose tasks are named `<suite>:<task>`, and how each is installed."""


@runtime_checkable
class _Load(Protocol):
    def __call__(self, folder: Path, *, preset: str = "", split: str = ...) -> Benchmark: ...


def expanded(names: Sequence[str]) -> list[str]:
    """The benchmarks that names stand for, each once. Raises ValueError for none and for an unknown one."""
    found = list(dict.fromkeys(one for name in names for one in GROUPS.get(name, (name,))))
    for name in found:
        if name not in TASKS and name.partition(":")[0] not in SUITES:
            raise ValueError(f"no benchmark `{name}`\n{suggest(name, among=(*TASKS, *GROUPS))}")
    if not found:
        raise ValueError("no benchmark is named\nhint: `--tasks list` shows them")
    return found


def open_task(name: str, *, folder: Path, preset: str = "", split: str = "") -> Benchmark:
    """The benchmark, its files read from `<folder>/<name>`, or from `folder` itself where that is absent.

    Raises ValueError for an unknown name, an unknown preset, and files that are missing or malformed.
    """
    (name,) = expanded([name])
    suite, _, task = name.partition(":")
    if suite in SUITES:
        return _adapter(suite).load(task, folder=folder, preset=preset, split=split)
    module, _, function = _OPENERS[name].partition(":")
    load: _Load = getattr(importlib.import_module(f"limner.evaluate.benchmarks.{module}"), function)
    own = folder / name
    options = {"split": split} if split else {}
    return load(own if own.is_dir() else folder, preset=preset, **options)


def _adapter(suite: str) -> Any:
    try:
        return importlib.import_module(f"limner.evaluate.adapters.{suite}_adapter")
    except ModuleNotFoundError as error:
        if error.name != suite:
            raise
        raise ValueError(f"`{suite}` is not installed\nhint: {SUITES[suite]}, in an environment of its own") from error


def where_from(name: str) -> str:
    """What a benchmark is and where its files come from: the docstring of its module, or of its own function."""
    module, _, function = _OPENERS[name].partition(":")
    found = importlib.import_module(f"limner.evaluate.benchmarks.{module}")
    told = found.__doc__ if function == "load" else getattr(found, function).__doc__
    return (told or "").strip()
