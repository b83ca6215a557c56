"""The loop of one stage.

A step: batches are drawn, terms are summed over all of them, each term is divided by its count over the whole step
and weighted, so accumulation and packing change nothing. Everything random is keyed by (seed, stage, step, item).
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from limner.modalities.noise import keyed_generator
from limner.model.checkpoint import owned_state
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.metrics import Metrics
from limner.train.optim import MovingAverage, build_optimizer, set_learning_rate
from limner.train.stage import Stage, select_trainable
from limner.train.state import load_state, parameter_values, restore_parameters, save_state

logger = logging.getLogger(__name__)


class Trainer:
    """Trains one stage of a model in a directory, from its start or from its saved state."""

    def __init__(
        self,
        model: MultimodalLM,
        *,
        stage: Stage,
        directory: Path,
        seed: int,
        on_sample: Callable[[MultimodalLM, int], None] | None = None,
    ) -> None:
        self.model = model
        self.stage = stage
        self.directory = directory
        self.seed = seed
        self.on_sample = on_sample
        groups = select_trainable(model, stage.trainable)
        self.parameters = {name: p for group in groups.values() for name, p in group.items()}
        lost = sorted(set(self.parameters) - set(owned_state(model)))
        if lost:
            raise ValueError(
                f"stage `{stage.name}` trains {len(lost)} tensors of a published part, which no checkpoint holds: "
                f"{lost[0]} ...\nhint: train it through LoRA, or wire the part without its source"
            )
        self.optimizer = build_optimizer(groups, stage=stage)
        self.average = None if stage.ema_decay is None else MovingAverage(self.parameters, decay=stage.ema_decay)
        self.loader = stage.batching.loader(stage.mixture, model=model)
        directory.mkdir(parents=True, exist_ok=True)
        self._write_table(groups)

    def run(self) -> None:
        """Train to the end of the stage; the model then holds the result (the moving average where one is kept)."""
        stage, first = self.stage, self._resume()
        if first == 0:
            # The same loader, then set back: what it cached for the measurement serves the training too.
            start = self.loader.state_dict()
            stage.objective.prepare(self.model, self._batches())
            self.loader.load_state_dict(start)
        _set_training(self.model)
        with Metrics(self.directory, stage=stage.name, num_steps=stage.num_steps, first_step=first) as metrics:
            for step in range(first, stage.num_steps):
                metrics.write(step, self._step(step))
                done = step + 1
                if done % stage.save_every == 0 and done < stage.num_steps:
                    self._save(done)
                if stage.sample_every and done % stage.sample_every == 0:
                    self._sample(done)
        if self.average is not None:
            self.average.swap(self.parameters)
        self.model.eval()
        stage.objective.finish(self.model, self._batches())

    def _batches(self) -> Iterator[Batch]:
        while True:
            yield self.loader.next_batch().to(self.model.device)

    def _step(self, step: int) -> dict[str, float]:
        started = time.perf_counter()
        stage = self.stage
        factor = stage.schedule.factor(step, stage.num_steps)
        set_learning_rate(self.optimizer, factor=factor)
        batches = [self.loader.next_batch().to(self.model.device) for _ in range(stage.accumulation)]
        counted = [stage.objective.count(batch) for batch in batches]
        counts = {name: max(1.0, sum(count.get(name, 0.0) for count in counted)) for name in stage.loss_weights}
        means: dict[str, float] = dict.fromkeys(counts, 0.0)
        self.optimizer.zero_grad(set_to_none=True)
        for number, batch in enumerate(batches):
            # A batch's mean weighs as its share of the step's targets; a decoder may draw several times per item.
            shares = {name: counted[number].get(name, 0.0) / count for name, count in counts.items()}
            with self._autocast(), torch.random.fork_rng():
                # Dropout draws from the global state: it too is a function of (seed, stage, step, batch).
                torch.manual_seed(keyed_generator(self.seed, stage.name, step, number).initial_seed())
                terms = stage.objective(self.model, batch, noise_key=(self.seed, stage.name, step))
            self._check_terms(terms)
            weighted = [
                stage.loss_weights[name] * term.mean * shares[name]
                for name, term in terms.items()
                if stage.loss_weights[name] != 0.0
            ]
            torch.stack(weighted).sum().backward()
            for name, term in terms.items():
                means[name] += float(term.mean.detach()) * shares[name]
        if step == 0:
            self._check_reached()
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), stage.max_gradient_norm)
        total = sum(stage.loss_weights[name] * value for name, value in means.items())
        self._check_loss(step, total)
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.parameters)
        return {
            "loss": total,
            **{f"loss/{name}": value for name, value in means.items()},
            "gradient_norm": float(norm),
            "learning_rate_factor": factor,
            "tokens": sum(batch.num_tokens for batch in batches),
            "seconds": time.perf_counter() - started,
        }

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.model.device.type,
            dtype=torch.bfloat16,
            enabled=self.stage.precision == "bfloat16",
        )

    def _check_terms(self, terms: Mapping[str, object]) -> None:
        unknown = set(terms) ^ set(self.stage.loss_weights)
        if unknown:
            raise ValueError(
                f"stage `{self.stage.name}` has loss weights for {sorted(self.stage.loss_weights)}, "
                f"its objective gives {sorted(terms)}\nhint: weight 0 leaves a term out"
            )

    def _check_reached(self) -> None:
        lost = sorted(name for name, parameter in self.parameters.items() if parameter.grad is None)
        if lost:
            raise ValueError(
                f"stage `{self.stage.name}` trains {len(lost)} tensors that its objective never reaches: "
                f"{lost[0]} ...\nhint: do not train them, or give the term that reaches them a weight"
            )

    def _check_loss(self, step: int, loss: float) -> None:
        if loss != loss or loss in (float("inf"), float("-inf")):
            raise ValueError(
                f"the loss of stage `{self.stage.name}` is {loss} at step {step}; the last saved "
                f"state is kept in {self.directory}\nhint: lower the learning rate and run again"
            )
        band = self.stage.expected_loss
        if step == 0 and band is not None and not band[0] <= loss <= band[1]:
            raise ValueError(
                f"stage `{self.stage.name}` starts with a loss of {loss:.3f}; the recipe expects "
                f"{band[0]} to {band[1]}\nhint: check that the parts it starts from were loaded"
            )

    def _save(self, step: int) -> None:
        save_state(
            self.directory,
            {
                "step": step,
                "parameters": parameter_values(self.parameters),
                "buffers": parameter_values(self._buffers()),
                "optimizer": self.optimizer.state_dict(),
                "average": None if self.average is None else self.average.state_dict(),
                "loader": self.loader.state_dict(),
            },
        )

    def _buffers(self) -> dict[str, Tensor]:
        """What a stage measures (whitening, latents' scale): saved like the parameters."""
        owned = owned_state(self.model)
        return {name: buffer for name, buffer in self.model.named_buffers() if name in owned}

    def _resume(self) -> int:
        state = load_state(self.directory)
        if state is None:
            return 0
        restore_parameters(self.parameters, state["parameters"])
        restore_parameters(self._buffers(), state["buffers"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.loader.load_state_dict(state["loader"])
        logger.info("stage %s goes on at step %d", self.stage.name, state["step"])
        return int(state["step"])

    def _sample(self, step: int) -> None:
        if self.on_sample is None:
            return
        if self.average is not None:
            self.average.swap(self.parameters)
        self.model.eval()
        self.on_sample(self.model, step)
        _set_training(self.model)
        if self.average is not None:
            self.average.swap(self.parameters)

    def _write_table(self, groups: Mapping) -> None:
        """The table (glob, tensors, parameters, learning rate), logged once and saved."""
        rows = [
            {
                "glob": group.glob,
                "tensors": len(parameters),
                "parameters": sum(p.numel() for p in parameters.values()),
                "learning_rate": group.learning_rate,
            }
            for group, parameters in groups.items()
        ]
        frozen = sum(p.numel() for p in self.model.parameters() if not p.requires_grad)
        (self.directory / "trainable.json").write_text(
            json.dumps({"trainable": rows, "frozen_parameters": frozen}, indent=1) + "\n"
        )
        for row in rows:
            logger.info(
                "%-48s %12d parameters, learning rate %g",
                row["glob"], row["parameters"], row["learning_rate"],
            )  # fmt: skip
        logger.info("%-48s %12d parameters", "frozen", frozen)


def _set_training(model: nn.Module) -> None:
    """Training mode for what is trained alone: frozen parts neither drop out nor move running statistics."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()
