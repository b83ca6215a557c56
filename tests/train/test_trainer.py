"""One stage: accumulation changes nothing, bad steps change nothing, a stop is saved, memory is traded exactly."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import plans
import pytest
import torch
from tiny import tiny_model

from limner.config.call import Call, build, call
from limner.data.mixture import Mixture
from limner.modalities.base import LossTerm
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.execution import Execution, uses_bfloat16, widen
from limner.train.interruption import Stopped
from limner.train.objectives import Multimodal, NoiseKey, WordAlignment
from limner.train.stage import Evaluation, Packed, Stage, Trainable
from limner.train.trainer import Trainer


def _stage(**changes) -> Stage:
    return build(plans.together(**({"num_steps": 1, "ema_decay": None, "sample_every": 0} | changes)))


class Blown(Multimodal):
    """The model's terms, but no numbers at some steps."""

    steps: tuple[int, ...] = ()
    """Class attribute: the steps (of the noise key) without a finite loss."""

    def __call__(self, model: MultimodalLM, batch: Batch, *, noise_key: NoiseKey) -> dict[str, LossTerm]:
        terms = super().__call__(model, batch, noise_key=noise_key)
        if noise_key[2] not in self.steps:
            return terms
        return {name: LossTerm(term.sum * math.inf, term.count) for name, term in terms.items()}


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.parameters.items()}


def _lines(directory: Path) -> list[dict]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def _trained(directory: Path, **changes) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
    model = tiny_model()
    trainer = Trainer(model, stage=_stage(**changes), directory=directory, seed=0)
    metrics = trainer._step(0)
    return metrics, {name: p.grad.clone() for name, p in trainer.parameters.items()}


def test_accumulation_gives_the_step_of_one_large_batch(tmp_path: Path) -> None:
    # Rows that hold one page each: two batches of two rows are the four rows of one.
    small = call_batching(num_rows=2)
    large = call_batching(num_rows=4)
    one, whole = _trained(tmp_path / "1", batching=large, accumulation=1)
    two, split = _trained(tmp_path / "2", batching=small, accumulation=2)
    assert one["tokens"] == two["tokens"]
    for name in ("loss", "loss/text", "loss/image", "gradient_norm"):
        assert two[name] == pytest.approx(one[name], rel=1e-4)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


@pytest.mark.parametrize("objective", [call(Multimodal, made=[]), call(WordAlignment, modality="image")])
def test_accumulation_weighs_batches_by_what_the_objective_counts(tmp_path: Path, objective: Call) -> None:
    # Each row has other numbers of targets and of matched words, but the same kinds of words to tell apart.
    changes = {
        "mixture": call(Mixture, sources={"spellings": call(plans.Spellings)}),
        "objective": objective,
        "loss_weights": {"text": 1.0},
        "trainable": [call(Trainable, glob="modalities.image.input_projector.*", learning_rate=1e-3)],
    }
    large = call(Packed, row_length=40, num_rows=4)
    small = call(Packed, row_length=40, num_rows=1)
    one, whole = _trained(tmp_path / "1", batching=large, accumulation=1, **changes)
    four, split = _trained(tmp_path / "4", batching=small, accumulation=4, **changes)
    assert one["tokens"] == four["tokens"]
    for name in ("loss", "gradient_norm"):
        assert four[name] == pytest.approx(one[name], rel=1e-4)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, atol=1e-6, rtol=1e-3, msg=name)


def test_a_parameter_that_the_objective_never_reaches_is_refused_at_the_first_step(tmp_path: Path) -> None:
    queries = call(Trainable, glob="modalities.image.queries.*", learning_rate=1e-3)
    backbone = call(Trainable, glob="backbone.*", learning_rate=1e-3)
    changes = {"objective": call(Multimodal, made=[]), "loss_weights": {"text": 1.0}, "trainable": [queries, backbone]}
    assert _trained(tmp_path / "reached", **changes)
    flow = call(Trainable, glob="modalities.image.decoder.transformer.*", learning_rate=1e-3)
    changes["trainable"] = [flow, backbone]
    with pytest.raises(ValueError, match=r"trains \d+ tensors .* never reaches: .*transformer.*\nhint: "):
        _trained(tmp_path / "lost", **changes)


def call_batching(*, num_rows: int):
    return call(Packed, row_length=42, num_rows=num_rows)


def test_a_term_of_weight_zero_is_measured_and_not_trained(tmp_path: Path) -> None:
    trainable = [call(Trainable, glob="backbone.*", learning_rate=0.0)]
    both = {"loss_weights": {"text": 1.0, "image": 0.0}, "trainable": trainable}
    metrics, gradients = _trained(tmp_path / "both", **both)
    assert metrics["loss/image"] > 0
    assert metrics["loss"] == pytest.approx(metrics["loss/text"])
    alone = {"objective": call(Multimodal, made=[]), "loss_weights": {"text": 1.0}, "trainable": trainable}
    _, expected = _trained(tmp_path / "alone", **alone)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, msg=name)


