"""Best of several: drawn in one batch, judged, the best kept; what scorers say."""

from collections.abc import Sequence
from pathlib import Path

import numpy
import pytest
import torch
from tiny import picture, tiny_model

from limner.document.document import Document, Media
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.generate.scoring import ClipScorer, LikelihoodScorer, words_for_picture

NOW = {"max_new_tokens": 2, "num_inference_steps": 2, "pictures": Pictures.NOW, "max_pictures": 1}


class Listed:
    """Scores that are given; remembers what it was asked."""

    def __init__(self, scores: Sequence[float]) -> None:
        self.given = torch.tensor(scores)
        self.asked: list[tuple[Document, list[Media]]] = []

    def scores(self, prompt: Document, pictures: Sequence[Media]) -> torch.Tensor:
        self.asked.append((prompt, list(pictures)))
        return self.given


def pixels(media: Media) -> numpy.ndarray:
    return numpy.array(media.content.pil()).astype(int)


def drawn(model, **options) -> Media:
    (reply,) = Engine(model).run([Request(Document.page(["A red hat."]), **NOW | options)])
    return next(media for _, media in reply.media())


def test_the_best_candidate_stays_and_the_first_is_what_is_drawn_alone() -> None:
    model = tiny_model()
    scorer = Listed([0.0, 2.0, 2.0])
    best = drawn(model, best_of=3, scorer=scorer)
    ((prompt, candidates),) = scorer.asked
    assert prompt == Document.page(["A red hat."])
    assert len({media.content.digest for media in candidates}) == 3
    assert best == candidates[1]  # of equals the first
    assert abs(pixels(candidates[0]) - pixels(drawn(model))).max() <= 1
    assert drawn(model, best_of=3, scorer=Listed([0.0, 2.0, 2.0])) == best


def test_rows_with_and_without_candidates_draw_together() -> None:
    model = tiny_model()
    documents = [Document.page([text]) for text in ("abc", "de")]
    requests = [
        Request(documents[0], best_of=2, scorer=Listed([0.0, 1.0]), **NOW),
        Request(documents[1], seed=4, **NOW),
    ]
    together = Engine(model).run(requests)
    for request, reply in zip(requests, together, strict=True):
        (single,) = Engine(model).run([request])
        ((_, ours),), ((_, theirs),) = reply.media(), single.media()
        assert abs(pixels(ours) - pixels(theirs)).max() <= 1


@pytest.mark.parametrize("question", ["", "What is this?"])
def test_a_model_scores_a_picture_by_the_words_that_it_expects_behind_it(question: str) -> None:
    model = tiny_model()
    scorer = LikelihoodScorer(model, question=question)
    pictures = [Media(picture(colour)) for colour in ("red", "blue", "white")]
    prompt = Document.chat([("user", "Draw a cat.")])
    together = scorer.scores(prompt, pictures)
    assert together.shape == (3,)
    assert len(set(together.tolist())) == 3
    assert (together < 0).all()
    alone = torch.cat([scorer.scores(prompt, [media]) for media in pictures])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    drawn(model, best_of=2, scorer=scorer)


def test_the_words_for_a_picture_are_those_since_the_last_one() -> None:
    red = picture("red")
    assert words_for_picture(Document.page(["One. ", red, "Two."])) == "Two."
    assert words_for_picture(Document.page(["One. ", red])) == "One."
    assert words_for_picture(Document.chat([("user", [red, "Draw it."]), ("assistant", [red])])) == "Draw it."
    assert words_for_picture(Document.page([red])) == ""


def test_clip_scores_are_cosines_and_depend_on_words_and_picture(tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    from limner.tokens.tokenizer import byte_tokenizer

    torch.manual_seed(0)
    part = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = part | {"vocab_size": 300, "max_position_embeddings": 12, "eos_token_id": 258, "bos_token_id": 257}
    config = CLIPConfig(text_config=text, vision_config=part | {"image_size": 16, "patch_size": 8}, projection_dim=8)
    CLIPModel(config).save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    tokenizer = byte_tokenizer().tokenizer
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    tokenizer.save_pretrained(tmp_path)
    scorer = ClipScorer(tmp_path)
    pictures = [Media(picture("red")), Media(picture("blue"))]
    cat = scorer.scores(Document.page(["A cat that is longer than CLIP's text."]), pictures)
    dog = scorer.scores(Document.page(["dog"]), pictures)
    assert cat.shape == (2,)
    assert (cat.abs() <= 1).all()
    assert cat[0] != cat[1]
    assert (cat != dog).all()


def test_a_directory_without_a_clip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no CLIP in .*\nhint: "):
        ClipScorer(tmp_path)
