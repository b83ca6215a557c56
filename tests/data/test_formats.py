"""Formats: rows as they lie on disk become Documents, part by part; a bad row says which key and what to do."""

import io
import json
import struct
import zlib
from typing import Any

import numpy
import PIL.Image
import pytest
from tiny import picture

from limner.data.formats.table import FORMATS, format_named
from limner.document.audio import Audio
from limner.document.document import Direction, Document, Media, Text
from limner.document.media import File, Image
from limner.document.text_file import TextFile
from limner.document.video import Video

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A fox."}]
INFO = [{"image_name": "a.png", "matched_text_index": 0}]
ROWS: dict[str, dict[str, Any]] = {
    "native": Document.page(["A fox ", picture("red")]).to_json(),
    "caption": {"image": "a.png", "caption": "a fox"},
    "creation": {"image": "a.png", "caption": "a fox"},
    "tokenized_caption": {"image": "a.png", "caption": "a fox", "input_ids": [9, 9, 1, 2], "labels": [0, 0, 1, 1]},
    "image_image": {"image": "a.png", "target": "a.png"},
    "video_caption": {"video": "a.mp4", "caption": "a fox runs"},
    "conversation": {"image": "a.png", "conversations": TURNS},
    "keyed_chat": {
        "images": ["a.png"],
        "messages": [{"role": "user", "content": "<image> What?"}, {"role": "assistant", "content": "A fox."}],
    },
    "openai_chat": {
        "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a.png"}}]},
            {"role": "assistant", "content": "A fox."},
        ]
    },
    "interleaved": {"text_list": ["A fox."], "image_info": INFO},
    "instruct_interleaved": {"instruction": "Show a fox.", "text_list": ["A fox."], "image_info": INFO},
    "alternating": {"texts": ["A fox.", None], "images": [None, "a.png"]},
}
WITH_PICTURES = [name for name in FORMATS if name not in ("native", "video_caption")]
each_with_pictures = pytest.mark.parametrize("name", WITH_PICTURES)


