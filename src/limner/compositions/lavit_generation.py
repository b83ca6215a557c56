"""Pictures drawn by the published LaVIT: prompts of text and pictures -> codes -> pixels.

    text, pictures --ids--> [prompt][begin of a picture] --guided sampling--> ids --codes--> features --DDIM--> pictures

A picture in a prompt stands there as its codes, without begin and end. Guidance on tokens compares with the begin of a
picture alone, or with a negative prompt; guidance on pixels is the pixel decoder's. Randomness is an argument
everywhere: generators or recorded numbers for ids, latents and (where wanted) the choice of patches.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limner.compositions.lavit import Lavit
from limner.compositions.lavit_decoding import Limits, OnStep, continue_rows, exponential_draws
from limner.compositions.lavit_pixels import HIGH_RES, Framing, PixelDecoder, draw, latent_noise
from limner.document.document import Media
from limner.document.media import Image
from limner.generate.sampling import Sampling
from limner.modalities.encoders.eva import normalised

MULTIMODAL_GUIDANCE = 5.0


@dataclass(frozen=True)
class CodeSettings:
    """How ids of a picture are chosen: temperature 0 takes the best.

    `max_new` and `min_new` count generated ids, the end of the picture among them. `strays` are ids that the original
    let through beside codes and end (special tokens, the begin of a picture): they are drawn and dropped, so a
    picture has fewer codes than it could.
    """

    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, top_k=50))
    max_new: int = 200
    min_new: int = 20
    guidance_scale: float = 4.0
    num_returned: int = 1
    strays: bool = False


@dataclass(frozen=True)
class PixelSettings:
    """Which decoder, what size, how many DDIM steps, and guidance towards the codes."""

    framing: Framing
    decoder: str = HIGH_RES
    num_inference_steps: int = 25
    guidance_scale: float = 7.0


class PromptRows(NamedTuple):
    """Ids with the begin of a picture at the end, left-padded, and which of them are no padding."""

    ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"]


def image_code_limits(lavit: Lavit, settings: CodeSettings) -> Limits:
    """What may be generated as a picture."""
    ids = lavit.ids
    text: Sequence[int] = range(ids.first_text, ids.text_size)
    if not settings.strays:
        text = range(ids.image_start + 1)
    return Limits(
        begin=ids.image_start,
        end=ids.image_end,
        pad=ids.end,
        max_new=settings.max_new,
        min_new=settings.min_new,
        suppressed=text,
    )


def prompt_rows(lavit: Lavit, prompts: Sequence[Sequence[int]]) -> PromptRows:
    """The original's layout of prompts, given as ids."""
    longest, ids = max(map(len, prompts)), lavit.ids
    rows = [[*[ids.end] * (longest - len(prompt)), *prompt, ids.image_start] for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * (len(prompt) + 1) for prompt in prompts]
    return PromptRows(torch.tensor(rows), torch.tensor(mask))


def image_ids(
    lavit: Lavit,
    prompts: Sequence[Sequence[int]],
    *,
    settings: CodeSettings,
    limits: Limits | None = None,
    generators: Sequence[torch.Generator] | None = None,
    draws: Iterable[Float[Tensor, "batch vocab"]] = (),
    unconditional: Sequence[Sequence[int]] | None = None,
    on_step: OnStep | None = None,
) -> Int[Tensor, "batch length"]:
    """Ids of pictures, the begin of a picture in front; `num_returned` rows for each prompt, given as ids.

    `unconditional` are ids of a negative prompt for every row, ending with the begin of a picture. Sampling draws from
    one generator per row, or takes recorded `draws`.
    """
    num_rows = len(prompts) * settings.num_returned
    rows = [_embedded(lavit, [*prompt, lavit.ids.image_start]) for prompt in prompts]
    if generators is not None:
        draws = exponential_draws(generators, num_ids=lavit.ids.size)
    negative = [[lavit.ids.image_start]] * num_rows if unconditional is None else unconditional
    return continue_rows(
        lavit.backbone,
        rows,
        limits=limits or image_code_limits(lavit, settings),
        sampling=settings.sampling,
        draws=draws,
        unconditional=[_embedded(lavit, ids) for ids in negative],
        guidance_scale=settings.guidance_scale,
        copies=settings.num_returned,
        on_step=on_step,
    )


def codes_of(lavit: Lavit, rows: Sequence[Sequence[int]]) -> list[list[int]]:
    """Codes of rows of ids; what is no code is dropped."""
    first = lavit.ids.first_code
    return [[token - first for token in row if token >= first] for row in rows]


