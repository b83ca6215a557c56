"""The loop of one stage.

A step: batches are drawn, terms are summed over all of them, each term is divided by its count over the whole step
and weighted, so accumulation, packing and the number of ranks change nothing. Everything random is keyed by (seed,
stage, step, item). All ranks run this loop alike; but for states, which all of them write, the first alone writes.

A step whose loss or gradient is not finite changes nothing: it is skipped, counted, and, when too many come in a row,
ends the run. A stop that was asked for (SIGTERM, Ctrl-C) waits for the step, saves, and ends the run.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from signal import Signals
from typing import Any

import torch
from torch import Tensor

from limner.modalities.noise import keyed_generator
from limner.model.checkpoint import own, owned_state
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.checks import check_band, check_reached, check_sharded, check_shared, check_terms
from limner.train.evaluation import Evaluator
from limner.train.execution import Execution, set_training, uses_bfloat16, widen
from limner.train.interruption import Stopped, StopSignals
from limner.train.metrics import Metrics, Values, contents, documents_so_far
from limner.train.objectives import Illustrated, Stepwise
from limner.train.optim import MovingAverage, build_optimizer
from limner.train.parallel import ObjectiveModule, accumulating, clip_gradients, gathered, rewritten
from limner.train.profiling import StepProfiler
from limner.train.run_folder import log_table, trainable_table, write_json
from limner.train.stage import Stage, select_trainable
from limner.train.stage_loader import StageLoader
from limner.train.state import StateStore
from limner.train.terms import StepLosses

logger = logging.getLogger(__name__)


class Trainer:
    """Trains one stage of a model in a directory, from its start or from its saved state.

    on_sample: called on the first rank with the model, in evaluation mode, and the number of steps done.
    on_best:   called on every rank, with the held-out loss besides, when that is the lowest so far. The model is as it
               lies on the ranks, maybe sharded.
    """

    def __init__(
        self,
        model: MultimodalLM,
        *,
        stage: Stage,
        directory: Path,
        seed: int,
        execution: Execution | None = None,
        on_sample: Callable[[MultimodalLM, int], None] | None = None,
        on_best: Callable[[MultimodalLM, int, float], None] | None = None,
    ) -> None:
        self.model = model
        self.stage = stage
        self.directory = directory
        self.seed = seed
        self.execution = execution or Execution(device=model.device)
        self.world = self.execution.world
        self.on_sample = on_sample
        self.on_best = on_best
        check_shared(stage, num_ranks=self.world.size)
        groups = select_trainable(model, stage.trainable)
        self.parameters = {name: p for group in groups.values() for name, p in group.items()}
        own(model, self.parameters)
        self.execution.prepare(model)
        self.widened = widen(self.parameters.values())
        self.bfloat16 = uses_bfloat16(stage.precision, device=model.device, widened=self.widened)
        objective = ObjectiveModule(model, stage.objective, terms=tuple(stage.loss_weights))
        self.module = self.execution.parallel.wrap(objective, world=self.world)
        # Wrapping may have put others in their places.
        wrapped = dict(model.named_parameters())
        self.parameters = {name: wrapped[name] for name in self.parameters}
        groups = {group: {name: wrapped[name] for name in names} for group, names in groups.items()}
        self.optimizer = build_optimizer(groups, optimizer=stage.optimizer)
        check_sharded(self.optimizer, stage=stage.name)
        self.average = None if stage.ema_decay is None else MovingAverage(self.parameters, decay=stage.ema_decay)
        self.loader = StageLoader(stage, model=model, world=self.world, num_workers=self.execution.num_workers)
        self.evaluator = None
        if stage.evaluation is not None:
            self.evaluator = Evaluator(model, stage=stage, evaluation=stage.evaluation, seed=seed, world=self.world)
        self.store = StateStore(directory, keep_last=stage.keep_last, world=self.world)
        self.skipped_steps = 0
        self.bad_in_a_row = 0
        self.best = math.inf
        if self.world.is_first:
            directory.mkdir(parents=True, exist_ok=True)
            table = trainable_table(model, groups)
            write_json(directory / "trainable.json", table)
            log_table(table)

    def run(self) -> None:
        """Train to the end of the stage; the model then holds the result (the moving average where one is kept).

        Raises Stopped when a signal asked for it, after the state was saved.
        """
        stage, first = self.stage, self._resume()
        if first == 0:
            with rewritten(self.module), self.loader.measuring() as batches:
                stage.objective.prepare(self.model, batches)
        set_training(self.model)
        with (
            self._metrics(first) as metrics,
            StepProfiler(self.execution.profile if self.world.is_first else None, directory=self.directory) as profiler,
            StopSignals() as signals,
        ):
            for step in range(first, stage.num_steps):
                profiler.before(step)
                done = step + 1
                values = self._step(step)
                values |= self._evaluate(done)
                if metrics is not None:
                    metrics.write(step, values)
                if done % stage.save_every == 0 and done < stage.num_steps:
                    self._save(done)
                if stage.sample_every and done % stage.sample_every == 0 and self._received(signals) is None:
                    self._sample(done)
                if (received := self._received(signals)) is not None:
                    self._save(done)
                    raise Stopped(
                        f"stopped by {received.name} after step {done} of {stage.num_steps} of stage "
                        f"`{stage.name}`; saved in {self.directory}, the same command goes on from there",
                        received=received,
                    )
        if self.average is not None:
            self.average.swap(self.parameters)
        self.model.eval()
        with rewritten(self.module), self.loader.measuring() as batches:
            stage.objective.finish(self.model, batches)

    def _received(self, signals: StopSignals) -> Signals | None:
        """The signal that some rank has received: they come one after another, and all must stop after one step."""
        return next(filter(None, self.world.gather(signals.received)), None)

    def _metrics(self, first: int) -> AbstractContextManager[Metrics | None]:
        if not self.world.is_first:
            return nullcontext()
        return Metrics(self.directory, stage=self.stage.name, num_steps=self.stage.num_steps, first_step=first)

    def _step(self, step: int) -> Values:
        started = time.perf_counter()
        stage = self.stage
        factor = stage.schedule.factor(step, stage.num_steps)
        self.optimizer.set_learning_rate(factor=factor)
        drawn = [self.loader.next_batch() for _ in range(stage.accumulation // self.world.size)]
        waited = time.perf_counter() - started
        losses = self._backward(step, drawn)
        if step == 0:
            check_reached(self.parameters, stage=stage.name)
        norm = float(clip_gradients(self.parameters.values(), max_norm=stage.max_gradient_norm))
        means, sources = losses.read()
        # A term of weight 0 is only looked at: what it is does not matter.
        total = sum(stage.loss_weights[name] * value for name, value in means.items() if stage.loss_weights[name])
        if step == 0:
            check_band(total, stage=stage)
        taken = math.isfinite(total) and math.isfinite(norm)
        if taken:
            self.bad_in_a_row = 0
            self.optimizer.step()
            if self.average is not None:
                self.average.update(self.parameters)
        if isinstance(stage.objective, Stepwise):
            stage.objective.stepped(self.model, noise_key=(self.seed, stage.name, step), taken=taken)
        if not taken:
            self._skip(step, loss=total, norm=norm)
        seconds = time.perf_counter() - started
        return {
            "loss": total,
            **{f"loss/{name}": value for name, value in means.items()},
            **{f"loss/{name}/{source}": value for (name, source), value in sources.items()},
            "gradient_norm": norm,
            "learning_rate_factor": factor,
            "skipped_steps": self.skipped_steps,
            **documents_so_far(self.loader.state_dict()),
            **contents(drawn, seconds=seconds, waited=waited, world=self.world),
        }

    def _backward(self, step: int, drawn: list[Batch]) -> StepLosses:
        """Gradients of a step, out of this rank's batches `drawn`, and its losses."""
        stage, world = self.stage, self.world
        batches = [batch.to(self.model.device) for batch in drawn]
        counted = [stage.objective.count(batch) for batch in batches]
        totals = {name: sum(count.get(name, 0.0) for count in counted) for name in stage.loss_weights}
        losses = StepLosses(totals, world=world)
        self.optimizer.zero_grad(set_to_none=True)
        for number, (batch, count) in enumerate(zip(batches, counted, strict=True)):
            with accumulating(self.module, last=number == len(batches) - 1):
                with self._autocast(self.bfloat16), self._keyed_dropout(step, number * world.size + world.rank):
                    terms = self.module(batch, (self.seed, stage.name, step))
                check_terms(terms, stage=stage)
                shares = losses.shares(count)
                weighted = [
                    stage.loss_weights[name] * term.mean * shares[name]
                    for name, term in terms.items()
                    if stage.loss_weights[name] != 0.0
                ]
                # Times the number of ranks, because gradients are averaged over them.
                (torch.stack(weighted).sum() * world.size).backward()
            losses.add(terms, shares=shares)
        return losses

    @contextmanager
    def _keyed_dropout(self, step: int, number: int) -> Iterator[None]:
        """Dropout draws from the global state: inside, it too is a function of (seed, stage, step, batch)."""
        device = self.model.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(keyed_generator(self.seed, self.stage.name, step, number).initial_seed())
            yield

    def _autocast(self, enabled: bool) -> torch.autocast:
        return torch.autocast(self.model.device.type, dtype=torch.bfloat16, enabled=enabled)

    @contextmanager
    def _result(self) -> Iterator[None]:
        """Inside, the model is what the stage would end with now: the moving average, in evaluation mode."""
        if self.average is not None:
            self.average.swap(self.parameters)
        self.model.eval()
        # Master weights beside 16-bit ones compute under autocast only.
        with self._autocast(self.widened):
            yield
        set_training(self.model)
        if self.average is not None:
            self.average.swap(self.parameters)

    def _sample(self, done: int) -> None:
        objective = self.stage.objective
        if self.on_sample is None and not isinstance(objective, Illustrated):
            return
        with self._result(), gathered(self.module):
            if self.world.is_first and isinstance(objective, Illustrated):
                self._draw_sheet(objective, done)
            elif self.world.is_first and self.on_sample is not None:
                self.on_sample(self.model, done)

    def _draw_sheet(self, objective: Illustrated, done: int) -> None:
        """<stage>/samples/<step>.png: always the same held-out batch, or else the next one of the training."""
        if self.evaluator is not None:
            batch = self.evaluator.first_batch().to(self.model.device)
        else:
            with self.loader.measuring() as batches:
                batch = next(batches)
        path = self.directory / "samples" / f"{done:07d}.png"
        path.parent.mkdir(exist_ok=True)
        objective.sheet(self.model, batch).save(path)

    def _evaluate(self, done: int) -> dict[str, float]:
        """Held-out losses where they are due; the best weights so far are handed on."""
        evaluation = self.stage.evaluation
        if self.evaluator is None or evaluation is None:
            return {}
        if done % evaluation.every and done != self.stage.num_steps:
            return {}
        with self._result():
            with self._autocast(self.bfloat16), gathered(self.module):
                values = self.evaluator()
            loss = values["evaluation/loss"]
            if loss < self.best:
                self.best = loss
                if self.on_best is not None and evaluation.keep_best:
                    self.on_best(self.model, done, loss)
        return values

    def _skip(self, step: int, *, loss: float, norm: float) -> None:
        """Count a step that is not taken. Raises ValueError when too many of them come in a row."""
        self.skipped_steps += 1
        self.bad_in_a_row += 1
        name = self.stage.name
        if self.world.is_first:
            logger.warning("stage %s: step %d is skipped, its loss is %g, its gradient norm %g", name, step, loss, norm)
        if self.bad_in_a_row >= min(self.stage.max_bad_steps, self.stage.num_steps):
            steps = self.store.steps()
            kept = f"the state after step {steps[-1]} is kept in {self.directory}" if steps else "no state was saved"
            raise ValueError(
                f"the loss of stage `{name}` is {loss:g} at step {step} (gradient norm {norm:g}), as bad as in "
                f"{self.bad_in_a_row} steps in a row; {kept}\n"
                "hint: lower the learning rate, clip harder, or look at the documents of these steps"
            )

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """What a state holds, by group: trained parameters, what is measured (whitening, latents' scale), average."""
        owned = owned_state(self.model)
        buffers = {name: buffer for name, buffer in self.model.named_buffers() if name in owned}
        average = {} if self.average is None else {"average": self.average.values}
        return {"parameters": self.parameters, "buffers": buffers, **average}

    def _save(self, step: int) -> None:
        values: dict[str, Any] = {
            "loader": self.loader.state_dict(),
            "updates": 0 if self.average is None else self.average.num_updates,
            "skipped_steps": self.skipped_steps,
            "bad_in_a_row": self.bad_in_a_row,
            "best": self.best if math.isfinite(self.best) else None,
        }
        self.store.save(step, tensors=self._tensors(), optimizer=self.optimizer, values=values)

    def _resume(self) -> int:
        found = self.store.load(tensors=self._tensors(), optimizer=self.optimizer)
        if found is None:
            return 0
        values = found.values
        self.loader.load_state_dict(values["loader"])
        if self.average is not None:
            self.average.num_updates = values["updates"]
        self.skipped_steps, self.bad_in_a_row = values["skipped_steps"], values["bad_in_a_row"]
        self.best = math.inf if values["best"] is None else values["best"]
        logger.info("stage %s goes on at step %d", self.stage.name, found.step)
        return found.step
