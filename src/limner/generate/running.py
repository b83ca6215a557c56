"""Rows that are continued together, one step at a time; between steps rows may join and leave.

    add     prompts join: one forward over all that are new
    step    TEXT   rows that write take one token each (a beam search one per beam), together
            MEDIA  rows whose token begins a picture run its queries, draw it together, read it back, write on
    drop    a row leaves before its end; its place is free at once

A row's tokens and pixels depend on its own request alone, so they are the same whoever runs beside it.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from limner.backbone.cache import RowCache
from limner.data.collate import Collator
from limner.document.document import Direction, Media, Text
from limner.generate.drawing import Drawing, Settings
from limner.generate.events import Done, Event, MediaFinished, MediaProgress, MediaStarted, TextDelta
from limner.generate.request import Phase, Pictures, Request, Row
from limner.generate.sampling import next_tokens
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.tokens.sequence import Sequence as Rendered

OnEvent = Callable[[int, Event], None]
UNFINISHED = "\ufffd"
"""What the bytes of a character that is still incomplete are decoded to."""


class Running:
    """Rows under way with one model.

    Args:
        num_rows: most rows at once; a beam search counts once per beam.
        context_length: most tokens of a row.
        drawing: what makes their pictures.
        on_event: hears the row's index and what happened; None listens to nothing.
    """

    def __init__(
        self,
        model: MultimodalLM,
        *,
        drawing: Drawing,
        num_rows: int,
        context_length: int,
        on_event: OnEvent | None = None,
    ) -> None:
        self.model = model
        self.drawing = drawing
        self.on_event = on_event
        self.cache = RowCache(num_rows=num_rows, capacity=context_length, device=model.device)
        self.rows: list[Row] = []
        self.num_added = 0
        vocabulary = model.vocabulary
        self.begins = {vocabulary.span(name, Direction.OUT).begin: name for name in sorted(drawing.makers)}
        self.stop_ids = {*model.tokenizer.eos_ids, *model.backbone.stop_ids}
        # Edges and slots are written here, never said by the model.
        silent = torch.zeros(vocabulary.base_size + vocabulary.num_added, dtype=torch.bool)
        silent[[token for token in vocabulary.ids.values() if token >= 0]] = True
        self.silent = silent.to(model.device)
        """Tokens that a row may not say where it may not draw."""
        self.silent_but_begins = self.silent.clone()
        self.silent_but_begins[list(self.begins)] = False

    @property
    def num_free(self) -> int:
        """Rows that may still join."""
        return self.cache.num_rows - sum(len(row.slots) for row in self.rows)

    @torch.inference_mode()
    def add(self, requests: Sequence[Request]) -> list[Row]:
        """Let requests join: check them, run their prompts, leave each with the logits of its first token.

        Raises ValueError, before anything is computed, for a prompt that does not fit or cannot be read, for what a
        decoder cannot do, and for too many at once; then nobody has joined.
        """
        sequences = self._rendered(requests)
        needed = sum(num_slots(request) for request in requests)
        if needed > self.num_free:
            raise ValueError(f"{needed} rows are to join and {self.num_free} are free\nhint: wait for others to end")
        batch = Collator(self.model)([[sequence] for sequence in sequences])
        rows: list[Row] = []
        for request in requests:
            start = self.cache.num_rows - self.num_free
            row = Row(request, self.num_added, list(range(start, start + num_slots(request))))
            if request.pictures == Pictures.NOW:
                row.forced.extend(self.begins)
            self.num_added += 1
            self.rows.append(row)
            rows.append(row)
        try:
            self._prefill(rows, batch, counts=[len(sequence) for sequence in sequences])
        except BaseException:
            for row in rows:
                self.drop(row)
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
            if request.pictures == Pictures.NOW and self.cache.capacity - len(sequence) <= self._longest(request):
                raise ValueError(
                    f"prompt {index} has {len(sequence)} tokens and a picture takes {self._longest(request)}; the "
                    f"context holds {self.cache.capacity}\nhint: shorten the prompt"
                )
        return sequences

    def _longest(self, request: Request) -> int:
        """Most rows of the cache that one of the request's pictures takes."""
        return max((self.drawing.rows_taken(name, request.size) for name in self.begins.values()), default=0)

    def _prefill(self, rows: list[Row], batch: Batch, *, counts: list[int]) -> None:
        embeddings = self.model.embed(batch.to(self.model.device))
        # A collated batch may be padded further than to its longest row.
        _, logits = self._forward([row.slots[0] for row in rows], embeddings[:, : max(counts)], counts=counts)
        for row, scores in zip(rows, logits, strict=True):
            row.logits = scores[None]
            self.cache.copy([row.slots[0]] * len(row.slots), into=row.slots)

    @torch.inference_mode()
    def step(self) -> bool:
        """One step of all rows; those that end leave. False when none is left."""
        self._take_tokens([row for row in self.rows if row.phase is Phase.TEXT])
        drawing: dict[Settings, list[Row]] = defaultdict(list)
        for row in self.rows:
            if row.phase is Phase.MEDIA:
                drawing[self.drawing.settings(row)].append(row)
        writing = [row for row in self.rows if row.phase is Phase.TEXT]
        for rows in drawing.values():
            self._draw(rows)
        if writing:
            self._write(writing)
        for row in [row for row in self.rows if row.phase is Phase.DONE]:
            self.drop(row)
        return bool(self.rows)

    @torch.inference_mode()
    def drop(self, row: Row) -> None:
        """Let a row leave, whatever it is doing; the others move up, so that the cache has no holes."""
        self.rows.remove(row)
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

    def _take_tokens(self, rows: list[Row]) -> None:
        """Take each row's next token and decide what it does with it."""
        able = []
        for row in rows:
            if row.num_words >= row.request.max_new_tokens or self.cache.room(row.slots[0]) < 2:
                self._finish(row, "length")
            elif row.beams is not None:
                self._extend_beams(row)
            else:
                able.append(row)
        if not able:
            return
        logits = torch.cat([_logits_of(row) for row in able])
        logits = logits.masked_fill(torch.stack([self._silent(row) for row in able]), float("-inf"))
        tokens = next_tokens(
            logits,
            said=[row.said for row in able],
            samplings=[row.request.sampling for row in able],
            generators=[row.generator for row in able],
        )
        for row, token in zip(able, tokens, strict=True):
            self._say(row, row.forced.popleft() if row.forced else token)

    def _silent(self, row: Row) -> Bool[Tensor, " vocab"]:
        """Tokens that a row may not say now."""
        request = row.request
        drawn = request.pictures == Pictures.NONE or row.num_pictures >= request.max_pictures
        if drawn or self.cache.room(row.slots[0]) <= self._longest(request):
            row.forced.clear()
            return self.silent
        return self.silent_but_begins

    def _say(self, row: Row, token: int) -> None:
        if token in self.stop_ids:
            self._finish(row, "stop")
            return
        row.said.append(token)
        if token in self.begins:
            self._close_text(row)
            row.phase, row.modality = Phase.MEDIA, self.begins[token]
            self._tell(row, MediaStarted(len(row.parts), row.modality))
            return
        row.part_ids.append(token)
        self._tell_text(row)

    def _extend_beams(self, row: Row) -> None:
        """Take the next token of each beam, and let the cache follow."""
        beams = row.beams
        assert beams is not None
        logits = _logits_of(row).masked_fill(self.silent, float("-inf"))
        # The last token needs no place in the cache, but greedy rows leave one free.
        longest = min(row.request.max_new_tokens, len(beams.texts[0]) + self.cache.room(row.slots[0]) - 1)
        sources = beams.extend(logits, stop_ids=self.stop_ids, max_length=longest)
        if beams.done:
            row.said = row.part_ids = list(beams.best.ids)
            self._finish(row, "stop" if beams.best.stopped else "length")
            return
        row.said = list(beams.texts[0])
        # Fewer than asked for go on where little may be said.
        self.cache.copy([row.slots[source] for source in sources], into=row.slots[: len(sources)])

    def _write(self, rows: list[Row]) -> None:
        """Run the tokens that rows have just said."""
        placed = []
        for row in rows:
            tokens = [row.said[-1]] if row.beams is None else row.beams.tokens
            placed += zip(row.slots, tokens, strict=False)
        placed.sort()  # rows that stand side by side are not gathered
        ids = torch.tensor([[token] for _, token in placed], device=self.model.device)
        slots = [slot for slot, _ in placed]
        _, logits = self._forward(slots, self.model.backbone.embed(ids), counts=[1] * len(slots))
        lines = {slot: line for line, slot in enumerate(slots)}
        for row in rows:
            row.logits = logits[[lines[slot] for slot in row.slots if slot in lines]]

    def _draw(self, rows: list[Row]) -> None:
        """Make one item in each row, read it back, and leave the row in TEXT."""
        model, name = self.model, rows[0].modality
        tokens = model.vocabulary.span(name, Direction.OUT)
        queries = model.maker(name).queries(1)
        hidden = self._append_span(rows, [queries] * len(rows), begin=tokens.begin, end=tokens.end)
        media = self.drawing.draw(
            rows,
            hidden[:, 1:-1],
            on_step=lambda step, num_steps, latents: self._tell_progress(rows, step, num_steps),
        )
        values = self.drawing.read(name, media)
        if values is not None:
            tokens = model.vocabulary.span(name, Direction.IN)
            self._append_span(rows, values, begin=tokens.begin, end=tokens.end)
        for row, item in zip(rows, media, strict=True):
            self._keep(row, item)

    def _keep(self, row: Row, item: Media) -> None:
        self._tell(row, MediaFinished(len(row.parts), item))
        row.parts.append(item)
        row.num_pictures += 1
        row.phase = Phase.TEXT

    def _append_span(
        self, rows: list[Row], values: list[Tensor], *, begin: int, end: int
    ) -> Float[Tensor, "rows seq d_model"]:
        """Append begin token, slot values and end token to each row; return the hidden states of all of them."""
        backbone = self.model.backbone
        edges = backbone.embed(torch.tensor([[begin, end]], device=self.model.device))[0]
        spans = [torch.cat([edges[:1], value.to(edges.dtype), edges[1:]]) for value in values]
        embeddings = torch.nn.utils.rnn.pad_sequence(spans, batch_first=True)
        slots = [row.slots[0] for row in rows]
        hidden, logits = self._forward(slots, embeddings, counts=[len(span) for span in spans])
        for row, scores in zip(rows, logits, strict=True):
            row.logits = scores[None]
        return hidden

    def _forward(
        self, slots: list[int], embeddings: Float[Tensor, "rows seq d_model"], *, counts: list[int]
    ) -> tuple[Float[Tensor, "rows seq d_model"], Float[Tensor, "rows vocab"]]:
        """Append embeddings to rows of the cache; return their hidden states and the next-token logits of each row."""
        backbone = self.model.backbone
        step = self.cache.step(slots, counts=counts)
        hidden = backbone.hidden_states(
            embeddings, positions=step.positions, mask=step.mask(backbone.dtype), cache=step
        )
        step.commit()
        last = torch.tensor(counts, device=hidden.device) - 1
        return hidden, backbone.logits(hidden[torch.arange(len(slots), device=hidden.device), last])

    def _tell(self, row: Row, event: Event) -> None:
        if self.on_event is not None:
            self.on_event(row.index, event)

    def _tell_progress(self, rows: list[Row], step: int, num_steps: int) -> None:
        for row in rows:
            self._tell(row, MediaProgress(len(row.parts), step, num_steps))

    def _tell_text(self, row: Row) -> None:
        """Tell the text that is certain: an unfinished multi-byte character waits for its other bytes."""
        if self.on_event is None:
            return
        more = self._untold(row)
        if not more or more.endswith(UNFINISHED):
            return
        self._tell(row, TextDelta(len(row.parts), more))
        row.told += more
        row.window, row.num_told = row.num_told, len(row.part_ids)

    def _untold(self, row: Row) -> str:
        """What the tokens say that were not told. A few before them stand for all: what a token says depends on no
        more, and telling stays linear in the length of a text."""
        decode = self.model.tokenizer.decode
        near = row.part_ids[row.window :]
        return decode(near)[len(decode(near[: row.num_told - row.window])) :]

    def _close_text(self, row: Row) -> None:
        more = self._untold(row)
        if more:
            self._tell(row, TextDelta(len(row.parts), more))
        if row.told or more:
            row.parts.append(Text(row.told + more))
        row.part_ids, row.told, row.window, row.num_told = [], "", 0, 0

    def _finish(self, row: Row, reason: str) -> None:
        self._close_text(row)
        row.phase = Phase.DONE
        self._tell(row, Done(reason))


def num_slots(request: Request) -> int:
    """Rows of the cache that a request takes."""
    return getattr(request.sampling, "num_beams", 1)


def _logits_of(row: Row) -> Float[Tensor, "beams vocab"]:
    assert row.logits is not None, "every forward leaves a row with its next logits"
    return row.logits
