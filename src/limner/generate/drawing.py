"""Pictures for rows that draw: their condition, the branch they are pushed away from, their steps, the best of several.

    hidden states at the queries -> condition, and that of the null prompt or of what is not wanted -> a draft per row
    codes                                                                                           -> a draft per row
    drafts --a denoising step, those of one shape together--> ... --> candidates -> scorer -> item

A draft has settings, sampler and noise of its own, so it may take its steps in any company. What guidance pushes away
from is a constant of the weights and of the negative prompt's content, and computed once.
"""

from collections import OrderedDict
from collections.abc import Hashable, Sequence

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media, null_prompt
from limner.document.media import Image
from limner.generate.coding import Coding
from limner.generate.events import reply_to
from limner.generate.request import Pictures, Request, Row
from limner.modalities.base import Codes
from limner.modalities.drafts import Draft, stepwise
from limner.model.multimodal import MultimodalLM

MOST_KEPT = 64
"""Negative prompts whose hidden states are kept; the one used longest ago goes first."""


class Drawing:
    """Draws with one model. `rows_at_once`: most rows (candidates x branches of guidance) that take a step together."""

    def __init__(self, model: MultimodalLM, *, coding: Coding, rows_at_once: int = 32) -> None:
        self.model = model
        self.coding = coding
        self.rows_at_once = rows_at_once
        self.makers = {name: model.maker(name) for name in model.modalities if model.modality(name).maker is not None}
        self._unwanted: OrderedDict[tuple[object, ...], Tensor] = OrderedDict()
        self._rows_taken: dict[tuple[str, tuple[int, int] | None], int] = {}

    @property
    def names(self) -> list[str]:
        """Modalities of which items are made."""
        return [*self.makers, *self.coding.spellers]

    def forget(self) -> None:
        """Forget what belongs to weights that are no more."""
        self._unwanted.clear()

    def check(self, request: Request) -> None:
        """Raise ValueError for a request that a decoder of the model could not draw as asked."""
        if request.pictures == Pictures.NONE:
            return
        if request.pictures == Pictures.NOW and not self.names:
            raise ValueError("a picture is asked for and the model makes none\nhint: leave pictures out")
        self.coding.check(request)
        for name, maker in self.makers.items():
            maker.decoder.check_sampling(
                sampler=request.sampler, size=request.size, num_inference_steps=request.num_inference_steps
            )
            maker.decoder.following([request.document], size=request.size)
            if request.negative is not None:
                self.model.render(_to_draw(request.negative, name))

    def num_slots(self, request: Request) -> int:
        """Rows of the cache that a request takes: one per beam, and one for what guidance pushes codes away from."""
        beams = getattr(request.sampling, "num_beams", 1)
        return max(beams, self.coding.num_slots(request))

    def rows_taken(self, name: str, size: tuple[int, int] | None) -> int:
        """Tokens that making one item and reading it back takes."""
        if name in self.coding.spellers:
            return self.coding.rows_taken(name)
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

    def begin(self, row: Row, states: Float[Tensor, "queries d_model"]) -> None:
        """Begin the row's item, from the hidden states at its queries."""
        name, request = row.modality, row.request
        branches = [states]
        if request.guidance.num_branches > 1:
            branches.append(self.unwanted(name, request.negative))
        condition = self.model.condition(name, torch.stack(branches)[:, None])
        documents = [request.document] * request.best_of
        row.pen = stepwise(self.makers[name].decoder.following(documents, size=request.size))
        row.draft = self._draft(row, condition.repeat_interleave(request.best_of, dim=1))

    def begin_coded(self, row: Row) -> None:
        """Begin the row's item, from the codes it has said."""
        row.pen = stepwise(self.coding.spellers[row.modality].detokenizer)
        row.draft = self._draft(row, Codes.of([row.codes] * row.request.best_of, device=self.model.device))

    def _draft(self, row: Row, condition: Tensor | Codes) -> Draft:
        assert row.pen is not None, "a draft has its pen"
        return row.pen.begin(
            condition,
            guidance=row.request.guidance,
            generators=row.picture_generators(),
            num_inference_steps=row.request.num_inference_steps,
            sampler=row.request.sampler,
            size=row.request.size,
        )

    def advance(self, rows: Sequence[Row], *, turn: int) -> list[Row]:
        """One denoising step of the row whose draft waits longest and of all that may take it with it; return them."""
        first = min(rows, key=lambda row: row.turn)
        shape = _shape(first)
        taken, num_rows = [], 0
        for row in sorted(rows, key=lambda row: row.turn):
            if _shape(row) != shape:
                continue
            num_rows += row.request.best_of * row.request.guidance.num_branches
            if taken and num_rows > self.rows_at_once:
                break
            taken.append(row)
        assert first.pen is not None, "a draft has its pen"
        first.pen.advance([row.draft for row in taken])
        for row in taken:
            row.turn = turn
        return taken

    def finish(self, rows: Sequence[Row]) -> list[Media]:
        """The item of each row; their drafts are done and took their last step together."""
        pen = rows[0].pen
        assert pen is not None, "a draft has its pen"
        found = []
        for row, pictures in zip(rows, pen.finish([row.draft for row in rows]), strict=True):
            candidates = [Media(Image.from_array(_to_uint8(one)), modality=row.modality) for one in pictures]
            found.append(_best(row, candidates))
            row.pen = row.draft = None
        return found

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


def _shape(row: Row) -> Hashable:
    """What rows must agree in to take a denoising step together."""
    assert row.pen is not None, "a draft has its pen"
    return id(row.pen), row.pen.shape_of(row.draft)


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
