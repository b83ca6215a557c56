"""Benchmarks by name: which file reads which, and how one is opened."""

import importlib
from pathlib import Path
from typing import Protocol, runtime_checkable

from limner.config.suggestion import suggest
from limner.evaluate.benchmark import Benchmark

TASKS = (
    "coco_captions",
    "docvqa",
    "easy_vqa",
    "flickr30k",
    "gqa",
    "image_paragraphs",
    "infographicvqa",
    "mmbench",
    "mmvet",
    "nocaps",
    "okvqa",
    "pope",
    "textvqa",
    "vizwiz",
    "vqav2",
)
"""Each is a module of `limner.evaluate.benchmarks` with a function `load`."""


@runtime_checkable
class _Load(Protocol):
    def __call__(self, folder: Path, *, preset: str = "", split: str = ...) -> Benchmark: ...


def open_task(name: str, *, folder: Path, preset: str = "", split: str = "") -> Benchmark:
    """The benchmark, its files read from `<folder>/<name>`, or from `folder` itself where that is absent.

    Raises ValueError for an unknown name, an unknown preset, and files that are missing or malformed.
    """
    if name not in TASKS:
        raise ValueError(f"no benchmark `{name}`\n{suggest(name, among=TASKS)}")
    module = importlib.import_module(f"limner.evaluate.benchmarks.{name}")
    load: _Load = module.load
    own = folder / name
    options = {"split": split} if split else {}
    return load(own if own.is_dir() else folder, preset=preset, **options)


def where_from(name: str) -> str:
    """What a benchmark is and where its files come from: the head of its module."""
    return (importlib.import_module(f"limner.evaluate.benchmarks.{name}").__doc__ or "").strip()
