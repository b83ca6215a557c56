"""What rows have read and said so far: the KV cache, and the language model that extends it.

append(slots, rows of the model's input) -> hidden states -> logits of those rows that need them
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limner.backbone.cache import RowCache
from limner.backbone.compiled import Compiled
from limner.backbone.fused import Fused
from limner.generate.prefixes import SHORTEST, Prefixes, common_length
from limner.generate.request import Row
from limner.model.multimodal import MultimodalLM

TokenStep = Fused | Compiled
"""How one token per row is run, in place of the language model's own layers."""


class Context:
    """`num_rows` places of at most `capacity` tokens each."""

    def __init__(
        self,
        model: MultimodalLM,
        *,
        num_rows: int,
        capacity: int,
        prefixes: Prefixes,
        token_step: TokenStep | None = None,
    ) -> None:
        self.model = model
        self.token_step = token_step
        self.cache = RowCache(num_rows=num_rows, capacity=capacity, device=model.device)
        self.prefixes = prefixes

    def append(
        self, slots: list[int], embeddings: Float[Tensor, "rows seq d_model"], *, counts: list[int]
    ) -> Float[Tensor, "rows seq d_model"]:
        """Append the first `counts[i]` input rows of line i to place `slots[i]`; return the hidden states of all."""
        backbone = self.model.backbone
        step = self.cache.step(slots, counts=counts)
        if self.token_step is not None and embeddings.shape[1] == 1:
            hidden = self.token_step(embeddings[:, 0], cache=step)[:, None]
            step.commit()
            return hidden
        hidden = backbone.hidden_states(
            embeddings, positions=step.positions, mask=step.mask(backbone.dtype), cache=step
        )
        step.commit()
        return hidden

    def next_logits(
        self,
        hidden: Float[Tensor, "rows seq d_model"],
        *,
        counts: Sequence[int],
        lines: Sequence[int],
        within: range | None = None,
    ) -> Float[Tensor, "lines vocab"]:
        """Logits of the next token of some lines, `counts` being those of all; where nothing else may be said, of the
        ids `within` alone."""
        last = torch.tensor([counts[line] - 1 for line in lines], device=hidden.device)
        states = hidden[torch.tensor(lines, device=hidden.device), last]
        backbone = self.model.backbone
        if within is None:
            return backbone.logits(states)
        return (self.token_step or backbone).logits_within(states, within)

    def append_span(
        self, rows: list[Row], values: list[Tensor], *, edges: tuple[int, int], contents: list[list[int]], wants: bool
    ) -> Float[Tensor, "rows seq d_model"]:
        """Append begin token, slot values and end token to each row; return the hidden states of all of them.

        `contents` are those of the slots; `wants` says whether a token comes next.
        """
        ids = torch.tensor([edges], device=self.model.device)
        begin, end = self.model.backbone.embed(ids)[0].split(1)
        spans = [torch.cat([begin, value.to(begin.dtype), end]) for value in values]
        counts = [len(span) for span in spans]
        embeddings = torch.nn.utils.rnn.pad_sequence(spans, batch_first=True)
        hidden = self.append([row.slots[0] for row in rows], embeddings, counts=counts)
        logits = self.next_logits(hidden, counts=counts, lines=range(len(rows))) if wants else [None] * len(rows)
        for row, held, scores in zip(rows, contents, logits, strict=True):
            row.contents += [edges[0], *held, edges[1]]
            row.logits = None if scores is None else scores[None]
        return hidden

    def begin(self, slot: int, contents: list[int], *, neighbours: Sequence[Row], at_most: int) -> int:
        """Begin an empty place with as much of `contents` as is kept or stands in another row; how many tokens."""
        length, kept = self.prefixes.longest(contents)
        neighbour = None
        for row in neighbours:
            shared = min(common_length(row.contents, contents), self.cache.lengths[row.slots[0]])
            if shared > length:
                length, neighbour = shared, row
        length = min(length, at_most)
        if length < SHORTEST:
            return 0
        if neighbour is None:
            self.cache.load(slot, kept, length=length)
        else:
            self.cache.copy([neighbour.slots[0]], into=[slot])
            self.cache.truncate(slot, length)
        return length

    def keep(self, row: Row) -> None:
        """Keep what a row holds for those who begin alike."""
        self.prefixes.keep(row.contents, self.cache, row.slots[0])
