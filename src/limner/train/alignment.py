"""Connectionist alignment: input rows of an item spell the words said about it, without running the language model.

Assumes that the words of an item are the trained ones behind it in its document, in order. Where a word lies among the
rows is not known; the loss sums over all ways (connectionist temporal classification, Graves et al. 2006). Rows that
spell nothing are pulled to one token, the blank, so the language model meets rows that look like words and gaps.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limner.document.document import Direction
from limner.modalities.base import LossTerm
from limner.model.multimodal import TEXT, MultimodalLM
from limner.tokens.batch import IGNORED, Batch, SpanBatch
from limner.train.objectives import NoiseKey


@dataclass(frozen=True)
class ConnectionistAlignment:
    """Term `text`, in nats per item, for the input projector of one modality.

    Rows are compared with the embeddings of all words of the batch, and of the blank, by direction (cosines /
    `temperature`); their distance to what they are nearest to is added with `distance_weight`, so that they have a
    word's length too. As the words to be told apart are those of the batch, the loss depends on how a step is cut into
    batches. `blank` is one token of the language model.
    """

    modality: str
    blank: str = "\n"
    temperature: float = 0.07
    distance_weight: float = 1.0

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        spans = batch.spans[self.modality, Direction.IN]
        words, lengths = self._words(model, spans, batch)
        rows = model.reader(self.modality).input_projector(model.features(self.modality, spans))
        blank = torch.tensor(model.tokenizer.text_ids(self.blank)[:1], device=words.device)
        known = words.unique()
        candidates = torch.cat([blank, known[known != blank]])
        embeddings = model.backbone.embed(candidates[None])[0].float()
        scores = F.normalize(rows.values.float(), dim=-1) @ F.normalize(embeddings, dim=-1).T / self.temperature
        targets = (words[:, None] == candidates).long().argmax(dim=1)
        spelled = F.ctc_loss(
            _padded(scores.log_softmax(dim=-1), rows.lengths).transpose(0, 1),
            targets,
            rows.lengths,
            lengths,
            reduction="sum",
            zero_infinity=True,  # more words than rows: nothing can spell them
        )
        nearest = embeddings[scores.argmax(dim=-1)]
        distance = (rows.values.float() - nearest).square().mean(dim=-1) / embeddings.square().mean()
        shares = distance / rows.lengths.repeat_interleave(rows.lengths)  # every item counts once
        total = spelled + self.distance_weight * shares.sum()
        return {TEXT: LossTerm(total, total.new_tensor(float(len(spans.lengths))))}

    def count(self, batch: Batch) -> dict[str, float]:
        """Items."""
        spans = batch.spans.get((self.modality, Direction.IN))
        return {} if spans is None else {TEXT: float(len(spans.lengths))}

    def prepare(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""

    def finish(self, model: MultimodalLM, batches: Iterable[Batch]) -> None:
        """Nothing is measured."""

    def _words(self, model: MultimodalLM, spans: SpanBatch, batch: Batch) -> tuple[Tensor, Tensor]:
        """The words of all items, one item after another, and how many each has."""
        tokenizer = model.tokenizer
        # The blank stands for no word, so it cannot be one of those to be spelled.
        unspelled = [*tokenizer.tokenizer.all_special_ids, *tokenizer.text_ids(self.blank)[:1]]
        marks = torch.tensor(unspelled, device=batch.labels.device)
        found = []
        for mask in _behind(spans, batch):
            words = batch.labels[mask]
            found.append(words[~torch.isin(words, marks)])
        return torch.cat(found), torch.tensor([len(words) for words in found], device=batch.labels.device)


def _behind(spans: SpanBatch, batch: Batch) -> Iterable[Tensor]:
    """For each span, where the trained ids behind it in its document stand."""
    columns = torch.arange(batch.labels.shape[1], device=batch.labels.device)
    for end in (spans.slots[spans.lengths.cumsum(0) - 1]).tolist():
        row, column = divmod(end, batch.labels.shape[1])
        same = (batch.documents[row] == batch.documents[row, column]) & (columns > column)
        mask = torch.zeros_like(batch.labels, dtype=torch.bool)
        mask[row] = same & (batch.labels[row] != IGNORED)
        yield mask


def _padded(
    values: Float[Tensor, "rows candidates"], lengths: Int[Tensor, " items"]
) -> Float[Tensor, "items longest candidates"]:
    return torch.nn.utils.rnn.pad_sequence(list(values.split(lengths.tolist())), batch_first=True)
