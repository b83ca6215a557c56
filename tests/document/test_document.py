"""Documents: what goes in comes out, and what is wrong is named in one line with a hint."""

import json

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.document.document import Direction, Document, Media, Message, Text, null_prompt
from limner.document.media import Image

# The run-time type checker looks at a random element of each container, also inside strategies.
pytestmark = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")


def _picture(colour: tuple[int, int, int]) -> Image:
    return Image.from_pil(PIL.Image.new("RGB", (3, 2), colour))


trains = st.sampled_from([None, True, False])
texts = st.builds(Text, text=st.text(), train=trains)
pictures = st.builds(_picture, st.tuples(*[st.integers(0, 255)] * 3))
medias = st.builds(
    Media,
    payload=st.none() | pictures,
    train=trains,
    directions=st.sampled_from([None, (Direction.IN,), (Direction.OUT,), (Direction.OUT, Direction.IN)]),
    alt=st.text(max_size=5),
)
parts = st.lists(texts | medias, max_size=4).map(tuple)
roles = st.sampled_from(["system", "user", "assistant"])
messages = st.builds(Message, role=roles | st.just("page"), parts=parts)
metas = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=2)


@settings(max_examples=60, deadline=None)
@given(st.builds(Document, messages=st.lists(messages, max_size=3).map(tuple), meta=metas))
def test_a_document_survives_its_json(document: Document) -> None:
    assert Document.from_json(json.loads(json.dumps(document.to_json()))) == document


plain = st.lists(st.builds(Text, st.text()) | st.builds(Media, pictures), max_size=4).map(tuple)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.builds(Message, role=roles, parts=plain), max_size=3))
def test_a_chat_survives_its_openai_form(turns: list[Message]) -> None:
    document = Document(tuple(turns))
    assert Document.from_openai(json.loads(json.dumps(document.to_openai()))) == document


def test_string_content_of_openai_is_one_text_part() -> None:
    document = Document.from_openai([{"role": "user", "content": "hi"}])
    assert document == Document.chat([("user", "hi")])


def test_a_jpeg_keeps_its_look_through_json() -> None:
    import io

    stream = io.BytesIO()
    PIL.Image.new("RGB", (9, 7), (200, 30, 40)).save(stream, format="JPEG")
    document = Document.page([Image.from_bytes(stream.getvalue())])
    (_, before), (_, after) = [*document.media(), *Document.from_json(document.to_json()).media()]
    assert before.payload.pil().tobytes() == after.payload.pil().tobytes()


def test_defaults_of_roles_say_what_is_read_made_and_trained() -> None:
    media = Media(_picture((1, 2, 3)))
    user, assistant = Message("user", (media,)), Message("assistant", (media,))
    assert (user.directions(media), user.trained(media)) == ((Direction.IN,), False)
    assert assistant.directions(media) == (Direction.OUT, Direction.IN)
    assert assistant.trained(media)
    assert not Message("assistant", ()).trained(Text("x", train=False))


def test_the_null_prompt_is_a_page_with_one_untrained_item_to_be_made() -> None:
    (message,) = null_prompt(Media(None)).messages
    (part,) = message.parts
    assert message.role == "page"
    assert (part.train, part.directions) == (False, (Direction.OUT,))


PNG = _picture((1, 2, 3)).data_url()


@pytest.mark.parametrize(
    ("data", "names"),
    [
        ({}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [{"parts": []}]}, "role"),
        ({"messages": [{"role": "user"}]}, "parts"),
        ({"messages": ["user"]}, "messages[0]"),
        ({"messages": [{"role": "user", "parts": "hello"}]}, "messages[0].parts"),
        ({"messages": [{"role": "user", "parts": None}]}, "messages[0].parts"),
        ({"messages": [{"role": "user", "parts": [{"x": 1}]}]}, "messages[0].parts[0]"),
        ({"messages": [{"role": "user", "parts": [{"text": 5}]}]}, "messages[0].parts[0].text"),
        ({"messages": [{"role": "user", "parts": [{"media": "image", "data": 5}]}]}, "data"),
        ({"messages": [{"role": "user", "parts": [{"media": "image", "data": ""}]}]}, "data"),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "parts": [{"media": "image", "data": PNG, "directions": ["up"]}],
                    }
                ]
            },
            "up",
        ),
        (
            {"messages": [{"role": "user", "parts": [{"media": "image", "data": "http://x/y.png"}]}]},
            "http://x",
        ),
        (
            {
                "messages": [
                    {
                        "role": "user",
                        "parts": [{"media": "image", "data": "data:image/png;base64,é"}],
                    }
                ]
            },
            "base64",
        ),
    ],
)
def test_bad_json_is_named_in_one_line_with_a_hint(data: object, names: str) -> None:
    with pytest.raises(ValueError, match="\nhint: ") as caught:
        Document.from_json(data)
    said, hint = str(caught.value).split("\n")
    assert names in said
    assert hint


@pytest.mark.parametrize(
    ("messages", "names"),
    [
        ([{"role": "user"}], "content"),
        ([{"content": "x"}], "role"),
        ([{"role": "user", "content": None}], "content"),
        ([{"role": "user", "content": ["hello"]}], "content[0]"),
        ([{"role": "user", "content": [{"type": "audio"}]}], "audio"),
        ([{"role": "user", "content": [{"type": "text"}]}], "text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "image_url"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": None}}]}], "url"),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "https://x/y"}}],
                }
            ],
            "https://x/y",
        ),
        (
            [
                {
                    "role": "user",
                    "content": [{"type": "image_url", "image_url": {"url": "data:image/png,x"}}],
                }
            ],
            "base64",
        ),
    ],
)
def test_bad_openai_messages_are_named_in_one_line_with_a_hint(messages: list, names: str) -> None:
    with pytest.raises(ValueError, match="\nhint: ") as caught:
        Document.from_openai(messages)
    assert names in str(caught.value).split("\n")[0]
    assert str(caught.value).count("\n") == 1


def test_an_unknown_role_is_refused_with_the_known_ones() -> None:
    message = Message("user", ())
    object.__setattr__(message, "role", "robot")  # past the run-time type checker of the tests
    with pytest.raises(ValueError, match=r"`robot`; expected one of system, user, assistant, page\nhint: "):
        Document((message,))


def test_what_openai_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="page"):
        Document.page(["x"]).to_openai()
    with pytest.raises(ValueError, match="not made yet"):
        Document.chat([("assistant", [Media(None)])]).to_openai()
