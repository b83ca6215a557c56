"""What decoders that work in a latent space share: the way from noise to a picture, and how targets get their size.

Owns sampling: noise per item, guidance over branches, a sampler's steps, the autoencoder's decode. Assumes a frozen
autoencoder and a network that predicts something of noisy latents given a condition, row by row, each at a time of its
own; what it predicts is between the network, the loss and the samplers of a subclass.

Data flow: generators -> noise -> [network on all branches -> guidance -> sampler step] x steps -> latents -> pixels.
Latents stay in float32, in which samplers compute, whatever the network's type. A step takes any number of drafts: the
network sees the rows of all, everything else is each draft's own.
"""

import itertools
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import PIL.Image
import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.modalities.base import Decoder
from limner.modalities.decoders.autoencoder import Autoencoder
from limner.modalities.decoders.cross_attention import condition_kept
from limner.modalities.drafts import OnStep, run_alone
from limner.modalities.guidance import Guidance
from limner.modalities.samplers import Sampler

_NUMBERS = itertools.count()


@dataclass(frozen=True)
class Company:
    """Drafts that take their steps together: their numbers, their condition rows, and what networks keep of these."""

    numbers: tuple[int, ...]
    rows: Float[Tensor, "rows queries width"]
    kept: dict[Any, Any] = field(default_factory=dict)


@dataclass(eq=False)
class LatentDraft:
    """Pictures of one request under way.

    condition:  what the network is told, branch by branch.
    sampler:    with the history of this draft.
    step_noise: of unit variance, for samplers that draw.
    """

    latents: Float[Tensor, "items channels latent_height latent_width"]
    condition: Float[Tensor, "branches items queries width"]
    guidance: Guidance
    sampler: Sampler
    step_noise: Iterator[Tensor]
    step: int = 0
    number: int = field(default_factory=_NUMBERS.__next__)
    company: Company | None = None

    @property
    def num_steps(self) -> int:
        """Denoising steps in all."""
        return len(self.sampler)

    @property
    def network_input(self) -> Float[Tensor, "rows channels latent_height latent_width"]:
        """The latents as the network wants them now, once per branch."""
        return self.sampler.scale_input(self.latents, step=self.step).repeat(len(self.condition), 1, 1, 1)

    @property
    def times(self) -> Tensor:
        """The time of each row of the network's input."""
        time = self.sampler.timesteps[self.step].to(self.latents.device)
        return time.expand(self.condition.shape[0] * self.condition.shape[1])

    def move(self, predictions: Float[Tensor, "rows channels latent_height latent_width"]) -> None:
        """Take a step along what the network predicted for its rows."""
        guided = self.guidance.combine(predictions.unflatten(0, self.condition.shape[:2]))
        noise = next(self.step_noise) if self.sampler.draws_noise else None
        self.latents = self.sampler.step(guided, self.latents, step=self.step, noise=noise)
        self.step += 1


