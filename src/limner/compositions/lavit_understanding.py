"""Captions and answers as the published LaVIT gave them: a picture's rows and a prompt in front of the language model.

    pixels --reader--> rows --between begin and end of a picture--> [picture][prompt] --beams or greedily--> text

The padded layouts are those of the original, in which a prompt's padding may stand between picture and prompt; the
language model gets the same rows without padding. Which patches are kept is decided without noise unless it is given.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from limner.compositions.lavit import Lavit
from limner.compositions.lavit_decoding import BeamSettings, Limits, OnStep, Rows, continue_by_beams, continue_rows
from limner.generate.sampling import Sampling
from limner.modalities.base import Features

QUESTION = "Question: {} Answer:"
TOP_K = 50
"""What the library of that time sampled from where nobody said otherwise."""

QUESTION_WORDS = 50
_NO_PART_OF_A_QUESTION = str.maketrans("", "", '.!"()*#:;~')
_ENDS_OF_AN_ANSWER = ("\n", "question:", "Long answer:", ",", ".")


class Assembled(NamedTuple):
    """The language model's input, left-padded. A masked place holds the row of the end id, at position 1."""

    embeddings: Float[Tensor, "batch seq d_model"]
    mask: Int[Tensor, "batch seq"]

    @property
    def positions(self) -> Int[Tensor, "batch seq"]:
        """Places that are not masked, counted from 0."""
        return (self.mask.cumsum(dim=1) - 1).masked_fill(self.mask == 0, 1)

    @property
    def rows(self) -> Rows:
        """The rows that are not masked."""
        return [row[kept.bool()] for row, kept in zip(self.embeddings, self.mask, strict=True)]


@dataclass(frozen=True)
class Wording:
    """How a text is chosen: counts of new ids, beams (1: none), penalties, and `sampling` in place of the best.

    `num_returned` is the number of texts for each picture; more than one takes beams.
    """

    max_new: int = 36
    min_new: int = 8
    num_beams: int = 2
    length_penalty: float = 1.0
    early_stopping: bool = False
    repetition_penalty: float = 1.0
    num_returned: int = 1
    sampling: Sampling | None = None


CAPTION = Wording()
ANSWER = Wording(max_new=10, min_new=2, num_beams=5, length_penalty=0.0, early_stopping=True)


class Said(NamedTuple):
    """Ids, `begin` in front of each row; the score of each row, where beams were followed."""

    ids: Int[Tensor, "rows length"]
    scores: Float[Tensor, " rows"] | None


def picture_blocks(lavit: Lavit, pictures: Features) -> Assembled:
    """Each picture's rows between begin and end of a picture, left-padded."""
    start, end = (_rows_of(lavit, [number]) for number in (lavit.ids.image_start, lavit.ids.image_end))
    values = pictures.values.to(start).split(pictures.lengths.tolist())
    return _left_padded(lavit, [torch.cat([start, rows, end]) for rows in values])


def with_prompts(lavit: Lavit, pictures: Assembled, prompts: Sequence[str]) -> Assembled:
    """Pictures and a prompt behind each; the prompts' padding stands between both."""
    return _joined(pictures, _left_padded(lavit, [_rows_of(lavit, lavit.text.markup_ids(text)) for text in prompts]))


def with_questions(lavit: Lavit, pictures: Assembled, questions: Sequence[str]) -> Assembled:
    """Pictures and a question behind each; all padding stands in front."""
    texts = _left_padded(lavit, [_rows_of(lavit, lavit.text.markup_ids(text)) for text in questions])
    padding = Assembled(texts.embeddings, 1 - texts.mask)
    rows = [
        torch.cat([before, both, after])
        for before, both, after in zip(padding.rows, pictures.embeddings, texts.rows, strict=True)
    ]
    return Assembled(
        torch.stack(rows),
        torch.stack(
            [
                torch.cat([kept.new_zeros(len(kept) - int(kept.sum())), shown, kept.new_ones(int(kept.sum()))])
                for kept, shown in zip(texts.mask, pictures.mask, strict=True)
            ]
        ),
    )


