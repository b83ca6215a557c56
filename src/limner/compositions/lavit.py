"""LaVIT as published: one folder, read part by part as parts are used, in one object that reads and draws.

    folder --ids--> Lavit --tokenizer/reader/backbone/low_res/high_res--> a part, read when it is first asked for

What reads pictures (encoder, selector, the merger tuned with the language model, a projection) and what turns them into
codes (the same encoder and selector, another merger, head and codebook) lie side by side, and so do both ways back to
pixels. Text to picture never reads the encoder, understanding never reads a decoder.

The weights carry the LaVIT Community License on top of Llama 2's: read both before you use or pass on what was loaded
from them. Nothing of them is shipped here.
"""

import json
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from limner.backbone.hf import Backbone
from limner.compositions import lavit_checkpoint as layout
from limner.compositions.lavit_pixels import (
    HIGH_RES,
    LOW_RES,
    HighRes,
    LowRes,
    PixelDecoder,
    read_high_res,
    read_low_res,
)
from limner.compositions.sentencepiece_text import SentencePieceText
from limner.modalities.base import Features
from limner.modalities.encoders.eva import EvaEncoder
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.dynamic import DynamicTokenizer
from limner.modalities.quantizers.merger import TokenMerger
from limner.modalities.quantizers.selector import TokenSelector, keep_mask

logger = logging.getLogger(__name__)

LANGUAGE_MODEL = "language_model"
ENCODER_FILE = "visual_tokenizer/eva_vitg_psz14.bin"
TOKENIZER_FILE = "visual_tokenizer/tokenizer_encoder.bin"
READER_FILE = "language_model/visual_weight.bin"


@dataclass(frozen=True)
class Heads:
    """Heads of attention, the one size that no file of the layout says; the published ones."""

    encoder: int = 16
    merger: int = 16
    feature_decoder: int = 16
    pool: int = 16


@dataclass(frozen=True)
class LavitIds:
    """Text ids, then the begin and the end of a picture, then one id for each code.

    `begin` stands before what is generated; `end` ends a text and pads.
    """

    text_size: int
    num_codes: int
    first_text: int
    begin: int
    end: int

    @property
    def image_start(self) -> int:
        """Behind it a picture's codes follow."""
        return self.text_size

    @property
    def image_end(self) -> int:
        """Stands behind a picture's last code."""
        return self.text_size + 1

    @property
    def first_code(self) -> int:
        """Code k has the id `first_code + k`."""
        return self.text_size + 2

    @property
    def size(self) -> int:
        """All ids: the rows of the language model's matrices."""
        return self.first_code + self.num_codes


