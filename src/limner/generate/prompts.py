"""Prompts: what may join, and how its prompt is run.

    Request -> rendered, checked -> what is kept of it is copied -> the rest is embedded -> run, a chunk per step

Chunks let rows that write go on while a long prompt joins: in one step at most `chunk` tokens of prompts are run,
padding included. Encoders of a prompt's media run when it joins, at once.
"""

import dataclasses
from collections.abc import Sequence

import torch

from limner.data.collate import Collator
from limner.generate.context import Context
from limner.generate.prefixes import contents_of, whole_spans
from limner.generate.request import Phase, Row
from limner.tokens.sequence import Sequence as Rendered


class Prompts:
    """Runs prompts in the places of one context."""

    def __init__(self, context: Context, *, chunk: int) -> None:
        self.context = context
        self.chunk = chunk

    def begin(self, rows: Sequence[Row], sequences: Sequence[Rendered], *, neighbours: Sequence[Row]) -> None:
        """Prepare the prompts of new rows; none of them is run yet. Raises ValueError for media that cannot be read."""
        model = self.context.model
        rests = []
        for row, sequence in zip(rows, sequences, strict=True):
            contents = contents_of(sequence)
            # The last token is run in any case: it gives the logits of the first that is said.
            most = whole_spans(sequence, len(sequence) - 1)
            found = self.context.begin(row.slots[0], contents, neighbours=neighbours, at_most=most)
            start = whole_spans(sequence, found)
            self.context.cache.truncate(row.slots[0], start)
            row.num_prompt_tokens, row.num_cached_tokens, row.contents = len(sequence), start, contents
            rests.append(_behind(sequence, start))
        embeddings = model.embed(Collator(model)([[rest] for rest in rests]).to(model.device))
        for row, rest, values in zip(rows, rests, embeddings, strict=True):
            row.prompt = values[: len(rest)]

    def advance(self, rows: Sequence[Row]) -> None:
        """Run a chunk of the prompts of `rows`; those that are through go on in TEXT."""
        taken, longest = [], 0
        for row in rows:
            assert row.prompt is not None, "a row in PROMPT has one"
            length = max(longest, min(len(row.prompt), self.chunk))
            if taken and length * (len(taken) + 1) > self.chunk:
                break
            taken.append(row)
            longest = length
        if not taken:
            return
        pieces = [row.prompt[: self.chunk] for row in taken if row.prompt is not None]
        counts = [len(piece) for piece in pieces]
        hidden = self.context.append(
            [row.slots[0] for row in taken], torch.nn.utils.rnn.pad_sequence(pieces, batch_first=True), counts=counts
        )
        for row, count in zip(taken, counts, strict=True):
            assert row.prompt is not None
            row.prompt = row.prompt[count:] if count < len(row.prompt) else None
        through = [line for line, row in enumerate(taken) if row.prompt is None]
        if not through:
            return
        logits = self.context.next_logits(hidden, counts=counts, lines=through)
        for line, scores in zip(through, logits, strict=True):
            row = taken[line]
            row.phase, row.logits = Phase.TEXT, scores[None]
            if row.beams is not None:
                self.context.cache.copy([row.slots[0]] * len(row.slots), into=row.slots)


def _behind(sequence: Rendered, start: int) -> Rendered:
    """What of a sequence stands behind its first `start` places, which split no span."""
    spans = [span for span in sequence.spans if span.start >= start]
    return dataclasses.replace(
        sequence,
        ids=sequence.ids[start:],
        trained=sequence.trained[start:],
        spans=tuple(dataclasses.replace(span, start=span.start - start) for span in spans),
        ends=(),
    )
