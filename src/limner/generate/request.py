"""Request: a Document to be continued, and how. Row: the state of its continuation."""

from collections import deque
from dataclasses import dataclass, field
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.document import Document, Part
from limner.generate.beams import Beams, BeamSearch
from limner.generate.sampling import Sampling
from limner.generate.scoring import Scorer
from limner.modalities.guidance import Guidance, guidance_for
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
    """The same seed gives the same reply, alone or in a batch. What is wrong is said before anything is computed.

    Args:
        document: what is continued; everything before a picture conditions it.
        max_new_tokens: of text; pictures do not count there but in `max_pictures`.
        sampling: `Sampling` or, for text alone, `BeamSearch`.
        guidance_scale: how far pictures are pushed from the unconditional prediction; 1 switches that off.
        guidance_rescale: in [0, 1], see `ClassifierFreeGuidance`.
        negative: what pictures are pushed away from; None is the null prompt.
        sampler: a name that the decoder knows; "" is its own default.
        size: of pictures (h, w) in pixels; None is the decoder's own.
        best_of: pictures drawn at each place, of which the one that `scorer` likes best stays.
    """

    document: Document
    max_new_tokens: int = 256
    max_pictures: int = 8
    sampling: Sampling | BeamSearch = field(default_factory=Sampling)
    pictures: Pictures = Pictures.AUTO
    guidance_scale: float = 3.0
    guidance_rescale: float = 0.0
    negative: Document | None = None
    num_inference_steps: int = 24
    sampler: str = ""
    size: tuple[int, int] | None = None
    best_of: int = 1
    scorer: Scorer | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not any(message.parts for message in self.document.messages):
            raise ValueError("the prompt is empty\nhint: say what to describe, draw or tell")
        for name in ("max_new_tokens", "num_inference_steps", "best_of"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1\nhint: raise it")
        if self.pictures not in list(Pictures):
            raise ValueError(
                f"pictures is `{self.pictures}`; expected one of {', '.join(Pictures)}\n"
                "hint: auto lets the model decide"
            )
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise ValueError(f"size is {self.size}; expected (height, width) in pixels\nhint: leave it out")
        if self.best_of > 1 and self.scorer is None:
            raise ValueError(
                f"best_of is {self.best_of} and nobody scores\nhint: give scorer=LikelihoodScorer(model), or best_of=1"
            )
        if isinstance(self.sampling, BeamSearch) and self.pictures is not Pictures.NONE:
            raise ValueError(
                f"beam search with pictures `{self.pictures}`; expected `none`: beams write text alone\n"
                "hint: ask for no pictures, or for no beams"
            )
        self._check_guidance()

    def _check_guidance(self) -> None:
        if self.guidance.num_branches > 1:
            return
        for name, given in (("a negative prompt", self.negative), ("guidance_rescale", self.guidance_rescale)):
            if given:
                raise ValueError(
                    f"{name} is given and guidance_scale is 1, which switches guidance off\n"
                    "hint: raise guidance_scale, 3 is usual"
                )

    @property
    def guidance(self) -> Guidance:
        """How the predictions of this request's pictures combine."""
        return guidance_for(self.guidance_scale, rescale=self.guidance_rescale)


class Phase(StrEnum):
    """What a row does next."""

    TEXT = "text"
    MEDIA = "media"
    DONE = "done"


@dataclass(eq=False)
class Row:
    """One request under way.

    Args:
        index: its number among all that were added, under which its events are told.
        slots: its rows of the KV cache: one, or one per beam.
        logits: of the next token, one line per slot.
        forced: tokens that are taken before any is sampled.
        said: the reply's tokens so far, begin tokens of pictures among them.
        part_ids: those of the text part under way. Of its text `told` was told, which is what the first `num_told` ids
            say; the one before that stood for the first `window`.
    """

    request: Request
    index: int
    slots: list[int]
    logits: Float[Tensor, "beams vocab"] | None = None
    phase: Phase = Phase.TEXT
    modality: str = ""
    forced: deque[int] = field(default_factory=deque)
    said: list[int] = field(default_factory=list)
    part_ids: list[int] = field(default_factory=list)
    told: str = ""
    num_told: int = 0
    window: int = 0
    parts: list[Part] = field(default_factory=list)
    num_pictures: int = 0

    def __post_init__(self) -> None:
        self.generator = keyed_generator(self.request.seed, "text")
        sampling = self.request.sampling
        self.beams = Beams(sampling) if isinstance(sampling, BeamSearch) else None

    @property
    def num_words(self) -> int:
        """Text tokens said so far."""
        return len(self.said) - self.num_pictures

    def picture_generators(self) -> list[torch.Generator]:
        """A generator for the noise of each candidate of the next picture, a function of the request's seed and the
        picture's number. The first candidate is what is drawn without others."""
        key = (self.request.seed, "picture", self.num_pictures)
        others = [keyed_generator(*key, "candidate", number) for number in range(1, self.request.best_of)]
        return [keyed_generator(*key), *others]