class Reader(nn.Module):
    """Pictures -> continuous rows of the language model's input (LaVIT, section 3.3)."""

    def __init__(
        self, encoder: EvaEncoder, *, selector: TokenSelector, merger: TokenMerger, projection: nn.Module
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.selector = selector
        self.merger = merger
        self.projection = projection

    def forward(
        self,
        pixels: Float[Tensor, "items 3 height width_px"],
        *,
        noise: Float[Tensor, "items patches 2"] | None = None,
    ) -> Features:
        """Rows of the kept patches, picture after picture. Without noise the more probable decision is taken."""
        rows = self.rows(pixels, noise=noise)
        return Features(self.projection(rows.values), rows.lengths)

    def rows(
        self,
        pixels: Float[Tensor, "items 3 height width_px"],
        *,
        noise: Float[Tensor, "items patches 2"] | None = None,
    ) -> Features:
        """The merger's rows, which the projection brings to the language model's width."""
        features = self._features(pixels)
        return self.merger.exact(features, keep_mask(self.selector(features), noise=noise))

    def keep(self, pixels: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items patches"]:
        """1 for each patch that is kept, 0 for the others."""
        return keep_mask(self.selector(self._features(pixels)))

    def _features(self, pixels: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items patches width"]:
        return self.encoder(pixels).values.float().unflatten(0, (len(pixels), -1))


class Lavit:
    """A published folder. Each part is read, and refused if it does not fit, when it is first asked for."""

    def __init__(self, path: Path, *, heads: Heads, dtype: torch.dtype, device: torch.device) -> None:
        self.path = path
        self.heads = heads
        self.dtype = dtype
        self.device = device
        self.text = SentencePieceText.from_directory(path / LANGUAGE_MODEL)
        config: dict[str, Any] = json.loads((path / LANGUAGE_MODEL / "config.json").read_text(encoding="utf-8"))
        self.ids = _ids(self.text, vocab_size=int(config["vocab_size"]), path=path)

    def to(self, device: torch.device) -> None:
        """Compute there from now on: parts that were read move, others are read onto it."""
        self.device = device
        for part in vars(self).values():
            if isinstance(part, nn.Module):
                part.to(device)

    @cached_property
    def backbone(self) -> Backbone:
        """The language model over text and codes alike."""
        model = layout.read_language_model(self.path / LANGUAGE_MODEL, dtype=self.dtype)
        return Backbone(model).eval().requires_grad_(False).to(self.device)

    @cached_property
    def encoder(self) -> EvaEncoder:
        """The frozen vision transformer, which reading and codes share."""
        tensors = layout.read_tensors(self.path / ENCODER_FILE)
        layout.refuse_unknown(tensors, [layout.ENCODER, ((layout.UNUSED_OF_ENCODER, ""),)], source=ENCODER_FILE)
        found = layout.encoder_part(tensors)
        sizes = layout.block_sizes(found, source=ENCODER_FILE)
        patch_size, image_size = layout.encoder_edges(found, source=ENCODER_FILE)
        with torch.device("meta"):
            made = EvaEncoder(
                image_size=image_size,
                patch_size=patch_size,
                width=sizes.width,
                num_layers=sizes.num_layers,
                num_heads=self.heads.encoder,
                hidden=sizes.hidden,
            )
        layout.fill(made, found, source=ENCODER_FILE)
        return made.eval().requires_grad_(False).to(self.device)

    @cached_property
    def max_codes(self) -> int:
        """Patches of a picture, of which each has at most one code; known without reading the encoder."""
        (positions,) = layout.read_tensors(self.path / ENCODER_FILE, pattern="^pos_embed$").values()
        return positions.shape[1] - 1

    @cached_property
    def codebook(self) -> Codebook:
        """Vectors of the codes; all that drawing needs of the tokenizer."""
        pattern = layout.CODEBOOK[0][0]
        tensors = layout.part(layout.read_tensors(self.path / TOKENIZER_FILE, pattern=pattern), layout.CODEBOOK)
        vectors = tensors.get("vectors")
        if vectors is None or len(vectors) != self.ids.num_codes:
            found = "no codebook" if vectors is None else f"{len(vectors)} codes"
            raise ValueError(
                f"`{TOKENIZER_FILE}` holds {found}; expected {self.ids.num_codes}, as many as the language model has "
                "ids for\nhint: take both from one folder"
            )
        made = Codebook(len(vectors), width=vectors.shape[1])
        layout.fill(made, tensors, source=TOKENIZER_FILE, left=["usage"])
        return made.eval().to(self.device)

    @cached_property
    def tokenizer(self) -> DynamicTokenizer:
        """Pictures -> codes, by the merger tuned for them."""
        tensors = layout.read_tensors(self.path / TOKENIZER_FILE)
        known = [layout.SELECTOR, layout.MERGER, layout.CODE_HEAD, layout.CODEBOOK]
        layout.refuse_unknown(tensors, known, source=TOKENIZER_FILE)
        merger = self._merger(tensors, source=TOKENIZER_FILE)
        made = DynamicTokenizer(self.encoder, merger=merger, codebook=self.codebook)
        layout.fill(made.selector, layout.part(tensors, layout.SELECTOR), source=TOKENIZER_FILE)
        layout.fill(made.head, layout.part(tensors, layout.CODE_HEAD), source=TOKENIZER_FILE)
        return made.eval().requires_grad_(False).to(self.device)

    @cached_property
    def reader(self) -> Reader:
        """Pictures -> rows of the language model, by the merger tuned with it.

        The selector is the tokenizer's, unless the file has its own. Head and codebook may be in it and are not read.
        """
        tensors = layout.read_tensors(self.path / READER_FILE)
        known = [layout.SELECTOR, layout.MERGER, layout.CODE_HEAD, layout.CODEBOOK, layout.PROJECTION]
        layout.refuse_unknown(tensors, known, source=READER_FILE)
        projection = layout.linear_of(layout.part(tensors, layout.PROJECTION), source=READER_FILE)
        merger = self._merger(tensors, source=READER_FILE)
        selector = TokenSelector(self.encoder.width)
        source, found = READER_FILE, layout.part(tensors, layout.SELECTOR)
        if not found:
            pattern = "|".join(pattern for pattern, _ in layout.SELECTOR)
            source = TOKENIZER_FILE
            found = layout.part(layout.read_tensors(self.path / source, pattern=pattern), layout.SELECTOR)
        layout.fill(selector, found, source=source)
        made = Reader(self.encoder, selector=selector, merger=merger, projection=projection)
        return made.eval().requires_grad_(False).to(self.device)

    @cached_property
    def low_res(self) -> LowRes:
        """Codes -> pictures through the UNet of the SD 1.5 kind."""
        return read_low_res(self.path, heads=self.heads.feature_decoder).to(self.device)

    @cached_property
    def high_res(self) -> HighRes:
        """Codes -> pictures through the UNet of the SDXL kind."""
        made = read_high_res(self.path, heads=self.heads.feature_decoder, pool_heads=self.heads.pool)
        return made.to(self.device)

    def pixel_decoder(self, name: str) -> PixelDecoder:
        """ "highres" or "lowres". Raises ValueError for other names."""
        if name not in (HIGH_RES, LOW_RES):
            raise ValueError(
                f'no pixel decoder `{name}`; expected "{HIGH_RES}" or "{LOW_RES}"\nhint: both are LaVIT\'s'
            )
        return self.high_res if name == HIGH_RES else self.low_res

    def _merger(self, tensors: dict[str, Tensor], *, source: str) -> TokenMerger:
        found = layout.part(tensors, layout.MERGER)
        sizes = layout.block_sizes(found, source=source)
        with torch.device("meta"):
            made = TokenMerger(
                sizes.width, num_layers=sizes.num_layers, num_heads=self.heads.merger, hidden=sizes.hidden
            )
        layout.fill(made, found, source=source)
        return made


def read_lavit(
    path: Path,
    *,
    heads: Heads | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Lavit:
    """Open a published folder. Parts are read when they are used, onto `device`; the language model is of `dtype`, all
    else in float32.

    `heads` None are the published ones. Raises ValueError for a folder without a language model, and where tokenizer
    and language model do not belong together; parts raise it for tensors that are missing, unknown or mis-shaped.
    """
    path = Path(path)
    for name in ("config.json", "tokenizer.model"):
        if not (path / LANGUAGE_MODEL / name).is_file():
            raise ValueError(
                f"`{path / LANGUAGE_MODEL}` lacks {name}\nhint: give the folder that holds {LANGUAGE_MODEL}/"
            )
    logger.info("%s: weights under the %s", path.name, layout.LICENCE)
    return Lavit(path, heads=heads or Heads(), dtype=dtype, device=torch.device(device))


def _ids(text: SentencePieceText, *, vocab_size: int, path: Path) -> LavitIds:
    size = max(text.processor.get_piece_size(), 1 + max(token.id for token in text.special.values()))
    num_codes = vocab_size - size - 2
    if num_codes < 1:
        raise ValueError(
            f"`{path}` has {size} text ids and {vocab_size} ids in all; expected more: begin and end of a picture "
            "and one for each code\nhint: tokenizer.model and config.json are of different models"
        )
    # Behind the special tokens, which all stand at the front.
    first_text = 1 + max(text.id_of(token) for token in (text.begin, text.end, text.unknown))
    return LavitIds(
        text_size=size,
        num_codes=num_codes,
        first_text=first_text,
        begin=text.id_of(text.begin),
        end=text.id_of(text.end),
    )
