"""1 rank = 2 ranks, one of them with text alone; a state saved by two reloads in one, and the other way round.

Two gloo processes run everything once (`_two_ranks`); the tests compare it with what this process computes alone. A
step has two batches in all, so two ranks take one each where one rank accumulates both.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ranks
import torch

from limner.train.parallel import Parallel, Replicate, Shard, World, gathered

pytestmark = pytest.mark.slow

PARALLEL: dict[str, Parallel] = {"replicate": Replicate(), "shard": Shard()}
SGD = partial(torch.optim.SGD, momentum=0.9)
FROZEN = ("modalities.image.encoder", "modalities.image.decoder.autoencoder")
RECIPES: dict[str, dict[str, Any]] = {
    "all": {"optimizer": SGD},
    # Only the first rank's batches reach the language model's input through something that trains.
    "frozen embeddings": {
        "optimizer": SGD,
        "frozen": (*FROZEN, "backbone.added", "backbone.language_model.model.embed", "modalities.image.queries"),
    },
    "frozen language model": {"optimizer": SGD, "frozen": (*FROZEN, "backbone.language_model")},
    "one block": {
        "optimizer": SGD,
        "frozen": (*FROZEN, "backbone.added", "backbone.language_model.model.layers.0", "modalities.image.queries"),
    },
    # Of the second rank's terms the weightless one alone is more than an anchor.
    "pictures alone": {
        "optimizer": SGD,
        "weights": {"text": 0.0, "image": 1.0},
        "frozen": (*FROZEN, "backbone.language_model.lm_head", "backbone.added_output"),
    },
    "adam": {},
}
NUM_STEPS = 6
LONG = 500


def _two_ranks(world: World, directory: Path) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for kind, parallel in PARALLEL.items():
        for recipe, options in RECIPES.items():
            results[f"{kind}, {recipe}"] = ranks.train(world, parallel, NUM_STEPS, options)
        # Half of the steps, then the other half in a new run: on two ranks, and after one rank did the first half.
        two = directory / kind / "from two"
        results[f"{kind}, half"] = ranks.train(world, parallel, NUM_STEPS // 2, RECIPES["adam"], two)
        results[f"{kind}, resumed"] = ranks.train(world, parallel, NUM_STEPS, RECIPES["adam"], two)
        results[f"{kind}, from one"] = ranks.train(world, parallel, NUM_STEPS, RECIPES["all"], directory / kind / "one")
        results[f"{kind}, gathered"] = _gathered(world, parallel)
    for kind, parallel in PARALLEL.items():
        results[f"{kind}, long"] = {"losses": _long(world, parallel)}
    return results


def _long(world: World, parallel: Parallel) -> list[float]:
    """Losses of many steps on this rank, the second with text alone. Nothing but gradients passes between the ranks."""
    run = ranks.Run(world, parallel=parallel, optimizer=torch.optim.SGD)
    batch = ranks.batch_of(run.model, 0, world.rank)
    losses = []
    for _ in range(LONG):
        run.optimizer.zero_grad(set_to_none=True)
        loss = torch.stack([term.mean for term in run.module(batch, (0, 0)).values()]).sum()
        loss.backward()
        run.optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def _gathered(world: World, parallel: Parallel) -> dict[str, Any]:
    """The first rank runs the model alone, before the first step and after it; then training goes on."""
    run = ranks.Run(world, parallel=parallel, **RECIPES["all"])
    alone = []
    for step in range(2):
        with gathered(run.module):
            if world.is_first:
                batch = ranks.batch_of(run.model, 0, 0)
                alone.append(float(run.model(batch, noise_key=(0, 0))["text"].sum))
        run.step(step)
    return {"alone": alone, "weights": run.weights_now()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranks")
    for kind in PARALLEL:
        ranks.train(World(), Replicate(), NUM_STEPS // 2, RECIPES["all"], path / kind / "one")
    return path


@pytest.fixture(scope="module")
def two(directory: Path) -> list[dict[str, Any]]:
    return ranks.run(_two_ranks, directory, num_ranks=2, directory=directory / "results")


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    return {recipe: ranks.train(World(), Replicate(), NUM_STEPS, options) for recipe, options in RECIPES.items()}


each_kind = pytest.mark.parametrize("kind", PARALLEL)


def _difference(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> float:
    assert left.keys() == right.keys()
    return max(float((left[name] - right[name]).abs().max()) for name in left if left[name].numel())


@each_kind
@pytest.mark.parametrize("recipe", RECIPES)
def test_two_ranks_have_the_losses_of_one(one, two, kind: str, recipe: str) -> None:
    expected = one[recipe]["metrics"]
    for rank in two:
        for step, found in enumerate(rank[f"{kind}, {recipe}"]["metrics"]):
            assert found == pytest.approx(expected[step], rel=1e-6), step


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_replicas_end_with_the_weights_of_one_rank_to_the_bit(one, two, recipe: str) -> None:
    for rank in two:
        assert _difference(rank[f"replicate, {recipe}"]["weights"], one[recipe]["weights"]) == 0.0


@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "adam"])
def test_two_shards_end_with_the_weights_of_one_rank(one, two, recipe: str) -> None:
    # Not under Adam: where a gradient is zero but for rounding (a bias before softmax), its step is the sign of that.
    for rank in two:
        assert _difference(rank[f"shard, {recipe}"]["weights"], one[recipe]["weights"]) < 1e-6


@each_kind
def test_a_rank_with_text_alone_holds_nobody_up(two, kind: str) -> None:
    for rank in two:
        losses = rank[f"{kind}, long"]["losses"]
        assert len(losses) == LONG
        assert losses[-1] < losses[0]


@each_kind
def test_a_run_resumed_on_as_many_ranks_is_the_uninterrupted_one_to_the_bit(two, kind: str) -> None:
    for rank in two:
        whole_run = rank[f"{kind}, adam"]
        assert rank[f"{kind}, half"]["metrics"] == whole_run["metrics"][: NUM_STEPS // 2]
        assert rank[f"{kind}, resumed"]["metrics"] == whole_run["metrics"][NUM_STEPS // 2 :]
        assert _difference(rank[f"{kind}, resumed"]["weights"], whole_run["weights"]) == 0.0


@each_kind
def test_what_one_rank_saved_goes_on_in_two(one, two, kind: str) -> None:
    for rank in two:
        resumed = rank[f"{kind}, from one"]
        assert len(resumed["metrics"]) == NUM_STEPS - NUM_STEPS // 2
        assert _difference(resumed["weights"], one["all"]["weights"]) < (1e-6 if kind == "shard" else 1e-30)


@each_kind
def test_what_two_ranks_saved_goes_on_in_one(one, two, directory: Path, kind: str) -> None:
    loaded = ranks.train(World(), Replicate(), NUM_STEPS, RECIPES["adam"], directory / kind / "from two")
    assert loaded["metrics"] == []
    assert _difference(loaded["weights"], two[0][f"{kind}, resumed"]["weights"]) == 0.0
    again = ranks.train(World(), Replicate(), NUM_STEPS + 1, RECIPES["adam"], directory / kind / "from two")
    assert len(again["metrics"]) == 1


@each_kind
def test_a_rank_may_run_the_gathered_model_alone(two, kind: str) -> None:
    first, second = (rank[f"{kind}, gathered"] for rank in two)
    assert second["alone"] == []
    assert first["alone"] == pytest.approx(two[0]["replicate, gathered"]["alone"], rel=1e-6)
    assert first["alone"][1] < first["alone"][0]
    assert _difference(first["weights"], two[0]["replicate, gathered"]["weights"]) < 1e-6
