"""The published LaVIT as the one class that all models are: captions, answers, pictures, pages with pictures.

    picture --encoder, selector, merger, projection--> rows of the input        (what a user shows)
    picture --encoder, selector, another merger, codebook--> codes              (what is drawn, and prompts in codes)
    codes   --feature decoder, UNet, autoencoder--> picture

The language model is read at once, everything else of the folder when it is first used (`Lavit`): text to picture never
reads the encoder, captions never read a decoder. Parts that read and draw stay the folder's: they are frozen, no state
of the model, and a checkpoint names the folder instead of holding them.

There are no roles and no begin token: a prompt is what the user says, a reply ends with the tokenizer's end. A picture
that a user's message shows with `directions=(Direction.OUT,)` stands in the prompt as its codes without begin and end,
as the original drew from several pictures and texts; any other is read.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from limner.compositions.lavit import Heads, Lavit, read_lavit
from limner.compositions.lavit_pixels import (
    HIGH_RES,
    HIGH_RES_FOLDER,
    LOW_RES_FOLDER,
    SAMPLER,
    Framing,
    PixelDecoder,
    begin_draft,
    latent_noise,
)
from limner.document.document import Direction, Document, Media
from limner.modalities.base import Codes, Detokenizer, Encoder, Features, InputProjector, Modality, Quantizer
from limner.modalities.decoders.latent import LatentDraft
from limner.modalities.drafts import OnStep, run_alone
from limner.modalities.guidance import Guidance
from limner.model.multimodal import MultimodalLM
from limner.tokens.render import Renderer
from limner.tokens.sequence import Sequence as TokenSequence
from limner.tokens.template import RoleStrings, Template
from limner.tokens.vocabulary import Vocabulary

MODALITY = "image"
MOST_KEPT = 256
"""Pictures whose rows are remembered between measuring and placing them."""


def lavit_model(
    *,
    path: str,
    pixel_decoder: Literal["highres", "lowres"] = HIGH_RES,
    heads: Heads | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    device: str = "cpu",
) -> MultimodalLM:
    """Open a published folder as a model.

    `pixel_decoder` is what pictures are drawn with; `heads` as in `read_lavit`. Raises ValueError for a folder that is
    none. The weights carry the LaVIT Community License on top of Llama 2's.
    """
    return model_of(
        read_lavit(Path(path), heads=heads, dtype=getattr(torch, dtype), device=device), pixel_decoder=pixel_decoder
    )


def model_of(lavit: Lavit, *, pixel_decoder: Literal["highres", "lowres"] = HIGH_RES) -> MultimodalLM:
    """The model of an opened folder; parts that `lavit` has read already are not read again."""
    ids = lavit.ids
    edges = {f"{MODALITY}.{direction}.{kind}" for direction in Direction for kind in ("begin", "end")}
    table = {role: ids.image_start if role.endswith("begin") else ids.image_end for role in sorted(edges)}
    vocabulary = Vocabulary(
        # No token stands at the rows of a picture: a place with a negative id is written by features alone.
        ids.size, table | {f"{MODALITY}.{Direction.IN}.slot": -1}, {MODALITY: (ids.first_code, ids.num_codes)}
    )  # fmt: skip
    open_end, ended = RoleStrings("", ""), RoleStrings("", lavit.text.end)
    template = Template({"system": open_end, "user": open_end, "assistant": ended, "page": ended})
    model = MultimodalLM(
        lavit.backbone,
        modalities={
            MODALITY: Modality(
                encoder=FolderEncoder(lavit),
                input_projector=FolderProjector(lavit),
                quantizer=FolderQuantizer(lavit),
                detokenizer=FolderDetokenizer(lavit, name=pixel_decoder),
            )
        },
        vocabulary=vocabulary,
        template=template,
        tokenizer=lavit.text,
        # Of the whole folder: what reads and draws is no state of the model, and an answer depends on it too.
        external={"backbone.language_model": f"{lavit.path}@{_stamp(lavit.path)}"},
    )
    model.render = PromptRenderer(model.render)
    return model.eval()


def lavit_of(model: MultimodalLM) -> Lavit:
    """The folder that a model was opened from; its language model is the model's, as it is now.

    Raises ValueError for a model of another wiring.
    """
    quantizer = model.modality(MODALITY).quantizer if MODALITY in model.modalities else None
    if not isinstance(quantizer, FolderQuantizer):
        raise ValueError("the model was not opened from a folder of LaVIT\nhint: its layout holds no other parts")
    return quantizer.lavit


class FolderEncoder(Encoder):
    """Kept and merged rows of pictures, as many as the selector keeps, by the merger tuned with the language model."""

    def __init__(self, lavit: Lavit) -> None:
        super().__init__()
        self._lavit = lavit
        self._known: dict[str, Features] = {}

    @property
    def width(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Of a feature row."""
        return self._lavit.reader.encoder.width

    def preprocess(self, media: Media) -> Tensor:
        """As the vision transformer wants it."""
        return self._lavit.reader.encoder.preprocess(media)

    def measure(self, media: Media) -> int:
        """Rows that are kept: known once the picture was encoded, so that happens here."""
        digest = media.content.digest
        if digest not in self._known:
            with torch.no_grad():
                self._known[digest] = self(self.preprocess(media)[None])
            if len(self._known) > MOST_KEPT:
                self._known.pop(next(iter(self._known)))
        return int(self._known[digest].lengths[0])

    def forward(self, items: Tensor) -> Features:
        """Rows of each picture, one picture at a time: in a stack a patch near even odds might be kept or not."""
        reader = self._lavit.reader
        found = [reader.rows(item[None].to(self._lavit.device)) for item in items]
        return Features(torch.cat([rows.values for rows in found]), torch.cat([rows.lengths for rows in found]))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FolderEncoder":
        # The folder's parts are no state of the model, but they compute where the model does.
        self._lavit.to(fn(torch.empty(0, device=self._lavit.device)).device)
        self._known.clear()
        return super()._apply(fn, recurse)


