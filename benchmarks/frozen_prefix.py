"""Stage-I creation behind a frozen language model: what running beginnings without gradients saves.

    python -m benchmarks frozen_prefix

Documents of a caption and a picture to be made, packed into rows. Queries and output projector are trained. Beside the
split stands the plain way, one forward over everything with gradients: same rows, same weights, same loss on the
conditions (their mean square; the generator, which costs both the same, is left out). FLOPs are torch's own count,
memory is what autograd keeps for the backward pass, time is the median of rounds in which both take turns. Gradients
are compared in float64.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from unittest.mock import patch

import PIL.Image
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from limner.compositions.illustrator import scratch_illustrator
from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media, Text
from limner.document.media import Image
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.model import multimodal
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.stage import Trainable, select_trainable

GLOBS = ("modalities.image.queries.*", "modalities.image.output_projector.*")
CAPTION = "A large red circle stands in the top left of a white page, beside two small green stars and a cross. "
MIB = 2**20


def main(arguments: list[str]) -> None:
    """Measure at several lengths of the caption."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks frozen_prefix")
    parser.add_argument("--captions", type=int, nargs="+", default=[32, 128, 384], help="tokens of a caption")
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    model = _model(options)
    print(f"{options.documents} documents, {options.queries} queries, {options.layers} layers of {options.d_model}\n")
    print("| caption | FLOPs, plain : split | kept for backward | time | gradients differ by |")
    print("|---|---|---|---|---|")
    for length in options.captions:
        batch = _batch(model, length=length, number=options.documents)
        flops = {plain: _flops(model, batch, plain=plain) for plain in (True, False)}
        kept = {plain: _kept(model, batch, plain=plain) for plain in (True, False)}
        times: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(options.rounds):
            for plain in (True, False):
                times[plain].append(_seconds(model, batch, plain=plain))
        took = {plain: statistics.median(found) for plain, found in times.items()}
        print(
            f"| {length} tokens | {flops[True] / flops[False]:.2f} x | "
            f"{kept[True] / MIB:.0f} : {kept[False] / MIB:.0f} MiB | "
            f"{took[True] * 1e3:.0f} : {took[False] * 1e3:.0f} ms, {took[True] / took[False]:.2f} x | "
            f"{_difference(model, batch):.1e} |"
        )


def _model(options: argparse.Namespace) -> MultimodalLM:
    torch.manual_seed(0)
    model = scratch_illustrator(
        encoder=ConvolutionalEncoder(image_size=32, width=16, num_halvings=3),
        decoder=FlowDecoder(PictureAutoencoder(size=32, channels=(16, 16)), width=16, num_layers=1, num_heads=2),
        num_queries=options.queries,
        d_model=options.d_model,
        num_layers=options.layers,
        num_heads=8,
        context_length=4096,
    )
    select_trainable(model, [Trainable(glob, 1e-3) for glob in GLOBS])
    return model


def _batch(model: MultimodalLM, *, length: int, number: int) -> Batch:
    """Rows of two documents each."""
    picture = Image.from_pil(PIL.Image.new("RGB", (32, 32), "red"))
    words = Text((CAPTION * length)[:length], train=False)  # a token per byte
    document = Document.page([words, Media(picture, directions=(Direction.OUT,))])
    sequences = [model.render(document, key=f"pairs/{index}/0") for index in range(number)]
    return Collator(model)([sequences[start : start + 2] for start in range(0, number, 2)])


def _step(model: MultimodalLM, batch: Batch, *, plain: bool) -> None:
    model.zero_grad(set_to_none=True)
    with patch.object(multimodal, "serves_prefixes", lambda backbone: False) if plain else nullcontext():
        hidden = model.hidden_states(batch)
    states = model.out_hidden(batch.spans["image", Direction.OUT], hidden)
    projected = model.maker("image").output_projector(states)
    projected.square().mean().backward()


def _flops(model: MultimodalLM, batch: Batch, *, plain: bool) -> int:
    with FlopCounterMode(display=False) as counter:
        _step(model, batch, plain=plain)
    return counter.get_total_flops()


def _kept(model: MultimodalLM, batch: Batch, *, plain: bool) -> int:
    """Bytes that autograd keeps, each storage once, the model's own left out."""
    storages: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        _step(model, batch, plain=plain)
    return sum(storages.values())


def _seconds(model: MultimodalLM, batch: Batch, *, plain: bool) -> float:
    started = time.perf_counter()
    _step(model, batch, plain=plain)
    return time.perf_counter() - started


def _difference(model: MultimodalLM, batch: Batch) -> float:
    """Largest relative difference of a trained tensor's gradient."""
    model.double()
    found = []
    for plain in (True, False):
        _step(model, batch, plain=plain)
        found.append([parameter.grad for parameter in model.parameters() if parameter.grad is not None])
    model.float()
    return max(float((split - whole).norm() / whole.norm()) for whole, split in zip(*found, strict=True))
