"""Beam search: the ids and scores of transformers' generate, in a batch with other rows too."""

import pytest
import torch
from tiny import causal_lm, tiny_model

from limner.backbone.hf import Backbone
from limner.document.document import Document
from limner.generate.beams import BeamSearch
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.model.multimodal import MultimodalLM
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer
from limner.tokens.vocabulary import Vocabulary

STOP = 17
SEARCHES = [
    BeamSearch(num_beams=2),
    BeamSearch(num_beams=4, length_penalty=0.0),
    BeamSearch(num_beams=4, length_penalty=2.0, early_stopping="never"),
    BeamSearch(num_beams=3, length_penalty=-1.0, early_stopping=True),
    BeamSearch(num_beams=5, length_penalty=0.6),
]


@pytest.fixture(scope="module")
def text_model() -> MultimodalLM:
    """A Llama alone, whose ids are the first bytes of the byte tokenizer's table; one of them ends a text."""
    tokenizer = byte_tokenizer()
    language_model = causal_lm("llama", tied=False, seed=4)
    with torch.no_grad():
        language_model.lm_head.weight.mul_(12.0)
    language_model.generation_config.eos_token_id = STOP
    return MultimodalLM(
        Backbone(language_model),
        modalities={},
        vocabulary=Vocabulary.grow(50, roles=[]),
        template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
        tokenizer=tokenizer,
    ).eval()


def _prompt(model: MultimodalLM, ids: list[int]) -> Document:
    document = Document.page([model.tokenizer.decode(ids)])
    assert list(model.render(document, reply=True).ids) == ids
    return document


def _searched(model: MultimodalLM, requests: list[Request]) -> list:
    """Finished beams of each request."""
    running = Engine(model).running(num_rows=sum(getattr(r.sampling, "num_beams", 1) for r in requests))
    rows = running.add(requests)
    while running.step():
        pass
    return [row.beams.best if row.beams else None for row in rows]


def _theirs(model: MultimodalLM, ids: list[int], search: BeamSearch, *, length: int) -> tuple[tuple[int, ...], float]:
    prompt = torch.tensor([ids])
    found = model.backbone.language_model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        num_beams=search.num_beams,
        length_penalty=search.length_penalty,
        early_stopping=search.early_stopping,
        max_new_tokens=length,
        do_sample=False,
        eos_token_id=STOP,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    reply = found.sequences[0, len(ids) :].tolist()
    return tuple(reply[: reply.index(STOP)] if STOP in reply else reply), float(found.sequences_scores[0])


@pytest.mark.parametrize("search", SEARCHES, ids=str)
@pytest.mark.parametrize("ids", [[5, 6, 7], [40, 41, 12, 9, 9, 3]])
@pytest.mark.parametrize("length", [3, 20])
def test_ids_and_scores_are_those_of_transformers(text_model, search: BeamSearch, ids: list[int], length: int) -> None:
    request = Request(_prompt(text_model, ids), sampling=search, max_new_tokens=length, pictures=Pictures.NONE)
    (found,) = _searched(text_model, [request])
    expected, score = _theirs(text_model, ids, search, length=length)
    assert found.ids == expected
    assert found.score == pytest.approx(score, abs=1e-4)


def test_the_cases_above_end_in_both_ways(text_model) -> None:
    ends = set()
    for search in SEARCHES:
        request = Request(_prompt(text_model, [5, 6, 7]), sampling=search, max_new_tokens=20, pictures=Pictures.NONE)
        ends.add(_searched(text_model, [request])[0].stopped)
    assert ends == {True, False}


def test_beams_beside_other_rows_find_the_same() -> None:
    model = tiny_model()
    options = {"max_new_tokens": 8, "pictures": Pictures.NONE}
    requests = [
        Request(Document.page(["abc"]), **options),
        Request(Document.page(["a longer one"]), sampling=BeamSearch(num_beams=3), **options),
        Request(Document.page(["de"]), **options | {"max_new_tokens": 3}),
        Request(Document.page(["x"]), sampling=BeamSearch(num_beams=2), **options),
    ]
    together = Engine(model).run(requests)
    assert together == [Engine(model).run([request])[0] for request in requests]


def test_beams_that_would_draw_and_single_beams_are_refused() -> None:
    with pytest.raises(ValueError, match=r"beam search with pictures `auto`; expected `none`.*\nhint: "):
        Request(Document.page(["a"]), sampling=BeamSearch())
    with pytest.raises(ValueError, match=r"num_beams is 1; expected at least 2\nhint: "):
        BeamSearch(num_beams=1)
