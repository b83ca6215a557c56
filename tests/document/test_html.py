import io
import json
import re
from html.parser import HTMLParser

import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limner.document.document import Direction, Document, Media, Message, Text
from limner.document.html import Layout, Section, from_html, read_sections, to_html
from limner.document.media import Image

RED = Image.from_pil(PIL.Image.new("RGB", (64, 48), "red"), name="red.png")
HOSTILE = '<script>alert("1")</script> & "quotes" <img src=x onerror=alert(1)>'


def webp() -> Image:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (20, 10), "blue").save(stream, "WEBP", lossless=True)
    return Image.from_bytes(stream.getvalue(), name="blue.webp")


class Tags(HTMLParser):
    """Every start tag of a page with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


# What HTML cannot hold: the null character, and halves of surrogate pairs.
text = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
trained = st.sampled_from([None, True, False])
pictures = st.sampled_from([RED, webp(), None])
modalities = st.sampled_from(["image", "audio"])
directions = st.sampled_from([None, (), (Direction.IN,), (Direction.OUT, Direction.IN)])
parts = st.tuples(text, trained) | st.tuples(pictures, modalities, trained, directions, text)
roles = st.sampled_from(["system", "user", "assistant", "page"])
messages = st.lists(st.tuples(roles, st.lists(parts, max_size=4)), max_size=4)
metas = st.dictionaries(text, st.integers() | text | st.lists(text, max_size=2), max_size=2)


def made(messages: list, meta: dict) -> Document:
    """The strategies give plain values: a class that checks its types draws random numbers."""
    return Document(
        tuple(
            Message(role, tuple(Text(*part) if len(part) == 2 else Media(*part) for part in parts))
            for role, parts in messages
        ),
        meta,
    )


@given(messages, metas)
def test_a_document_survives_the_way_through_a_page(messages: list, meta: dict):
    document = made(messages, meta)
    assert from_html(to_html(document)) == document


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.lists(messages, max_size=2), text, text, st.sampled_from(list(Layout))),
        max_size=3,
    )
)
def test_sections_survive_the_way_through_a_page(values: list):
    sections = [
        Section(tuple(made(each, {}) for each in documents), title, note, layout)
        for documents, title, note, layout in values
    ]
    assert read_sections(to_html(sections, title="T", footer="F")) == tuple(sections)


def test_pictures_keep_their_bytes_and_names():
    (part,) = from_html(to_html(Document.page([webp()]))).messages[0].parts
    assert part.payload.data == webp().data
    assert part.payload.name == "blue.webp"


def test_a_format_that_browsers_do_not_know_becomes_png():
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), "blue").save(stream, "TIFF")
    page = to_html(Document.page([Image.from_bytes(stream.getvalue())]))
    assert "data:image/png;base64," in page


def test_text_of_the_user_is_never_mark_up():
    parts = [HOSTILE, Media(RED, alt=HOSTILE, modality='"><script>')]
    page = to_html(
        [Section((Document.chat([("user", parts)], meta={HOSTILE: HOSTILE}),), HOSTILE, HOSTILE)],
        title=HOSTILE,
        footer=HOSTILE,
    )
    tags = Tags(page).found
    assert {tag for tag, _ in tags} <= {
        "html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "p", "span",
        "section", "div", "article", "figure", "figcaption", "img", "footer",
    }  # fmt: skip
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]


def test_a_page_is_self_contained_and_runs_nothing():
    page = to_html(Document.page(["Once.", RED]), title="T")
    sources = [attributes["src"] for tag, attributes in Tags(page).found if tag == "img"]
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", page)
    assert "default-src 'none'" in page


def test_a_page_follows_light_and_dark_and_small_screens():
    page = to_html(Document.page(["Once."]))
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_every_picture_has_an_alternative_text_and_its_size():
    document = Document.chat(
        [
            ("user", "Draw  a\nfox."),
            ("assistant", [RED, "And a hen.", RED, Media(RED, alt="a cow")]),
        ]
    )
    images = [attributes for tag, attributes in Tags(to_html(document)).found if tag == "img"]
    assert [a["alt"] for a in images] == [
        "Picture for: Draw a fox.",
        "Picture for: And a hen.",
        "a cow",
    ]
    assert {(a["width"], a["height"]) for a in images} == {("64", "48")}


def test_a_description_is_shown_below_its_picture():
    assert '<figcaption dir="auto">a cow</figcaption>' in to_html(Document.page([Media(RED, alt="a cow")]))
    assert "<figcaption" not in to_html(Document.page([RED])).split("</style>")[1]


@pytest.mark.parametrize(("size", "name"), [((16, 16), "coarse"), ((64, 64), "small"), ((900, 500), "large")])
def test_pictures_are_scaled_by_what_they_are(size: tuple[int, int], name: str):
    page = to_html(Document.page([Image.from_pil(PIL.Image.new("RGB", size))]))
    assert f'<figure class="{name}"' in page


def test_a_long_first_text_carries_a_drop_cap_and_a_short_one_does_not():
    assert 'class="initial"' in to_html(Document.page(["Once upon a time there was a fox. " * 3]))
    assert 'class="initial"' not in to_html(Document.page(["Once."]))


@pytest.mark.parametrize("page", ["", "no page", "<main></main>", '<main data-limner="99"></main>'])
def test_another_page_is_refused(page: str):
    with pytest.raises(ValueError, match=r"the page is .*\nhint: "):
        from_html(page)


def test_several_documents_are_not_one():
    page = to_html([Section((Document.page(["a"]), Document.page(["b"])))])
    with pytest.raises(ValueError, match="holds 2 documents; expected one"):
        from_html(page)


def test_meta_that_is_not_json_is_refused():
    with pytest.raises(ValueError, match="meta of a document is not JSON"):
        to_html(Document.page(["a"], meta={"x": object()}))


def test_a_page_through_json_gives_the_same_page():
    document = Document.chat([("user", ["What?", RED]), ("assistant", "Red.\n\nVery red.")])
    again = Document.from_json(json.loads(json.dumps(document.to_json())))
    assert to_html(again).replace("messages[0].parts[1]", "red.png") == to_html(document)
