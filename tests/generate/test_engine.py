"""The engine: cached = recomputed, batched = single, streamed = whole; pictures where asked for."""

import numpy
import pytest
import torch
from tiny import picture, tiny_model

from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media, Message, Text
from limner.generate.engine import Engine
from limner.generate.events import Done, MediaFinished, MediaProgress, MediaStarted, TextDelta, fold
from limner.generate.request import Pictures, Request
from limner.generate.sampling import Sampling

WORDS = tuple("abcdefghij ")


@pytest.fixture
def model():
    """A model that says a few letters, stops and draws: whatever it says renders back."""
    model = tiny_model()
    tokenizer = model.tokenizer
    begin = model.vocabulary.span("image", Direction.OUT).begin
    sayable = [*(tokenizer.text_ids(letter)[0] for letter in WORDS), *tokenizer.eos_ids, begin]
    whole = type(model.backbone).logits
    bias = torch.full((model.vocabulary.base_size + model.vocabulary.num_added,), -1e4)
    bias[sayable] = 0.0
    model.backbone.logits = lambda hidden: whole(model.backbone, hidden) * 20.0 + bias
    return model


def _prefer(model, token: int, by: float) -> None:
    """Make a token likelier."""
    logits = model.backbone.logits

    def biased(hidden):
        scores = logits(hidden)
        scores[..., token] += by
        return scores

    model.backbone.logits = biased


PROMPTS = [
    Document.chat([("user", ["What is?", picture("red")])]),
    Document.page(["abc"]),
    Document.chat([("user", "Draw"), ("assistant", ["Here ", picture("blue"), " and"])]),
]
DRAW = {"max_new_tokens": 8, "num_inference_steps": 2}


def _requests(**options) -> list[Request]:
    return [Request(document, **(DRAW | {"seed": index} | options)) for index, document in enumerate(PROMPTS)]


def _pixels(document: Document) -> list[numpy.ndarray]:
    return [numpy.array(media.payload.pil()).astype(int) for _, media in document.media()]


def _same(left: Document, right: Document) -> None:
    assert [m.text for m in left.messages] == [m.text for m in right.messages]
    assert [len(m.parts) for m in left.messages] == [len(m.parts) for m in right.messages]
    for ours, theirs in zip(_pixels(left), _pixels(right), strict=True):
        assert abs(ours - theirs).max() <= 1  # a rounding to 8 bits


@pytest.mark.parametrize("options", [
    {"pictures": Pictures.NOW},
    {"pictures": Pictures.NONE},
    {"sampling": Sampling(temperature=1.0, top_p=0.9), "max_pictures": 2},
    {"guidance_scale": 1.0, "pictures": Pictures.NOW},
])  # fmt: skip
def test_a_batch_gives_each_request_what_it_gets_alone(model, options) -> None:
    engine = Engine(model)
    together = engine.run(_requests(**options))
    for request, reply in zip(_requests(**options), together, strict=True):
        _same(engine.run([request])[0], reply)


@pytest.mark.parametrize(
    "options",
    [
        {"pictures": Pictures.NOW},
        {"pictures": Pictures.NOW, "guidance_scale": 1.0},
        {"pictures": Pictures.NONE},
    ],
)
def test_a_cached_reply_is_what_teacher_forcing_its_document_gives(model, options) -> None:
    for request in _requests(**options):
        (reply,) = Engine(model).run([request])
        prompt = model.render(request.document, reply=True)
        # The reply left open: what was said so far, and nothing that ends it.
        whole = model.render(reply, reply=True)
        last = reply.messages[-1]
        if request.document.messages[-1].role == "user":
            assert last.role == "assistant"
        assert whole.ids[: len(prompt)] == prompt.ids
        batch = Collator(model)([[whole]])
        with torch.no_grad():
            scores = model.backbone.logits(model.hidden_states(batch)[0])
        masked = set(model.vocabulary.ids.values())
        begin = model.vocabulary.span("image", Direction.OUT).begin
        made = 0
        for place in range(len(prompt), len(whole)):
            token = whole.ids[place]
            if token == begin:
                made += 1  # forced
            elif token not in masked:
                forbidden = scores[place - 1].clone()
                forbidden[list(masked)] = -torch.inf
                assert int(forbidden.argmax()) == token, place
        assert made == (request.pictures == Pictures.NOW)


