"""LaVIT written back in the published layout: the files of the folder it was read from, with the values of its parts.

Names and types of tensors are those of the source's files; parts that were never read are copied as they lie. So what
was read and not changed comes out the same, and what was trained replaces what it started from.

    source files --names, types--> place of each tensor in our parts --values--> files of the same names
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from limner.compositions import lavit_checkpoint as layout
from limner.compositions.lavit import ENCODER_FILE, LANGUAGE_MODEL, READER_FILE, TOKENIZER_FILE, Lavit
from limner.compositions.lavit_pixels import HIGH_RES_FILE, HIGH_RES_FOLDER, LOW_RES_FILE, LOW_RES_FOLDER
from limner.compositions.weights import read_tensor_file

Values = dict[str, Tensor]


def write_lavit(lavit: Lavit, path: Path) -> None:
    """Write the folder that `lavit` was read from, with the values its parts have now, replacing `path`.

    Raises ValueError where `path` is the source, and for an encoder whose keys have got a bias.
    """
    path = Path(path)
    if path.resolve() == lavit.path.resolve():
        raise ValueError(f"`{path}` is the folder that was read\nhint: name another; parts are still read from it")
    temporary = path.with_name(f".{path.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(lavit.path, temporary)
    for name, writer in _WRITERS.items():
        if name in vars(lavit):  # a part that was never read has not changed
            writer(lavit, temporary)
    if path.exists():
        shutil.rmtree(path)
    temporary.replace(path)


def _write_encoder(lavit: Lavit, folder: Path) -> None:
    state = lavit.encoder.state_dict()
    for name in [name for name in state if name.endswith(".attn.qkv.bias")]:
        block = name.removesuffix("qkv.bias")
        queries, keys, values = state.pop(name).chunk(3)
        if bool(keys.any()):
            raise ValueError(f"{name} has a bias for keys, which the layout has no place for\nhint: keep it at zero")
        state |= {f"{block}q_bias": queries, f"{block}v_bias": values}
    _replace(folder / ENCODER_FILE, [(layout.ENCODER, state)])


def _write_tokenizer(lavit: Lavit, folder: Path) -> None:
    tokenizer = lavit.tokenizer
    parts = [
        (layout.SELECTOR, tokenizer.selector.state_dict()),
        (layout.MERGER, tokenizer.merger.state_dict()),
        (layout.CODE_HEAD, tokenizer.head.state_dict()),
    ]
    _replace(folder / TOKENIZER_FILE, parts)


def _write_codebook(lavit: Lavit, folder: Path) -> None:
    _replace(folder / TOKENIZER_FILE, [(layout.CODEBOOK, lavit.codebook.state_dict())])


def _write_reader(lavit: Lavit, folder: Path) -> None:
    reader = lavit.reader
    parts = [
        (layout.SELECTOR, reader.selector.state_dict()),
        (layout.MERGER, reader.merger.state_dict()),
        (layout.PROJECTION, reader.projection.state_dict()),
    ]
    _replace(folder / READER_FILE, parts)


def _write_backbone(lavit: Lavit, folder: Path) -> None:
    state = lavit.backbone.language_model.state_dict()
    for file in sorted((folder / LANGUAGE_MODEL).iterdir()):
        is_weights = file.suffix in (".bin", ".safetensors") and file.name != Path(READER_FILE).name
        if is_weights:
            _rewrite(file, state.get)


def _write_low_res(lavit: Lavit, folder: Path) -> None:
    decoder = lavit.low_res
    parts = [
        (layout.FEATURE_DECODER, decoder.features.state_dict()),
        (layout.LOW_RES_HEAD, decoder.head.state_dict()),
    ]
    _replace(folder / LOW_RES_FILE, parts)
    _write_diffusion(decoder.diffusion, folder / LOW_RES_FOLDER)


def _write_high_res(lavit: Lavit, folder: Path) -> None:
    decoder = lavit.high_res
    parts = [
        (layout.FEATURE_DECODER, decoder.features.state_dict()),
        (layout.ATTENTION_POOL, decoder.pool.state_dict()),
        *((names, head.state_dict()) for names, head in zip(layout.HIGH_RES_HEADS, decoder.heads, strict=True)),
    ]
    _replace(folder / HIGH_RES_FILE, parts)
    _write_diffusion(decoder.diffusion, folder / HIGH_RES_FOLDER)


def _write_diffusion(diffusion: Any, folder: Path) -> None:
    networks: Mapping[str, nn.Module] = {"unet": diffusion.unet, "vae": diffusion.autoencoder.network}
    for name, network in networks.items():
        state = network.state_dict()
        for file in sorted((folder / name).glob("diffusion_pytorch_model.*")):
            if file.suffix in (".bin", ".safetensors"):
                _rewrite(file, state.get)


_WRITERS: dict[str, Callable[[Lavit, Path], None]] = {
    "encoder": _write_encoder,
    "tokenizer": _write_tokenizer,
    "codebook": _write_codebook,
    "reader": _write_reader,
    "backbone": _write_backbone,
    "low_res": _write_low_res,
    "high_res": _write_high_res,
}
"""By the names of the parts of `Lavit`."""


def _replace(file: Path, parts: list[tuple[layout.Renames, Values]]) -> None:
    """Write a file's tensors again, those that belong to one of our parts with our values."""

    def value(name: str) -> Tensor | None:
        for renames, state in parts:
            own = next(iter(layout.part({name: torch.empty(0)}, renames)), None)
            if own is not None and own in state:
                return state[own]
        return None

    _rewrite(file, value)


def _rewrite(file: Path, value: Callable[[str], Tensor | None]) -> None:
    """Write a weight file again. A tensor that `value` does not know stays; types stay as they are."""
    stored = read_tensor_file(file)
    made: Values = {}
    for name, tensor in stored.items():
        own = value(name)
        made[name] = (tensor if own is None else own.detach().to("cpu", tensor.dtype)).clone().contiguous()
    # What is read may be mapped from the file itself: it is written beside it, then takes its place.
    beside = file.with_name(file.name + ".new")
    if file.suffix == ".safetensors":
        save_file(made, beside, metadata={"format": "pt"})
    else:
        torch.save(made, beside)
    beside.replace(file)
