"""GTE as an encoder of texts: the mean of BERT's last hidden states over a text's tokens, as one row, not normalised.

Texts longer than the model's positions are cut; `pack_sentences` makes several documents of a long text beforehand.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import AutoTokenizer, BertModel

from limner.document.document import Media
from limner.document.text_file import TextFile
from limner.modalities.base import Encoder, Features

MAX_LENGTH = 512
"""Tokens of a text, the first and last special ones included."""

MAX_PADDED = 1.25
"""What padding may make of the tokens of texts that run together. One long text would make all others as long."""

_NONE = -1
"""Stands behind a text that is shorter than the longest there may be."""


class GteEncoder(Encoder):
    """One row per text. Frozen."""

    def __init__(self, path: str | Path) -> None:
        """Load a local directory."""
        super().__init__()
        self.network = BertModel.from_pretrained(path, local_files_only=True)
        self.tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        config: Any = self.network.config
        self.width = config.hidden_size
        self.max_length = min(MAX_LENGTH, config.max_position_embeddings)
        self.requires_grad_(False)
        self.eval()

    @property
    def signature(self) -> str:
        """Published weights; the tokenizer is theirs."""
        return self.source

    def preprocess(self, media: Media) -> Int[Tensor, " seq"]:
        """Token ids, -1 behind them: texts of a batch are padded to the longest in `forward`."""
        text = TextFile.of(media.payload).text
        ids = self.tokenizer(text, truncation=True, max_length=self.max_length)["input_ids"]
        return torch.tensor(ids + [_NONE] * (self.max_length - len(ids)))

    def measure(self, media: Media) -> int:
        """Always one."""
        return 1

    def forward(self, items: Int[Tensor, "items seq"]) -> Features:
        """Means over the tokens, text by text. Texts run with others of about their length."""
        lengths = (items != _NONE).sum(dim=1).tolist()
        rows = torch.empty(len(items), self.width, dtype=self.network.dtype, device=items.device)
        for group in _groups(lengths):
            rows[group] = self._means(items[group, : lengths[group[-1]]])
        return Features(rows, torch.ones(len(rows), dtype=torch.long, device=rows.device))

    def _means(self, items: Int[Tensor, "items seq"]) -> Float[Tensor, "items width"]:
        network: Any = self.network
        mask = items != _NONE
        states = network(input_ids=items.clamp(min=0), attention_mask=mask.long()).last_hidden_state
        return (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Indices by growing length, in groups that padding to their longest makes larger by a fourth at most."""
    groups: list[list[int]] = []
    tokens = 0
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        tokens += lengths[index]
        if groups and (len(groups[-1]) + 1) * lengths[index] <= MAX_PADDED * tokens:
            groups[-1].append(index)
        else:
            groups.append([index])
            tokens = lengths[index]
    return groups


def pack_sentences(sentences: Sequence[str], *, tokenizer: Any, limit: int = MAX_LENGTH) -> list[str]:
    """Sentences, in order, as few texts of at most `limit` word pieces as they fill one after another.

    Texts are what the tokenizer decodes (GTE's is lower case). A sentence beyond the limit stands alone, whole; where
    it comes first an empty text stands before it, as published documents were cut.
    """
    documents: list[str] = []
    current: list[int] = []
    for sentence in sentences:
        ids = tokenizer.encode(sentence, add_special_tokens=False, verbose=False)
        if len(current) + len(ids) > limit:
            documents.append(tokenizer.decode(current))
            current = []
        current = current + ids
    return [*documents, tokenizer.decode(current)]


def split_sentences(text: str) -> list[str]:
    """A plain cut behind full stops, question and exclamation marks, and at empty lines."""
    return [sentence for sentence in re.split(r"(?<=[.!?])\s+|\n\s*\n", text.strip()) if sentence.strip()]
