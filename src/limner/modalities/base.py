"""The contracts of a modality, and how to write one.

A modality is up to five parts, each optional by direction:

    in :  media --Encoder.preprocess--> tensor --Encoder.forward--> features --InputProjector--> rows of the LLM's input
    out:  Queries (rows of the LLM's input) --LLM--> hidden states --row projector--> condition --Decoder--> picture
    or:   media --Quantizer--> codes, which are ids of the LLM --LLM--> codes --Detokenizer--> picture

To add an input modality write one class here below `encoders/`: `preprocess` turns a payload into a CPU tensor,
`measure` says how many rows a payload will take (before any forward), `forward` takes a stack of such tensors and
returns flat features plus lengths. Then name it in a composition: nothing else changes. Features are always flat plus
lengths, so encoders of fixed, variable and dynamic length share one path.

A decoder turns hidden states at an out-span into a picture. `encode` is its frozen, cacheable half (a VAE); `loss` and
`sample` take one generator per item, so that an item's draws depend on nothing but its key.

A modality is made of queries or said in codes, never both. Codes are words of the language model: it is trained to say
them by the text loss alone, so a quantizer stands still while it learns, and a detokenizer is trained apart.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.document.document import Document, Media, control_picture
from limner.modalities.guidance import Guidance


@dataclass(frozen=True)
class LossTerm:
    """A sum and its count, kept apart so that the mean is the same for any packing, accumulation, number of ranks.

    by_source: the same of each source of documents, detached, for the metrics; empty where nobody named sources.
    per_item:  what a decoder's sum consists of, item by item, detached; None where it does not say.
    """

    sum: Float[Tensor, ""]
    count: Float[Tensor, ""]
    by_source: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    per_item: Float[Tensor, " items"] | None = None

    @property
    def mean(self) -> Float[Tensor, ""]:
        """sum / count, and 0 for an empty term."""
        return self.sum / self.count.clamp(min=1.0)


class Features(NamedTuple):
    """Rows of several items, concatenated in item order."""

    values: Float[Tensor, "tokens width"]
    lengths: Int[Tensor, " items"]


class InputProjector(nn.Module, ABC):
    """Features of an encoder -> rows of the LLM's input; the number of rows may change, knowably."""

    @abstractmethod
    def measure(self, num_rows: int) -> int:
        """How many rows an item of `num_rows` feature rows becomes."""

    @abstractmethod
    def forward(self, features: Features) -> Features:
        """Project the features of several items."""


class Intake(nn.Module, ABC):
    """What takes media in: an encoder, a quantizer.

    `source` is "<published name>@<fingerprint>" where the weights are published elsewhere, else "".
    """

    source: str = ""
    is_random: bool = False
    """Whether `preprocess` or `forward` gives something else at every call. Then features are never cached, and codes
    are refused."""

    @property
    def signature(self) -> str:
        """Everything that the result depends on besides the payload, or "" where that cannot be said in words."""
        return ""

    @abstractmethod
    def preprocess(self, media: Media) -> Tensor:
        """One payload as a CPU tensor. Runs in loader workers."""


class Encoder(Intake):
    """Media -> features. Frozen unless a recipe trains it."""

    width: int

    @abstractmethod
    def measure(self, media: Media) -> int:
        """How many feature rows `forward` will give for a payload, known without running it."""

    @abstractmethod
    def forward(self, items: Tensor) -> Features:
        """Features of a stack of preprocessed items [items, ...]."""


class Queries(nn.Module, ABC):
    """Rows of the LLM's input at an out-span: what the model draws with."""

    num_queries: int

    @abstractmethod
    def forward(self, num_items: int) -> Float[Tensor, "rows width"]:
        """`num_queries` rows for each of `num_items` spans, concatenated."""


class Painter(nn.Module, ABC):
    """What gives pictures out: a decoder, a detokenizer.

    target_size: (h, w) in pixels of what it draws unless another size is asked for.
    """

    target_size: tuple[int, int]
    sources: Mapping[str, str] = MappingProxyType({})
    """Parts whose weights are published elsewhere: name -> "<published name>@<fingerprint>"."""

    def check_sampling(self, *, sampler: str, size: tuple[int, int] | None, num_inference_steps: int) -> None:
        """Raise ValueError for what `sample` would refuse, so that a request fails before anything is computed.

        Here: any sampler and size but its own.
        """
        if sampler or size:
            raise ValueError(
                f"sampler `{sampler}` and size {size} were asked of a {type(self).__name__}, which has its own alone\n"
                "hint: leave both out"
            )


