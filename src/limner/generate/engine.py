"""The engine: rows that go TEXT -> MEDIA -> TEXT until they are done.

    prefill            every row's prompt, one forward
    TEXT               rows that write take one token each, together
    MEDIA              rows whose token begins a picture run its queries, sample it together, read it back, write on

The KV cache survives every picture: what was made is appended, never re-computed. A row's tokens and pixels depend on
its own request alone, so it gives the same alone and in a batch.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor

from limner.backbone.cache import RowCache
from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media, Text, null_prompt
from limner.document.media import Image
from limner.generate.events import (
    Done,
    Event,
    MediaFinished,
    MediaProgress,
    MediaStarted,
    TextDelta,
    reply_to,
)
from limner.generate.request import Phase, Pictures, Request, Row
from limner.generate.sampling import next_token
from limner.modalities.guidance import guidance_for
from limner.model.multimodal import MultimodalLM

OnEvent = Callable[[int, Event], None]


class Engine:
    """Continues documents with one model. `context_length` None takes the language model's own."""

    def __init__(self, model: MultimodalLM, *, context_length: int | None = None) -> None:
        self.model = model.eval()
        self.context_length = min(context_length or 2048, model.backbone.context_length)
        self._unconditional: dict[str, Tensor] = {}
        out = {name for name in model.modalities if model.modality(name).maker is not None}
        self.begins = {model.vocabulary.span(name, Direction.OUT).begin: name for name in sorted(out)}
        self.stop_ids = {*model.tokenizer.eos_ids, *model.backbone.stop_ids}
        # Edges and slots are written by the engine, never said by the model.
        self.unsayable = sorted(set(model.vocabulary.ids.values()) - set(self.begins))
        self.longest_media = max((_media_rows(model, name) for name in out), default=0)

    @torch.inference_mode()
    def run(self, requests: Sequence[Request], *, on_event: OnEvent | None = None) -> list[Document]:
        """Continue all requests together; `on_event(index, event)` hears what happens as it happens.

        Raises ValueError, before anything is computed, when a prompt does not fit into the context.
        """
        run = _Run(self, requests, on_event or (lambda index, event: None))
        run.prefill()
        while run.step():
            pass
        return [reply_to(row.request.document, row.parts) for row in run.rows]

    def unconditional(self, name: str) -> Float[Tensor, "queries d_model"]:
        """Hidden states of the null prompt, a constant of the weights, computed once."""
        if name not in self._unconditional:
            sequence = self.model.render(null_prompt(Media(None, modality=name)))
            batch = Collator(self.model)([[sequence]]).to(self.model.device)
            hidden = self.model.hidden_states(batch)
            self._unconditional[name] = self.model.out_hidden(batch.spans[name, Direction.OUT], hidden)[0]
        return self._unconditional[name]


