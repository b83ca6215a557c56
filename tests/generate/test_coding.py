"""Codes that are said: only codes and the end, as many as there may be, guided by a branch of their own."""

from collections.abc import Sequence

import numpy
import pytest
import torch
from tiny import picture
from tiny_codes import GRID, said, tiny_code_model

from limner.document.document import Direction, Document, Media, null_prompt
from limner.generate.coding import Coding
from limner.generate.engine import Engine
from limner.generate.events import Event, MediaFinished, MediaProgress, MediaStarted, fold
from limner.generate.request import Pictures, Request, Row
from limner.generate.sampling import Sampling
from limner.modalities.base import Detokenizer
from limner.modalities.guidance import ClassifierFreeGuidance

MOST = GRID * GRID
NAMES = ("What?", "Draw!", "Tell.", "A longer question, is it?")


@pytest.fixture(scope="module", params=[False, True], ids=["codes read", "encoder reads"])
def engine(request) -> Engine:
    return Engine(tiny_code_model(reads=request.param), context_length=256)


def asked(text: str = "Draw!", **options) -> Request:
    settings = {"max_new_tokens": 5, "pictures": Pictures.NOW, "max_pictures": 2, "guidance_scale": 3.0, "seed": 7}
    return Request(Document.chat([("user", text)]), **(settings | options))


def pictures(document: Document) -> list[numpy.ndarray]:
    return [numpy.asarray(part.content.pil(), dtype=int) for _, part in document.media()]


def codes(engine: Engine, document: Document) -> list[tuple[int, ...]]:
    return [engine.model.render.spell(part) for _, part in document.media()]


def test_a_picture_is_said_and_drawn(engine: Engine) -> None:
    (reply,) = engine.run([asked()])
    assert len(pictures(reply)) >= 1
    assert all(len(found) <= MOST for found in codes(engine, reply))


@pytest.mark.parametrize("unwanted", ["", "Something else."])
def test_the_tokens_are_those_of_forwards_over_the_whole_text(engine: Engine, unwanted: str) -> None:
    negative = Document.chat([("user", unwanted)]) if unwanted else None
    model, request = engine.model, asked(max_new_tokens=1, max_pictures=1, negative=negative)
    begin, end = model.vocabulary.edges("image")
    sayable = [*model.vocabulary.code_ids("image"), end]
    before = model.render(negative, reply=True).ids if negative else ()
    rows = [[*model.render(request.document, reply=True).ids, begin], [*before, begin]]
    expected: list[int] = []
    with torch.no_grad():
        while len(expected) <= MOST:
            logits = torch.stack([_next_logits(model, ids) for ids in rows])[:, sayable]
            number = int(ClassifierFreeGuidance(3.0).combine(logits[:, None])[0].argmax())
            if len(expected) == MOST or sayable[number] == end:
                break
            expected.append(number)
            for ids in rows:
                ids.append(sayable[number])
    (row,) = _rows(engine, [request])
    assert row.codes == expected


def _next_logits(model, ids: list[int]) -> torch.Tensor:
    whole = torch.tensor([ids])
    documents = torch.ones_like(whole)
    hidden = model.backbone.packed_hidden_states(
        model.backbone.embed(whole), positions=torch.arange(len(ids))[None], documents=documents
    )
    return model.backbone.logits(hidden[:, -1])[0]


def _rows(engine: Engine, requests: Sequence[Request]) -> list[Row]:
    running = engine.running(num_rows=2 * len(requests))
    rows = running.add(requests)
    while running.step():
        pass
    return rows


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_together_say_what_each_says_alone(engine: Engine, temperature: float) -> None:
    sampling = Sampling(temperature=temperature)
    requests = [
        asked(text, sampling=sampling, pictures=Pictures(kind), code_guidance_scale=scale)
        for text, kind, scale in zip(NAMES, ("none", "now", "auto", "now"), (1.0, 1.0, 2.0, 4.0), strict=True)
    ]
    for reply, request in zip(engine.run(requests), requests, strict=True):
        (alone,) = engine.run([request])
        assert reply.messages[-1].text == alone.messages[-1].text
        assert codes(engine, reply) == codes(engine, alone)


def test_events_fold_into_what_was_not_streamed_and_tell_every_code(engine: Engine) -> None:
    heard: list[Event] = []
    request = asked(max_new_tokens=3, max_pictures=1)
    (streamed,) = engine.run([request], on_event=lambda index, event: heard.append(event))
    (whole,) = engine.run([request])
    assert fold(request.document, heard).messages[-1].text == whole.messages[-1].text
    assert codes(engine, streamed) == codes(engine, whole) == codes(engine, fold(request.document, heard))
    started, finished = (
        next(n for n, event in enumerate(heard) if isinstance(event, kind)) for kind in (MediaStarted, MediaFinished)
    )
    told = [(event.step, event.num_steps) for event in heard[started:finished] if isinstance(event, MediaProgress)]
    assert [step for step, _ in told] == list(range(len(told)))
    assert {most for _, most in told} <= {MOST}