def test_a_picture_costs_its_own_rows_and_nothing_is_computed_twice(model, monkeypatch) -> None:
    taken: list[int] = []
    real = model.backbone.hidden_states

    def counted(embeddings, **rest):
        if rest.get("cache") is not None:
            taken.append(embeddings.shape[1])
        return real(embeddings, **rest)

    monkeypatch.setattr(model.backbone, "hidden_states", counted)
    _prefer(model, model.tokenizer.eos_ids[0], -100.0)
    request = _requests(pictures=Pictures.NOW, max_pictures=1)[1]
    (reply,) = Engine(model).run([request])
    whole = model.render(reply, reply=True)
    prompt, padded = len(model.render(request.document, reply=True)), taken[0]
    assert sum(taken) - padded + prompt == len(whole)


def test_events_fold_back_into_the_document(model) -> None:
    heard: list = []
    requests = _requests(pictures=Pictures.NOW)
    replies = Engine(model).run(requests, on_event=lambda index, event: heard.append((index, event)))
    for index, (request, reply) in enumerate(zip(requests, replies, strict=True)):
        events = [event for number, event in heard if number == index]
        assert fold(request.document, events) == reply
        assert sum(isinstance(event, Done) for event in events) == 1
        assert isinstance(events[-1], Done)
        started = [event for event in events if isinstance(event, MediaStarted)]
        finished = [event for event in events if isinstance(event, MediaFinished)]
        assert [event.part for event in started] == [event.part for event in finished] == [0]
        assert [event.step for event in events if isinstance(event, MediaProgress)] == [0, 1]


def test_none_never_draws_and_now_draws_first_and_auto_draws_when_the_model_says_so(model) -> None:
    begin = model.vocabulary.span("image", Direction.OUT).begin
    request = PROMPTS[1]
    _prefer(model, begin, -100.0)
    auto, now = (
        Engine(model).run([Request(request, pictures=mode, **DRAW)])[0] for mode in (Pictures.AUTO, Pictures.NOW)
    )
    assert not list(auto.media())
    assert isinstance(now.messages[-1].parts[1], Media)  # right after the prompt's text
    assert len(list(now.media())) == 1
    _prefer(model, begin, 200.0)
    wants = [Engine(model).run([Request(request, pictures=mode, max_pictures=2, **DRAW)])[0] for mode in Pictures]
    assert [len(list(reply.media())) for reply in wants] == [2, 0, 2]


def test_a_reply_ends_at_its_limit_or_its_stop(model) -> None:
    def reason(**options) -> tuple[str, str]:
        heard: list = []
        reply = Engine(model).run(
            [Request(PROMPTS[1], pictures=Pictures.NONE, **options)],
            on_event=lambda _, e: heard.append(e),
        )
        return heard[-1].reason, reply[0].messages[-1].text.removeprefix("abc")

    (stop,) = model.tokenizer.eos_ids
    _prefer(model, stop, -100.0)
    assert reason(max_new_tokens=5)[0] == "length"
    assert len(reason(max_new_tokens=5)[1]) == 5
    _prefer(model, stop, 300.0)
    assert reason(max_new_tokens=5) == ("stop", "")


def test_a_full_context_ends_a_reply_and_starts_no_picture(model) -> None:
    _prefer(model, model.tokenizer.eos_ids[0], -100.0)
    _prefer(model, model.vocabulary.span("image", Direction.OUT).begin, 100.0)
    prompt = Document.page(["a" * 30])
    heard: list = []
    engine = Engine(model, context_length=40)
    (reply,) = engine.run([Request(prompt, max_new_tokens=100)], on_event=lambda _, event: heard.append(event))
    assert heard[-1] == Done("length")
    assert not list(reply.media())
    assert 30 < len(reply.messages[-1].text) <= 40
    with pytest.raises(
        ValueError, match=r"prompt 0 has 30 tokens and a picture takes 23; the context holds 40\nhint: "
    ):
        engine.run([Request(prompt, pictures=Pictures.NOW)])