class _Run:
    """One call of `Engine.run`."""

    def __init__(self, engine: Engine, requests: Sequence[Request], on_event: OnEvent) -> None:
        self.engine = engine
        self.model = engine.model
        self.on_event = on_event
        self.rows = [Row(request, index) for index, request in enumerate(requests)]
        self.sequences = [self.model.render(request.document, reply=True) for request in requests]
        for index, sequence in enumerate(self.sequences):
            if not len(sequence):
                raise ValueError(f"prompt {index} is empty\nhint: say what to describe, draw or tell")
            if len(sequence) >= engine.context_length:
                raise ValueError(
                    f"prompt {index} has {len(sequence)} tokens; the context holds "
                    f"{engine.context_length}\nhint: shorten the prompt or show fewer pictures"
                )
        self.cache = RowCache(num_rows=len(requests), capacity=engine.context_length, device=self.model.device)

    def prefill(self) -> None:
        """Run all prompts; leave each row with the logits of its first token."""
        batch = Collator(self.model)([[sequence] for sequence in self.sequences])
        embeddings = self.model.embed(batch.to(self.model.device))
        counts = [len(sequence) for sequence in self.sequences]
        # A collated batch may be padded further than to its longest row.
        self._forward(self.rows, embeddings[:, : max(counts)], counts=counts)
        for row in self.rows:
            if row.request.pictures == Pictures.NOW:
                row.forced.extend(self.engine.begins)

    def step(self) -> bool:
        """One step of all rows; False when all are done."""
        for row in self.rows:
            if row.phase is Phase.TEXT:
                self._take_token(row)
        drawing: dict[tuple[str, float, int], list[Row]] = defaultdict(list)
        for row in self.rows:
            if row.phase is Phase.MEDIA:
                request = row.request
                drawing[row.modality, request.guidance_scale, request.num_inference_steps].append(row)
        for rows in drawing.values():
            self._draw(rows)
        drawn = {row.index for rows in drawing.values() for row in rows}
        writing = [r for r in self.rows if r.phase is Phase.TEXT and r.index not in drawn]
        if writing:
            ids = torch.tensor([[row.said[-1]] for row in writing], device=self.model.device)
            self._forward(writing, self.model.backbone.embed(ids), counts=[1] * len(writing))
        return any(row.phase is not Phase.DONE for row in self.rows)

    def _take_token(self, row: Row) -> None:
        """Take a row's next token and decide what it does with it."""
        request = row.request
        if len(row.said) - row.num_pictures >= request.max_new_tokens or self.cache.room(row.index) < 2:
            self._finish(row, "length")
            return
        assert row.logits is not None, "every forward leaves a row with its next logits"
        logits = row.logits.clone()
        logits[self.engine.unsayable] = float("-inf")
        if not self._may_draw(row):
            logits[list(self.engine.begins)] = float("-inf")
            row.forced.clear()
        token = (
            row.forced.popleft()
            if row.forced
            else next_token(logits, said=row.said, sampling=request.sampling, generator=row.generator)
        )
        if token in self.engine.stop_ids:
            self._finish(row, "stop")
            return
        row.said.append(token)
        if token in self.engine.begins:
            self._close_text(row)
            row.phase, row.modality = Phase.MEDIA, self.engine.begins[token]
            self.on_event(row.index, MediaStarted(len(row.parts), row.modality))
            return
        row.part_ids.append(token)
        self._emit(row, final=False)

    def _may_draw(self, row: Row) -> bool:
        request = row.request
        if request.pictures == Pictures.NONE or row.num_pictures >= request.max_pictures:
            return False
        return self.cache.room(row.index) > self.engine.longest_media

    def _draw(self, rows: list[Row]) -> None:
        """Make one item in each row, read it back, and leave the row in TEXT."""
        model, name, request = self.model, rows[0].modality, rows[0].request
        maker, reader = model.maker(name), model.modality(name).reader
        guidance = guidance_for(request.guidance_scale)
        tokens = model.vocabulary.span(name, Direction.OUT)
        queries = maker.queries(1)
        hidden = self._append_span(rows, [queries] * len(rows), begin=tokens.begin, end=tokens.end)
        states = hidden[:, 1:-1]  # [rows, queries, d_model]
        branches = [states]
        if guidance.num_branches > 1:
            branches.append(self.engine.unconditional(name).expand_as(states))
        pixels = maker.decoder.sample(
            model.condition(name, torch.stack(branches)),
            guidance=guidance,
            generators=[row.picture_generator() for row in rows],
            num_inference_steps=request.num_inference_steps,
            on_step=lambda step, num_steps, latents: self._progress(rows, step, num_steps),
        )
        media = [Media(Image.from_array(_to_uint8(picture)), modality=name) for picture in pixels]
        if reader is not None:
            stack = torch.stack([reader.encoder.preprocess(item) for item in media])
            features = model.read(name, stack.to(model.device))
            tokens = model.vocabulary.span(name, Direction.IN)
            values = list(features.values.split(features.lengths.tolist()))
            self._append_span(rows, values, begin=tokens.begin, end=tokens.end)
        for row, item in zip(rows, media, strict=True):
            self.on_event(row.index, MediaFinished(len(row.parts), item))
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
        return self._forward(rows, embeddings, counts=[len(span) for span in spans])

    def _forward(
        self, rows: list[Row], embeddings: Float[Tensor, "rows seq d_model"], *, counts: list[int]
    ) -> Float[Tensor, "rows seq d_model"]:
        """Append embeddings to the cache of some rows and set their next-token logits."""
        backbone = self.model.backbone
        step = self.cache.step([row.index for row in rows], counts=counts)
        hidden = backbone.hidden_states(
            embeddings, positions=step.positions, mask=step.mask(backbone.dtype), cache=step
        )
        step.commit()
        last = torch.tensor(counts, device=hidden.device) - 1
        logits = backbone.logits(hidden[torch.arange(len(rows), device=hidden.device), last])
        for row, scores in zip(rows, logits, strict=True):
            row.logits = scores
        return hidden

    def _progress(self, rows: list[Row], step: int, num_steps: int) -> None:
        for row in rows:
            self.on_event(row.index, MediaProgress(len(row.parts), step, num_steps))

    def _emit(self, row: Row, *, final: bool) -> None:
        """Send the text that is certain: an unfinished multi-byte character waits for its other bytes."""
        text = self.model.tokenizer.decode(row.part_ids)
        if not final and text.endswith("\ufffd"):
            return
        delta = text[len(row.emitted) :]
        if delta:
            self.on_event(row.index, TextDelta(len(row.parts), delta))
            row.emitted = text

    def _close_text(self, row: Row) -> None:
        self._emit(row, final=True)
        if row.emitted:
            row.parts.append(Text(row.emitted))
        row.part_ids, row.emitted = [], ""

    def _finish(self, row: Row, reason: str) -> None:
        self._close_text(row)
        row.phase = Phase.DONE
        self.on_event(row.index, Done(reason))


def _media_rows(model: MultimodalLM, name: str) -> int:
    """Cache rows that making one item and reading it back takes."""
    maker = model.maker(name)
    rows = maker.queries.num_queries + 2
    if model.modality(name).reader is None:
        return rows
    height, width = maker.decoder.target_size
    picture = Media(Image.from_pil(PIL.Image.new("RGB", (width, height))), modality=name)
    return rows + model.span_length(picture, Direction.IN) + 2


def _to_uint8(picture: Float[Tensor, "3 height width_px"]) -> np.ndarray:
    """RGB in [-1, 1] -> uint8 array [height, width, 3]."""
    scaled = ((picture.float().clamp(-1, 1) + 1.0) * 127.5).round()
    return scaled.permute(1, 2, 0).to("cpu", torch.uint8).numpy()
