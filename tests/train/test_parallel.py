"""A world of one: nothing is wrapped, nothing is sent. Two ranks stand in tests/equivalence/test_ranks.py."""

import pytest
import torch
from tiny import documents, tiny_model
from torch import nn
from torch.distributed.fsdp import FSDPModule

from limner.data.collate import Collator
from limner.document.document import Document
from limner.train.objectives import Multimodal, WordAlignment
from limner.train.parallel import (
    ObjectiveModule,
    Parallel,
    Replicate,
    Shard,
    World,
    accumulating,
    clip_gradients,
    gathered,
    transformer_blocks,
    whole,
)

TERMS = ("text", "image")


def test_without_torchrun_the_world_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    world = World.join()
    assert (world.rank, world.size, world.is_first) == (0, 1, True)
    assert world.sum_counts({"text": 3.0}) == {"text": 3.0}
    assert world.gather("x") == ["x"]
    assert not world.any(False)
    world.barrier()
    world.leave()
    assert not torch.distributed.is_initialized()


@pytest.mark.parametrize("parallel", [Replicate(), Shard()])
def test_a_world_of_one_wraps_nothing(parallel: Parallel) -> None:
    module = ObjectiveModule(tiny_model(), Multimodal(), terms=TERMS)
    assert parallel.wrap(module, world=World()) is module
    with accumulating(module, last=False), gathered(module):
        assert not torch.is_grad_enabled()


def test_sharding_with_an_older_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(FSDPModule, "reset_iter_state")
    module = ObjectiveModule(tiny_model(), Multimodal(), terms=TERMS)
    with pytest.raises(ValueError, match=r"sharding needs torch \d\.\d+ or later.*\nhint: .*replicate"):
        Shard().wrap(module, world=World(size=2))


def test_the_module_gives_the_terms_of_the_objective() -> None:
    model = tiny_model()
    module = ObjectiveModule(model, Multimodal(), terms=TERMS)
    batch = Collator(model)([[model.render(document, key=str(i))] for i, document in enumerate(documents())])
    terms, expected = module(batch, (0, 1)), model(batch, noise_key=(0, 1))
    for name in TERMS:
        assert torch.equal(terms[name].sum, expected[name].sum)
    assert not any(name.startswith("objective") for name, _ in module.named_parameters())


def test_where_the_objective_counts_nothing_every_trainable_parameter_still_has_a_gradient() -> None:
    model = tiny_model()
    trained = model.modalities["image"].input_projector
    model.requires_grad_(False)
    trained.requires_grad_(True)
    module = ObjectiveModule(model, WordAlignment(modality="image"), terms=("text",))
    batch = Collator(model)([[model.render(Document.page(["Only words."]), key="0")]])
    (term,) = module(batch, (0, 1)).values()
    assert (float(term.sum.detach()), float(term.count)) == (0.0, 0.0)
    term.mean.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in trained.parameters())


def test_the_blocks_are_the_layers_of_the_language_model() -> None:
    model = tiny_model()
    assert transformer_blocks(model) == list(model.backbone.language_model.model.layers)


@pytest.mark.parametrize("max_norm", [0.5, 1e3])
def test_clipping_is_that_of_torch(max_norm: float) -> None:
    ours, theirs = nn.Linear(5, 4), nn.Linear(5, 4)
    unused = nn.Parameter(torch.ones(3))
    theirs.load_state_dict(ours.state_dict())
    for module in (ours, theirs):
        (module(torch.ones(2, 5)) ** 2).sum().backward()
    norm = clip_gradients([*ours.parameters(), unused], max_norm=max_norm)
    expected = nn.utils.clip_grad_norm_(theirs.parameters(), max_norm)
    assert torch.equal(norm, expected)
    assert torch.equal(ours.weight.grad, theirs.weight.grad)
    assert whole(norm) is norm