class Decoder(Painter):
    """Hidden states of an out-span -> picture."""

    condition_width: int
    is_random: bool = False
    """Whether `preprocess` or `encode` gives something else at every call; then what it gives is never cached."""

    @abstractmethod
    def preprocess(self, media: Media) -> Float[Tensor, "3 height width_px"]:
        """A target picture, RGB in [-1, 1], at `target_size` (h, w)."""

    @abstractmethod
    def encode(self, pixels: Float[Tensor, "items 3 height width_px"]) -> Float[Tensor, "items *latent"]:
        """Target pictures in the space where the loss lives, or moments of a distribution there, from which `loss`
        draws. Deterministic (unless `is_random`), without gradients, cacheable."""

    @abstractmethod
    def loss(
        self,
        condition: Float[Tensor, "items queries width"],
        latents: Float[Tensor, "items *latent"],
        *,
        generators: Sequence[torch.Generator],
    ) -> LossTerm:
        """The generative loss of `latents` given `condition`. One CPU generator per item.

        `latents` is what `encode` gave: of moments, a latent per item is drawn from its generator.
        """

    def following(self, documents: Sequence[Document], *, size: tuple[int, int] | None = None) -> "Decoder":
        """This decoder for one call of `sample`, whose items answer `documents` and have the size (h, w) in pixels.

        Here: itself. One that takes more from a document than the condition gives another, which shares all weights.
        Raises ValueError for a control picture that it would not follow.
        """
        if any(control_picture(document) is not None for document in documents):
            raise ValueError(
                f"a control picture is given and a {type(self).__name__} follows none\n"
                "hint: leave it out, or build the model with a ControlNet"
            )
        return self

    @abstractmethod
    def sample(
        self,
        condition: Float[Tensor, "branches items queries width"],
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
        on_step: Callable[[int, int, Tensor], None] | None = None,
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1]. `on_step(step, num_steps, latents)` is called after each step.

        `sampler` names one of the ways from noise to a picture that the decoder knows, "" its own; `size` is (h, w) in
        pixels, None for `target_size`. Raises ValueError for a sampler or a size that does not suit.
        """


class Codes(NamedTuple):
    """Codes of several items, concatenated in item order: numbers of rows of a codebook, in [0, num_codes)."""

    values: Int[Tensor, " tokens"]
    lengths: Int[Tensor, " items"]

    def items(self) -> list[tuple[int, ...]]:
        """The codes of each item."""
        return [tuple(codes.tolist()) for codes in self.values.split(self.lengths.tolist())]

    @staticmethod
    def of(items: Sequence[Sequence[int]], *, device: torch.device | str = "cpu") -> "Codes":
        """Join the codes of several items."""
        values = torch.tensor([code for item in items for code in item], dtype=torch.long, device=device)
        return Codes(values, torch.tensor([len(item) for item in items], dtype=torch.long, device=device))


class Quantizer(Intake):
    """Media -> codes: how a language model spells an item. Frozen while a language model learns its codes.

    num_codes:  rows of the codebook.
    max_length: most codes of an item; fewer may do (a dynamic length), and what is said ends with a token of its own.
    """

    num_codes: int
    max_length: int

    @abstractmethod
    def forward(self, items: Tensor) -> Codes:
        """Codes of a stack of preprocessed items [items, ...], at most `max_length` of each."""


class Detokenizer(Painter):
    """Codes -> picture."""

    @abstractmethod
    def sample(
        self,
        codes: Codes,
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
        on_step: Callable[[int, int, Tensor], None] | None = None,
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1], one generator per item. Parameters as in `Decoder.sample`.

        `guidance` is that of pixels; a detokenizer that draws nothing by chance ignores it, as it does the steps.
        """


class Reader(NamedTuple):
    """The `in` side of a modality."""

    encoder: Encoder
    input_projector: InputProjector


class Maker(NamedTuple):
    """The `out` side of a modality."""

    queries: Queries
    output_projector: nn.Module
    decoder: Decoder


class Speller(NamedTuple):
    """The `out` side of a modality that is said in codes."""

    quantizer: Quantizer
    detokenizer: Detokenizer


class Modality(nn.Module):
    """The parts of one modality under one name. Either direction may be absent (one-way modalities).

    What is made is drawn behind queries (`queries`, `output_projector`, `decoder`) or said in codes (`quantizer`,
    `detokenizer`). What is said in codes is read in codes too where there is no `encoder`.
    """

    def __init__(
        self,
        *,
        encoder: Encoder | None = None,
        input_projector: InputProjector | None = None,
        queries: Queries | None = None,
        output_projector: nn.Module | None = None,
        decoder: Decoder | None = None,
        quantizer: Quantizer | None = None,
        detokenizer: Detokenizer | None = None,
    ) -> None:
        super().__init__()
        if (encoder is None) != (input_projector is None):
            raise ValueError("encoder and input_projector come together\nhint: give both, or neither")
        if len({queries is None, output_projector is None, decoder is None}) != 1:
            raise ValueError("queries, output_projector and decoder come together\nhint: give all three, or none")
        if (quantizer is None) != (detokenizer is None):
            raise ValueError("quantizer and detokenizer come together\nhint: give both, or neither")
        if queries is not None and quantizer is not None:
            raise ValueError("a modality is drawn behind queries or said in codes\nhint: give one of the two")
        if quantizer is not None and quantizer.is_random:
            raise ValueError(
                f"{type(quantizer).__name__} gives other codes at every call\nhint: make its selection deterministic"
            )
        self.encoder = encoder
        self.input_projector = input_projector
        self.queries = queries
        self.output_projector = output_projector
        self.decoder = decoder
        self.quantizer = quantizer
        self.detokenizer = detokenizer

    @property
    def reader(self) -> Reader | None:
        """The `in` side, None where the modality cannot be read."""
        if self.encoder is None or self.input_projector is None:
            return None
        return Reader(self.encoder, self.input_projector)

    @property
    def maker(self) -> Maker | None:
        """The `out` side, None where the modality cannot be made."""
        if self.queries is None or self.output_projector is None or self.decoder is None:
            return None
        return Maker(self.queries, self.output_projector, self.decoder)

    @property
    def speller(self) -> Speller | None:
        """The `out` side in codes, None where the modality is not said in codes."""
        if self.quantizer is None or self.detokenizer is None:
            return None
        return Speller(self.quantizer, self.detokenizer)