def test_a_prompt_longer_than_the_context_is_refused_before_anything_is_computed(model) -> None:
    with pytest.raises(ValueError, match=r"prompt 1 has 300 tokens; the context holds 256\nhint: "):
        Engine(model).run([Request(PROMPTS[1]), Request(Document.page(["x" * 300]))])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"guidance_scale": 0.5}, r"guidance_scale is 0\.5"),
    ],
)
def test_bad_requests_are_refused_at_once(options, says: str) -> None:
    with pytest.raises(ValueError, match=says + r".*\nhint: "):
        Request(PROMPTS[1], **options)


@pytest.mark.parametrize("document", [Document.page([]), Document(()), Document.page([""])])
def test_an_empty_prompt_is_refused(model, document: Document) -> None:
    with pytest.raises(ValueError, match=r"empty\nhint: "):
        Engine(model).run([Request(document)])


def test_seeds_decide_samples_and_pictures(model) -> None:
    sampling = Sampling(temperature=30.0)

    def run(seed: int) -> Document:
        request = Request(PROMPTS[1], pictures=Pictures.NOW, max_pictures=1, sampling=sampling, seed=seed, **DRAW)
        return Engine(model).run([request])[0]

    assert run(1) == run(1)
    assert run(1).messages[-1].text != run(2).messages[-1].text
    assert _pixels(run(1))[0].tolist() != _pixels(run(2))[0].tolist()


def test_guidance_changes_the_picture_and_scale_one_is_none(model) -> None:
    def run(scale: float) -> numpy.ndarray:
        return _pixels(
            Engine(model).run([Request(PROMPTS[1], pictures=Pictures.NOW, guidance_scale=scale, **DRAW)])[0]
        )[0]

    assert (run(1.0) != run(8.0)).any()
    assert abs(run(1.0) - run(1.0 + 1e-6)).max() <= 1


def test_the_unconditional_branch_is_the_null_prompt_of_training(model) -> None:
    from limner.document.document import null_prompt

    batch = Collator(model)([[model.render(null_prompt(Media(picture("green"))))]])
    with torch.no_grad():
        trained = model.out_hidden(batch.spans["image", Direction.OUT], model.hidden_states(batch))[0]
        torch.testing.assert_close(Engine(model).drawing.unwanted("image", None), trained)


def test_streamed_text_never_splits_a_character() -> None:
    model = tiny_model()
    script = iter(model.tokenizer.text_ids("aé€🦊z"))
    scores = torch.full((model.vocabulary.base_size + model.vocabulary.num_added,), -1e4)

    def scripted(hidden):
        token = next(script, model.tokenizer.eos_ids[0])
        return scores.index_fill(0, torch.tensor([token]), 0.0).expand(len(hidden), -1)

    model.backbone.logits = scripted
    heard: list = []
    (reply,) = Engine(model).run([Request(Document.page(["x"]))], on_event=lambda _, event: heard.append(event))
    assert [event.text for event in heard if isinstance(event, TextDelta)] == list("aé€🦊z")
    assert reply.messages[-1].parts[-1] == Text("aé€🦊z")


def test_edges_and_slots_are_never_said(model) -> None:
    for role, token in model.vocabulary.ids.items():
        if role != "image.out.begin":
            _prefer(model, token, 2e4)
    (reply,) = Engine(model).run([Request(PROMPTS[1], pictures=Pictures.NONE, **DRAW)])
    said = reply.messages[-1].text.removeprefix("abc")
    assert set(said) <= set(WORDS)


def test_a_reply_extends_an_open_assistant_message_and_else_opens_one(model) -> None:
    replies = Engine(model).run(_requests(pictures=Pictures.NONE))
    assert [message.role for message in replies[0].messages] == ["user", "assistant"]
    assert [message.role for message in replies[2].messages] == ["user", "assistant"]
    assert replies[2].messages[-1].parts[:3] == PROMPTS[2].messages[-1].parts
    assert isinstance(replies[0].messages[-1], Message)
