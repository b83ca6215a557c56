"""Stages that train a visual tokenizer: what learns, what follows, what a stop and a rank leave alike."""

import json
import signal
from dataclasses import replace
from pathlib import Path

import PIL.Image
import pytest
import torch

from limner.compositions.code_model import scene_code_model
from limner.config.call import Call, build, call
from limner.data.mixture import Mixture
from limner.data.scene_grammar import GrammarTask
from limner.document.document import Direction
from limner.modalities.base import Codes
from limner.modalities.decoders.feature_decoder import FeatureDecoder
from limner.modalities.encoders.eva import EvaEncoder
from limner.modalities.guidance import NoGuidance
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.detokenizer import GridDecoder, PatchPainter, PixelDetokenizer
from limner.modalities.quantizers.merger import MeanOfShares, TokenMerger
from limner.modalities.quantizers.selector import EvenSelector
from limner.modalities.quantizers.visual_tokenizer import GridTokenizer, VisualTokenizer
from limner.model.checkpoint import load_checkpoint
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.interruption import Stopped
from limner.train.objectives import Illustrated, Objective, Stepwise
from limner.train.plan import Plan, run_plan
from limner.train.stage import Evaluation, Stage, Trainable
from limner.train.tokenizing import (
    FeatureTokenization,
    NeedTokenization,
    Painting,
    PixelTokenization,
    TokenizerPictures,
)
from limner.train.trainer import Trainer

GRID, WIDTH, NUM_CODES = 6, 16, 12
FEATURES = {"image.reconstruction": 1.0, "image.rate": 2.0, "image.kept": 0.0}
OF_CODES = {"image.commitment": 1.0, "image.usage": 0.0, "image.perplexity": 0.0}


def _detokenizer(decoder: Call, *, grid: int, patch_size: int) -> Call:
    painter = call(PatchPainter, width=WIDTH, grid=grid, patch_size=patch_size, num_blocks=1)
    return call(PixelDetokenizer, decoder=decoder, painter=painter, num_codes=NUM_CODES, code_width=4)


def _dynamic(**changes: Call) -> Call:
    encoder = call(EvaEncoder, image_size=24, patch_size=4, width=8, num_layers=1, num_heads=2, hidden=16)
    parts = {"merger": call(TokenMerger, width=WIDTH, num_layers=1, num_heads=2, hidden=16)} | changes
    codebook = call(Codebook, num_codes=NUM_CODES, width=4, decay=0.5, revive_below=0.5)
    quantizer = call(VisualTokenizer, encoder=encoder, num_patches=GRID**2, width=WIDTH, codebook=codebook, **parts)
    decoder = call(
        FeatureDecoder,
        code_width=4,
        width=WIDTH,
        num_patches=GRID**2,
        num_layers=1,
        num_heads=2,
        hidden=16,
        width_out=8,
    )
    painter = call(PatchPainter, width=8, grid=GRID, patch_size=8, num_blocks=1)
    detokenizer = call(PixelDetokenizer, decoder=decoder, painter=painter, num_codes=NUM_CODES, code_width=4)
    return call(scene_code_model, quantizer=quantizer, detokenizer=detokenizer, d_model=16, num_layers=1, num_heads=2)


def _grid() -> Call:
    codebook = call(Codebook, num_codes=NUM_CODES, width=4, decay=0.5, revive_below=0.5)
    quantizer = call(GridTokenizer, codebook=codebook, size=48, patch_size=16, width=WIDTH, pixel_width=4)
    decoder = call(GridDecoder, code_width=4, width=WIDTH, num_patches=9)
    detokenizer = _detokenizer(decoder, grid=3, patch_size=16)
    return call(scene_code_model, quantizer=quantizer, detokenizer=detokenizer, d_model=16, num_layers=1, num_heads=2)


def _mixture(split: str = "train") -> Call:
    return call(Mixture, sources={"scenes": call(GrammarTask, task="creation", length=64, split=split)})


LEARNED = ("quantizer.input", "quantizer.norm", "quantizer.positions", "quantizer.merger", "quantizer.head")


def _stage(name: str, objective: Call, parts: tuple[str, ...], weights: dict[str, float], **changes) -> Call:
    options = {
        "num_steps": 4,
        "batching": call(TokenizerPictures, modality="image", num_items=4),
        "trainable": [call(Trainable, glob=f"modalities.image.{part}*", learning_rate=1e-2) for part in parts],
    }
    return call(Stage, name=name, mixture=_mixture(), objective=objective, loss_weights=weights, **(options | changes))