def _encoded(made: PIL.Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    made.save(stream, format=kind, **options)
    return stream.getvalue()


def _noise() -> bytes:
    return _encoded(PIL.Image.fromarray(numpy.random.default_rng(0).integers(0, 255, (64, 64, 3), "uint8")), "JPEG")


def _rotated() -> bytes:
    made = PIL.Image.new("RGB", (6, 4))
    exif = made.getexif()
    exif[0x0112] = 6
    return _encoded(made, "JPEG", exif=exif)


def _bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


FILES = {
    "a.png": picture("red").png_bytes(),
    "b.png": picture("blue").png_bytes(),
    "a.mp4": b"\0\0\0\x18ftypmp42",
    "a.wav": b"RIFF\0\0\0\0WAVE",
    "UPPER.JPG": _encoded(PIL.Image.new("RGB", (5, 3)), "JPEG"),
    "clear.png": _encoded(PIL.Image.new("RGBA", (5, 3), (9, 9, 9, 0)), "PNG"),
    "rotated.jpg": _rotated(),
    "print.jpg": _encoded(PIL.Image.new("CMYK", (5, 3)), "JPEG"),
    "dot.png": _encoded(PIL.Image.new("L", (1, 1)), "PNG"),
    "truncated.jpg": _noise()[:900],
    "bomb.png": _bomb(),
    "letter.jpg": b"Dear Sir",
    "empty.png": b"",
}


def _read(name: str) -> bytes:
    if name not in FILES:
        raise ValueError(f"row names `{name}`, which is not there\nhint: fetch it")
    return FILES[name]


def _made(name: str, **changes: str) -> Document:
    """A format on its row, with words of its JSON changed."""
    text = json.dumps(ROWS[name])
    for before, after in changes.items():
        text = text.replace({"media": '"a.png"', "film": '"a.mp4"', "fox": '"a fox"'}.get(before, before), after)
    return format_named(name)(json.loads(text), _read)


def _refused(name: str, row: Any) -> str:
    with pytest.raises(ValueError, match=r"^[^\n]+\nhint: [^\n]+$") as caught:
        format_named(name)(row, _read)
    return str(caught.value)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_makes_a_document_of_its_row(name: str) -> None:
    document = _made(name)
    media = [media for _, media in document.media()]
    assert media
    if name == "video_caption":
        assert (media[0].modality, media[0].payload) == ("video", File(FILES["a.mp4"]))
    else:
        assert media[0].content.pil().getpixel((0, 0)) == (255, 0, 0)
    json.dumps(document.to_json())
    assert Document.from_json(document.to_json()) == document


@each_with_pictures
@pytest.mark.parametrize(
    ("file", "size"),
    [("UPPER.JPG", (5, 3)), ("clear.png", (5, 3)), ("rotated.jpg", (4, 6)), ("print.jpg", (5, 3)), ("dot.png", (1, 1))],
)
def test_peculiar_pictures_are_taken_and_become_rgb(name: str, file: str, size: tuple[int, int]) -> None:
    for _, media in _made(name, media=json.dumps(file)).media():
        assert (media.content.pil().mode, media.content.pil().size) == ("RGB", size)


@each_with_pictures
def test_a_truncated_picture_is_refused_when_its_pixels_are_asked_for(name: str) -> None:
    _, media = next(_made(name, media='"truncated.jpg"').media())
    with pytest.raises(ValueError, match=r"`truncated\.jpg` is damaged[^\n]*\nhint: "):
        media.content.pil()


@each_with_pictures
@pytest.mark.parametrize(
    "item", ['"none.png"', '"bomb.png"', '"letter.jpg"', '"empty.png"', '""', "7", "null", "true", "{}", '{"path": ""}']
)
def test_what_is_no_picture_is_refused_before_decoding(name: str, item: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+\nhint: [^\n]+$"):
        _made(name, media=item)


@pytest.mark.parametrize("item", ['"none.mp4"', '""', "7", "null", "[]"])
def test_what_is_no_film_is_refused(item: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+\nhint: [^\n]+$"):
        _made("video_caption", film=item)


@each_with_pictures
def test_a_picture_may_lie_in_the_row_itself(name: str) -> None:
    row = json.loads(json.dumps(ROWS[name]).replace('"a.png"', json.dumps(picture("red").data_url())))
    assert [m.content for _, m in format_named(name)(row, _read).media()] == [m.content for _, m in _made(name).media()]


def test_a_picture_may_be_bytes_as_tables_store_them() -> None:
    for item in (FILES["a.png"], {"bytes": FILES["a.png"], "path": None}, {"bytes": None, "path": "a.png"}):
        document = format_named("caption")({"image": item, "caption": "a fox"}, _read)
        assert next(document.media())[1].content == picture("red")


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("caption", {"caption": "  "}, "row key `caption` is blank"),
        ("creation", {"caption": ""}, "row key `caption` is ''"),
        ("creation", {"caption": 5}, "row key `caption` is 5; expected a non-empty str"),
        ("video_caption", {"caption": None}, "row key `caption` is None"),
        ("tokenized_caption", {"caption": None}, "row key `caption` is None"),
        ("tokenized_caption", {"labels": [1]}, "4 input_ids and 1 labels"),
        ("tokenized_caption", {"labels": [0, 0, 1, 7]}, "each 0 or 1"),
        ("conversation", {"conversations": "What?"}, "row key `conversations` is 'What?'"),
        ("conversation", {"conversations": []}, "row key `conversations` is []"),
        ("conversation", {"conversations": ["What?"]}, "conversations[0] is from `What?`"),
        ("conversation", {"conversations": [{"from": "dog", "value": "x"}]}, "conversations[0] is from `dog`"),
        ("conversation", {"conversations": [{"from": "gpt", "value": " "}]}, "conversations[0] key `value` is blank"),
        ("conversation", {"image": None}, "conversations[0] has a <image> without a picture"),
        ("conversation", {"image": ["a.png", "b.png"]}, "1 pictures have no placeholder"),
        ("keyed_chat", {"images": []}, "messages[0] has a <image> without an item"),
        ("keyed_chat", {"images": ["a.png"] * 3}, "2 items of `images` have no <image>"),
        ("keyed_chat", {"sounds": ["a.wav"]}, "1 items of `sounds` have no <sound>"),
        ("keyed_chat", {"images": "a.png"}, "row key `images` is 'a.png'; expected a list"),
        ("keyed_chat", {"messages": [{"role": "dog", "content": "x"}]}, "messages[0] has the role `dog`"),
        ("keyed_chat", {"messages": [{"role": "user", "content": ""}]}, "messages[0] key `content` is ''"),
        ("openai_chat", {"messages": {}}, "row key `messages` is {}"),
        ("openai_chat", {"messages": [{"role": "user", "content": " "}]}, "messages[0] key `content` is blank"),
        ("openai_chat", {"messages": [{"role": "user"}]}, "messages[0] key `content` is None"),
        ("openai_chat", {"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "has the type `x`"),
        ("interleaved", {"text_list": []}, "row key `text_list` is []"),
        ("interleaved", {"text_list": [5]}, "text_list[0] is 5; expected text"),
        ("interleaved", {"image_info": []}, "row key `image_info` is []"),
        ("interleaved", {"image_info": [{"image_name": "a.png"}]}, "`matched_text_index` is None; expected 0 to 0"),
        ("interleaved", {"image_info": [INFO[0] | {"matched_text_index": 1}]}, "`matched_text_index` is 1"),
        ("interleaved", {"image_info": ["a.png"]}, "image_info[0] key `image_name` is None"),
        ("instruct_interleaved", {"instruction": " "}, "row key `instruction` is blank"),
        ("alternating", {"texts": ["A fox."]}, "row has 1 texts and 2 images"),
        ("alternating", {"images": ["a.png", "a.png"]}, "that do not take turns"),
        ("alternating", {"texts": [5, None]}, "texts[0] is 5; expected text"),
        ("native", {"messages": 5}, "a document has no list `messages`"),
    ],
)
def test_a_row_that_does_not_fit_says_which_key(name: str, changes: dict[str, Any], says: str) -> None:
    assert says in _refused(name, ROWS[name] | changes)


def test_an_unknown_format_is_refused_with_the_closest() -> None:
    with pytest.raises(ValueError, match=r"no format `captoin`\nhint: did you mean `caption`\?"):
        format_named("captoin")


def test_a_caption_row_reads_and_a_creation_row_makes_the_same_picture() -> None:
    row = {"image": "a.png", "caption": " a red square\n"}
    read, made = (format_named(name)(row, _read).messages[0] for name in ("caption", "creation"))
    assert read.parts == (Media(picture("red"), directions=(Direction.IN,)), Text("a red square"))
    assert made.parts == (Text("a red square", train=False), Media(picture("red"), directions=(Direction.OUT,)))


def test_a_picture_without_a_target_is_made_again() -> None:
    read, made = (media for _, media in format_named("image_image")({"image": "a.png"}, _read).media())
    assert read.content == made.content
    assert (read.directions, made.directions) == ((Direction.IN,), (Direction.OUT,))
    other = format_named("image_image")({"image": "a.png", "target": "b.png"}, _read)
    assert [media.content.name for _, media in other.media()] == ["a.png", "b.png"]


def test_a_tokenized_caption_is_trained_where_any_label_says_so() -> None:
    for labels, train in (([0, 1, 1, 1], True), ([0, 0, 0, 0], False)):
        page = format_named("tokenized_caption")(ROWS["tokenized_caption"] | {"labels": labels}, _read).messages[0]
        assert page.parts[1] == Text("a fox", train=train)


def test_placeholders_of_a_conversation_become_its_pictures_in_order() -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image>\n<image>\nWhich is blue?"},
        {"from": "gpt", "value": "The second. <dream>"},
    ]
    row = {"image": ["a.png", "b.png", "b.png"], "conversations": turns}
    document = format_named("conversation")(row, _read)
    assert [message.role for message in document.messages] == ["system", "user", "assistant"]
    assert document.messages[1].parts == (Media(picture("red")), Media(picture("blue")), Text("Which is blue?"))
    answer = document.messages[2]
    assert answer.parts[0] == Text("The second. ")
    assert answer.directions(answer.parts[1]) == (Direction.OUT, Direction.IN)


def test_a_conversation_may_have_no_picture() -> None:
    turns = [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Hello!"}]
    assert list(format_named("conversation")({"conversations": turns}, _read).media()) == []


def test_items_of_a_keyed_chat_are_taken_in_order_from_the_list_of_their_kind() -> None:
    row = {
        "images": ["a.png", "b.png"],
        "sounds": ["a.wav"],
        "documents": ["A long text."],
        "imagebinds": ["a.wav", "B.PNG".lower(), "some words"],
        "messages": [
            {"role": "user", "content": "<image><sound> and <image>? <document> <imagebind><imagebind><imagebind>"},
            {"role": "assistant", "content": "So."},
        ],
    }
    media = [media for _, media in format_named("keyed_chat")(row, _read).media()]
    assert [item.modality for item in media] == ["image", "sound", "image", "document"] + ["imagebind"] * 3
    names = [item.payload.name for item in media]
    assert names == ["a.png", "a.wav", "b.png", "text.txt", "a.wav", "b.png", "text.txt"]
    assert [type(item.payload) for item in media] == [Image, Audio, Image, TextFile, Audio, Image, TextFile]
    assert media[3].payload.data == b"A long text."


def test_films_and_sounds_of_a_keyed_chat_are_payloads_of_their_kind() -> None:
    items = {"videos": ["a.mp4"], "speech_audios": [{"array": [0.0, 0.5], "sampling_rate": 8}, {"path": "a.wav"}]}
    asked = [{"role": "user", "content": "<speech><video><speech>"}]
    media = [item.payload for _, item in format_named("keyed_chat")(items | {"messages": asked}, _read).media()]
    assert [type(payload) for payload in media] == [Audio, Video, Audio]
    assert media[0].mono(8).tolist() == [0.0, 0.5]


def test_pictures_of_an_interleaved_page_follow_their_texts() -> None:
    info = [
        {"image_name": "b.png", "matched_text_index": 1},
        {"image_name": "a.png", "matched_text_index": 0},
        {"image_name": "b.png", "matched_text_index": 0},
    ]
    row = {"instruction": "Go on.", "text_list": ["One.", " Two. ", "", "Three.", "Four."], "image_info": info}
    page = format_named("interleaved")(row, _read).messages[0]
    shown = [part.text if isinstance(part, Text) else part.content.name for part in page.parts]
    assert shown == ["One.", "a.png", "b.png", "Two.", "b.png", "Three.", " Four."]
    asked, told = format_named("instruct_interleaved")(row, _read).messages
    assert (asked.role, asked.text, told.role, told.parts) == ("user", "Go on.", "assistant", page.parts)


def test_texts_and_pictures_of_two_lists_take_turns() -> None:
    row = {"texts": [None, "One.", "Two.", None], "images": ["b.png", None, None, "a.png"]}
    page = format_named("alternating")(row, _read).messages[0]
    shown = [part.text if isinstance(part, Text) else part.content.name for part in page.parts]
    assert shown == ["b.png", "One.", " Two.", "a.png"]
