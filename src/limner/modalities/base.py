"""The contracts of a modality, and how to write one.

A modality is up to five parts, each optional by direction:

    in :  media --Encoder.preprocess--> tensor --Encoder.forward--> features --InputProjector--> rows of the LLM's input
    out:  Queries (rows of the LLM's input) --LLM--> hidden states --row projector--> condition --Decoder--> picture

To add an input modality write one class here below `encoders/`: `preprocess` turns a payload into a CPU tensor,
`measure` says how many rows a payload will take (before any forward), `forward` takes a stack of such tensors and
returns flat features plus lengths. Then name it in a composition: nothing else changes. Features are always flat plus
lengths, so encoders of fixed, variable and dynamic length share one path.

A decoder turns hidden states at an out-span into a picture. `encode` is its frozen, cacheable half (a VAE); `loss` and
`sample` take one generator per item, so that an item's draws depend on nothing but its key.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from limner.document.document import Media
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


class Encoder(nn.Module, ABC):
    """Media -> features. Frozen unless a recipe trains it.

    `source` is "<published name>@<fingerprint>" where the weights are published elsewhere, else "".
    """

    width: int
    source: str = ""
    is_random: bool = False
    """Whether `preprocess` or `forward` gives something else at every call; then its features are never cached."""

    @property
    def signature(self) -> str:
        """Everything that features depend on besides the payload, or "" where that cannot be said in words."""
        return ""

    @abstractmethod
    def preprocess(self, media: Media) -> Tensor:
        """One payload as a CPU tensor. Runs in loader workers."""

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


class Decoder(nn.Module, ABC):
    """Hidden states of an out-span -> picture."""

    condition_width: int
    target_size: tuple[int, int]
    sources: Mapping[str, str] = MappingProxyType({})
    """Parts whose weights are published elsewhere: name -> "<published name>@<fingerprint>"."""
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

    def check_sampling(self, *, sampler: str, size: tuple[int, int] | None, num_inference_steps: int) -> None:
        """Raise ValueError for what `sample` would refuse, so that a request fails before anything is computed.

        Here: any sampler and size but the decoder's own.
        """
        if sampler or size:
            raise ValueError(
                f"sampler `{sampler}` and size {size} were asked of a {type(self).__name__}, which has its own alone\n"
                "hint: leave both out"
            )

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


class Reader(NamedTuple):
    """The `in` side of a modality."""

    encoder: Encoder
    input_projector: InputProjector


class Maker(NamedTuple):
    """The `out` side of a modality."""

    queries: Queries
    output_projector: nn.Module
    decoder: Decoder


class Modality(nn.Module):
    """The parts of one modality under one name. `encoder` and `decoder` may each be absent (one-way modalities)."""

    def __init__(
        self,
        *,
        encoder: Encoder | None = None,
        input_projector: InputProjector | None = None,
        queries: Queries | None = None,
        output_projector: nn.Module | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        super().__init__()
        if (encoder is None) != (input_projector is None):
            raise ValueError("encoder and input_projector come together\nhint: give both, or neither")
        if len({queries is None, output_projector is None, decoder is None}) != 1:
            raise ValueError("queries, output_projector and decoder come together\nhint: give all three, or none")
        self.encoder = encoder
        self.input_projector = input_projector
        self.queries = queries
        self.output_projector = output_projector
        self.decoder = decoder

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