def say(
    lavit: Lavit,
    assembled: Assembled,
    *,
    wording: Wording,
    draws: Iterable[Float[Tensor, "batch vocab"]] = (),
    on_step: OnStep | None = None,
) -> Said:
    """Continue with text. Ids of pictures are never said.

    `draws` are Exp(1) numbers for each step, `on_step` sees each; both are for one beam.
    Raises ValueError for sampling with beams.
    """
    ids = lavit.ids
    limits = Limits(
        begin=ids.begin,
        end=ids.end,
        pad=ids.end,
        max_new=wording.max_new,
        min_new=wording.min_new,
        suppressed=range(ids.text_size, ids.size),
    )
    if wording.num_beams > 1:
        if wording.sampling is not None:
            raise ValueError(f"sampling with num_beams = {wording.num_beams}; expected 1\nhint: leave one of both out")
        beams = BeamSettings(
            wording.num_beams, wording.length_penalty, wording.early_stopping, num_returned=wording.num_returned
        )
        found = continue_by_beams(
            lavit.backbone, assembled.rows, limits=limits, beams=beams, repetition_penalty=wording.repetition_penalty
        )
        return Said(found.ids, found.scores)
    sampling = wording.sampling or Sampling(repetition_penalty=wording.repetition_penalty)
    found = continue_rows(
        lavit.backbone,
        assembled.rows,
        limits=limits,
        sampling=sampling,
        draws=draws,
        copies=wording.num_returned,
        on_step=on_step,
    )
    return Said(found, None)


@torch.inference_mode()
def caption(
    lavit: Lavit,
    pixels: Float[Tensor, "items 3 height width_px"],
    *,
    prompts: Sequence[str] | None = None,
    wording: Wording = CAPTION,
    noise: Float[Tensor, "items patches 2"] | None = None,
) -> list[str]:
    """Captions of preprocessed pictures, which go on from a prompt where there is one."""
    blocks = picture_blocks(lavit, lavit.reader(pixels, noise=noise))
    assembled = blocks if prompts is None else with_prompts(lavit, blocks, prompts)
    return [caption_of(text) for text in texts_of(lavit, say(lavit, assembled, wording=wording).ids)]


@torch.inference_mode()
def answer(
    lavit: Lavit,
    pixels: Float[Tensor, "items 3 height width_px"],
    *,
    questions: Sequence[str],
    template: str = QUESTION,
    wording: Wording = ANSWER,
    noise: Float[Tensor, "items patches 2"] | None = None,
) -> list[str]:
    """Answers about preprocessed pictures, lower-cased. An empty template takes the question as it is.

    The original then replaced nouns and verbs by their dictionary forms, which spoils answers: not done here.
    """
    blocks = picture_blocks(lavit, lavit.reader(pixels, noise=noise))
    assembled = with_questions(lavit, blocks, [asked(question, template=template) for question in questions])
    return [answer_of(text).lower() for text in texts_of(lavit, say(lavit, assembled, wording=wording).ids)]


def texts_of(lavit: Lavit, ids: Int[Tensor, "rows length"]) -> list[str]:
    """Text of each row, special tokens left out, spaces around it too."""
    return [lavit.text.decode(row).strip() for row in ids.tolist()]


def asked(question: str, *, template: str = QUESTION) -> str:
    """A question in its template; an empty one leaves it as it is."""
    return template.format(question) if template else question


def cleaned_question(question: str) -> str:
    """A question as the benchmarks asked it: lower case, without punctuation but "?" and ",", fifty words."""
    kept = question.lower().translate(_NO_PART_OF_A_QUESTION).rstrip(" ")
    return " ".join(kept.split(" ")[:QUESTION_WORDS])


def caption_of(text: str) -> str:
    """A generated text up to its first full stop."""
    return text.strip().split(".")[0]


def answer_of(text: str) -> str:
    """A generated text up to where something else begins: a line, another question, a list, a sentence."""
    found = text.strip()
    for end in _ENDS_OF_AN_ANSWER:
        found = found.split(end)[0]
    return found


def _rows_of(lavit: Lavit, ids: Sequence[int]) -> Float[Tensor, "seq d_model"]:
    return lavit.backbone.embed(torch.tensor([list(ids)], dtype=torch.long, device=lavit.device))[0]


def _left_padded(lavit: Lavit, rows: Rows) -> Assembled:
    longest, filler = max(map(len, rows)), _rows_of(lavit, [lavit.ids.end])
    embeddings = [torch.cat([filler.expand(longest - len(row), -1), row]) for row in rows]
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=lavit.device)
    return Assembled(torch.stack(embeddings), mask)


def _joined(one: Assembled, other: Assembled) -> Assembled:
    return Assembled(torch.cat([one.embeddings, other.embeddings], dim=1), torch.cat([one.mask, other.mask], dim=1))
