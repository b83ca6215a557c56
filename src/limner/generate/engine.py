"""The engine: documents in, continued documents out, with one model.

    Engine.run        some requests together, to their end
    Engine.running    rows that join and leave between steps (generate/running.py), for whoever serves

The KV cache survives every picture: what was made is appended, never re-computed. What rows held when they ended is
kept for those that begin alike (generate/prefixes.py).
"""

from collections.abc import Sequence

from limner.document.document import Document
from limner.generate.coding import Coding
from limner.generate.context import TokenStep
from limner.generate.drawing import Drawing
from limner.generate.events import reply_to
from limner.generate.prefixes import Prefixes
from limner.generate.request import Request
from limner.generate.running import PROMPT_CHUNK, OnEvent, Running
from limner.model.multimodal import MultimodalLM

KEPT_BYTES = 512 << 20
"""Most memory that kept prefixes take."""


class Engine:
    """Continues documents with one model.

    Args:
        context_length: most tokens of a document; None takes the language model's own, 2048 at most.
        kept_bytes: most memory for keys and values of rows that have ended, for those that begin alike; 0 keeps none.
        prompt_chunk: most tokens of prompts that are run in one step, between two tokens of those that write.
        token_step: runs one token per row, in place of the language model's own layers.
    """

    def __init__(
        self,
        model: MultimodalLM,
        *,
        context_length: int | None = None,
        kept_bytes: int = KEPT_BYTES,
        prompt_chunk: int = PROMPT_CHUNK,
        token_step: TokenStep | None = None,
    ) -> None:
        self.model = model.eval()
        self.context_length = min(context_length or 2048, model.backbone.context_length)
        self.prompt_chunk = prompt_chunk
        self.token_step = token_step
        self.drawing = Drawing(self.model, coding=Coding(self.model))
        self.prefixes = Prefixes(max_bytes=kept_bytes)

    def run(self, requests: Sequence[Request], *, on_event: OnEvent | None = None) -> list[Document]:
        """Continue all requests together; `on_event(index, event)` hears what happens as it happens.

        Raises ValueError, before anything is computed, when a prompt does not fit into the context, or a sampler or a
        size does not suit the model's decoder.
        """
        num_rows = sum(self.drawing.num_slots(request) for request in requests)
        running = self.running(num_rows=num_rows, on_event=on_event)
        rows = running.add(requests)
        while running.step():
            pass
        return [reply_to(row.request.document, row.parts) for row in rows]

    def running(self, *, num_rows: int, on_event: OnEvent | None = None) -> Running:
        """An empty run with room for `num_rows` rows at once."""
        return Running(
            self.model,
            drawing=self.drawing,
            num_rows=num_rows,
            context_length=self.context_length,
            prefixes=self.prefixes,
            prompt_chunk=self.prompt_chunk,
            token_step=self.token_step,
            on_event=on_event,
        )
