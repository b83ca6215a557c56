"""How likely a model finds a text behind another: what multiple-choice suites score with.

Teacher-forced, in float32 over the language model's own vocabulary: ids that were added for media can never
be said here and take no share. Data flow:

    (context ids, continuation ids) -> padded rows -> logits at the continuation     texts
    Documents -> batches as in training -> logits at what is trained                 chats with pictures
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from limner.data.collate import Collator
from limner.document.document import Document
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED

Ids = Sequence[int]
BATCH_SIZE = 8


class Likelihood(NamedTuple):
    """Of a continuation: sum of log-probabilities in nats, and whether each token is the model's first choice."""

    log_probability: float
    is_greedy: bool


class ReplyLikelihood(NamedTuple):
    """Of a whole reply, with the number of its tokens."""

    log_probability: float
    is_greedy: bool
    num_tokens: int


@torch.inference_mode()
def likelihoods(
    model: MultimodalLM,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    batch_size: int = BATCH_SIZE,
    on_batch: Callable[[Sequence[int], Sequence[Likelihood]], None] = lambda places, found: None,
) -> list[Likelihood]:
    """Of each continuation behind its context, in order; contexts lose their beginning where both do not fit.

    `on_batch` hears places and likelihoods as they come, longest pairs first. Raises ValueError for an empty context or
    continuation, and for a continuation that does not fit by itself.
    """
    for number, (context, continuation) in enumerate(pairs):
        _check(number, context, continuation, longest=model.backbone.context_length)
    order = sorted(range(len(pairs)), key=lambda place: -len(pairs[place][0]) - len(pairs[place][1]))
    found: dict[int, Likelihood] = {}
    for start in range(0, len(order), batch_size):
        places = order[start : start + batch_size]
        batch = _of_batch(model, [pairs[place] for place in places])
        found.update(zip(places, batch, strict=True))
        on_batch(places, batch)
    return [found[place] for place in range(len(pairs))]


@torch.inference_mode()
def reply_likelihoods(model: MultimodalLM, documents: Sequence[Document]) -> list[ReplyLikelihood]:
    """Of what each document would be trained on: the words of an assistant's reply, and what ends its turn."""
    collate = Collator(model)
    found = []
    for document in documents:
        sequence = model.render(document)
        if len(sequence) > model.backbone.context_length:
            raise ValueError(
                f"a chat has {len(sequence)} tokens; {model.backbone.context_length} fit\nhint: shorten it"
            )
        batch = collate([[sequence]]).to(model.device)
        labels = batch.labels[0]
        places = torch.nonzero(labels != IGNORED).flatten()
        states = model.hidden_states(batch)[0, places - 1]
        found.append(ReplyLikelihood(*_of_row(model, states, labels[places].tolist()), len(places)))
    return found


def _check(number: int, context: Ids, continuation: Ids, *, longest: int) -> None:
    if not context or not continuation:
        raise ValueError(
            f"pair {number} has {len(context)} tokens of context and {len(continuation)} of continuation; expected one "
            "or more of each\nhint: begin with the token that begins texts"
        )
    if len(continuation) > longest:
        raise ValueError(
            f"the continuation of pair {number} has {len(continuation)} tokens; {longest} fit\n"
            "hint: score it in windows"
        )


def _of_batch(model: MultimodalLM, pairs: Sequence[tuple[Ids, Ids]]) -> list[Likelihood]:
    longest = model.backbone.context_length
    # The last token is predicted, never read.
    read = [[*context, *continuation][-(longest + 1) :][:-1] for context, continuation in pairs]
    width = max(map(len, read))
    ids = torch.zeros(len(read), width, dtype=torch.long, device=model.device)
    documents = torch.zeros_like(ids)
    for row, tokens in enumerate(read):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        documents[row, : len(tokens)] = 1
    positions = torch.arange(width, device=model.device).expand_as(ids)
    backbone = model.backbone
    hidden = backbone.packed_hidden_states(backbone.embed(ids), positions=positions, documents=documents)
    return [
        _of_row(model, states[len(tokens) - len(continuation) : len(tokens)], continuation)
        for states, tokens, (_, continuation) in zip(hidden, read, pairs, strict=True)
    ]


def _of_row(model: MultimodalLM, states: Float[Tensor, "tokens d_model"], continuation: Ids) -> Likelihood:
    scores = model.backbone.logits(states)[:, : model.backbone.base_size].log_softmax(dim=-1)
    targets = torch.tensor(continuation, device=scores.device)
    said = scores.gather(1, targets[:, None])
    return Likelihood(float(said.sum()), bool((scores.argmax(dim=-1) == targets).all()))
