"""Formats: rows as they lie on disk become Documents, part by part."""

import pytest
from tiny import picture

from limner.data.formats import caption, conversation, creation, interleaved, native
from limner.document.document import Direction, Document, Media, Text
from limner.document.media import Image


def _find(name: str) -> Image:
    return picture(name)


def test_native_rows_are_documents_as_they_were_written() -> None:
    document = Document.chat([("user", ["What?", picture()]), ("assistant", "Red.")])
    assert native(document.to_json(), _find) == document


def test_a_caption_row_reads_and_a_creation_row_makes_the_same_picture() -> None:
    row = {"image": "red", "caption": " a red square\n"}
    read, made = caption(row, _find).messages[0], creation(row, _find).messages[0]
    assert read.parts == (Media(picture("red"), directions=(Direction.IN,)), Text("a red square"))
    assert made.parts == (Text("a red square", train=False), Media(picture("red"), directions=(Direction.OUT,)))


def test_placeholders_of_a_conversation_become_its_pictures_in_order() -> None:
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "<image>\n<image>\nWhich is blue?"},
        {"from": "gpt", "value": "The second."},
    ]
    document = conversation({"image": ["red", "blue"], "conversations": turns}, _find)
    assert [message.role for message in document.messages] == ["system", "user", "assistant"]
    assert document.messages[1].parts == (Media(picture("red")), Media(picture("blue")), Text("Which is blue?"))


@pytest.mark.parametrize(
    ("names", "value", "says"),
    [
        ([], "<image> What?", "has a <image> without a picture"),
        (["red", "blue"], "<image>", "1 pictures have no <image>"),
    ],
)
def test_placeholders_and_pictures_must_match(names: list[str], value: str, says: str) -> None:
    row = {"image": names, "conversations": [{"from": "human", "value": value}]}
    with pytest.raises(ValueError, match=says + r"\nhint: "):
        conversation(row, _find)


def test_pictures_of_an_interleaved_page_follow_their_texts() -> None:
    info = [{"image_name": "blue", "matched_text_index": 1}, {"image_name": "red", "matched_text_index": 0}]
    page = interleaved({"text_list": ["One.", " Two. ", "Three."], "image_info": info}, _find).messages[0]
    shown = [part.text if isinstance(part, Text) else part.content.name for part in page.parts]
    assert shown == ["One.", "red", "Two.", "blue", "Three."]
    with pytest.raises(ValueError, match=r"matched_text_index is 3; expected 0 to 2\nhint: "):
        interleaved({"text_list": ["a"] * 3, "image_info": [info[0] | {"matched_text_index": 3}]}, _find)