def prompt_ids(
    lavit: Lavit,
    items: Sequence[str | Image],
    *,
    noise: Sequence[Float[Tensor, "1 patches 2"]] | None = None,
) -> list[int]:
    """Ids of a prompt of texts and pictures, in the order given; pictures as their codes.

    `noise` is that of the choice of patches, one for each picture; without it the more probable decision is taken.
    """
    found: list[int] = []
    noises = iter(noise or ())
    for item in items:
        if isinstance(item, str):
            found += lavit.text.markup_ids(item)
            continue
        pixels = lavit.encoder.preprocess(Media(item))[None].to(lavit.device)
        found += picture_ids(lavit, pixels, noise=next(noises, None))[0]
    return found


@torch.inference_mode()
def picture_ids(
    lavit: Lavit,
    pixels: Float[Tensor, "items 3 height width_px"],
    *,
    noise: Float[Tensor, "items patches 2"] | None = None,
) -> list[list[int]]:
    """Ids of preprocessed pictures, one for each code."""
    tokens = lavit.tokenizer(pixels, noise=noise)
    return [(codes + lavit.ids.first_code).tolist() for codes in tokens.codes.split(tokens.lengths.tolist())]


@torch.inference_mode()
def code_condition(
    lavit: Lavit, decoder: PixelDecoder, codes: Sequence[Sequence[int]]
) -> Float[Tensor, "2 items rows width"]:
    """What a pixel decoder draws from, and the unconditional branch. Raises ValueError for too many codes."""
    values = lavit.codebook.vectors[
        torch.tensor([code for row in codes for code in row], dtype=torch.long, device=lavit.device)
    ]
    return decoder.condition(values, torch.tensor([len(row) for row in codes], device=lavit.device))


def pictures(
    lavit: Lavit,
    codes: Sequence[Sequence[int]],
    *,
    settings: PixelSettings,
    generators: Sequence[torch.Generator] | None = None,
    noise: Float[Tensor, "items channels latent_height latent_width"] | None = None,
    on_step: Any = None,
) -> Float[Tensor, "items 3 height width_px"]:
    """Pictures of codes, RGB in [-1, 1]. Noise is drawn from one generator per picture, or given.

    Raises ValueError for another number of generators, a size that does not divide, and more codes than patches.
    """
    decoder = lavit.pixel_decoder(settings.decoder)
    if noise is None:
        if generators is None or len(generators) != len(codes):
            raise ValueError(
                f"{len(generators or ())} generators for {len(codes)} pictures; expected one for each\n"
                "hint: or give the noise itself"
            )
        noise = latent_noise(decoder, settings.framing, generators=generators)
    latents = draw(
        decoder,
        code_condition(lavit, decoder, codes),
        framing=settings.framing,
        noise=noise,
        guidance_scale=settings.guidance_scale,
        num_inference_steps=settings.num_inference_steps,
        on_step=on_step,
    )
    with torch.inference_mode():
        return decoder.diffusion.autoencoder.decode(latents)


def generate(
    lavit: Lavit,
    prompts: Sequence[str | Sequence[str | Image]],
    *,
    codes: CodeSettings,
    pixels: PixelSettings,
    generators: Sequence[torch.Generator],
) -> Float[Tensor, "items 3 height width_px"]:
    """Pictures of prompts: texts, or sequences of texts and pictures. One generator for each picture to be drawn.

    A picture's ids, then its latents come from its generator. Raises ValueError for another number of generators.
    """
    if len(generators) != len(prompts) * codes.num_returned:
        raise ValueError(
            f"{len(generators)} generators; expected {len(prompts) * codes.num_returned}, one for each picture\n"
            "hint: num_returned pictures are drawn for each prompt"
        )
    items = [[prompt] if isinstance(prompt, str) else prompt for prompt in prompts]
    ids = image_ids(lavit, [prompt_ids(lavit, parts) for parts in items], settings=codes, generators=generators)
    return pictures(lavit, codes_of(lavit, ids.tolist()), settings=pixels, generators=generators)


def resized(lavit: Lavit, images: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items 3 edge edge"]:
    """Pictures, RGB in [0, 1], as the encoder takes them: squeezed (bicubic, not antialiased) and normalised."""
    edge = lavit.encoder.image_size
    if images.shape[-2:] != (edge, edge):
        images = F.interpolate(images, size=(edge, edge), mode="bicubic", align_corners=False)
    return normalised(images)


def reconstruct(
    lavit: Lavit,
    images: Float[Tensor, "items 3 height width_px"],
    *,
    settings: PixelSettings,
    generators: Sequence[torch.Generator],
) -> Float[Tensor, "items 3 made_height made_width"]:
    """Pictures, RGB in [0, 1], to codes and back, RGB in [-1, 1]."""
    first = lavit.ids.first_code
    codes = [[token - first for token in row] for row in picture_ids(lavit, resized(lavit, images))]
    return pictures(lavit, codes, settings=settings, generators=generators)


def _embedded(lavit: Lavit, ids: Sequence[int]) -> Float[Tensor, "seq d_model"]:
    return lavit.backbone.embed(torch.tensor([list(ids)], device=lavit.device))[0]