def _rows(**changes) -> Call:
    objective = call(FeatureTokenization, modality="image", quantized=False)
    return _stage("rows", objective, (*LEARNED, "quantizer.selector", "detokenizer.decoder"), dict(FEATURES), **changes)


def _codes(**changes) -> Call:
    objective = call(FeatureTokenization, modality="image", quantized=True, drawn=False, initial_batches=2)
    parts = ("quantizer.merger", "quantizer.head", "detokenizer.decoder")
    return _stage("codes", objective, parts, FEATURES | OF_CODES, **changes)


def _model(description: Call) -> MultimodalLM:
    torch.manual_seed(0)
    return build(description)


def _batch(model: MultimodalLM, *, num_items: int = 4) -> Batch:
    return TokenizerPictures(modality="image", num_items=num_items).loader(build(_mixture()), model=model).next_batch()


def _weights(model: MultimodalLM) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run")
    evaluation = call(Evaluation, mixture=_mixture("test"), every=2, num_batches=1, keep_best=False)
    painting = _stage(
        "pixels", call(Painting, modality="image"), ("detokenizer.painter",), {"image.pixels": 1.0}, sample_every=4
    )
    stages = [_rows(), _codes(evaluation=evaluation, sample_every=4), painting]
    run_plan(call(Plan, model=_dynamic(), stages=stages, seed=0), output=output)
    return output


def test_the_objectives_keep_the_trainers_protocols() -> None:
    for objective in (FeatureTokenization("image", quantized=True), PixelTokenization("image", quantized=True)):
        assert isinstance(objective, Objective)
        assert isinstance(objective, Stepwise)
        assert isinstance(objective, Illustrated)
    assert isinstance(Painting("image"), Objective)


