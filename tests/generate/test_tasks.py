"""What the engine is used for, task by task: the same alone, batched, streamed and recomputed; pictures depend on all
that stands before them and are read back."""

import numpy
import pytest
import torch
from tiny import picture, tiny_model

from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media, Message, Text
from limner.generate.engine import Engine
from limner.generate.events import Done, fold
from limner.generate.request import Phase, Pictures, Request
from limner.generate.sampling import Sampling, next_token
from limner.modalities.guidance import guidance_for
from limner.modalities.noise import keyed_generator

DRAW = {"max_new_tokens": 6, "num_inference_steps": 2}
NOW = DRAW | {"pictures": Pictures.NOW, "max_pictures": 1}
TASKS = {
    "text from pictures": Request(
        Document.chat([("user", [picture("red"), picture("blue"), "Which?"])]), **DRAW | {"pictures": Pictures.NONE}
    ),
    "text to picture": Request(Document.chat([("user", "Draw a hat.")]), **NOW),
    "picture and text to picture": Request(Document.chat([("user", [picture("green"), "Now bluer."])]), **NOW, seed=3),
    "subject": Request(
        Document.chat([("user", [picture("red"), "is Rex. ", picture("white"), "is a hill. Draw Rex there."])]), **NOW
    ),
    "few-shot": Request(
        Document.page(["a: ", picture("red"), " b: ", picture("blue"), " c: "]),
        **NOW,
        seed=5,
    ),
    "interleaved": Request(Document.page(["abc"]), **DRAW, max_pictures=2, sampling=Sampling(temperature=8.0), seed=1),
}


@pytest.fixture(scope="module")
def model():
    """A model that says a few letters and draws whenever it has said some: what it says renders back."""
    model = tiny_model()
    begin = model.vocabulary.span("image", Direction.OUT).begin
    letters = [model.tokenizer.text_ids(letter)[0] for letter in "abcdefghij "]
    bias = torch.full((model.vocabulary.base_size + model.vocabulary.num_added,), -1e4)
    bias[letters] = 0.0
    bias[begin] = 8.0
    whole = type(model.backbone).logits
    model.backbone.logits = lambda hidden: whole(model.backbone, hidden) * 20.0 + bias
    return model


def pixels(document: Document) -> list[numpy.ndarray]:
    return [numpy.array(media.content.pil()).astype(int) for _, media in document.media()]


def same(left: Document, right: Document) -> None:
    assert [m.text for m in left.messages] == [m.text for m in right.messages]
    assert [[type(part) for part in m.parts] for m in left.messages] == [
        [type(part) for part in m.parts] for m in right.messages
    ]
    for ours, theirs in zip(pixels(left), pixels(right), strict=True):
        assert abs(ours - theirs).max() <= 1  # a rounding to 8 bits


def recomputed(model, request: Request) -> Document:
    """The reply without a cache: the whole document is run again for every token and every picture."""
    begin = model.vocabulary.span("image", Direction.OUT).begin
    silent = [token for token in model.vocabulary.ids.values() if token != begin]
    engine = Engine(model)
    before, drawn, said, parts = request.document, 0, [], []

    def so_far(*more) -> Document:
        words = model.tokenizer.decode(said)
        return fold(before, []) if not (words or parts or more) else _extended(before, [*parts, *_text(words), *more])

    def run(document: Document):
        batch = Collator(model)([[model.render(document, reply=True)]])
        hidden = model.hidden_states(batch)
        return batch, hidden, int((batch.documents > 0).sum())

    with torch.inference_mode():
        num_words, chance = 0, keyed_generator(request.seed, "text")
        forced = request.pictures == Pictures.NOW
        while num_words < request.max_new_tokens:
            _, hidden, length = run(so_far())
            scores = model.backbone.logits(hidden[0, length - 1 : length])[0]
            scores[silent] = -torch.inf
            if request.pictures == Pictures.NONE or drawn >= request.max_pictures:
                scores[begin] = -torch.inf
            token = begin if forced else next_token(scores, said=[], sampling=request.sampling, generator=chance)
            forced = False
            if token != begin:
                said.append(token)
                num_words += 1
                continue
            batch, hidden, _ = run(so_far(Media(None, train=False, directions=(Direction.OUT,))))
            states = model.out_hidden(batch.spans["image", Direction.OUT], hidden)[-1]
            condition = model.condition("image", torch.stack([states, engine.drawing.unwanted("image", None)])[:, None])
            (made,) = model.maker("image").decoder.sample(
                condition,
                guidance=guidance_for(request.guidance_scale),
                generators=[keyed_generator(request.seed, "picture", drawn)],
                num_inference_steps=request.num_inference_steps,
            )
            array = ((made.clamp(-1, 1) + 1) * 127.5).round().permute(1, 2, 0).to(torch.uint8).numpy()
            parts += [*_text(model.tokenizer.decode(said)), Media(type(picture()).from_array(array))]
            said, drawn = [], drawn + 1
    return so_far()


