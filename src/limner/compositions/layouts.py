"""Layouts in which published systems' checkpoints lie on disk, by name, for those who convert between them and ours.

Owns `LAYOUTS`. A layout says whether a directory is of it, reads one (model and description), and writes one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from limner.compositions.dreamllm_checkpoint import DType, describe_dreamllm, read_dreamllm, write_dreamllm
from limner.compositions.dreamllm_settings import recognises
from limner.compositions.lavit import LANGUAGE_MODEL, TOKENIZER_FILE
from limner.compositions.lavit_model import lavit_model, lavit_of
from limner.compositions.lavit_writing import write_lavit
from limner.config.call import Call, call
from limner.config.serialize import from_json, to_json
from limner.model.checkpoint import INDEX, load_checkpoint, read_index, save_checkpoint
from limner.model.multimodal import MultimodalLM

OWN = "limner"
"""The name of our own layout."""


@dataclass(frozen=True)
class Layout:
    """`read(path, parts, dtype)` gives a model, `describe` the call that rebuilds it, `write(model, path, call)` the
    reverse."""

    recognises: Callable[[Path], bool]
    describe: Callable[[Path, Mapping[str, Path], DType], Call]
    read: Callable[[Path, Mapping[str, Path], DType], MultimodalLM]
    write: Callable[[MultimodalLM, Path, Call], None]


LAYOUTS: dict[str, Layout] = {
    "lavit": Layout(
        recognises=lambda path: (path / TOKENIZER_FILE).is_file() and (path / LANGUAGE_MODEL / "config.json").is_file(),
        describe=lambda path, parts, dtype: call(lavit_model, path=str(path.resolve()), dtype=dtype),
        read=lambda path, parts, dtype: lavit_model(path=str(path.resolve()), dtype=dtype),
        write=lambda model, path, description: write_lavit(lavit_of(model), path),
    ),
    "dreamllm": Layout(
        recognises=recognises,
        describe=lambda path, parts, dtype: describe_dreamllm(path, parts=parts, dtype=dtype),
        read=lambda path, parts, dtype: read_dreamllm(path, parts=parts, dtype=dtype),
        write=lambda model, path, description: write_dreamllm(model, path, description=description),
    ),
}


def convert(source: Path, target: Path, *, to: str, parts: Mapping[str, Path], dtype: DType = "float32") -> str:
    """Write `source` again as `target` in the layout `to`; return the layout that `source` has.

    `parts` and `dtype` (the language model's) are for originals. Raises ValueError for an unknown layout, a directory
    of none, a target that exists, and for what readers and writers refuse.
    """
    if to != OWN and to not in LAYOUTS:
        raise ValueError(f"no layout named `{to}`\nhint: there is {', '.join([OWN, *LAYOUTS])}")
    if target.exists():
        raise ValueError(f"`{target}` exists\nhint: name a directory that does not")
    if (source / INDEX).is_file():
        found, description = OWN, from_json(read_index(source)["model"])
        model = load_checkpoint(source)
    else:
        found = next((name for name, layout in LAYOUTS.items() if layout.recognises(source)), "")
        if not found:
            raise ValueError(
                f"`{source}` is no checkpoint: neither ours nor {' nor '.join(LAYOUTS)}'s\n"
                "hint: give the directory itself"
            )
        description = LAYOUTS[found].describe(source, parts, dtype)
        model = LAYOUTS[found].read(source, parts, dtype)
    if to == OWN:
        save_checkpoint(model, target, description=to_json(description))
    else:
        LAYOUTS[to].write(model, target, description)
    return found
