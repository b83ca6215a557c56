"""Rows that are continued together, one step at a time; between steps rows may join and leave.

    add     requests join: checked, rendered, what is kept of their prompts copied
    step    PROMPT  a chunk of the prompts that are not through yet
            TEXT    rows that write take one token each (a beam search one per beam), together
            CODES   rows that say an item in codes take one code each, with those that write
            MEDIA   rows whose token begins a picture run its queries; then drafts of one shape take one denoising step,
                    and those that are done are read back and write on
    drop    a row leaves before its end, whatever it is doing; its place is free at once

So a step lasts a chunk, a token and a denoising step at most: neither a long prompt nor a picture makes others wait for
its end. A row's tokens and pixels depend on its own request alone, so they are the same whoever runs beside it.
"""

from collections.abc import Callable, Sequence

import torch

from limner.backbone.cache import RowCache
from limner.document.document import Direction, Media
from limner.generate.context import Context, TokenStep
from limner.generate.drawing import Drawing
from limner.generate.events import Event, MediaFinished, MediaProgress
from limner.generate.prefixes import Prefixes, slot_contents
from limner.generate.prompts import Prompts
from limner.generate.request import Phase, Pictures, Request, Row
from limner.generate.writing import Writing
from limner.model.multimodal import MultimodalLM
from limner.tokens.sequence import Sequence as Rendered

OnEvent = Callable[[int, Event], None]
PROMPT_CHUNK = 512
"""Tokens of prompts that are run in one step."""


