"""From logits to the next token of each row. Every row has settings and a generator of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)


@dataclass(frozen=True)
class Sampling:
    """`temperature` 0 takes the best token; otherwise top-k (0: off), then top-p (1: off), then a draw.

    `repetition_penalty` (1: off) divides the scores of tokens this reply already has (Keskar et al. 2019, section 4.1).
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("temperature", self.temperature == 0.0 or self.temperature >= 1e-3, "0, or at least 0.001"),
            ("top_k", self.top_k >= 0, "at least 0"),
            ("top_p", 0.0 < self.top_p <= 1.0, "in (0, 1]"),
            ("repetition_penalty", self.repetition_penalty > 0.0, "above 0"),
        ):
            if not valid:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; expected {expected}\n"
                    "hint: temperature 0 always takes the best token"
                )

    @property
    def is_plain(self) -> bool:
        """Whether the best raw score is what is taken."""
        return self.temperature == 0.0 and self.repetition_penalty == 1.0

    def processors(self) -> LogitsProcessorList:
        """The steps from raw scores to those that are drawn from."""
        steps = LogitsProcessorList()
        if self.repetition_penalty != 1.0:
            steps.append(RepetitionPenaltyLogitsProcessor(self.repetition_penalty))
        if self.temperature > 0.0:
            steps.append(TemperatureLogitsWarper(self.temperature))
            if self.top_k:
                steps.append(TopKLogitsWarper(self.top_k))
            if self.top_p < 1.0:
                steps.append(TopPLogitsWarper(self.top_p))
        return steps


def next_tokens(
    logits: Float[Tensor, "rows vocab"],
    *,
    said: Sequence[list[int]],
    samplings: Sequence[Sampling],
    generators: Sequence[torch.Generator],
) -> list[int]:
    """The next token of each row. `said` are the tokens of its reply so far. Plainly greedy rows are chosen at once."""
    if all(sampling.is_plain for sampling in samplings):
        return logits.argmax(dim=-1).tolist()
    rows = zip(logits, said, samplings, generators, strict=True)
    return [next_token(row, said=words, sampling=s, generator=generator) for row, words, s, generator in rows]


def next_token(
    logits: Float[Tensor, " vocab"],
    *,
    said: list[int],
    sampling: Sampling,
    generator: torch.Generator,
) -> int:
    """The next token of one row. `said` are the tokens of the reply so far."""
    processors: Any = sampling.processors()  # untyped: transformers asks for a LongTensor, which torch never gives
    scores = processors(torch.tensor([said], dtype=torch.long), logits[None].cpu())[0]
    if sampling.temperature == 0.0:
        return int(scores.argmax())
    return int(torch.multinomial(scores.softmax(dim=-1), 1, generator=generator))