def _text(words: str) -> list[Text]:
    return [Text(words)] if words else []


def _extended(document: Document, parts: list) -> Document:
    last = document.messages[-1]
    if last.role in ("assistant", "page"):
        return Document((*document.messages[:-1], Message(last.role, (*last.parts, *parts))))
    return document.followed_by(Message("assistant", tuple(parts)))


@pytest.fixture(scope="module")
def alone(model) -> dict[str, Document]:
    return {name: Engine(model).run([request])[0] for name, request in TASKS.items()}


def test_each_task_answers_in_its_kind(alone) -> None:
    made = {name: len(list(reply.media())) - len(list(TASKS[name].document.media())) for name, reply in alone.items()}
    assert made == dict.fromkeys(TASKS, 1) | {"text from pictures": 0, "interleaved": 2}


def test_batched_and_streamed_replies_are_those_of_each_alone(model, alone) -> None:
    heard: dict[int, list] = {index: [] for index in range(len(TASKS))}
    together = Engine(model).run(list(TASKS.values()), on_event=lambda index, event: heard[index].append(event))
    for index, (name, request) in enumerate(TASKS.items()):
        same(together[index], alone[name])
        assert fold(request.document, heard[index]) == together[index]


@pytest.mark.parametrize("name", TASKS)
def test_a_cached_reply_is_the_one_recomputed_from_its_beginning_at_every_step(model, alone, name: str) -> None:
    same(recomputed(model, TASKS[name]), alone[name])


def test_rows_may_join_and_leave_between_steps(model, alone) -> None:
    running = Engine(model).running(num_rows=3)
    names = ["interleaved", "text to picture", "subject"]
    (first,) = running.add([TASKS[names[0]]])
    running.step()
    second, third = running.add([TASKS[names[1]], TASKS["text from pictures"]])
    running.step()
    running.drop(third)
    assert running.num_free == 1
    (last,) = running.add([TASKS[names[2]]])
    while running.step():
        pass
    for name, row in zip(names, (first, second, last), strict=True):
        assert row.phase is Phase.DONE
        same(_extended(row.request.document, row.parts), alone[name])
    assert running.num_free == 3


def test_more_rows_than_there_is_room_for_are_refused(model) -> None:
    running = Engine(model).running(num_rows=1)
    with pytest.raises(ValueError, match=r"2 rows are to join and 1 are free\nhint: "):
        running.add([TASKS["interleaved"]] * 2)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["a", picture("red")], ["b", picture("red")]),
        (["a", picture("red"), "now"], ["a", picture("blue"), "now"]),
        ([picture("red"), "a", picture("white")], [picture("black"), "a", picture("white")]),
    ],
)
@pytest.mark.parametrize("role", ["user", "page"])
def test_a_picture_depends_on_every_text_and_picture_before_it(model, one, other, role: str) -> None:
    def last(parts) -> numpy.ndarray:
        document = Document.page(parts) if role == "page" else Document.chat([("user", parts)])
        return pixels(Engine(model).run([Request(document, **NOW | {"guidance_scale": 2.0})])[0])[-1]

    assert (last(one) == last(one)).all()
    assert (last(one) != last(other)).any()