class LatentDecoder(Decoder):
    """A decoder over an `Autoencoder`, which it freezes: a generator needs a target that stands still.

    default_sampler: the sampler that "" means.
    size_multiple:   what both edges of a picture must divide by, in pixels.
    draws_per_item:  draws (of time and noise) per item and step. They share one condition, so the LLM's forward, the
                     expensive part, is paid once for all of them.
    """

    default_sampler: str
    size_multiple: int

    def __init__(self, autoencoder: Autoencoder, *, condition_width: int, draws_per_item: int) -> None:
        super().__init__()
        self.condition_width = condition_width
        self.target_size = (autoencoder.size, autoencoder.size)
        self.draws_per_item = draws_per_item
        self.size_multiple = autoencoder.downsampling
        self.autoencoder = autoencoder.requires_grad_(False)

    @abstractmethod
    def predict(
        self,
        noisy: Float[Tensor, "rows channels latent_height latent_width"],
        timesteps: Int[Tensor, " rows"] | Float[Tensor, " rows"],
        condition: Float[Tensor, "rows queries width"],
    ) -> Float[Tensor, "rows channels latent_height latent_width"]:
        """The network's prediction, in float32, at times as the samplers count them."""

    @abstractmethod
    def make_sampler(self, name: str, *, num_inference_steps: int) -> Sampler:
        """A sampler for one trajectory. Raises ValueError for a name that does not suit."""

    @torch.no_grad()
    def encode(
        self, pixels: Float[Tensor, "items 3 height width_px"]
    ) -> Float[Tensor, "items encoded latent_height latent_width"]:
        """What the autoencoder gives: latents of unit variance, or moments that they are drawn from."""
        return self.autoencoder.encode(pixels)

    def check_sampling(self, *, sampler: str, size: tuple[int, int] | None, num_inference_steps: int) -> None:
        """Raise ValueError for an unknown `sampler` and for a `size` that does not divide by `size_multiple`."""
        self._latent_shape(size or self.target_size)
        self.make_sampler(sampler or self.default_sampler, num_inference_steps=num_inference_steps)

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "branches items queries width"],
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "items 3 height width_px"]:
        """Pictures, RGB in [-1, 1].

        The branches of guidance run in one call of the network. All noise of an item, that of the start and that of
        samplers which draw at every step, comes from its own generator, so a picture does not depend on its batch.
        Raises ValueError when the condition has other branches than `guidance` combines or other items than there are
        generators, for an unknown `sampler`, and for a `size` that does not divide by `size_multiple`.
        """
        draft = self.begin(
            condition,
            guidance=guidance,
            generators=generators,
            num_inference_steps=num_inference_steps,
            sampler=sampler,
            size=size,
        )
        run_alone(self, draft, on_step=on_step)
        return self.finish([draft])[0]

    def begin(
        self,
        condition: Float[Tensor, "branches items queries width"],
        *,
        guidance: Guidance,
        generators: Sequence[torch.Generator],
        num_inference_steps: int,
        sampler: str = "",
        size: tuple[int, int] | None = None,
    ) -> LatentDraft:
        """Pictures under way; arguments and errors as in `sample`."""
        _check_branches(condition, guidance)
        self._check(condition.flatten(0, 1), num_rows=len(generators) * guidance.num_branches)
        shape = self._latent_shape(size or self.target_size)
        trajectory = self.make_sampler(sampler or self.default_sampler, num_inference_steps=num_inference_steps)
        noise = _noise(shape, generators, device=condition.device)
        latents = next(noise) * trajectory.initial_scale
        return LatentDraft(latents, self.told(condition, latents), guidance, trajectory, noise)

    def shape_of(self, draft: LatentDraft) -> Hashable:
        """The shapes of a picture's latents and condition."""
        return draft.latents.shape[1:], draft.condition.shape[2:]

    @torch.no_grad()
    def advance(self, drafts: Sequence[LatentDraft]) -> None:
        """One denoising step of each draft, in one call of the network."""
        company = _company(drafts)
        with condition_kept(company.kept):
            predictions = self.predict(
                torch.cat([draft.network_input for draft in drafts]),
                torch.cat([draft.times for draft in drafts]),
                company.rows,
            )
        rows = [draft.condition.shape[0] * draft.condition.shape[1] for draft in drafts]
        for draft, own in zip(drafts, predictions.split(rows), strict=True):
            draft.move(own)

    @torch.no_grad()
    def finish(self, drafts: Sequence[LatentDraft]) -> list[Float[Tensor, "items 3 height width_px"]]:
        """The pictures of drafts that are done, RGB in [-1, 1], in one call of the autoencoder."""
        pixels = self.autoencoder.decode(torch.cat([draft.latents for draft in drafts]))
        return list(pixels.split([len(draft.latents) for draft in drafts]))

    def denoise(
        self,
        latents: Float[Tensor, "items channels latent_height latent_width"],
        condition: Float[Tensor, "branches items queries width"],
        *,
        guidance: Guidance,
        sampler: Sampler,
        step_noise: Iterable[Tensor] = (),
        on_step: OnStep | None = None,
    ) -> Float[Tensor, "items channels latent_height latent_width"]:
        """Latents at the end of a trajectory that starts at `latents`; every draw is an argument.

        `step_noise` gives noise of unit variance for each step of a sampler that draws.
        """
        _check_branches(condition, guidance)
        draft = LatentDraft(latents, self.told(condition, latents), guidance, sampler, iter(step_noise))
        run_alone(self, draft, on_step=on_step)
        return draft.latents

    def told(
        self,
        condition: Float[Tensor, "branches items queries width"],
        latents: Float[Tensor, "items channels latent_height latent_width"],
    ) -> Float[Tensor, "branches items told width"]:
        """The condition as the network is told it when pictures of that size are sampled. Here: as it is."""
        del latents
        return condition

    def _latent_shape(self, size: tuple[int, int]) -> tuple[int, int, int]:
        height, width = size
        if min(size) <= 0 or height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"size is {height}x{width}; expected multiples of {self.size_multiple}\n"
                f"hint: {self.target_size[0]}x{self.target_size[1]} is what the decoder was trained for"
            )
        downsampling = self.autoencoder.downsampling
        return self.autoencoder.latent_shape[0], height // downsampling, width // downsampling

    def _check(self, condition: Tensor, *, num_rows: int) -> None:
        if condition.shape[-1] != self.condition_width or len(condition) != num_rows:
            raise ValueError(
                f"condition is {tuple(condition.shape)} for {num_rows} rows of generators; "
                f"expected ({num_rows}, queries, {self.condition_width})\n"
                "hint: one generator per item and branch of the guidance, and a projector that ends in condition_width"
            )


