"""What rows say: the next token of each, what it means for the row, and its way into the cache.

    logits -> silenced -> sampled, searched or spelled -> said (text, the beginning of an item, a code, the end) -> run

Owns the rules of what may be said when. Text is told as soon as it is certain (`generate/transcript.py`).
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.document import Text
from limner.generate.context import Context
from limner.generate.drawing import Drawing
from limner.generate.events import Done, Event, MediaProgress, MediaStarted, TextDelta
from limner.generate.request import Phase, Pictures, Request, Row
from limner.generate.sampling import next_tokens

Tell = Callable[[Row, Event], None]


class Writing:
    """Lets rows of one context write; `tell` hears what happens, None where nobody listens."""

    def __init__(self, context: Context, *, drawing: Drawing, tell: Tell | None) -> None:
        self.context = context
        self.drawing = drawing
        self.coding = drawing.coding
        self.tell = tell
        model = context.model
        self.decode = model.tokenizer.decode
        vocabulary = model.vocabulary
        self.begins = {vocabulary.edges(name)[0]: name for name in sorted(drawing.names)}
        self.stop_ids = {*model.tokenizer.eos_ids, *model.backbone.stop_ids}
        # Edges, slots and codes are written here or where they belong, never said as text.
        silent = {token for token in vocabulary.ids.values() if token >= 0}
        silent.update(*(vocabulary.code_ids(name) for name in vocabulary.codes))
        self.silent = torch.tensor(sorted(silent - set(self.begins)), dtype=torch.long, device=model.device)
        self.silent_begins = torch.tensor(sorted(self.begins), dtype=torch.long, device=model.device)

    def longest(self, request: Request) -> int:
        """Most rows of the cache that one of the request's items takes."""
        return max((self.drawing.rows_taken(name, request.size) for name in self.begins.values()), default=0)

    def take_tokens(self, rows: Sequence[Row]) -> None:
        """Take the next token of rows in TEXT and decide what each does with it."""
        able = []
        for row in rows:
            if row.num_words >= row.request.max_new_tokens or self.context.cache.room(row.slots[0]) < 2:
                self.finish(row, "length")
            elif row.beams is not None:
                self._extend_beams(row)
            else:
                able.append(row)
        if not able:
            return
        tokens = next_tokens(
            self._silenced(able),
            said=[row.said for row in able],
            samplings=[row.request.sampling for row in able],
            generators=[row.generator for row in able],
        )
        for row, token in zip(able, tokens, strict=True):
            self._say(row, row.forced.popleft() if row.forced else token)

    def take_codes(self, rows: Sequence[Row]) -> None:
        """Take the next code of rows in CODES, or the end."""
        if not rows:
            return
        for row, token in zip(rows, self.coding.next(rows), strict=True):
            if token == self.context.model.vocabulary.edges(row.modality)[1]:
                row.phase, row.pending = Phase.MEDIA, [token]
                self._clear_branch(row)
                continue
            row.pending = [token] * len(row.slots)
            if self.tell is not None:
                most = self.coding.rows_taken(row.modality) - 2
                self.tell(row, MediaProgress(len(row.parts), len(row.codes) - 1, most))

    def run(self, rows: Sequence[Row]) -> None:
        """Run the tokens that rows have just said."""
        placed = sorted((slot, token) for row in rows for slot, token in zip(row.slots, row.pending, strict=False))
        if not placed:
            return
        slots = [slot for slot, _ in placed]  # in order: rows that stand side by side are not gathered
        ids = torch.tensor([[token] for _, token in placed], device=self.context.model.device)
        counts = [1] * len(slots)
        hidden = self.context.append(slots, self.context.model.backbone.embed(ids), counts=counts)
        within = self._sayable([row for row in rows if row.pending])
        logits = self.context.next_logits(hidden, counts=counts, lines=range(len(slots)), within=within)
        lines = {slot: line for line, slot in enumerate(slots)}
        for row in rows:
            if not row.pending:
                continue
            row.logits = logits[[lines[slot] for slot in row.slots if slot in lines]]
            if row.beams is None:
                row.contents.append(row.pending[0])
            row.pending = []

    def _sayable(self, rows: Sequence[Row]) -> range | None:
        """The only ids that may come next where all rows say codes of one modality; None where anything may."""
        names = {row.modality if row.phase is Phase.CODES else "" for row in rows}
        return self.coding.sayable(names.pop()) if len(names) == 1 and all(names) else None

    def finish(self, row: Row, reason: str) -> None:
        """End a row's reply."""
        self._close_text(row)
        row.phase = Phase.DONE
        if self.tell is not None:
            self.tell(row, Done("stop" if row.transcript.stopped else reason))

    def _silenced(self, rows: Sequence[Row]) -> Float[Tensor, "rows vocab"]:
        """The rows' logits without what may not be said now."""
        logits = torch.cat([_logits_of(row) for row in rows]).index_fill_(1, self.silent, float("-inf"))
        mute = [line for line, row in enumerate(rows) if not self._may_draw(row)]
        if mute and len(self.begins):
            lines = torch.tensor(mute, device=logits.device)
            logits[lines[:, None], self.silent_begins] = float("-inf")
        return logits

    def _may_draw(self, row: Row) -> bool:
        request = row.request
        drawn = request.pictures == Pictures.NONE or row.num_pictures >= request.max_pictures
        if drawn or self.context.cache.room(row.slots[0]) <= self.longest(request):
            row.forced.clear()
            return False
        return True

    def _say(self, row: Row, token: int) -> None:
        if token in self.stop_ids:
            self.finish(row, "stop")
            return
        row.said.append(token)
        if token in self.begins:
            self._begin_item(row, token)
            return
        row.transcript.add(token)
        if self.tell is not None or row.transcript.stops:
            self._tell_text(row, row.transcript.more(self.decode))
            if row.transcript.stopped:
                self.finish(row, "stop")
                return
        row.pending = [token]

    def _begin_item(self, row: Row, token: int) -> None:
        row.modality = self.begins[token]
        self._close_text(row)
        if row.transcript.stopped:
            self.finish(row, "stop")
            return
        if self.tell is not None:
            self.tell(row, MediaStarted(len(row.parts), row.modality))
        if row.modality not in self.coding.spellers:
            row.phase = Phase.MEDIA
            return
        row.phase, row.codes = Phase.CODES, []
        row.pending = [token] * len(row.slots)
        if len(row.slots) > 1:
            self._begin_branch(row, self.coding.unwanted_ids(row.modality, row.request.negative)[:-1])

    def _begin_branch(self, row: Row, ids: list[int]) -> None:
        """Run what guidance pushes codes away from, up to where they begin, in the row's second place."""
        context, slot = self.context, row.slots[1]
        context.cache.clear(slot)
        if ids:
            embeddings = context.model.backbone.embed(torch.tensor([ids], device=context.model.device))
            context.append([slot], embeddings, counts=[len(ids)])

    def _clear_branch(self, row: Row) -> None:
        for slot in row.slots[1:]:
            self.context.cache.clear(slot)

    def _extend_beams(self, row: Row) -> None:
        """Take the next token of each beam, and let the cache follow."""
        beams, cache = row.beams, self.context.cache
        assert beams is not None
        silent = torch.cat([self.silent, self.silent_begins])
        logits = _logits_of(row).index_fill(1, silent, float("-inf"))
        # The last token needs no place in the cache, but greedy rows leave one free.
        longest = min(row.request.max_new_tokens, len(beams.texts[0]) + cache.room(row.slots[0]) - 1)
        sources = beams.extend(logits, stop_ids=self.stop_ids, max_length=longest)
        if beams.done:
            row.said = list(beams.best.ids)
            for token in row.said:
                row.transcript.add(token)
            self.finish(row, "stop" if beams.best.stopped else "length")
            return
        row.said, row.pending = list(beams.texts[0]), beams.tokens
        # Fewer than asked for go on where little may be said.
        cache.copy([row.slots[source] for source in sources], into=row.slots[: len(sources)])

    def _tell_text(self, row: Row, text: str) -> None:
        if text and self.tell is not None:
            self.tell(row, TextDelta(len(row.parts), text))

    def _close_text(self, row: Row) -> None:
        more, whole = row.transcript.close(self.decode)
        self._tell_text(row, more)
        if whole:
            row.parts.append(Text(whole))


def _logits_of(row: Row) -> Float[Tensor, "slots vocab"]:
    assert row.logits is not None, "every forward leaves a row with its next logits"
    return row.logits
