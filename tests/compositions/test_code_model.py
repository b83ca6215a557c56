"""Models that say pictures in codes: around any language model, trained by a plan, rebuilt from a checkpoint."""

from pathlib import Path

import pytest
import torch
from tiny import Pages, causal_lm, picture
from tiny_codes import ColourDetokenizer, ColourQuantizer, code_model_call

from limner.compositions.code_model import code_model
from limner.config.call import call
from limner.config.serialize import to_json
from limner.data.mixture import Mixture
from limner.document.document import Direction, Document
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.tokens.tokenizer import byte_tokenizer
from limner.train.plan import Plan, run_plan
from limner.train.stage import Packed, Stage, Trainable


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model over bytes in the transformers layout, whose output matrix is apart from its input matrix."""
    path = tmp_path_factory.mktemp("published")
    tokenizer = byte_tokenizer().tokenizer
    model = causal_lm("gpt_neox", tied=False)
    model.resize_token_embeddings(len(tokenizer) + 3)  # more rows than the tokenizer has ids, as many have
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("reads", [False, True])
def test_any_language_model_learns_to_say_pictures(published: Path, reads: bool) -> None:
    encoder = ConvolutionalEncoder(image_size=32, width=16, num_halvings=3) if reads else None
    model = code_model(
        language_model=str(published), quantizer=ColourQuantizer(), detokenizer=ColourDetokenizer(), encoder=encoder
    )
    assert model.vocabulary.code_ids("image").stop == model.backbone.base_size + model.vocabulary.num_added
    assert model.vocabulary.num_added == 7 + (5 if reads else 2)
    assert model.vocabulary.is_coded("image", Direction.IN) is not reads
    request = Request(Document.chat([("user", [picture("red"), "?"])]), pictures=Pictures.NOW, max_new_tokens=1,
                      max_pictures=1)  # fmt: skip
    (reply,) = Engine(model.eval(), context_length=64).run([request])
    assert len(list(reply.media())) == 2


def test_a_checkpoint_holds_what_is_new_and_names_what_is_published(published: Path, tmp_path: Path) -> None:
    description = call(
        code_model, language_model=str(published), quantizer=call(ColourQuantizer), detokenizer=call(ColourDetokenizer)
    )
    model = code_model(language_model=str(published), quantizer=ColourQuantizer(), detokenizer=ColourDetokenizer())
    save_checkpoint(model, tmp_path / "model", description=to_json(description))
    loaded = load_checkpoint(tmp_path / "model", modules=["tiny_codes"])
    assert torch.equal(loaded.backbone.added_input, model.backbone.added_input)
    assert list(loaded.external) == ["backbone.language_model"]


def test_a_plan_trains_it_and_tells_words_from_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMNER_FEATURES", str(tmp_path / "features"))
    stage = call(
        Stage,
        name="pages",
        mixture=call(Mixture, sources={"pages": call(Pages)}),
        batching=call(Packed, row_length=64, num_rows=2, window=8),
        trainable=[call(Trainable, glob="backbone.*")],
        learning_rate=3e-2,
        num_steps=8,
        loss_weights={"text": 1.0, "image": 1.0},
        precision="float32",
    )
    checkpoint = run_plan(call(Plan, model=code_model_call(), stages=[stage]), output=tmp_path / "run")
    losses = (tmp_path / "run" / "pages" / "metrics.jsonl").read_text().splitlines()
    first, last = (float(line.split('"loss/image": ')[1].split(",")[0]) for line in (losses[0], losses[-1]))
    assert last < 0.8 * first
    assert '"image_codes": ' in losses[0]
    model = load_checkpoint(checkpoint, modules=["tiny_codes"])
    assert torch.equal(model.modality("image").quantizer.palette, ColourQuantizer().palette)
