"""Request: a Document to be continued, and how. Row: the state of its continuation."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.document import Document, Part
from limner.generate.sampling import Sampling
from limner.modalities.guidance import guidance_for
from limner.modalities.noise import keyed_generator


class Pictures(StrEnum):
    """Who decides where pictures go."""

    AUTO = "auto"
    """The model does."""
    NONE = "none"
    """Text only."""
    NOW = "now"
    """One picture at once, then the model goes on."""


@dataclass(frozen=True)
class Request:
    """`guidance_scale` 1 switches guidance of pictures off. `max_new_tokens` counts text tokens, pictures do not count
    there but in `max_pictures`. The same seed gives the same reply, alone or in a batch."""

    document: Document
    max_new_tokens: int = 256
    max_pictures: int = 8
    sampling: Sampling = field(default_factory=Sampling)
    pictures: Pictures = Pictures.AUTO
    guidance_scale: float = 3.0
    num_inference_steps: int = 24
    seed: int = 0

    def __post_init__(self) -> None:
        if not any(message.parts for message in self.document.messages):
            raise ValueError("the prompt is empty\nhint: say what to describe, draw or tell")
        for name in ("max_new_tokens", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1\nhint: raise it")
        guidance_for(self.guidance_scale)
        if self.pictures not in list(Pictures):
            raise ValueError(
                f"pictures is `{self.pictures}`; expected one of {', '.join(Pictures)}\n"
                "hint: auto lets the model decide"
            )


class Phase(StrEnum):
    """What a row does next."""

    TEXT = "text"
    MEDIA = "media"
    DONE = "done"


@dataclass
class Row:
    """One request under way. `forced` tokens are taken before any is sampled."""

    request: Request
    index: int
    logits: Float[Tensor, " vocab"] | None = None
    phase: Phase = Phase.TEXT
    modality: str = ""
    forced: deque[int] = field(default_factory=deque)
    said: list[int] = field(default_factory=list)
    part_ids: list[int] = field(default_factory=list)
    emitted: str = ""
    parts: list[Part] = field(default_factory=list)
    num_pictures: int = 0

    def __post_init__(self) -> None:
        self.generator = keyed_generator(self.request.seed, "text")

    def picture_generator(self) -> torch.Generator:
        """The generator of the next picture's noise: a function of the request's seed and the picture's number."""
        return keyed_generator(self.request.seed, "picture", self.num_pictures)