def _company(drafts: Sequence[LatentDraft]) -> Company:
    """That of the last step where nobody joined or left since; else a new one, which has kept nothing yet."""
    numbers = tuple(draft.number for draft in drafts)
    company = drafts[0].company
    if company is None or company.numbers != numbers:
        company = Company(numbers, torch.cat([draft.condition.flatten(0, 1) for draft in drafts]))
    for draft in drafts:
        draft.company = company
    return company


def _check_branches(condition: Tensor, guidance: Guidance) -> None:
    if len(condition) != guidance.num_branches:
        raise ValueError(
            f"condition has {len(condition)} branches; expected {guidance.num_branches} for {type(guidance).__name__}\n"
            "hint: render the null prompt as a second branch, or use NoGuidance"
        )


def centre_crop(picture: PIL.Image.Image, *, size: tuple[int, int]) -> PIL.Image.Image:
    """A picture scaled (bilinear) until it covers `size` (h, w), and the middle of it."""
    covering = _covering(picture, size=size)
    if picture.size != covering:
        picture = picture.resize(covering, PIL.Image.Resampling.BILINEAR)
    top, left = cut_corner(picture, size=size)
    return picture.crop((left, top, left + size[1], top + size[0]))


def cut_corner(picture: PIL.Image.Image, *, size: tuple[int, int]) -> tuple[int, int]:
    """Top and left of what `centre_crop` keeps, in pixels of the scaled picture."""
    width, height = _covering(picture, size=size)
    return round((height - size[0]) / 2), round((width - size[1]) / 2)


def _covering(picture: PIL.Image.Image, *, size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of a picture scaled until it just covers `size` (h, w)."""
    height, width = size
    if picture.width * height <= picture.height * width:
        return width, max(height, width * picture.height // picture.width)
    return max(width, height * picture.width // picture.height), height


def pixels_of(picture: PIL.Image.Image) -> Float[Tensor, "3 height width_px"]:
    """RGB in [-1, 1]."""
    return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float() / 127.5 - 1.0


def _noise(
    shape: tuple[int, int, int], generators: Sequence[torch.Generator], *, device: torch.device
) -> Iterator[Float[Tensor, "items channels latent_height latent_width"]]:
    """Noise for the start, then for one step after the other; each item's from its own generator."""
    while True:
        yield torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)
