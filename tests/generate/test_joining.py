"""Rows that join and leave at random moments say and draw what they would alone."""

import random

import numpy
import pytest
from tiny import tiny_model

from limner.document.document import Document, Media
from limner.generate.engine import Engine
from limner.generate.events import reply_to
from limner.generate.request import Pictures, Request

ASKED = (("What?", "none"), ("Draw!", "now"), ("Tell.", "auto"), ("A longer question, is it?", "now"))


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(tiny_model(), context_length=256)


def request(number: int) -> Request:
    text, pictures = ASKED[number]
    return Request(
        Document.chat([("user", text)]), max_new_tokens=6, pictures=Pictures(pictures), guidance_scale=2.0,
        num_inference_steps=2, seed=7,
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(engine: Engine) -> list[Document]:
    return [engine.run([request(number)])[0] for number in range(len(ASKED))]


def pixels(document: Document) -> list[numpy.ndarray]:
    pictures = [part.content.pil() for part in document.messages[-1].parts if isinstance(part, Media)]
    return [numpy.asarray(picture, dtype=int) for picture in pictures]


@pytest.mark.parametrize("seed", range(12))
def test_who_else_runs_changes_nothing(engine: Engine, alone: list[Document], seed: int) -> None:
    rng = random.Random(seed)
    running = engine.running(num_rows=8)
    waiting, rows = [number % len(ASKED) for number in range(24)], []
    rng.shuffle(waiting)
    while waiting or running.rows:
        joining = waiting[: min(len(waiting), running.num_free, rng.randint(0, 3))]
        del waiting[: len(joining)]
        if joining:
            rows += zip(running.add([request(number) for number in joining]), joining, strict=True)
        running.step()
        if running.rows and rng.random() < 0.1:
            left = rng.choice(running.rows)
            running.drop(left)
            rows = [(row, number) for row, number in rows if row is not left]
    assert rows
    for row, number in rows:
        reply = reply_to(row.request.document, row.parts)
        assert reply.messages[-1].text == alone[number].messages[-1].text
        for mine, theirs in zip(pixels(reply), pixels(alone[number]), strict=True):
            assert abs(mine - theirs).max() <= 1  # a level of rounding


def test_whoever_joins_begins_at_its_beginning(engine: Engine) -> None:
    running = engine.running(num_rows=4)
    rows = running.add([request(0) for _ in range(4)])
    for row in rows[:2]:
        running.drop(row)
    assert running.cache.lengths[2:] == [0, 0]
