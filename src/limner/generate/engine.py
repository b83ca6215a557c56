"""The engine: documents in, continued documents out, with one model.

    Engine.run        some requests together, to their end
    Engine.running    rows that join and leave between steps (generate/running.py), for whoever serves

The KV cache survives every picture: what was made is appended, never re-computed.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from limner.document.document import Document
from limner.generate.drawing import Drawing
from limner.generate.events import reply_to
from limner.generate.request import Request
from limner.generate.running import OnEvent, Running, num_slots
from limner.model.multimodal import MultimodalLM


class Engine:
    """Continues documents with one model. `context_length` None takes the language model's own, 2048 at most."""

    def __init__(self, model: MultimodalLM, *, context_length: int | None = None) -> None:
        self.model = model.eval()
        self.context_length = min(context_length or 2048, model.backbone.context_length)
        self.drawing = Drawing(self.model)

    def run(self, requests: Sequence[Request], *, on_event: OnEvent | None = None) -> list[Document]:
        """Continue all requests together; `on_event(index, event)` hears what happens as it happens.

        Raises ValueError, before anything is computed, when a prompt does not fit into the context, or a sampler or a
        size does not suit the model's decoder.
        """
        running = self.running(num_rows=sum(num_slots(request) for request in requests), on_event=on_event)
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
            on_event=on_event,
        )

    def unconditional(self, name: str) -> Float[Tensor, "queries d_model"]:
        """Hidden states of the null prompt, a constant of the weights, computed once."""
        return self.drawing.unwanted(name, None)
