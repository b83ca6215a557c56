"""MultimodalLM: the join of a language model and modalities.

    ids --embed--> rows; features and queries are written into their slots by index
        --backbone--> hidden states --> text loss, and at `out` slots the condition of each decoder's loss

Owns placing and reading spans. Knows no modality by name and no paper: a modality with a decoder is drawn, one with an
encoder is read, one with a quantizer is said. What is said in codes are tokens like words, so nothing is placed for it
and its loss is the text's, told apart by the modality's name.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from limner.backbone.hf import Backbone
from limner.backbone.prefix import hidden_states_behind, serves_prefixes
from limner.data.mixture import source_of
from limner.document.document import Direction, Media
from limner.document.rows import Placeholder
from limner.modalities.base import Features, LossTerm, Maker, Modality, Reader, Speller
from limner.modalities.noise import keyed_generator
from limner.model.anchor import anchor
from limner.model.codes import SpokenCodes
from limner.model.losses import code_loss, sums_by_source, text_loss
from limner.tokens.batch import Batch, SpanBatch
from limner.tokens.render import Renderer
from limner.tokens.template import Template
from limner.tokens.tokenizer import TextTokenizer
from limner.tokens.vocabulary import Vocabulary

TEXT = "text"
"""Name of the language-model loss term; a modality's term has the modality's name."""


class MultimodalLM(nn.Module):
    """A backbone, modalities by name, and the renderer that turns Documents into its ids and spans.

    `external` names parts (dotted prefixes) whose weights are published elsewhere, with "<name>@<fingerprint>" each.
    `placeholders` say how rows of data name the items that the model reads, where they do.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        modalities: Mapping[str, Modality],
        vocabulary: Vocabulary,
        template: Template,
        tokenizer: TextTokenizer,
        external: Mapping[str, str] | None = None,
        placeholders: Sequence[Placeholder] = (),
    ) -> None:
        super().__init__()
        self.external = dict(external or {})
        self.placeholders = tuple(placeholders)
        self.backbone = backbone
        self.modalities = nn.ModuleDict(modalities)
        self.vocabulary = vocabulary
        self.tokenizer = tokenizer
        self._check_codes()
        self.render = Renderer(
            template=template,
            tokenizer=tokenizer,
            vocabulary=vocabulary,
            measure=self.span_length,
            spell=SpokenCodes(self.speller),
        )

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self.backbone.added_input.device

    def modality(self, name: str) -> Modality:
        """A modality by name. Raises ValueError for one the model has not."""
        if name not in self.modalities:
            raise ValueError(
                f"the model has no modality `{name}`; it has {', '.join(self.modalities) or 'none'}\n"
                "hint: leave that media part out, or use a model that was built with it"
            )
        modality = self.modalities[name]
        assert isinstance(modality, Modality)
        return modality

    def reader(self, name: str) -> Reader:
        """The `in` side of a modality. Raises ValueError where the model cannot read it."""
        reader = self.modality(name).reader
        if reader is None:
            raise ValueError(f"the model cannot read `{name}`\nhint: it can only make it")
        return reader

    def maker(self, name: str) -> Maker:
        """The `out` side of a modality. Raises ValueError where the model cannot make it."""
        maker = self.modality(name).maker
        if maker is None:
            raise ValueError(f"the model cannot make `{name}`\nhint: it can only read it")
        return maker

    def speller(self, name: str) -> Speller:
        """The `out` side of a modality that is said in codes. Raises ValueError where the model does not say it."""
        speller = self.modality(name).speller
        if speller is None:
            raise ValueError(f"the model does not say `{name}` in codes\nhint: it has no quantizer for it")
        return speller

    def _check_codes(self) -> None:
        """Raise ValueError where vocabulary and modalities do not agree on what is said in codes."""
        for name in self.modalities:
            speller = self.modality(name).speller
            num_codes = 0 if speller is None else speller.quantizer.num_codes
            if len(self.vocabulary.code_ids(name) if name in self.vocabulary.codes else ()) != num_codes:
                raise ValueError(
                    f"the quantizer of `{name}` has {num_codes} codes, its block in the vocabulary is "
                    f"{self.vocabulary.codes.get(name, 'not there')}\n"
                    "hint: Vocabulary.grow(..., codes={modality: quantizer.num_codes})"
                )

    def span_length(self, media: Media, direction: Direction) -> int:
        """Slots of a media part in a direction that features or queries will fill, known before any forward."""
        if direction is Direction.OUT:
            return self.maker(media.modality).queries.num_queries
        reader = self.reader(media.modality)
        if media.payload is None:
            raise ValueError(
                f"a `{media.modality}` that was not made yet cannot be read\n"
                "hint: give it a payload, or directions=(Direction.OUT,)"
            )
        return reader.input_projector.measure(reader.encoder.measure(media))

    def features(self, name: str, spans: SpanBatch) -> Features:
        """Feature rows of the items of `in` spans, in float32: those that a cache gave, or the encoder's."""
        if spans.encoded:
            assert spans.value_lengths is not None, "encoded features come with their lengths"
            return Features(spans.values.float(), spans.value_lengths)
        features = self.reader(name).encoder(spans.values)
        return Features(features.values.float(), features.lengths)

    def read(self, name: str, items: Tensor) -> Features:
        """Input rows of preprocessed items: encoder, then projector."""
        reader = self.reader(name)
        features = reader.encoder(items)
        return reader.input_projector(Features(features.values.float(), features.lengths))

    def condition(
        self, name: str, hidden: Float[Tensor, "*items queries d_model"]
    ) -> Float[Tensor, "*items conditions width"]:
        """The decoder's condition from hidden states at `out` slots."""
        return self.maker(name).output_projector(hidden.float())

    def embed(self, batch: Batch) -> Float[Tensor, "batch seq d_model"]:
        """Input rows of a batch: token rows, with features and queries in their slots."""
        rows = self.backbone.embed(batch.ids)
        flat = rows.flatten(0, 1)  # [batch * seq, d_model]
        for (name, direction), spans in batch.spans.items():
            if direction is Direction.OUT:
                values = self.maker(name).queries(len(spans.lengths))
            else:
                values = self.reader(name).input_projector(self.features(name, spans)).values
            flat = flat.index_copy(0, spans.slots, values.to(flat.dtype))
        return flat.view_as(rows) + anchor(self._absent_readers(batch), device=self.device)

    def hidden_states(self, batch: Batch) -> Float[Tensor, "batch seq d_model"]:
        """Final-norm hidden states of a packed batch."""
        rows = self.embed(batch)
        places = {"positions": batch.positions, "documents": batch.documents}
        if rows.requires_grad and self._reads_constants() and serves_prefixes(self.backbone):
            return hidden_states_behind(self.backbone, rows, **places, constant=~_behind_queries(batch))
        return self.backbone.packed_hidden_states(rows, **places)

    def forward(
        self,
        batch: Batch,
        *,
        noise_key: tuple[int | str, ...],
        made: Collection[str] | None = None,
    ) -> dict[str, LossTerm]:
        """Loss terms by name: "text" (nats per target) and one per modality that is made (in codes: nats per code).

        `made` names the modalities whose decoder loss is wanted; None wants all.
        `noise_key` (seed, step) together with each item's key decides its timesteps and noise.
        """
        terms: dict[str, LossTerm] = {}
        hidden = None
        if batch.ids.numel():
            hidden = self.hidden_states(batch)
            text = text_loss(self.backbone, hidden, batch)
            # A batch without targets goes backward through the model too.
            terms[TEXT] = dataclasses.replace(text, sum=text.sum + anchor([], device=self.device, also=hidden))
        for name in self.modalities:
            if made is not None and name not in made:
                continue
            if name in self.vocabulary.codes and hidden is not None:
                terms[name] = code_loss(self.backbone, hidden, batch, modality=name)
            maker = self.modality(name).maker
            if maker is None:
                continue
            spans = batch.spans.get((name, Direction.OUT))
            if spans is None:
                zero = anchor(maker, device=self.device, also=hidden)
                terms[name] = LossTerm(zero, torch.zeros((), device=self.device))
            else:
                term = self._creation_loss(name, spans, hidden, noise_key=noise_key)
                terms[name] = _with_sources(term, spans.keys, names=batch.sources)
        return terms

    def out_hidden(
        self, spans: SpanBatch, hidden: Float[Tensor, "batch seq d_model"]
    ) -> Float[Tensor, "items queries d_model"]:
        """Hidden states at the slots of `out` spans (all of one length: the number of queries)."""
        return hidden.flatten(0, 1)[spans.slots].unflatten(0, (len(spans.lengths), -1))

    def _creation_loss(
        self, name: str, spans: SpanBatch, hidden: Tensor | None, *, noise_key: tuple[int | str, ...]
    ) -> LossTerm:
        decoder = self.maker(name).decoder
        states = spans.hidden
        if states is None:
            assert hidden is not None, "a batch without ids holds hidden states of its own"
            states = self.out_hidden(spans, hidden)
        latents = spans.values if spans.encoded else decoder.encode(spans.values)
        generators = [keyed_generator(*noise_key, key) for key in spans.keys]
        return decoder.loss(self.condition(name, states), latents, generators=generators)

    def _reads_constants(self) -> bool:
        """Whether nothing that reads is trained: what stands before a document's first queries is constant then."""
        readers = [part for name in self.modalities for part in self.modality(name).reader or ()]
        return not any(parameter.requires_grad for part in readers for parameter in part.parameters())

    def _absent_readers(self, batch: Batch) -> list[nn.Module]:
        """The input side of every modality that this batch does not read."""
        return [
            part
            for name in self.modalities
            if (name, Direction.IN) not in batch.spans
            for part in self.modality(name).reader or ()
        ]


