"""Items that are said in codes: the next code of each row, and what guidance pushes it away from.

    logits of a row, and of its unconditional branch --block of codes and end--> guided --sampled--> code, ... , end

Two rows of the KV cache serve a guided row: the reply, and the null (or negative) prompt up to the begin token. Both
are told the same codes, so each step costs one forward of both. Nothing but a code or the end can be said, and the end
is said for the row where no code may follow; so what the detokenizer gets is always an item.

    Engine -> Coding.num_slots, check         a request is admitted
    Running -> Coding.unwanted_ids, next      from the begin token to the end
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.document import Direction, Document, Media, null_prompt
from limner.generate.events import reply_to
from limner.generate.request import Pictures, Request, Row
from limner.generate.sampling import Sampling, next_tokens
from limner.model.multimodal import MultimodalLM


class Coding:
    """Says items in codes with one model. `spellers` are what it can say so, by name."""

    def __init__(self, model: MultimodalLM) -> None:
        self.model = model
        self.spellers = {
            name: model.speller(name) for name in model.modalities if model.modality(name).speller is not None
        }
        self._sayable = {name: self._ids(name) for name in self.spellers}

    def check(self, request: Request) -> None:
        """Raise ValueError for a request that a detokenizer of the model could not draw as asked."""
        if request.pictures == Pictures.NONE:
            return
        for name, speller in self.spellers.items():
            speller.detokenizer.check_sampling(
                sampler=request.sampler, size=request.size, num_inference_steps=request.num_inference_steps
            )
            if request.code_guidance.num_branches > 1:
                self.unwanted_ids(name, request.negative)

    def num_slots(self, request: Request) -> int:
        """Rows of the KV cache that a request takes: a second one where its codes are guided."""
        if not self.spellers or request.pictures == Pictures.NONE:
            return 1
        return request.code_guidance.num_branches

    def sayable(self, name: str) -> range:
        """Consecutive ids that hold all that may be said within an item."""
        ids = self._sayable[name]
        return range(int(ids.min()), int(ids.max()) + 1)

    def rows_taken(self, name: str) -> int:
        """Most tokens of an item: begin, codes, end. It is not read back, because what was said was read."""
        return self.spellers[name].quantizer.max_length + 2

    def unwanted_ids(self, name: str, negative: Document | None) -> list[int]:
        """Ids up to the begin token, and with it, of what guidance pushes away from; None is the null prompt.

        Raises ValueError for a negative prompt with pictures that are read by an encoder.
        """
        wanted = Media(None, modality=name, train=False, directions=(Direction.OUT,))
        document = null_prompt(wanted) if negative is None else reply_to(negative, [wanted])
        sequence = self.model.render(document)
        if any(not span.coded for span in sequence.spans):
            raise ValueError(
                f"the negative prompt of `{name}` shows something that is read by an encoder\n"
                "hint: say in words what is not wanted"
            )
        return list(sequence.ids[: sequence.spans[-1].start])

    def next(self, rows: Sequence[Row]) -> list[int]:
        """The next id of each row that says codes: a code, which is added to `row.codes`, or the end."""
        tokens: dict[int, int] = {}
        for name in self.spellers:
            saying = [row for row in rows if row.modality == name]
            for row, number in zip(saying, self._numbers(name, saying), strict=True):
                if number < len(self._sayable[name]) - 1:
                    row.codes.append(number)
                tokens[row.index] = int(self._sayable[name][number])
        return [tokens[row.index] for row in rows]

    def _numbers(self, name: str, rows: list[Row]) -> list[int]:
        """The next code of each row, counted from the first; the number behind the last is the end."""
        if not rows:
            return []
        most = self.spellers[name].quantizer.max_length
        numbers = next_tokens(
            torch.stack([self._guided(name, row) for row in rows]),
            said=[row.codes for row in rows],
            samplings=[_sampling(row.request) for row in rows],
            generators=[row.generator for row in rows],
        )
        end = len(self._sayable[name]) - 1
        return [end if len(row.codes) == most else number for row, number in zip(rows, numbers, strict=True)]

    def _guided(self, name: str, row: Row) -> Float[Tensor, " sayable"]:
        """Scores of a row's codes and of the end. What else might be said is left out before branches are combined:
        it would change all scores of a branch alike, and so nothing."""
        assert row.logits is not None, "every forward leaves a row with its next logits"
        guidance = row.request.code_guidance
        scores = row.logits[: guidance.num_branches, self._sayable[name]]
        return guidance.combine(scores[:, None])[0]

    def _ids(self, name: str) -> Tensor:
        """What may be said within an item: its codes in their order, then the end."""
        vocabulary = self.model.vocabulary
        _, end = vocabulary.edges(name)
        return torch.tensor([*vocabulary.code_ids(name), end], device=self.model.device)


def _sampling(request: Request) -> Sampling:
    sampling = request.code_sampling or request.sampling
    assert isinstance(sampling, Sampling), "beams write text alone"
    return sampling