def test_frozen_parts_are_in_evaluation_mode_while_the_rest_trains(tmp_path: Path) -> None:
    model = tiny_model()
    trainer = Trainer(model, stage=_stage(), directory=tmp_path, seed=0)
    modes: list[tuple[bool, bool]] = []
    image = model.modalities["image"]
    image.decoder.transformer.register_forward_hook(
        lambda *arguments: modes.append((image.encoder.training, image.decoder.transformer.training))
    )
    trainer.run()
    assert set(modes) == {(False, True)}
    assert not model.training


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_parameters(tmp_path: Path) -> None:
    model = tiny_model()
    trainer = Trainer(model, stage=_stage(), directory=tmp_path, seed=0)
    with torch.no_grad():
        model.backbone.added_input.fill_(math.nan)
    before = model.backbone.language_model.lm_head.weight.detach().clone()
    with pytest.raises(ValueError, match=r"is nan at step 0.*no state was saved\nhint: "):
        trainer.run()
    assert torch.equal(model.backbone.language_model.lm_head.weight, before)


def test_a_published_part_that_is_trained_becomes_the_models_own(tmp_path: Path) -> None:
    model = tiny_model()
    model.external |= {"backbone.language_model": "somewhere@abc", "modalities.image.encoder": "elsewhere@def"}
    Trainer(model, stage=_stage(), directory=tmp_path, seed=0)
    assert model.external == {"modalities.image.encoder": "elsewhere@def"}


def test_a_bad_step_is_skipped_counted_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blown, "steps", (1, 2))
    stage = _stage(objective=call(Blown), num_steps=4, ema_decay=0.9)
    trainer = Trainer(tiny_model(), stage=stage, directory=tmp_path, seed=0)
    seen: list[dict[str, torch.Tensor]] = []
    step = trainer._step

    def watched(number: int) -> dict[str, float]:
        values = step(number)
        moments = {f"{id(p)}.{k}": v.clone() for p, state in trainer.optimizer.state.items() for k, v in state.items()}
        average = trainer.average
        assert average is not None
        seen.append(_weights(trainer) | moments | {f"average.{name}": v.clone() for name, v in average.values.items()})
        return values

    monkeypatch.setattr(trainer, "_step", watched)
    trainer.run()
    lines = _lines(tmp_path)
    assert [line["skipped_steps"] for line in lines] == [0, 1, 2, 2]
    assert [line["loss"] is None for line in lines] == [False, True, True, False]
    assert all(torch.equal(seen[0][name], seen[2][name]) for name in seen[0])
    assert any(not torch.equal(seen[2][name], seen[3][name]) for name in seen[0])


def test_too_many_bad_steps_in_a_row_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blown, "steps", (0, 2, 3, 4))
    stage = _stage(objective=call(Blown), num_steps=9, max_bad_steps=3, save_every=2)
    trainer = Trainer(tiny_model(), stage=stage, directory=tmp_path, seed=0)
    with pytest.raises(
        ValueError, match=r"at step 4 .* 3 steps in a row; the state after step 4 is kept in .*\nhint: "
    ):
        trainer.run()
    assert trainer.skipped_steps == 4


def test_skips_are_counted_across_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Blown, "steps", (0, 1, 2))
    stage = _stage(objective=call(Blown), num_steps=9, max_bad_steps=3, sample_every=1)
    with pytest.raises(Stopped):
        Trainer(
            tiny_model(), stage=stage, directory=tmp_path, seed=0, on_sample=_asks_to_stop(signal.SIGTERM, at=2)
        ).run()
    with pytest.raises(ValueError, match=r"at step 2 .* 3 steps in a row"):
        Trainer(tiny_model(), stage=stage, directory=tmp_path, seed=0).run()


def _asks_to_stop(number: signal.Signals, *, at: int) -> Callable[[MultimodalLM, int], None]:
    def on_sample(model: MultimodalLM, step: int) -> None:
        if step == at:
            os.kill(os.getpid(), number)

    return on_sample


@pytest.mark.parametrize(("number", "code", "at"), [(signal.SIGTERM, 143, 3), (signal.SIGINT, 130, 5)])
def test_a_signal_stops_after_a_saved_step_and_the_run_goes_on_bit_by_bit(
    tmp_path: Path, number: signal.Signals, code: int, at: int
) -> None:
    stage = _stage(num_steps=5, ema_decay=0.9, sample_every=1)
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    whole = Trainer(tiny_model(), stage=stage, directory=tmp_path / "whole", seed=0)
    whole.run()
    stopped = Trainer(
        tiny_model(), stage=stage, directory=tmp_path / "part", seed=0, on_sample=_asks_to_stop(number, at=at)
    )
    with pytest.raises(Stopped, match=rf"stopped by {number.name} after step {at} of 5 .*saved in") as stop:
        stopped.run()
    assert stop.value.exit_code == code
    assert "\n" not in str(stop.value)
    assert stopped.store.steps()[-1] == at
    resumed = Trainer(tiny_model(), stage=stage, directory=tmp_path / "part", seed=0)
    resumed.run()
    expected, found = _weights(whole), _weights(resumed)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT))