def _behind_queries(batch: Batch) -> Bool[Tensor, "batch seq"]:
    """Whether a token is a query, or stands behind one of its document."""
    made = torch.zeros_like(batch.ids).flatten()
    for (_, direction), spans in batch.spans.items():
        if direction is Direction.OUT:
            made[spans.slots] = 1
    made = made.view_as(batch.ids)
    so_far = made.cumsum(dim=1)
    # What was counted up to where the document began (its position 0) belongs to others.
    begins = torch.arange(batch.ids.shape[1], device=made.device) - batch.positions
    return so_far > (so_far - made).gather(1, begins)


def _with_sources(term: LossTerm, keys: tuple[str, ...], *, names: tuple[str, ...]) -> LossTerm:
    """The term of made items, told apart by the source that each item's key ("<source>/<index>/<epoch>:<item>") names.

    `names` may be empty: then those that the keys name. A term whose decoder does not tell its items apart stays.
    """
    found = [source_of(key) if key.count("/") > 1 else "" for key in keys]
    names = names or tuple(sorted({*found} - {""}))
    if term.per_item is None or not names:
        return term
    ids = torch.tensor([names.index(name) if name in names else -1 for name in found], device=term.per_item.device)
    draws = term.count / len(keys)  # per item; a decoder may have several
    sums = sums_by_source(term.per_item, ids, names=names)
    return dataclasses.replace(term, by_source={name: (total, count * draws) for name, (total, count) in sums.items()})