class Running:
    """Rows under way with one model.

    Args:
        num_rows: most rows at once; a beam search counts once per beam, guided codes count twice.
        context_length: most tokens of a row.
        drawing: what makes their pictures.
        prefixes: what is kept of rows that have ended.
        prompt_chunk: most tokens of prompts that are run in one step.
        token_step: runs one token per row, in place of the language model's own layers.
        on_event: hears the row's index and what happened; None listens to nothing.
    """

    def __init__(
        self,
        model: MultimodalLM,
        *,
        drawing: Drawing,
        num_rows: int,
        context_length: int,
        prefixes: Prefixes,
        prompt_chunk: int = PROMPT_CHUNK,
        token_step: TokenStep | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self.model = model
        self.drawing = drawing
        self.on_event = on_event
        self.context = Context(
            model, num_rows=num_rows, capacity=context_length, prefixes=prefixes, token_step=token_step
        )
        self.prompts = Prompts(self.context, chunk=prompt_chunk)
        self.writing = Writing(self.context, drawing=drawing, tell=None if on_event is None else self._tell)
        self.rows: list[Row] = []
        self.num_added = 0
        self.num_steps = 0

    @property
    def cache(self) -> RowCache:
        """The keys and values of all rows."""
        return self.context.cache

    @property
    def num_free(self) -> int:
        """Rows that may still join."""
        return self.cache.num_rows - sum(len(row.slots) for row in self.rows)

    def num_slots(self, request: Request) -> int:
        """Rows of the cache that a request takes."""
        return self.drawing.num_slots(request)

    @torch.inference_mode()
    def most_tokens(self, request: Request) -> int:
        """Most tokens that a request may hold in the cache, with as many pictures as it may have. Raises ValueError for
        a prompt that cannot be read."""
        prompt = len(self.model.render(request.document, reply=True))
        pictures = 0 if request.pictures == Pictures.NONE else request.max_pictures * self.writing.longest(request)
        # The place of a guided row's other branch holds another, mostly shorter prompt, and codes.
        longest = max(prompt + request.max_new_tokens + pictures, self._branch_tokens(request))
        return self.num_slots(request) * min(self.cache.capacity, longest)

    @torch.inference_mode()
    def add(self, requests: Sequence[Request]) -> list[Row]:
        """Let requests join: check them, and prepare their prompts for the next steps.

        Raises ValueError, before anything is computed, for a prompt that does not fit or cannot be read, for what a
        decoder cannot do, and for too many at once; then nobody has joined.
        """
        sequences = self._rendered(requests)
        needed = sum(self.num_slots(request) for request in requests)
        if needed > self.num_free:
            raise ValueError(f"{needed} rows are to join and {self.num_free} are free\nhint: wait for others to end")
        if self.context.prefixes.check_weights(self.model):
            self.drawing.forget()
        before, rows = list(self.rows), []
        for request in requests:
            start = self.cache.num_rows - self.num_free
            slots = list(range(start, start + self.num_slots(request)))
            row = Row(request, self.num_added, slots)
            if request.pictures == Pictures.NOW:
                row.forced.extend(self.writing.begins)
            self.num_added += 1
            self.rows.append(row)
            rows.append(row)
        try:
            self.prompts.begin(rows, sequences, neighbours=before)
        except BaseException:
            for row in rows:
                self._leave(row)
            raise
        return rows

    def _rendered(self, requests: Sequence[Request]) -> list[Rendered]:
        sequences = [self.model.render(request.document, reply=True) for request in requests]
        for index, (request, sequence) in enumerate(zip(requests, sequences, strict=True)):
            if not len(sequence):
                raise ValueError(f"prompt {index} is empty\nhint: say what to describe, draw or tell")
            if len(sequence) >= self.cache.capacity:
                raise ValueError(
                    f"prompt {index} has {len(sequence)} tokens; the context holds "
                    f"{self.cache.capacity}\nhint: shorten the prompt or show fewer pictures"
                )
            self.drawing.check(request)
            self._check_branch(request)
            longest = self.writing.longest(request)
            if request.pictures == Pictures.NOW and self.cache.capacity - len(sequence) <= longest:
                raise ValueError(
                    f"prompt {index} has {len(sequence)} tokens and a picture takes {longest}; the "
                    f"context holds {self.cache.capacity}\nhint: shorten the prompt"
                )
        return sequences

    def _check_branch(self, request: Request) -> None:
        """What guidance pushes codes away from has a row of the cache too, and must fit there."""
        taken = self._branch_tokens(request)
        if taken > self.cache.capacity:
            raise ValueError(
                f"the negative prompt and a picture take {taken} tokens; the context holds {self.cache.capacity}\n"
                "hint: shorten the negative prompt"
            )

    def _branch_tokens(self, request: Request) -> int:
        """Most tokens of the other branch of guided codes; 0 where codes are not guided."""
        coding = self.drawing.coding
        if self.num_slots(request) < 2 or coding.num_slots(request) < 2:
            return 0
        return max(
            len(coding.unwanted_ids(name, request.negative)) + coding.rows_taken(name) for name in coding.spellers
        )

    @torch.inference_mode()
    def step(self) -> bool:
        """One step of all rows; those that end leave. False when none is left."""
        self.num_steps += 1
        self.prompts.advance(self._in(Phase.PROMPT))
        coded = self._in(Phase.CODES)  # not those that begin now: their branch has no logits yet
        self.writing.take_tokens(self._in(Phase.TEXT))
        self.writing.take_codes(coded)
        for row in self._in(Phase.DONE):
            self._leave(row)
        self.writing.run(self.rows)
        self._begin_items([row for row in self._in(Phase.MEDIA) if row.draft is None])
        self._draw(self._in(Phase.MEDIA))
        return bool(self.rows)

    @torch.inference_mode()
    def drop(self, row: Row) -> None:
        """Let a row leave before its end, whatever it is doing."""
        self._leave(row)

    def reset(self) -> None:
        """Let all rows leave at once, and forget what the cache holds; nothing of them is kept."""
        for row in self.rows:
            row.draft = row.pen = None
        self.rows.clear()
        self.cache.reset()

    def _in(self, phase: Phase) -> list[Row]:
        return [row for row in self.rows if row.phase is phase]

    def _leave(self, row: Row) -> None:
        """Take a row out; the others move up, so that the cache has no holes."""
        self.context.keep(row)
        self.rows.remove(row)
        row.draft = row.pen = None
        for slot in row.slots:
            self.cache.clear(slot)
        used = [slot for other in self.rows for slot in other.slots]
        places = {slot: place for place, slot in enumerate(sorted(used))}
        moved = sorted(slot for slot in used if places[slot] != slot)
        self.cache.copy(moved, into=[places[slot] for slot in moved])
        for slot in set(moved) - set(places.values()):
            self.cache.clear(slot)  # left behind: whoever joins there begins at its beginning
        for other in self.rows:
            other.slots = [places[slot] for slot in other.slots]

    def _begin_items(self, rows: list[Row]) -> None:
        """Begin a draft in each row: behind its queries, or from the codes it has said."""
        for name in dict.fromkeys(row.modality for row in rows):
            drawn = [row for row in rows if row.modality == name]
            if name not in self.drawing.makers:
                for row in drawn:
                    self.drawing.begin_coded(row)
                continue
            queries = self.model.maker(name).queries(1)
            hidden = self.context.append_span(
                drawn,
                [queries] * len(drawn),
                edges=self.model.vocabulary.edges(name),
                contents=[slot_contents(name, Direction.OUT, "", length=len(queries))] * len(drawn),
                wants=self.model.modality(name).reader is None,
            )
            for row, states in zip(drawn, hidden[:, 1:-1], strict=True):
                self.drawing.begin(row, states)

    def _draw(self, rows: list[Row]) -> None:
        """One denoising step of some of the drafts; rows whose drafts are done read them back and go on in TEXT."""
        if not rows:
            return
        advanced = self.drawing.advance(rows, turn=self.num_steps)
        done = []
        for row in advanced:
            assert row.draft is not None, "who was advanced has a draft"
            if row.modality in self.drawing.makers:
                self._tell(row, MediaProgress(len(row.parts), row.draft.step - 1, row.draft.num_steps))
            if row.draft.step == row.draft.num_steps:
                done.append(row)
        if not done:
            return
        media = self.drawing.finish(done)
        for name in dict.fromkeys(row.modality for row in done):
            self._read_back(name, [pair for pair in zip(done, media, strict=True) if pair[0].modality == name])
        for row, item in zip(done, media, strict=True):
            self._tell(row, MediaFinished(len(row.parts), item))
            row.parts.append(item)
            row.num_pictures += 1
            row.phase = Phase.TEXT

    def _read_back(self, name: str, made: list[tuple[Row, Media]]) -> None:
        """Let rows read what they have made. What was said in codes was read as it was said."""
        values = self.drawing.read(name, [item for _, item in made]) if name in self.drawing.makers else None
        if values is None:
            return
        tokens = self.model.vocabulary.span(name, Direction.IN)
        self.context.append_span(
            [row for row, _ in made],
            values,
            edges=(tokens.begin, tokens.end),
            contents=[
                slot_contents(name, Direction.IN, item.content.digest, length=len(value))
                for (_, item), value in zip(made, values, strict=True)
            ],
            wants=True,
        )

    def _tell(self, row: Row, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(row.index, event)