def test_activation_checkpointing_changes_no_gradient_even_behind_a_frozen_language_model(tmp_path: Path) -> None:
    projector = call(Trainable, glob="modalities.image.input_projector.*", learning_rate=1e-3)
    for name, trainable in (("all", plans.together().trainable), ("projector", [projector])):
        calls: list[int] = []
        found = []
        for checkpointed in (False, True):
            model = tiny_model()
            execution = Execution(device=model.device, activation_checkpointing=checkpointed)
            stage = _stage(trainable=trainable)
            trainer = Trainer(model, stage=stage, directory=tmp_path / name, seed=0, execution=execution)
            layer = model.backbone.language_model.model.layers[0]
            layer.self_attn.register_forward_hook(lambda *arguments, kept=calls: kept.append(1))
            calls.clear()
            trainer.run()
            found.append((len(calls), _weights(trainer)))
        (once, expected), (twice, weights) = found
        assert twice == 2 * once
        assert all(torch.equal(expected[name], weights[name]) for name in expected)


@pytest.fixture
def unchecked_shapes():
    """Without the checks of shapes, which cannot be traced."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# torch looks at every input's gradient while it compiles, and hides what it then warns of; not from our filter.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
def test_compiled_layers_train_alike(tmp_path: Path, unchecked_shapes: None) -> None:
    found = []
    for backend in (None, "eager"):
        model = tiny_model()
        execution = Execution(device=model.device, compile_backend=backend)
        trainer = Trainer(model, stage=_stage(), directory=tmp_path / str(backend), seed=0, execution=execution)
        trainer.run()
        found.append(_weights(trainer))
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_16_bit_weights_are_trained_as_float32_masters_and_only_those(tmp_path: Path) -> None:
    model = tiny_model()
    model.backbone.language_model.to(torch.bfloat16)
    glob = "backbone.language_model.model.layers.1.*"
    stage = _stage(trainable=[call(Trainable, glob=glob, learning_rate=1e-5)], num_steps=2, sample_every=1)
    sampled: list[torch.dtype] = []
    trainer = Trainer(
        model,
        stage=stage,
        directory=tmp_path,
        seed=0,
        on_sample=lambda model, step: sampled.append(
            model.backbone.language_model.model.layers[1](
                torch.zeros(1, 2, 32), position_embeddings=_rotary(model)
            ).dtype
        ),
    )
    before = _weights(trainer)
    trainer.run()
    assert trainer.bfloat16
    assert all(parameter.dtype == torch.float32 for parameter in trainer.parameters.values())
    assert model.backbone.language_model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    assert any(not torch.equal(before[name], value) for name, value in _weights(trainer).items())
    assert len(sampled) == 2
    with pytest.raises(ValueError, match=r"computes in float32 and trains .* 16 bit\nhint: "):
        uses_bfloat16("float32", device=model.device, widened=True)


def _rotary(model: MultimodalLM) -> tuple[torch.Tensor, torch.Tensor]:
    decoder = model.backbone.language_model.get_decoder()
    return decoder.rotary_emb(torch.zeros(1, 2, 32), torch.arange(2)[None])


def test_precision_follows_the_device() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert not uses_bfloat16("auto", device=cpu, widened=False)
    assert uses_bfloat16("auto", device=cuda, widened=False)
    assert uses_bfloat16("bfloat16", device=cpu, widened=False)
    assert not uses_bfloat16("float32", device=cuda, widened=False)
    assert not widen([torch.nn.Parameter(torch.zeros(1))])


def test_held_out_losses_compare_steps_and_the_best_is_handed_on(tmp_path: Path) -> None:
    evaluation = call(Evaluation, mixture=plans.mixture(seed=5), every=2, num_batches=2)
    still = [call(Trainable, glob="backbone.*", learning_rate=0.0)]
    stage = _stage(num_steps=5, evaluation=evaluation, trainable=still)
    best: list[tuple[int, float]] = []
    trainer = Trainer(
        tiny_model(),
        stage=stage,
        directory=tmp_path,
        seed=0,
        on_best=lambda model, step, loss: best.append((step, loss)),
    )
    trainer.run()
    lines = _lines(tmp_path)
    assert ["evaluation/loss" in line for line in lines] == [False, True, False, True, True]
    losses = {line["evaluation/loss"] for line in lines[1::2]} | {lines[4]["evaluation/loss"]}
    # Weights that stand still have one held-out loss: documents and noise are the same each time.
    assert len(losses) == 1
    assert best == [(2, losses.pop())]
    line = lines[1]
    assert line["evaluation/loss"] == pytest.approx(line["evaluation/loss/text"] + 0.5 * line["evaluation/loss/image"])


def test_evaluation_changes_nothing_in_training(tmp_path: Path) -> None:
    evaluation = call(Evaluation, mixture=plans.mixture(seed=5), every=1, num_batches=1)
    found = []
    for name, held_out in (("with", evaluation), ("without", None)):
        stage = _stage(num_steps=3, ema_decay=0.9, evaluation=held_out)
        trainer = Trainer(tiny_model(), stage=stage, directory=tmp_path / name, seed=0)
        trainer.run()
        found.append(_weights(trainer))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
