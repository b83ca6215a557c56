"""Kept answers: asked once, whatever interrupts, whoever asks."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from tiny import picture, tiny_model

from limner.document.document import Document, Media, Message, Text
from limner.evaluate.answers import KeptAnswers, Respondent
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request


class Counting:
    """An engine that counts what it is asked."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.model = engine.model
        self.asked = 0

    def run(self, requests: Sequence[Request], /) -> list[Document]:
        self.asked += len(requests)
        return self.engine.run(requests)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model())


def requests(count: int) -> list[Request]:
    asked = [
        Document((Message("user", (Text(f"what is number {number}? "), Media(picture("red")))),))
        for number in range(count)
    ]
    return [Request(document, max_new_tokens=4, pictures=Pictures.NONE, seed=3) for document in asked]


def test_replies_are_those_of_the_engine_and_asked_for_once(engine: Engine, tmp_path: Path) -> None:
    counting = Counting(engine)
    kept = KeptAnswers(counting, folder=tmp_path, model_key="a")
    assert isinstance(kept, Respondent)
    first = kept.run(requests(5))
    assert [reply.messages[-1].text for reply in first] == [r.messages[-1].text for r in engine.run(requests(5))]
    assert KeptAnswers(counting, folder=tmp_path, model_key="a").run(requests(5)) == first
    assert counting.asked == 5


def test_a_drawn_picture_comes_back_to_the_pixel(engine: Engine, tmp_path: Path) -> None:
    request = Request(
        Document.chat([("user", "draw")]),
        max_new_tokens=1,
        max_pictures=1,
        pictures=Pictures.NOW,
        num_inference_steps=2,
    )
    (kept,) = KeptAnswers(engine, folder=tmp_path, model_key="a").run([request])
    (drawn,) = engine.run([request])
    (_, ours), (_, theirs) = list(kept.media())[-1], list(drawn.media())[-1]
    assert ours.content.pil().tobytes() == theirs.content.pil().tobytes()


def test_another_model_or_seed_is_asked_anew(engine: Engine, tmp_path: Path) -> None:
    counting = Counting(engine)
    KeptAnswers(counting, folder=tmp_path, model_key="a").run(requests(2))
    KeptAnswers(counting, folder=tmp_path, model_key="b").run(requests(2))
    assert counting.asked == 4


@pytest.mark.parametrize("left", range(0, 400, 57))
def test_cut_off_anywhere_the_rest_is_asked_again(engine: Engine, tmp_path: Path, left: int) -> None:
    kept = KeptAnswers(engine, folder=tmp_path, model_key="a")
    whole = kept.run(requests(4))
    data = kept.file.read_bytes()
    kept.file.write_bytes(data[: len(data) * left // 400])
    counting = Counting(engine)
    assert KeptAnswers(counting, folder=tmp_path, model_key="a").run(requests(4)) == whole
    assert counting.asked == 4 - data[: len(data) * left // 400].count(b"\n")
    assert len([json.loads(line) for line in kept.file.read_bytes().splitlines()]) == 4


def test_ranks_share_the_questions(engine: Engine, tmp_path: Path) -> None:
    asked = [Counting(engine), Counting(engine)]
    found: dict[int, list[Document]] = {}

    def answer(rank: int) -> None:
        kept = KeptAnswers(asked[rank], folder=tmp_path, model_key="a", rank=rank, num_ranks=2, patience=30.0)
        found[rank] = kept.run(requests(5))

    threads = [threading.Thread(target=answer, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert [counting.asked for counting in asked] == [3, 2]


def test_a_rank_that_never_answers_is_named(engine: Engine, tmp_path: Path) -> None:
    kept = KeptAnswers(engine, folder=tmp_path, model_key="a", rank=0, num_ranks=2, patience=0.2)
    with pytest.raises(ValueError, match="2 of 4 answers of other ranks"):
        kept.run(requests(4))
