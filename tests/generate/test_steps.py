"""A step of the engine is short: pictures advance by denoising steps and prompts by chunks, beside others' text."""

import numpy
import pytest
import torch
from tiny import picture, tiny_model

from limner.document.document import Direction, Document, Media
from limner.generate.engine import Engine
from limner.generate.events import Done, MediaProgress, TextDelta, fold
from limner.generate.request import Phase, Pictures, Request
from limner.modalities.drafts import stepwise
from limner.modalities.guidance import ClassifierFreeGuidance, NoGuidance
from limner.modalities.noise import keyed_generator


@pytest.fixture(scope="module")
def model():
    """A model that says letters for ever."""
    model = tiny_model()
    letters = [model.tokenizer.text_ids(letter)[0] for letter in "abcdefghij "]
    bias = torch.full((model.vocabulary.base_size + model.vocabulary.num_added,), -1e4)
    bias[letters] = 0.0
    whole = type(model.backbone).logits
    model.backbone.logits = lambda hidden: whole(model.backbone, hidden) * 20.0 + bias
    return model


def draw(text: str = "Draw!", **options) -> Request:
    settings = {"max_new_tokens": 3, "pictures": Pictures.NOW, "max_pictures": 1, "num_inference_steps": 4, "seed": 1}
    return Request(Document.chat([("user", text)]), **(settings | options))


def write(text: str = "Tell.", **options) -> Request:
    return Request(Document.chat([("user", text)]), **({"max_new_tokens": 8, "pictures": Pictures.NONE} | options))


def pixels(row) -> numpy.ndarray:
    return numpy.asarray(next(part for part in row.parts if isinstance(part, Media)).content.pil(), dtype=int)


def finish(running) -> None:
    while running.step():
        pass


def test_text_goes_on_while_a_picture_is_drawn(model) -> None:
    heard: list[tuple[int, object]] = []
    running = Engine(model).running(num_rows=2, on_event=lambda index, event: heard.append((index, event)))
    running.add([draw(num_inference_steps=6), write()])
    finish(running)
    steps = [place for place, (index, event) in enumerate(heard) if isinstance(event, MediaProgress)]
    between = [event for index, event in heard[steps[0] : steps[-1]] if index == 1]
    assert len(between) == 5
    assert all(isinstance(event, TextDelta) for event in between)


ASKED = (
    draw(), draw("Another.", num_inference_steps=7, guidance_scale=1.0), draw(sampler="dpm++", guidance_scale=6.0),
    draw(size=(16, 16)), draw(guidance_scale=4.0, guidance_rescale=0.5), write(), draw("A third one.", seed=5),
)  # fmt: skip


def test_alone_among_others_and_joined_late_are_the_same(model) -> None:
    engine = Engine(model, kept_bytes=0)
    alone = [engine.run([request])[0] for request in ASKED]
    running = engine.running(num_rows=len(ASKED))
    rows = []
    for request in ASKED:  # each joins two steps behind the one before
        rows += running.add([request])
        running.step()
        running.step()
    finish(running)
    together = engine.run(ASKED)
    for row, once, whole in zip(rows, alone, together, strict=True):
        assert [type(part) for part in row.parts] == [type(part) for part in once.messages[-1].parts]
        for one, other, third in zip(row.parts, once.messages[-1].parts, whole.messages[-1].parts, strict=True):
            if isinstance(one, Media):
                shown = [numpy.asarray(part.content.pil(), dtype=int) for part in (one, other, third)]
                assert max(abs(shown[0] - shown[1]).max(), abs(shown[0] - shown[2]).max()) <= 1  # rounding to 8 bits
            else:
                assert one == other == third


def conditions(decoder, count: int) -> torch.Tensor:
    return torch.randn(2, count, 5, decoder.condition_width, generator=torch.Generator().manual_seed(3))