def test_what_is_written_behind_a_picture_has_read_it_back(model, monkeypatch) -> None:
    def scores(colour: str | None) -> torch.Tensor:
        engine = Engine(model)
        if colour is not None:
            read = engine.drawing.read
            shown = [Media(picture(colour))]
            monkeypatch.setattr(engine.drawing, "read", lambda name, media: read(name, shown))
        running = engine.running(num_rows=1)
        (row,) = running.add([TASKS["text to picture"]])
        while not row.num_pictures:
            running.step()
        return row.logits[0]

    own, red, blue = scores(None), scores("red"), scores("blue")
    assert not torch.allclose(red, blue)
    assert not torch.allclose(own, red)


def test_a_model_that_may_end_its_page_stops_there(model) -> None:
    ending = tiny_model()
    logits = model.backbone.logits
    (stop,) = ending.tokenizer.eos_ids

    def likelier(hidden):
        scores = logits(hidden)
        scores[..., stop] = 1e5
        return scores

    ending.backbone.logits = likelier
    heard: list = []
    (reply,) = Engine(ending).run([TASKS["subject"]], on_event=lambda _, event: heard.append(event))
    assert heard[-1] == Done("stop")
    assert [type(part) for part in reply.messages[-1].parts] == [Media]  # forced, then the end


def test_negative_prompts_change_the_picture_and_are_computed_once(model, monkeypatch) -> None:
    engine = Engine(model)
    runs: list[int] = []
    whole = model.hidden_states
    monkeypatch.setattr(model, "hidden_states", lambda batch: runs.append(1) or whole(batch))

    def drawn(negative: Document | None) -> numpy.ndarray:
        return pixels(engine.run([Request(Document.page(["a"]), negative=negative, **NOW)])[0])[0]

    plain, dark = drawn(None), drawn(Document.page(["dark"]))
    assert (plain != dark).any()
    assert (drawn(Document.page(["dark"])) == dark).all()
    assert (drawn(Document.page(["dark", picture("red")])) != dark).any()
    assert len(runs) == 3  # one per content
    mixed = engine.run([Request(Document.page(["a"]), negative=n, **NOW) for n in (None, Document.page(["dark"]))])
    assert [abs(pixels(reply)[0] - alone).max() <= 1 for reply, alone in zip(mixed, (plain, dark), strict=True)]
    assert len(runs) == 3


def test_rescaled_guidance_and_another_sampler_and_another_size_are_handed_on(model) -> None:
    def drawn(**options) -> numpy.ndarray:
        request = Request(Document.page(["a"]), **NOW | {"guidance_scale": 6.0} | options)
        return pixels(Engine(model).run([request])[0])[0]

    assert (drawn() != drawn(guidance_rescale=0.7)).any()
    assert (drawn(num_inference_steps=4) != drawn(num_inference_steps=4, sampler="dpm++")).any()
    assert drawn(size=(16, 16)).shape[:2] == (16, 16)


def test_what_a_decoder_cannot_do_is_refused_before_anything_is_computed(model, monkeypatch) -> None:
    monkeypatch.setattr(model.backbone, "hidden_states", lambda *a, **k: pytest.fail("computed"))
    for options, says in (({"sampler": "magic"}, "magic"), ({"size": (33, 32)}, "33x32")):
        with pytest.raises(ValueError, match=rf"{says}.*\nhint: "):
            Engine(model).run([Request(Document.page(["a"]), **NOW | options)])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"best_of": 0}, "best_of is 0"),
        ({"best_of": 2}, "best_of is 2 and nobody scores"),
        ({"guidance_rescale": 1.5}, "guidance_rescale is 1.5"),
        ({"guidance_scale": 1.0, "guidance_rescale": 0.5}, "guidance_rescale is given and guidance_scale is 1"),
        ({"guidance_scale": 1.0, "negative": Document.page(["x"])}, "a negative prompt is given"),
        ({"size": (0, 8)}, r"size is \(0, 8\)"),
    ],
)
def test_requests_that_contradict_themselves_are_refused(options, says: str) -> None:
    with pytest.raises(ValueError, match=says + r".*\nhint: "):
        Request(Document.page(["a"]), **options)


def test_sampled_text_is_the_same_in_any_company(model) -> None:
    request = Request(
        Document.page(["abc"]), sampling=Sampling(temperature=2.0, top_p=0.9), pictures=Pictures.NONE, **DRAW
    )
    (single,) = Engine(model).run([request])
    assert Engine(model).run([TASKS["text to picture"], request])[1] == single
