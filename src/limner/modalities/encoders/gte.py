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
        """Means over the tokens, text by text."""
        network: Any = self.network
        items = items[:, : int((items != _NONE).sum(dim=1).max())]
        mask = items != _NONE
        states = network(input_ids=items.clamp(min=0), attention_mask=mask.long()).last_hidden_state
        rows: Float[Tensor, "items width"] = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        return Features(rows, torch.ones(len(rows), dtype=torch.long, device=rows.device))


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