def test_drafts_of_any_age_sampler_and_guidance_take_steps_together(model) -> None:
    decoder = model.maker("image").decoder
    pen, rows = stepwise(decoder), conditions(decoder, 4)
    assert pen is decoder
    settings = [
        {"guidance": ClassifierFreeGuidance(3.0), "num_inference_steps": 4, "sampler": "euler"},
        {"guidance": ClassifierFreeGuidance(7.0), "num_inference_steps": 6, "sampler": "dpm++"},
        {"guidance": NoGuidance(), "num_inference_steps": 5, "sampler": "euler"},
        {"guidance": ClassifierFreeGuidance(3.0), "num_inference_steps": 4, "sampler": "dpm++"},
    ]

    def asked(number: int) -> dict:
        guidance = settings[number]["guidance"]
        condition = rows[: guidance.num_branches, number : number + 1]
        return settings[number] | {"condition": condition, "generators": [keyed_generator("draft", number)]}

    drafts, done, calls = [], {}, []
    predict = decoder.predict
    decoder.predict = lambda noisy, *rest: calls.append(len(noisy)) or predict(noisy, *rest)
    try:
        while len(done) < 4:
            if len(drafts) < 4:
                drafts.append(pen.begin(asked(len(drafts)).pop("condition"), **_without_condition(asked(len(drafts)))))
            under_way = [draft for draft in drafts if draft.step < draft.num_steps]
            assert len({pen.shape_of(draft) for draft in under_way}) == 1
            pen.advance(under_way)
            ended = [draft for draft in under_way if draft.step == draft.num_steps]
            if ended:
                done.update({drafts.index(draft): made for draft, made in zip(ended, pen.finish(ended), strict=True)})
    finally:
        del decoder.predict
    assert max(calls) == 7  # all four in one call of the network, one of them without a second branch
    for number in range(4):
        options = asked(number)
        alone = decoder.sample(options.pop("condition"), **options)
        torch.testing.assert_close(done[number], alone, atol=1e-5, rtol=0)


def _without_condition(options: dict) -> dict:
    return {name: value for name, value in options.items() if name != "condition"}


def test_guidance_is_never_dropped(model, monkeypatch) -> None:
    decoder = model.maker("image").decoder
    predict, rows = decoder.predict, []
    monkeypatch.setattr(decoder, "predict", lambda noisy, *rest: rows.append(len(noisy)) or predict(noisy, *rest))
    engine = Engine(model)
    scales = (1.0, 3.0, 9.0)
    replies = engine.run([draw(guidance_scale=scale) for scale in scales])
    assert set(rows) == {5}  # one row, two rows, two rows: in every step of all three
    shown = [pixels_of(reply) for reply in replies]
    assert all((shown[one] != shown[other]).any() for one, other in ((0, 1), (0, 2), (1, 2)))
    for scale, picture_ in zip(scales, shown, strict=True):
        assert abs(picture_ - pixels_of(engine.run([draw(guidance_scale=scale)])[0])).max() <= 1


def pixels_of(document: Document) -> numpy.ndarray:
    return numpy.asarray(next(part for _, part in document.media()).content.pil(), dtype=int)


def test_a_picture_that_is_cancelled_leaves_within_a_step(model) -> None:
    running = Engine(model).running(num_rows=2)
    drawn, other = running.add([draw(num_inference_steps=50), draw(num_inference_steps=5)])
    running.step()
    running.step()
    assert drawn.phase is Phase.MEDIA
    running.drop(drawn)
    assert running.num_free == 1
    assert drawn.draft is None
    (late,) = running.add([draw(num_inference_steps=5)])
    finish(running)
    assert (pixels(late) == pixels(other)).all()


class WholeDecoder(torch.nn.Module):
    """Another's plugin: `sample` alone."""

    def __init__(self, decoder) -> None:
        super().__init__()
        self.inner = decoder
        self.target_size = decoder.target_size

    def following(self, documents, *, size=None) -> "WholeDecoder":
        return self

    def check_sampling(self, **options) -> None:
        self.inner.check_sampling(**options)

    def sample(self, condition, **options) -> torch.Tensor:
        return self.inner.sample(condition, **options)


def test_decoders_without_steps_draw_the_whole_in_one(model, monkeypatch) -> None:
    (expected,) = Engine(model).run([draw()])
    engine = Engine(model)
    maker = engine.drawing.makers["image"]
    engine.drawing.makers["image"] = maker._replace(decoder=WholeDecoder(maker.decoder))
    heard: list = []
    (found,) = engine.run([draw()], on_event=lambda _, event: heard.append(event))
    assert abs(pixels_of(found) - pixels_of(expected)).max() <= 1
    assert [(event.step, event.num_steps) for event in heard if isinstance(event, MediaProgress)] == [(3, 4)]


def test_a_long_prompt_does_not_stop_those_who_write(model) -> None:
    engine = Engine(model, prompt_chunk=16, kept_bytes=0)
    (expected,) = Engine(model, kept_bytes=0).run([write("long " * 20)])
    taken: list[int] = []
    running = engine.running(num_rows=2)
    append = running.context.append
    running.context.append = lambda slots, embeddings, **rest: (
        taken.append(embeddings[..., 0].numel()) or append(slots, embeddings, **rest)
    )
    (first,) = running.add([write(max_new_tokens=30)])
    running.step()
    (second,) = running.add([write("long " * 20)])
    said = len(first.said)
    num_steps = 0
    while second.phase is Phase.PROMPT:
        running.step()
        num_steps += 1
    assert num_steps >= 6
    assert len(first.said) - said == num_steps
    assert max(taken) <= 16
    finish(running)
    assert [part.text for part in second.parts] == [expected.messages[-1].text]


