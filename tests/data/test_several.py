"""Questions over several pictures: true, reproducible, and read in their order."""

import re

import pytest
from tiny import COLOURS, picture

from limner.data.mixture import FunctionSource
from limner.data.several import SeveralPictures
from limner.document.document import Document, Media

PAIRS = FunctionSource(lambda index: Document.page([picture(COLOURS[index]), f"{COLOURS[index]} all over"]), 7)


def colours(document: Document) -> list[str]:
    """What the pictures of a conversation show."""
    known = {picture(colour).digest: colour for colour in COLOURS}
    return [known[media.content.digest] for _, media in document.media()]


def test_answers_are_true_of_the_pictures_and_all_kinds_come_up() -> None:
    source = SeveralPictures(PAIRS, length=60, max_pictures=4, seed=3)
    kinds, counts, first = set(), set(), set()
    for index in range(len(source)):
        user, assistant = source[index].messages
        shown = colours(source[index])
        assert len(set(shown)) == len(shown)
        counts.add(len(shown))
        first.add(user.text.startswith("Picture 1: "))
        numbers = re.findall(r"Picture (\d+): ", user.text)
        assert numbers == [str(number + 1) for number in range(len(shown))]
        if asked := re.search(r"Which picture shows this: (\w+) all over", user.text):
            assert assistant.text == f"Picture {shown.index(asked[1]) + 1}."
        elif asked := re.search(r"What does picture (\d+) show\?", user.text):
            assert assistant.text == f"{shown[int(asked[1]) - 1]} all over"
        else:
            assert assistant.text == " ".join(f"Picture {i + 1}: {c} all over" for i, c in enumerate(shown))
        kinds.add(asked[0][:9] if asked else "Describe")
    assert kinds == {"Which pic", "What does", "Describe"}
    assert counts == {2, 3, 4}
    assert first == {True, False}


def test_the_same_seed_asks_the_same_and_another_does_not() -> None:
    one, same, other = (SeveralPictures(PAIRS, length=8, seed=seed) for seed in (0, 0, 1))
    assert [one[i] for i in range(8)] == [same[i] for i in range(8)]
    assert [one[i] for i in range(8)] != [other[i] for i in range(8)]


def test_a_text_that_pictures_share_is_not_asked_for() -> None:
    twins = FunctionSource(lambda index: Document.page([picture(COLOURS[index]), "a colour"]), 7)
    source = SeveralPictures(twins, length=30)
    assert not any("Which" in source[index].messages[0].text for index in range(30))


def test_too_few_pairs_and_what_is_no_pair_are_refused() -> None:
    with pytest.raises(ValueError, match=r"max_pictures is 8 over 7 pairs.*\nhint: "):
        SeveralPictures(PAIRS, length=1, max_pictures=8)
    texts = FunctionSource(lambda index: Document.page(["no picture"]), 7)
    with pytest.raises(ValueError, match=r"0 media parts.*\nhint: "):
        SeveralPictures(texts, length=1)[0]


def test_an_answer_follows_the_order_of_the_pictures() -> None:
    """Two pictures are read as two: exchanged, the model's input differs, and a batch reads as its rows alone."""
    import torch
    from tiny import tiny_model

    from limner.data.collate import Collator

    model = tiny_model()
    red, blue = Media(picture("red")), Media(picture("blue"))
    asked = [Document.chat([("user", [*pair, "Which is red?"])]) for pair in ([red, blue], [blue, red], [red])]
    sequences = [model.render(document) for document in asked]
    collate = Collator(model)
    with torch.no_grad():
        together = model.hidden_states(collate([[sequence] for sequence in sequences]))
        alone = [model.hidden_states(collate([[sequence]]))[0, len(sequence) - 1] for sequence in sequences]
    for row, sequence in enumerate(sequences):
        assert float((together[row, len(sequence) - 1] - alone[row]).abs().max()) < 1e-5
    assert not torch.allclose(alone[0], alone[1], atol=1e-5)
