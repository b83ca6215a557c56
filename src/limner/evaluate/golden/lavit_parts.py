"""Recorded cases of LaVIT's parts: pictures, encoder, selector, mergers, codes, and what comes back of codes."""

from typing import Any

import numpy
import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.compositions.lavit_generation import picture_ids, resized
from limner.compositions.lavit_pixels import HIGH_RES, LOW_RES
from limner.document.document import Media
from limner.document.media import Image
from limner.evaluate.golden.lavit_cases import Case, Found
from limner.modalities.quantizers.selector import keep_mask


def opaque(case: Case, file: str) -> Image:
    """A picture as the original opens it: without its alpha channel, where Limner lays it over white."""
    with PIL.Image.open(case.cases.directory / file) as picture:
        return Image.from_pil(picture.convert("RGB"), name=file)


def preprocess(case: Case) -> Found:
    """Files or float pictures to the encoder's pixels."""
    if "files" not in case.inputs:
        return {"out.pixels": resized(case.lavit, case.input("in.image01"))}
    encoder = case.lavit.encoder
    images = [opaque(case, file) for file in case.inputs["files"]]
    size = (encoder.image_size, encoder.image_size)
    squeezed = [image.pil().resize(size, PIL.Image.Resampling.BICUBIC) for image in images]
    return {
        "out.pixels": torch.stack([encoder.preprocess(Media(image)) for image in images]),
        "out.resized_u8": torch.stack([torch.from_numpy(numpy.array(picture)) for picture in squeezed]),
    }


def vision_encoder(case: Case) -> Found:
    """The residual stream, block by block."""
    encoder, pixels = case.lavit.encoder, case.input("pixels")
    rows = encoder.embed(pixels)
    found: dict[str, Any] = {"out.embed": rows}
    for number, block in enumerate(encoder.blocks):
        rows = block(rows)
        found[f"out.block_{number}"] = rows
    found["out.features"] = encoder(pixels).values.unflatten(0, (len(pixels), -1))
    return found


def selector(case: Case) -> Found:
    """Log-probabilities of keeping and dropping."""
    return {"out.logprobs": case.lavit.tokenizer.selector(case.input("features"))}


def keep(case: Case) -> Found:
    """What is kept, given noise."""
    mask = keep_mask(case.input("logprobs"), noise=case.gumbel[0])
    return {
        "out.mask": mask,
        "out.counts": mask.sum(dim=1).long(),
        "keep_fraction": round(mask.mean().item(), 4),
    }


def merger(case: Case) -> Found:
    """All rows behind both mergers, for masks of every kind."""
    features = case.input("features")[case.input("in.features_index")]
    masks = case.input("in.masks").float()
    return {
        "out.generation": case.lavit.tokenizer.merger(features, masks),
        "out.understanding": case.lavit.reader.merger(features, masks),
    }


def quantizer(case: Case) -> Found:
    """Kept rows to the nearest codes."""
    tokenizer = case.lavit.tokenizer
    rows = tokenizer.merged(case.input("features"), case.input("mask").float()).values
    head = tokenizer.head(rows)
    codes = tokenizer.codebook(head).codes
    unit = F.normalize(head, dim=-1)
    vectors = tokenizer.codebook.vectors
    by_product = (unit @ vectors.T).argmax(dim=-1)
    return {
        "out.rows": rows,
        "out.head": head,
        "out.z": unit,
        "out.codes": codes,
        "out.z_q": vectors[codes],
        "distinct_codes": len(codes.unique()),
        "codes_that_would_change_if_codebook_norms_were_ignored": int((codes != by_product).sum()),
    }


def tokenize(case: Case) -> Found:
    """Pictures to ids, with and without begin and end, and to the codes' vectors."""
    lavit, pixels, noise = case.lavit, case.input("pixels"), case.gumbel[0]
    rows = picture_ids(lavit, pixels, noise=noise)
    special = [[lavit.ids.image_start, *row, lavit.ids.image_end] for row in rows]
    return {
        "out.ids": _flat(rows),
        "out.counts": _counts(rows),
        "out.ids_special": _flat(special),
        "out.counts_special": _counts(special),
        "out.z_q": lavit.tokenizer(pixels, noise=noise).values,
        "ids": rows,
    }


def understanding_features(case: Case) -> Found:
    """Pictures to rows of the language model."""
    rows = case.lavit.reader(case.input("pixels"), noise=case.gumbel[0])
    return {"out.rows": rows.values, "out.counts": rows.lengths}


def feature_decoders(case: Case) -> Found:
    """Codes to features and to what both UNets are conditioned on."""
    lavit, counts = case.lavit, case.input("in.counts")
    values = lavit.codebook.vectors[case.input("in.codes")]
    found: dict[str, Tensor] = {}
    for name in (LOW_RES, HIGH_RES):
        decoder = lavit.pixel_decoder(name)
        found[f"out.{name}.features"] = decoder.features(values, counts)
        condition = decoder.condition(values, counts)[0]
        if name == HIGH_RES:
            found[f"out.{name}.pooled"] = condition[:, -1, : lavit.high_res.diffusion.pooled_width]
            condition = condition[:, :-1]
        found[f"out.{name}.cond"] = condition
    return found


def _flat(rows: list[list[int]]) -> Tensor:
    return torch.tensor([token for row in rows for token in row], dtype=torch.long)


def _counts(rows: list[list[int]]) -> Tensor:
    return torch.tensor([len(row) for row in rows])