def test_stop_strings_end_a_reply_and_are_not_said(model) -> None:
    (free,) = Engine(model).run([write(max_new_tokens=12)])
    text = free.messages[-1].text
    stop = text[3:6]
    cut = text[: text.index(stop)]
    heard: list = []
    (found,) = Engine(model).run(
        [write(max_new_tokens=12, stop=("never said", stop))], on_event=lambda _, event: heard.append(event)
    )
    assert found.messages[-1].text == cut
    assert "".join(event.text for event in heard if isinstance(event, TextDelta)) == cut
    assert heard[-1] == Done("stop")
    (silent,) = Engine(model).run([write(max_new_tokens=12, stop=(stop,))])
    assert silent == found
    with pytest.raises(ValueError, match=r"stop is .*\nhint: "):
        write(stop=("",))


TALK = Document.chat([("system", "You are a friendly painter of small things."), ("user", "What is it?")])


def _talked(engine: Engine, document: Document, **options):
    running = engine.running(num_rows=1)
    (row,) = running.add([Request(document, **({"max_new_tokens": 6, "pictures": Pictures.NONE} | options))])
    finish(running)
    return row


def test_what_prompts_share_is_run_once_and_changes_nothing(model) -> None:
    engine, plain = Engine(model), Engine(model, kept_bytes=0)
    first = _talked(engine, TALK)
    assert first.num_cached_tokens == 0
    shown = [picture("red"), "And this?"]
    turns = [
        Document((*TALK.messages[:1], Document.chat([("user", "Another question!")]).messages[0])),
        fold(TALK, []).followed_by(*Document.chat([("assistant", first.parts[0].text), ("user", shown)]).messages),
    ]
    for turn in turns:
        kept, fresh = _talked(engine, turn), _talked(plain, turn)
        assert kept.num_cached_tokens > 20
        assert fresh.num_cached_tokens == 0
        assert kept.num_prompt_tokens == fresh.num_prompt_tokens
        assert kept.said == fresh.said
    longer = turns[1].followed_by(*Document.chat([("assistant", "Red."), ("user", "Draw it!")]).messages)
    now = {"pictures": Pictures.NOW, "max_pictures": 1, "num_inference_steps": 2}
    kept, fresh = _talked(engine, longer, **now), _talked(plain, longer, **now)
    assert kept.num_cached_tokens > model.render(turns[1], reply=True).spans[-1].start
    assert abs(pixels(kept) - pixels(fresh)).max() <= 1
    assert kept.said == fresh.said


def test_another_picture_is_another_beginning(model) -> None:
    engine = Engine(model)

    def show(colour: str):
        return _talked(engine, Document.chat([("user", [picture(colour), "What is this, tell me at length?"])]))

    first, other, again = show("red"), show("blue"), show("red")
    span = model.render(first.request.document, reply=True).spans[0]
    assert span.direction is Direction.IN
    assert other.num_cached_tokens <= span.start
    assert again.num_cached_tokens > span.start + span.length
    assert again.said == first.said


def test_rows_share_with_rows_that_run_and_little_is_kept(model) -> None:
    engine = Engine(model, kept_bytes=1)
    running = engine.running(num_rows=2)
    (first,) = running.add([Request(TALK, max_new_tokens=6, pictures=Pictures.NONE)])
    running.step()
    (second,) = running.add([Request(TALK, max_new_tokens=6, pictures=Pictures.NONE)])
    assert second.num_cached_tokens == second.num_prompt_tokens - 1
    finish(running)
    assert first.said == second.said
    assert len(engine.prefixes) == 0
    assert engine.prefixes.num_bytes == 0


def test_other_weights_forget_what_was_kept(model) -> None:
    own = tiny_model(seed=3)
    engine = Engine(own)
    _talked(engine, TALK)
    assert _talked(engine, TALK).num_cached_tokens > 0
    with torch.no_grad():
        own.backbone.added_input.add_(0.0)
    assert _talked(engine, TALK).num_cached_tokens == 0


def test_memory_for_what_is_kept_is_bounded(model) -> None:
    engine = Engine(model, kept_bytes=200_000)
    for number in range(12):
        _talked(engine, Document.chat([("user", f"{number} is a number that begins a question of its own.")]))
        assert engine.prefixes.num_bytes <= 200_000
    assert 0 < len(engine.prefixes) < 12