def test_a_scale_of_one_is_no_guidance_and_takes_no_second_row(engine: Engine) -> None:
    coding = Coding(engine.model)
    assert coding.num_slots(asked(guidance_scale=1.0)) == 1
    assert coding.num_slots(asked(guidance_scale=3.0)) == 2
    assert coding.num_slots(asked(guidance_scale=3.0, code_guidance_scale=1.0)) == 1
    assert coding.num_slots(asked(guidance_scale=3.0, pictures=Pictures.NONE)) == 1
    row = Row(asked(code_guidance_scale=1.0), 0, [0])
    row.modality, row.logits = "image", torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    sayable = [*engine.model.vocabulary.code_ids("image"), engine.model.vocabulary.edges("image")[1]]
    assert coding.next([row]) == [sayable[int(row.logits[0, sayable].argmax())]]


def test_the_end_is_said_for_a_row_that_has_said_all(engine: Engine) -> None:
    coding = Coding(engine.model)
    row = Row(asked(guidance_scale=1.0), 0, [0])
    row.modality, row.logits = "image", torch.zeros(1, 400)
    row.codes = [0] * (MOST - 1)
    assert coding.next([row]) == [engine.model.vocabulary.code_ids("image")[0]]
    assert coding.next([row]) == [engine.model.vocabulary.edges("image")[1]]
    assert len(row.codes) == MOST


def test_what_guidance_pushes_away_from_is_the_null_prompt_that_training_drops_to(engine: Engine) -> None:
    coding = Coding(engine.model)
    trained = engine.model.render(null_prompt(said("red")))
    assert coding.unwanted_ids("image", None) == list(trained.ids[: trained.spans[0].start])
    negative = Document.chat([("user", "Draw nothing.")])
    ids = coding.unwanted_ids("image", negative)
    assert ids[-1] == engine.model.vocabulary.edges("image")[0]
    assert ids[:-1] == list(engine.model.render(negative, reply=True).ids)


def test_guidance_pushes_away_from_what_would_be_said_without_the_prompt(engine: Engine) -> None:
    coding = Coding(engine.model)
    first = engine.model.vocabulary.code_ids("image")[0]
    said = []
    for scale in (1.0, 3.0):
        row = Row(asked(code_guidance_scale=scale), 0, [0])
        row.modality, row.logits = "image", torch.zeros(2, 400)
        row.logits[:, first + 1], row.logits[0, first + 2] = 2.0, 1.9  # the second is the prompt's alone
        said += [token - first for token in coding.next([row])]
    assert said == [1, 2]


def test_a_context_without_room_for_a_picture_says_none(engine: Engine) -> None:
    small = Engine(engine.model, context_length=24)
    (reply,) = small.run([asked("abc", pictures=Pictures.AUTO, max_new_tokens=30)])
    assert len(list(reply.media())) <= 1
    with pytest.raises(ValueError, match="a picture takes"):
        small.run([asked("abcdefghijklmn")])


def test_codes_are_read_back_for_nothing(engine: Engine) -> None:
    model = engine.model
    (row,) = _rows(engine, [asked(max_pictures=1, max_new_tokens=1)])
    rendered = model.render(Document.chat([("user", "Draw!")]), reply=True)
    picture_ids = model.vocabulary.edges("image")
    assert len(row.codes) <= MOST
    assert picture_ids[0] not in rendered.ids


class Narrow(Detokenizer):
    """Draws in one size."""

    target_size = (8, 8)

    def sample(self, codes, *, guidance, generators, num_inference_steps, sampler="", size=None, on_step=None):
        """Black."""
        return torch.full((len(codes.lengths), 3, 8, 8), -1.0)


def test_what_a_detokenizer_cannot_do_is_refused_before_anything_is_said(engine: Engine) -> None:
    with pytest.raises(ValueError, match="size"):
        engine.run([asked(size=(16, 16))])
    assert Narrow().target_size == (8, 8)


def test_a_picture_that_was_shown_can_be_followed(engine: Engine) -> None:
    document = Document.chat([("user", [picture("red"), "Draw the same."])])
    shown = Media(picture("blue"), directions=(Direction.OUT,))
    (reply,) = engine.run([Request(document, max_new_tokens=2, pictures=Pictures.NOW, max_pictures=1)])
    (other,) = engine.run(
        [
            Request(
                Document.chat([("user", [shown, "Draw the same."])]),
                max_new_tokens=2,
                pictures=Pictures.NOW,
                max_pictures=1,
            )
        ]
    )
    assert len(pictures(reply)) == 2
    assert len(pictures(other)) == 2


def test_a_negative_prompt_that_leaves_no_room_for_a_picture_is_refused(engine: Engine) -> None:
    small = Engine(engine.model, context_length=40)
    with pytest.raises(ValueError, match="the negative prompt and a picture take"):
        small.run([asked("a", negative=Document.chat([("user", "long " * 8)]))])
