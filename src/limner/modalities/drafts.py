"""Pictures under way: the step-wise half that a decoder may have, and what stands in for it where one has none.

    begin -> Draft;  advance([drafts]) once per denoising step;  finish([drafts]) -> pixels

A draft holds all that its next step needs: latents, condition, guidance, the sampler with its history, its noise. So
drafts of different requests, begun at different times, with other samplers and other numbers of steps, may take a step
together wherever their shapes agree, and each comes out as it would alone.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from limner.modalities.guidance import Guidance

OnStep = Callable[[int, int, Tensor], None]
"""Hears, after each denoising step, its number, the number of all, and the latents."""


@runtime_checkable
class Draft(Protocol):
    """Pictures that are drawn side by side for one request; `step` of `num_steps` denoising steps are done."""

    step: int

    @property
    def num_steps(self) -> int:
        """Denoising steps in all."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """The step-wise half of a decoder. Its `sample` gives the same pictures."""

    def begin(
        self,
        condition: Any,
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
    ) -> Any:
        """A draft; arguments and errors as in `sample`. Nothing is computed but its noise."""
        ...

    def shape_of(self, draft: Any) -> Hashable:
        """What drafts must agree in to take a step together."""
        ...

    def advance(self, drafts: Sequence[Any]) -> None:
        """One denoising step of each draft. Their shapes agree; none is done."""
        ...

    def finish(self, drafts: Sequence[Any]) -> list[Float[Tensor, "items 3 height width_px"]]:
        """The pictures of drafts that are done, RGB in [-1, 1]. Their shapes agree."""
        ...


@dataclass(eq=False)
class WholeDraft:
    """What a decoder without a step-wise half is asked for, and what it gave."""

    condition: Any
    options: dict[str, Any]
    num_steps: int
    step: int = 0
    pixels: Tensor | None = None


class Whole:
    """All denoising steps at once, for decoders (and detokenizers) that have `sample` alone."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder

    def begin(self, condition: Any, *, num_inference_steps: int, **options: Any) -> WholeDraft:
        """Keep what is asked for."""
        return WholeDraft(condition, options, num_inference_steps)

    def shape_of(self, draft: WholeDraft) -> Hashable:
        """Nothing agrees with anything."""
        return id(draft)

    def advance(self, drafts: Sequence[WholeDraft]) -> None:
        """Draw."""
        for draft in drafts:
            draft.pixels = self.decoder.sample(draft.condition, num_inference_steps=draft.num_steps, **draft.options)
            draft.step = draft.num_steps

    def finish(self, drafts: Sequence[WholeDraft]) -> list[Float[Tensor, "items 3 height width_px"]]:
        """What was drawn."""
        found = [draft.pixels for draft in drafts]
        assert all(pixels is not None for pixels in found), "what is finished was drawn"
        return [pixels for pixels in found if pixels is not None]


def run_alone(decoder: Stepwise, draft: Any, *, on_step: OnStep | None) -> None:
    """All denoising steps of one draft of latents."""
    while draft.step < draft.num_steps:
        decoder.advance([draft])
        if on_step is not None:
            on_step(draft.step - 1, draft.num_steps, draft.latents)


def stepwise(decoder: Any) -> Stepwise:
    """The decoder itself where it can be advanced step by step, else one step that draws the whole."""
    return decoder if isinstance(decoder, Stepwise) else Whole(decoder)
