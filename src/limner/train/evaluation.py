"""Losses on documents kept out of training, always the same batches under the same noise, so that steps compare.

Ranks share the batches, and some may have none; every rank is told the same losses.

The noise of an item is keyed by (seed, stage, "evaluation", item): nothing of the step is in it.
"""

import torch

from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import Batch
from limner.train.parallel import World
from limner.train.stage import Evaluation, Stage
from limner.train.terms import StepLosses


class Evaluator:
    """Measures the held-out losses of a stage's model, by the stage's objective and weights."""

    def __init__(self, model: MultimodalLM, *, stage: Stage, evaluation: Evaluation, seed: int, world: World) -> None:
        self.model = model
        self.stage = stage
        self.evaluation = evaluation
        self.noise_key = (seed, stage.name, "evaluation")
        batching = evaluation.batching or stage.batching
        self.world = world
        self.loader = batching.loader(evaluation.mixture, model=model, rank=world.rank, num_ranks=world.size)
        self._start = self.loader.state_dict()

    def first_batch(self) -> Batch:
        """The first batch of this rank, on the CPU."""
        self.loader.load_state_dict(self._start)
        return self.loader.next_batch()

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """`evaluation/loss` and one `evaluation/loss/<term>` each, of the model as it stands (in evaluation mode)."""
        stage = self.stage
        self.loader.load_state_dict(self._start)
        own = range(self.world.rank, self.evaluation.num_batches, self.world.size)
        batches = [self.loader.next_batch() for _ in own]
        counted = [stage.objective.count(batch) for batch in batches]
        totals = {name: sum((count.get(name, 0.0) for count in counted), 0.0) for name in stage.loss_weights}
        losses = StepLosses(totals, world=self.world)
        for batch, count in zip(batches, counted, strict=True):
            terms = stage.objective(self.model, batch.to(self.model.device), noise_key=self.noise_key)
            losses.add(terms, shares=losses.shares(count))
        means, sources = losses.read()
        total = sum(stage.loss_weights[name] * mean for name, mean in means.items() if stage.loss_weights[name])
        return {
            "evaluation/loss": total,
            **{f"evaluation/loss/{name}": mean for name, mean in means.items()},
            **{f"evaluation/loss/{name}/{source}": mean for (name, source), mean in sources.items()},
        }
