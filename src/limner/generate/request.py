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
from limner.generate.transcript import Transcript
from limner.modalities.drafts import Draft, Stepwise
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
        stop: strings before which a reply ends; they are not said, and none spans a picture.
        guidance_scale: how far pictures are pushed from the unconditional prediction; 1 switches that off.
        guidance_rescale: in [0, 1], see `ClassifierFreeGuidance`.
        negative: what pictures are pushed away from; None is the null prompt.
        sampler: a name that the decoder knows; "" is its own default.
        size: of pictures (h, w) in pixels; None is the decoder's own.
        best_of: pictures drawn at each place, of which the one that `scorer` likes best stays.
        code_sampling: how codes are chosen where pictures are said in codes; None is `sampling`.
        code_guidance_scale: the guidance of codes; None is `guidance_scale`, which is that of pixels.
    """

    document: Document
    max_new_tokens: int = 256
    max_pictures: int = 8
    sampling: Sampling | BeamSearch = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    pictures: Pictures = Pictures.AUTO
    guidance_scale: float = 3.0
    guidance_rescale: float = 0.0
    negative: Document | None = None
    num_inference_steps: int = 24
    sampler: str = ""
    size: tuple[int, int] | None = None
    best_of: int = 1
    scorer: Scorer | None = None
    code_sampling: Sampling | None = None
    code_guidance_scale: float | None = None
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
        if isinstance(self.stop, str) or not all(self.stop):
            raise ValueError(f'stop is {self.stop!r}; expected a tuple of strings that are not empty\nhint: ("END",)')
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
        if max(self.guidance.num_branches, self.code_guidance.num_branches) > 1:
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

    @property
    def code_guidance(self) -> Guidance:
        """How the logits of this request's codes combine."""
        return guidance_for(self.guidance_scale if self.code_guidance_scale is None else self.code_guidance_scale)


class Phase(StrEnum):
    """What a row does next."""

    PROMPT = "prompt"
    """Its prompt is run."""
    TEXT = "text"
    CODES = "codes"
    """It says the codes of an item."""
    MEDIA = "media"
    """An item is drawn."""
    DONE = "done"


@dataclass(eq=False)
class Row:
    """One request under way.

    Args:
        index: its number among all that were added, under which its events are told.
        slots: its rows of the KV cache: one, or one per beam, or one and the unconditional branch of its codes.
        logits: of the next token, one line per slot.
        prompt: input rows of its prompt that were not run yet.
        contents: what the places of its first slot hold (`prefixes.contents_of`).
        num_prompt_tokens: of which `num_cached_tokens` came from a kept prefix.
        forced: tokens that are taken before any is sampled.
        pending: tokens that were said and not run yet, one per slot.
        said: the reply's tokens so far, begin tokens of pictures among them, codes not.
        codes: those of the item under way, counted from the codebook's first.
        draft: the item under way, drawn by `pen`; it took its last step at the engine's step `turn`.
    """

    request: Request
    index: int
    slots: list[int]
    logits: Float[Tensor, "slots vocab"] | None = None
    prompt: Float[Tensor, "seq d_model"] | None = None
    contents: list[int] = field(default_factory=list)
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    phase: Phase = Phase.PROMPT
    modality: str = ""
    forced: deque[int] = field(default_factory=deque)
    pending: list[int] = field(default_factory=list)
    said: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    pen: Stepwise | None = None
    draft: Draft | None = None
    turn: int = -1
    parts: list[Part] = field(default_factory=list)
    num_pictures: int = 0

    def __post_init__(self) -> None:
        self.generator = keyed_generator(self.request.seed, "text")
        self.transcript = Transcript(stops=self.request.stop)
        sampling = self.request.sampling
        self.beams = Beams(sampling) if isinstance(sampling, BeamSearch) else None

    @property
    def num_words(self) -> int:
        """Text tokens said so far."""
        return len(self.said) - self.num_begun

    @property
    def num_begun(self) -> int:
        """Pictures that are drawn or under way."""
        return self.num_pictures + (self.phase in (Phase.CODES, Phase.MEDIA))

    def picture_generators(self) -> list[torch.Generator]:
        """A generator for the noise of each candidate of the next picture, a function of the request's seed and the
        picture's number. The first candidate is what is drawn without others."""
        key = (self.request.seed, "picture", self.num_pictures)
        others = [keyed_generator(*key, "candidate", number) for number in range(1, self.request.best_of)]
        return [keyed_generator(*key), *others]