def test_phases_run_as_stages_and_tell_usage_and_what_is_kept(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "codes" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert 0.0 < line["loss/image.usage"] <= 1.0
        assert 1.0 <= line["loss/image.perplexity"] <= NUM_CODES * 1.001
        # Calibrated to a third on training pictures.
        assert line["loss/image.kept"] == pytest.approx(1 / 3, abs=0.15)
    assert "evaluation/loss/image.reconstruction" in lines[-1]
    weighted = sum((FEATURES | OF_CODES)[name] * lines[0][f"loss/{name}"] for name in FEATURES | OF_CODES)
    assert lines[0]["loss"] == pytest.approx(weighted)


@pytest.mark.parametrize("stage", ["codes", "pixels"])
def test_samples_show_pictures_what_is_kept_and_what_is_painted(run: Path, stage: str) -> None:
    with PIL.Image.open(run / stage / "samples" / "0000004.png") as sheet:
        assert sheet.size == (4 * 96, 3 * 96 + 14)


def test_a_checkpoint_rebuilds_the_tokenizer(run: Path) -> None:
    model = load_checkpoint(run / "pixels" / "checkpoint")
    quantizer, detokenizer = model.speller("image")
    assert torch.equal(detokenizer.vectors, quantizer.codebook.vectors)
    media = next(part for _, part in build(_mixture("test")).document(0)[0].media())
    codes = quantizer(quantizer.preprocess(media)[None])
    assert 1 <= int(codes.lengths) <= quantizer.max_length
    again, _ = load_checkpoint(run / "codes" / "checkpoint").speller("image")
    assert torch.equal(codes.values, again(again.preprocess(media)[None]).values)
    made = detokenizer.sample(codes, guidance=NoGuidance(), generators=[torch.Generator()], num_inference_steps=1)
    assert made.shape == (1, 3, 48, 48)
    assert made.abs().max() <= 1.0


def test_codes_do_not_change_from_call_to_call_or_with_their_batch() -> None:
    model = _model(_dynamic()).eval()
    quantizer, _ = model.speller("image")
    features = _batch(model).spans["image", Direction.IN].values
    together = quantizer.codebook(quantizer.rows(features).values).codes
    alone = [quantizer.codebook(quantizer.rows(one[None]).values).codes for one in features]
    assert torch.equal(together, torch.cat(alone))
    assert torch.equal(together, quantizer.codebook(quantizer.rows(features).values).codes)


def test_the_choice_learns_from_what_is_made_of_it() -> None:
    model = _model(_dynamic())
    quantizer, _ = model.speller("image")
    terms = FeatureTokenization("image", quantized=True)(model, _batch(model), noise_key=(0,))
    terms["image.reconstruction"].mean.backward()
    for name, parameter in quantizer.selector.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
    assert all(parameter.grad is None for parameter in quantizer.encoder.parameters())


def test_terms_are_sums_over_pictures_and_the_rate_is_worked_by_hand() -> None:
    model = _model(_dynamic())
    batch = _batch(model)
    objective = FeatureTokenization("image", quantized=True)
    terms = objective(model, batch, noise_key=(0,))
    assert set(terms) == set(objective.count(batch)) == set(FEATURES | OF_CODES)
    assert {float(term.count) for term in terms.values()} == {4.0} == set(objective.count(batch).values())
    kept = terms["image.kept"].mean
    assert terms["image.rate"].mean.item() == pytest.approx(float((1 / 3 - kept).square()), rel=1e-4)


def test_need_is_learned_by_the_selector_alone_from_dropped_patches() -> None:
    model = _model(_dynamic())
    quantizer, _ = model.speller("image")
    batch = _batch(model)
    objective = NeedTokenization("image", keep_ratio=0.25)
    assert isinstance(objective, Objective)
    terms = objective(model, batch, noise_key=(0,))
    assert set(terms) == set(objective.count(batch)) == {"image.reconstruction", "image.need", "image.kept"}
    assert terms["image.kept"].mean.item() == pytest.approx(0.25, abs=0.02)
    assert terms["image.kept"].per_item is not None
    assert terms["image.kept"].per_item.unique().numel() > 1
    learned = dict(quantizer.selector.named_parameters())
    terms["image.reconstruction"].mean.backward(retain_graph=True)
    assert all(parameter.grad is None for parameter in learned.values())
    model.zero_grad(set_to_none=True)
    terms["image.need"].mean.backward()
    found = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found == {f"modalities.image.quantizer.selector.{name}" for name in learned}


def test_need_is_found_where_dropping_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _model(_dynamic())
    quantizer, _ = model.speller("image")
    batch = _batch(model)
    costly = torch.arange(GRID**2) < 9
    distances = torch.where(costly, 1.0, 0.1).expand(4, -1)
    monkeypatch.setattr(NeedTokenization, "_distances", lambda self, *_: distances)
    optimizer = torch.optim.Adam(quantizer.selector.parameters(), lr=1e-2)
    for step in range(120):
        terms = NeedTokenization("image", keep_ratio=0.25)(model, batch, noise_key=(step,))
        optimizer.zero_grad()
        terms["image.need"].mean.backward()
        optimizer.step()
    features = batch.spans["image", Direction.IN].values
    quantizer.calibrate(features, keep_ratio=0.25)
    assert quantizer.rows(features).keep[:, costly].mean() > 0.9


def test_need_asks_for_a_tokenizer_that_chooses() -> None:
    model = _model(_grid())
    with pytest.raises(ValueError, match="GridTokenizer"):
        NeedTokenization("image")(model, _batch(model), noise_key=(0,))


def test_nothing_kept_keeps_the_most_likely_patch() -> None:
    model = _model(_dynamic())
    quantizer, _ = model.speller("image")
    quantizer.threshold.fill_(100.0)
    rows = quantizer.rows(_batch(model).spans["image", Direction.IN].values)
    assert rows.lengths.tolist() == [1, 1, 1, 1]


def test_a_fixed_grid_keeps_the_same_patches_of_every_picture() -> None:
    even = call(EvenSelector, grid=GRID, kept=3)
    features = torch.randn(2, GRID**2, 8, generator=torch.Generator().manual_seed(0))
    for merger in (call(MeanOfShares), call(TokenMerger, width=WIDTH, num_layers=1, num_heads=2, hidden=16)):
        quantizer, _ = _model(_dynamic(selector=even, merger=merger)).speller("image")
        generators = [torch.Generator().manual_seed(number) for number in range(2)]
        rows = quantizer.rows(features, generators=generators)
        assert rows.lengths.tolist() == [9, 9]
        assert torch.equal(rows.keep[0], rows.keep[1])
    with pytest.raises(ValueError, match="divides the grid"):
        MeanOfShares().exact(features, torch.ones(2, GRID**2) * (torch.arange(GRID**2) < 5))


@pytest.mark.parametrize("num_batches", [2, 4])
def test_the_codebook_follows_a_step_however_it_is_cut(num_batches: int) -> None:
    rows = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    books = []
    for count in (1, num_batches):
        torch.manual_seed(0)
        codebook = Codebook(8, width=4, revive_below=0.0)
        for some in rows.chunk(count):
            codebook.collect(some, codebook.nearest(torch.nn.functional.normalize(some, dim=-1)))
        codebook.follow(generator=torch.Generator())
        books.append(codebook.vectors)
    torch.testing.assert_close(books[0], books[1])


def test_a_step_that_is_not_taken_leaves_the_codebook() -> None:
    model = _model(_grid())
    quantizer, _ = model.speller("image")
    before = quantizer.codebook.vectors.clone()
    objective = PixelTokenization("image", quantized=True)
    objective(model, _batch(model), noise_key=(0,))
    objective.stepped(model, noise_key=(0,), taken=False)
    objective(model, _batch(model), noise_key=(1,))
    with torch.no_grad():  # held-out pictures are looked at
        objective(model, _batch(model), noise_key=(2,))
    assert torch.equal(quantizer.codebook.vectors, before)
    objective.stepped(model, noise_key=(1,), taken=True)
    assert not torch.equal(quantizer.codebook.vectors, before)


class Stopping(FeatureTokenization):
    """Asks to be stopped when its samples are due."""

    def sheet(self, model: MultimodalLM, batch: Batch) -> PIL.Image.Image:
        signal.raise_signal(signal.SIGTERM)
        return super().sheet(model, batch)


def test_a_stopped_run_goes_on_bit_by_bit_with_its_codebook(tmp_path: Path) -> None:
    def trainer(directory: str, objective: type[FeatureTokenization]) -> Trainer:
        stage = build(_codes(num_steps=6, sample_every=3))
        stage = replace(stage, objective=objective("image", quantized=True, drawn=False, initial_batches=2))
        return Trainer(_model(_dynamic()), stage=stage, directory=tmp_path / directory, seed=0)

    whole = trainer("whole", FeatureTokenization)
    whole.run()
    with pytest.raises(Stopped):
        trainer("part", Stopping).run()
    resumed = trainer("part", FeatureTokenization)
    resumed.run()
    expected, found = _weights(whole.model), _weights(resumed.model)
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    start = _model(_dynamic()).state_dict()
    for name in ("codebook.vectors", "codebook.usage", "threshold"):
        assert not torch.equal(
            expected[f"modalities.image.quantizer.{name}"], start[f"modalities.image.quantizer.{name}"]
        )


def test_a_grid_learns_from_picture_to_picture(tmp_path: Path) -> None:
    objective = call(PixelTokenization, modality="image", quantized=True, initial_batches=2)
    weights = {"image.reconstruction": 1.0, "image.rate": 0.0, "image.kept": 0.0} | OF_CODES
    stage = _stage("codes", objective, ("quantizer", "detokenizer"), weights, num_steps=8)
    trainer = Trainer(_model(_grid()), stage=build(stage), directory=tmp_path, seed=0)
    trainer.run()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss/image.reconstruction"] < lines[0]["loss/image.reconstruction"]
    quantizer, detokenizer = trainer.model.speller("image")
    assert torch.equal(detokenizer.vectors, quantizer.codebook.vectors)


def test_codes_of_any_number_are_drawn_on_a_grid() -> None:
    _, detokenizer = _model(_grid()).speller("image")
    made = detokenizer.sample(
        Codes.of([(0,) * 9, (1, 2), tuple(range(11))]),
        guidance=NoGuidance(),
        generators=[torch.Generator()] * 3,
        num_inference_steps=1,
    )
    assert made.shape == (3, 3, 48, 48)
    with pytest.raises(ValueError, match="sampler"):
        detokenizer.sample(Codes.of([(0,)]), guidance=NoGuidance(), generators=[], num_inference_steps=1, sampler="x")


def test_parts_that_no_stage_trains_are_refused() -> None:
    model = _model(_grid())
    model.modality("image").detokenizer = torch.nn.Identity()
    with pytest.raises(ValueError, match="Identity"):
        _batch(model)