class FolderProjector(InputProjector):
    """The linear layer behind the merger's rows."""

    def __init__(self, lavit: Lavit) -> None:
        super().__init__()
        self._lavit = lavit

    def measure(self, num_rows: int) -> int:
        """As many as there are."""
        return num_rows

    def forward(self, features: Features) -> Features:
        """Project each row."""
        return Features(self._lavit.reader.projection(features.values), features.lengths)


class FolderQuantizer(Quantizer):
    """Codes of pictures, one for each patch that the selector keeps."""

    def __init__(self, lavit: Lavit) -> None:
        super().__init__()
        self.lavit = lavit
        self.num_codes = lavit.ids.num_codes

    @property
    def max_length(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """A code for each patch; the detokenizer has places for no more."""
        return self.lavit.max_codes

    @property
    def signature(self) -> str:
        """The files that the codes come from."""
        return _stamp(self.lavit.path / "visual_tokenizer")

    def preprocess(self, media: Media) -> Tensor:
        """As the vision transformer wants it."""
        return self.lavit.encoder.preprocess(media)

    def forward(self, items: Tensor) -> Codes:
        """Codes of each picture; the more probable decision is taken for each patch."""
        tokens = self.lavit.tokenizer(items.to(self.lavit.device))
        return Codes(tokens.codes, tokens.lengths)


class FolderDetokenizer(Detokenizer):
    """Codes to pictures by one of the two pixel decoders, step by step (DDIM)."""

    def __init__(self, lavit: Lavit, *, name: str) -> None:
        super().__init__()
        self._lavit = lavit
        self.name = name

    @property
    def target_size(self) -> tuple[int, int]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What the UNet was trained at, of its config."""
        edge = int(_json(self._folder / "unet" / "config.json")["sample_size"]) * self._multiple
        return edge, edge

    def check_sampling(self, *, sampler: str, size: tuple[int, int] | None, num_inference_steps: int) -> None:
        """Raise ValueError for another sampler than DDIM and a size that does not divide. Reads no weights."""
        height, width = size or self.target_size
        if sampler not in ("", SAMPLER) or height % self._multiple or width % self._multiple or min(height, width) < 1:
            raise ValueError(
                f"sampler `{sampler}` and size {height}x{width}; expected {SAMPLER}, multiples of {self._multiple}\n"
                "hint: ASPECT_RATIOS of compositions/lavit_pixels.py are the sizes it was trained for"
            )

    @property
    def _multiple(self) -> int:
        """Pixels of a latent's edge."""
        return 2 ** (len(_json(self._folder / "vae" / "config.json")["block_out_channels"]) - 1)

    @property
    def _folder(self) -> Path:
        return self._lavit.path / (HIGH_RES_FOLDER if self.name == HIGH_RES else LOW_RES_FOLDER)

    @torch.no_grad()
    def begin(
        self,
        condition: Codes,
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
    ) -> LatentDraft:
        """Pictures under way, from their codes."""
        decoder, framing = self._decoder, Framing(size or self.target_size)
        vectors = self._lavit.codebook.vectors[condition.values.to(self._lavit.device)]
        return begin_draft(
            decoder,
            decoder.condition(vectors, condition.lengths.to(self._lavit.device)),
            framing=framing,
            noise=latent_noise(decoder, framing, generators=generators),
            guidance=guidance,
            num_inference_steps=num_inference_steps,
        )

    def shape_of(self, draft: LatentDraft) -> Hashable:
        """The shapes of a picture's latents and condition."""
        return self._decoder.diffusion.shape_of(draft)

    def advance(self, drafts: Sequence[LatentDraft]) -> None:
        """One denoising step of each draft."""
        self._decoder.diffusion.advance(drafts)

    def finish(self, drafts: Sequence[LatentDraft]) -> list[Float[Tensor, "items 3 height width_px"]]:
        """The pictures of drafts that are done."""
        return self._decoder.diffusion.finish(drafts)

    def sample(
        self,
        codes: Codes,
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, each from the noise of its own generator."""
        draft = self.begin(
            codes, guidance=guidance, generators=generators, num_inference_steps=num_inference_steps, size=size
        )
        run_alone(self, draft, on_step=on_step)
        return self.finish([draft])[0]

    @property
    def _decoder(self) -> PixelDecoder:
        return self._lavit.pixel_decoder(self.name)


class PromptRenderer(Renderer):
    """A Renderer that writes pictures which a user's message shows in codes without their begin and end."""

    def __init__(self, renderer: Renderer) -> None:
        super().__init__(
            template=renderer.template,
            tokenizer=renderer.tokenizer,
            vocabulary=renderer.vocabulary,
            measure=renderer.measure,
            spell=renderer.spell,
        )
        self._bare: frozenset[int] = frozenset()

    def __call__(self, document: Document, *, reply: bool = False, key: str = "") -> TokenSequence:
        """Render a document; with `reply` its end is left open for the model to go on."""
        shown = [media for message, media in document.media() if message.role == "user"]
        knowing = copy.copy(self)
        knowing._bare = frozenset(id(media) for media in shown if media.directions == (Direction.OUT,))
        return knowing.render(self.template.pieces(document, reply=reply), key=key)

    def _coded(self, media: Media) -> tuple[list[int], list[int], list[int]]:
        before, codes, after = super()._coded(media)
        return ([], codes, []) if id(media) in self._bare else (before, codes, after)


def _stamp(folder: Path) -> str:
    """What tells a folder's files from others without reading them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    facts = [(str(file.relative_to(folder)), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]


def _json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))
