"""Pictures for rows that draw: their condition, the branch they are pushed away from, the best of several.

    hidden states at the queries -> condition, and that of the null prompt or of what is not wanted -> decoder -> scorer

Rows draw together where their settings agree. What guidance pushes away from is a constant of the weights and of the
negative prompt's content, and computed once.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media, null_prompt
from limner.document.media import Image
from limner.generate.events import reply_to
from limner.generate.request import Pictures, Request, Row
from limner.model.multimodal import MultimodalLM

OnStep = Callable[[int, int, Tensor], None]
Settings = tuple[str, float, float, int, str, tuple[int, int] | None]
MOST_KEPT = 64
"""Negative prompts whose hidden states are kept; the one used longest ago goes first."""


class Drawing:
    """Draws with one model."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model
        self.makers = {name: model.maker(name) for name in model.modalities if model.modality(name).maker is not None}
        self._unwanted: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()
        self._rows_taken: dict[tuple[str, tuple[int, int] | None], int] = {}

    def check(self, request: Request) -> None:
        """Raise ValueError for a request that a decoder of the model could not draw as asked."""
        if request.pictures == Pictures.NONE:
            return
        for name, maker in self.makers.items():
            maker.decoder.check_sampling(
                sampler=request.sampler, size=request.size, num_inference_steps=request.num_inference_steps
            )
            if request.negative is not None:
                self.model.render(_to_draw(request.negative, name))

    def rows_taken(self, name: str, size: tuple[int, int] | None) -> int:
        """Tokens that making one item and reading it back takes."""
        if (name, size) not in self._rows_taken:
            self._rows_taken[name, size] = self._count(name, size)
        return self._rows_taken[name, size]

    def _count(self, name: str, size: tuple[int, int] | None) -> int:
        maker = self.makers[name]
        taken = maker.queries.num_queries + 2
        if self.model.modality(name).reader is None:
            return taken
        height, width = size or maker.decoder.target_size
        blank = Media(Image.from_pil(PIL.Image.new("RGB", (width, height))), modality=name)
        return taken + self.model.span_length(blank, Direction.IN) + 2

    def settings(self, row: Row) -> Settings:
        """What rows must agree in to draw together."""
        request = row.request
        return (
            row.modality,
            request.guidance_scale,
            request.guidance_rescale,
            request.num_inference_steps,
            request.sampler,
            request.size,
        )

    def draw(
        self, rows: Sequence[Row], states: Float[Tensor, "rows queries d_model"], *, on_step: OnStep
    ) -> list[Media]:
        """An item for each row, from the hidden states at its queries. The rows' settings agree."""
        name, request = rows[0].modality, rows[0].request
        branches = [states]
        if request.guidance.num_branches > 1:
            branches.append(torch.stack([self.unwanted(name, row.request.negative) for row in rows]))
        condition = self.model.condition(name, torch.stack(branches))
        counts = torch.tensor([row.request.best_of for row in rows], device=condition.device)
        pixels = self.makers[name].decoder.sample(
            condition.repeat_interleave(counts, dim=1),
            guidance=request.guidance,
            generators=[generator for row in rows for generator in row.picture_generators()],
            num_inference_steps=request.num_inference_steps,
            sampler=request.sampler,
            size=request.size,
            on_step=on_step,
        )
        media = [Media(Image.from_array(_to_uint8(picture)), modality=name) for picture in pixels]
        chosen = []
        for row in rows:
            candidates, media = media[: row.request.best_of], media[row.request.best_of :]
            chosen.append(_best(row, candidates))
        return chosen

    def unwanted(self, name: str, negative: Document | None) -> Float[Tensor, "queries d_model"]:
        """Hidden states at the queries behind a negative prompt; None is the null prompt."""
        key = (name, _content(negative))
        if key not in self._unwanted:
            document = null_prompt(Media(None, modality=name)) if negative is None else _to_draw(negative, name)
            batch = Collator(self.model)([[self.model.render(document)]]).to(self.model.device)
            hidden = self.model.hidden_states(batch)
            self._unwanted[key] = self.model.out_hidden(batch.spans[name, Direction.OUT], hidden)[-1]
            if len(self._unwanted) > MOST_KEPT:
                self._unwanted.popitem(last=False)
        self._unwanted.move_to_end(key)
        return self._unwanted[key]

    def read(self, name: str, media: Sequence[Media]) -> list[Tensor] | None:
        """The language model's input rows of each item, None where the model cannot read them."""
        reader = self.model.modality(name).reader
        if reader is None:
            return None
        items = torch.stack([reader.encoder.preprocess(item) for item in media])
        features = self.model.read(name, items.to(self.model.device))
        return list(features.values.split(features.lengths.tolist()))


def _to_draw(document: Document, name: str) -> Document:
    """The document with an item to be made at its end."""
    return reply_to(document, [Media(None, modality=name, train=False, directions=(Direction.OUT,))])


def _content(document: Document | None) -> tuple[object, ...]:
    """What a model sees of a document."""
    if document is None:
        return ()
    return tuple(
        (
            m.role,
            *((_part_content(part), m.directions(part)) if isinstance(part, Media) else part.text for part in m.parts),
        )
        for m in document.messages
    )


def _part_content(media: Media) -> tuple[object, ...]:
    return media.modality, None if media.payload is None else media.payload.digest


def _best(row: Row, candidates: list[Media]) -> Media:
    """The candidate that the row's scorer likes best; of equals the first."""
    scorer = row.request.scorer
    if len(candidates) == 1 or scorer is None:
        return candidates[0]
    scores = scorer.scores(reply_to(row.request.document, row.parts), candidates)
    return candidates[int(scores.argmax())]


def _to_uint8(picture: Float[Tensor, "3 height width_px"]) -> np.ndarray:
    """RGB in [-1, 1] -> uint8 array [height, width, 3]."""
    scaled = ((picture.float().clamp(-1, 1) + 1.0) * 127.5).round()
    return scaled.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
