"""Text that is told as it becomes certain, and ends before a stop string wherever tokens end."""

import pytest

from limner.generate.transcript import Transcript


def decode(ids) -> str:
    return "".join(WORDS[token] for token in ids)


WORDS = ["a", "b", "c", "ab", "bc", "abc", "d"]


def told(pieces: list[str], stops: tuple[str, ...]) -> tuple[str, str, bool]:
    """What is told while it goes, the whole, and whether it was stopped."""
    transcript, heard = Transcript(stops=stops), ""
    for piece in pieces:
        transcript.add(WORDS.index(piece))
        heard += transcript.more(decode)
        if transcript.stopped:
            break
    more, whole = transcript.close(decode)
    assert heard + more == whole
    return heard, whole, transcript.stopped


@pytest.mark.parametrize("pieces", [["a", "b", "c", "d"], ["ab", "c", "d"], ["a", "bc", "d"], ["abc", "d"]])
@pytest.mark.parametrize(
    ("stops", "whole"),
    [((), "abcd"), (("bc",), "a"), (("abc",), ""), (("cd",), "ab"), (("b", "abc"), "a"), (("bc", "abc"), ""),
     (("da",), "abcd"), (("d", "x"), "abc")],
)  # fmt: skip
def test_where_a_text_is_cut_does_not_depend_on_its_tokens(pieces, stops, whole: str) -> None:
    _, found, stopped = told(pieces, stops)
    assert found == whole
    assert stopped == (found != "abcd")


def test_the_possible_beginning_of_a_stop_string_waits() -> None:
    transcript = Transcript(stops=("abd",))
    heard = []
    for piece in ("a", "b", "a", "c"):
        transcript.add(WORDS.index(piece))
        heard.append(transcript.more(decode))
    assert heard == ["", "", "ab", "ac"]


def test_what_waits_is_told_at_the_end_and_the_next_part_begins_anew() -> None:
    transcript = Transcript(stops=("abd",))
    transcript.add(WORDS.index("ab"))
    assert transcript.more(decode) == ""
    assert transcript.close(decode) == ("ab", "ab")
    transcript.add(WORDS.index("d"))
    assert transcript.more(decode) == "d"
    assert not transcript.stopped
