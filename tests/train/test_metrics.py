"""Metrics: one line a step, none twice, no value that JSON does not know."""

import json
import logging
import math
from pathlib import Path

import pytest
import torch

from limner.document.document import Direction
from limner.modalities.base import LossTerm
from limner.tokens.batch import Batch, SpanBatch
from limner.train import metrics
from limner.train.metrics import Metrics, contents, documents_so_far, summary
from limner.train.terms import StepLosses


def _lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_a_resumed_run_cuts_back_what_it_does_again_and_a_torn_line(tmp_path: Path) -> None:
    with Metrics(tmp_path, stage="a", num_steps=4) as writer:
        for step in range(3):
            writer.write(step, {"loss": float(step)})
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"stage": "a", "st')
    with Metrics(tmp_path, stage="a", num_steps=4, first_step=2) as writer:
        writer.write(2, {"loss": math.nan})
    assert _lines(tmp_path) == [{"stage": "a", "step": s, "loss": v} for s, v in ((0, 0.0), (1, 1.0), (2, None))]
    assert list((tmp_path / "tensorboard").iterdir())


def test_without_a_terminal_the_log_tells_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "LOG_EVERY", 0.0)
    caplog.set_level(logging.INFO, logger="limner")
    with Metrics(tmp_path, stage="a", num_steps=4) as writer:
        writer.write(0, {"loss": 1.5})
    assert "a 1/4  loss 1.5" in caplog.text


def test_a_step_tells_what_it_held_and_how_fast_it_was() -> None:
    ids = torch.zeros(2, 8, dtype=torch.long)
    documents = torch.tensor([[1] * 6 + [0] * 2, [1] * 4 + [0] * 4])
    empty = torch.zeros(0, dtype=torch.long)
    spans = {
        ("image", Direction.IN): SpanBatch(empty, torch.tensor([1, 1]), torch.zeros(0), ("a", "b")),
        ("image", Direction.OUT): SpanBatch(empty, torch.tensor([1]), torch.zeros(0), ("c",)),
    }
    batch = Batch(ids, ids, documents, ids, spans, capacity=20)
    values = contents([batch], seconds=2.0, waited=0.5)
    assert values == {
        "tokens": 10, "images": 3, "pack_efficiency": 0.5, "seconds": 2.0, "seconds/data": 0.5,
        "per_second/tokens": 5.0, "per_second/images": 1.5,
    }  # fmt: skip
    counted = documents_so_far({"row": 3, "drawn": {"web": 4}, "skipped": {"web/decode": 1, "web/render": 1}})
    assert counted == {"drawn/web": 4, "skipped/web/decode": 1, "skipped/web/render": 1, "skipped_documents": 2}
    line = summary({"loss": 2.0, "loss/text": 1.0, "loss/text/web": 1.0, "skipped_steps": 1} | values | counted)
    assert line == (
        "loss 2 text 1 · 5.0 tokens/s · 1.5 images/s · packed 50% · waited 25% · 2 bad documents · 1 skipped steps"
    )


def test_losses_of_a_step_do_not_depend_on_how_it_is_cut_into_batches() -> None:
    def term(*values: float, source: str = "web") -> LossTerm:
        total, count = torch.tensor(float(sum(values))), torch.tensor(float(len(values)))
        return LossTerm(total, count, by_source={source: (total, count)} if values else {})

    split = StepLosses({"text": 4.0, "image": 0.0})
    for values, source in (((1.0, 2.0), "web"), ((6.0,), "web"), ((7.0,), "books")):
        terms = {"text": term(*values, source=source), "image": term()}
        split.add(terms, shares=split.shares({"text": float(len(values))}))
    means, sources = split.read()
    assert means == {"text": 4.0, "image": 0.0}
    assert sources == {("text", "web"): 3.0, ("text", "books"): 7.0}
