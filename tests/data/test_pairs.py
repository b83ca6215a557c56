"""Pairs: both directions of one source, and a draw between them that is a pure function."""

import pytest
from tiny import picture, tiny_model

from limner.data.formats.table import format_named
from limner.data.mixture import FunctionSource, Mixture
from limner.data.pairs import Pairs, ScenePairs
from limner.document.document import Direction, Document, Media, Text


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def _source(length: int = 500) -> FunctionSource:
    shown = Media(picture("red"), directions=(Direction.IN,))
    return FunctionSource(lambda index: Document.page([shown, f"Red {index}."]), length)


def _makes(document: Document) -> bool:
    ((message, media),) = document.media()
    return Direction.OUT in message.directions(media)


def test_comprehension_reads_the_picture_and_learns_the_text(model) -> None:
    document = Pairs(_source(), mode="comprehension")[7]
    shown, words = document.messages[0].parts
    assert shown == Media(picture("red"), directions=(Direction.IN,))
    assert words == Text("Red 7.")
    sequence = model.render(document)
    assert sequence.trained[-7:] == (True,) * 7  # six bytes and the end of the page


def test_creation_learns_that_a_picture_begins_and_not_the_text(model) -> None:
    document = Pairs(_source(), mode="creation")[7]
    words, made = document.messages[0].parts
    assert words == Text("Red 7.", train=False)
    assert made == Media(picture("red"), directions=(Direction.OUT,))
    sequence = model.render(document)
    (span,) = sequence.spans
    begin = span.start - 1
    assert sequence.ids[begin] == model.vocabulary.span("image", Direction.OUT).begin
    assert [index for index, trained in enumerate(sequence.trained) if trained] == [begin, len(sequence) - 1]


PAGE = {"text_list": ["A fox."], "image_info": [{"image_name": "fox.jpg", "matched_text_index": 0}]}


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("creation", {"image": "fox.jpg", "caption": "A fox."}),
        ("image_image", {"image": "fox.jpg"}),
        ("interleaved", PAGE),
        ("instruct_interleaved", {"instruction": "Tell me of a fox.", **PAGE}),
        (
            "conversation",
            {
                "image": "fox.jpg",
                "conversations": [{"from": "human", "value": "Draw a fox."}, {"from": "gpt", "value": "Here: <dream>"}],
            },
        ),
    ],
)
def test_that_a_picture_begins_is_learned_in_every_kind_of_data(model, name, row) -> None:
    sequence = model.render(format_named(name)(row, lambda _: picture("red").data))
    begins = [span.start - 1 for span in sequence.spans if span.direction is Direction.OUT]
    assert len(begins) == 1
    assert all(sequence.trained[begin] for begin in begins)
    # Slots and end tokens are the engine's to write.
    for span in sequence.spans:
        assert not any(sequence.trained[span.start : span.start + span.length + 1])


def test_joint_is_both_at_even_odds_drawn_anew_in_every_epoch() -> None:
    def mixture(seed: int = 0) -> Mixture:
        return Mixture({"pairs": Pairs(_source(), mode="joint")}, seed=seed)

    one = mixture()
    made = [_makes(one.document(position)[0]) for position in range(1000)]
    assert sum(made) / 1000 == pytest.approx(0.5, abs=0.05)
    # A position is answered without those before it, and alike whoever asks.
    other = mixture()
    assert [_makes(other.document(position)[0]) for position in reversed(range(50))] == made[:50][::-1]
    ways: dict[int, list[bool]] = {}
    for position in range(1000):
        ways.setdefault(one.draw(position).index, []).append(made[position])
    assert sum(len(set(found)) == 2 for found in ways.values()) / 500 == pytest.approx(0.5, abs=0.07)
    reseeded = mixture(seed=1)
    assert made != [_makes(reseeded.document(position)[0]) for position in range(1000)]


def test_small_pictures_and_what_is_no_pair_are_bad_documents() -> None:
    assert Pairs(_source(), mode="joint", min_size=29)[0]
    with pytest.raises(ValueError, match=r"expected more than 30 each way\nhint: "):
        Pairs(_source(), mode="joint", min_size=30)[0]
    pages = [
        Document.page(["only words"]),
        Document.page([picture("red")]),
        Document.page([picture("red"), "and", picture("blue")]),
        Document.chat([("user", [picture("red"), "What?"]), ("assistant", "Red.")]),
    ]
    for page in pages:
        with pytest.raises(ValueError, match=r"a pair has .*\nhint: "):
            Pairs(FunctionSource(lambda _, page=page: page, 1), mode="creation")[0]


def test_scenes_are_pairs_with_what_their_picture_shows() -> None:
    source = ScenePairs(length=5)
    assert len(source) == 5
    shown, words = source[3].messages[0].parts
    assert isinstance(shown, Media)
    assert words == Text(f"{shown.alt}.")
    assert source[3] == ScenePairs(length=5)[3]
    assert not _makes(Pairs(source, mode="comprehension")[3])
    assert _makes(Pairs(source, mode="creation")[3])
