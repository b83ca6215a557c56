"""Runs the compiled step beside the model's own, and prints what was found as JSON: see backbone/test_compiled.py.

A process of its own: torch.compile cannot make one graph of functions whose annotations are checked at run time.
"""

import json
import sys

import torch
from tiny import tiny_backbone

from limner.backbone.cache import RowCache
from limner.backbone.compiled import KEY_STEP, Compiled
from limner.backbone.hf import Backbone

STEPS = [
    ([3, 5, 4], [0, 1, 2]),  # prompts
    ([1, 1, 1], [0, 1, 2]),
    ([1, 1], [0, 2]),  # the second draws
    ([2], [1]),
    ([1, 1, 1], [2, 0, 1]),  # out of order
    ([1], [2]),
]
"""New tokens, and the rows that take them."""


class Counted:
    """A backend of torch.compile that runs graphs as they are, and counts them."""

    def __init__(self) -> None:
        self.num_graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]):
        self.num_graphs += 1
        return graph.forward


@torch.no_grad()
def differences(backbone: Backbone, step: Compiled, *, capacity: int) -> list[float]:
    """How far hidden states lie from the model's own, step by step, in a cache of four rows."""
    generator = torch.Generator().manual_seed(0)
    own, compiled = (RowCache(num_rows=4, capacity=capacity) for _ in range(2))
    found = []
    for counts, rows in STEPS:
        embeddings = torch.randn(len(rows), max(counts), backbone.d_model, generator=generator)
        states = []
        for cache in (own, compiled):
            view = cache.step(rows, counts=counts)
            if cache is compiled and max(counts) == 1:
                states.append(step(embeddings[:, 0], cache=view)[:, None])
            else:
                mask = view.mask(backbone.dtype)
                states.append(backbone.hidden_states(embeddings, positions=view.positions, mask=mask, cache=view))
            view.commit()
        between = (states[0] - states[1]).abs().amax(dim=2)
        found.append(max(float(line[:count].max()) for line, count in zip(between, counts, strict=True)))
    for row in range(3):
        for (keys, values), (others, other_values) in zip(own.views(row, 4), compiled.views(row, 4), strict=True):
            torch.testing.assert_close(others, keys, atol=1e-5, rtol=0)
            torch.testing.assert_close(other_values, values, atol=1e-5, rtol=0)
    return found


@torch.no_grad()
def is_neighbour_untouched() -> bool:
    """Whether a full row stays as it is while another writes."""
    backbone = tiny_backbone("llama")
    step, cache = Compiled(backbone, backend=Counted()), RowCache(num_rows=2, capacity=6)
    embeddings = torch.randn(2, 6, backbone.d_model, generator=torch.Generator().manual_seed(0))
    view = cache.step([0, 1], counts=[6, 2])
    backbone.hidden_states(embeddings, positions=view.positions, mask=view.mask(backbone.dtype), cache=view)
    view.commit()
    before = [store.clone() for layer in cache.views(0, 6) for store in layer]
    step(embeddings[1:, 0], cache=cache.step([1], counts=[1]))
    after = [store for layer in cache.views(0, 6) for store in layer]
    return all(torch.equal(*stores) for stores in zip(before, after, strict=True))


@torch.inference_mode()
def every_shape() -> dict[str, float]:
    """Three line counts at four key counts, in a cache that is emptied once: more graphs than torch makes unasked."""
    backbone, backend = tiny_backbone("llama"), Counted()
    step = Compiled(backbone, backend=backend)
    own, compiled = (RowCache(num_rows=4, capacity=4 * KEY_STEP) for _ in range(2))
    generator = torch.Generator().manual_seed(0)
    apart = []
    for length in (KEY_STEP - 9, 2 * KEY_STEP - 9, 3 * KEY_STEP - 9, 4 * KEY_STEP - 9, 7):
        prompts = torch.randn(4, length, backbone.d_model, generator=generator)
        for cache in (own, compiled):
            cache.reset()
            view = cache.step([0, 1, 2, 3], counts=[length] * 4)
            mask = view.mask(backbone.dtype)
            backbone.hidden_states(prompts, positions=view.positions, mask=mask, cache=view)
            view.commit()
        for rows in ([0], [1], [3]):
            embeddings = torch.randn(1, backbone.d_model, generator=generator)
            views = [cache.step(rows, counts=[1]) for cache in (own, compiled)]
            mask = views[0].mask(backbone.dtype)
            expected = backbone.hidden_states(
                embeddings[:, None], positions=views[0].positions, mask=mask, cache=views[0]
            )
            apart.append(float((step(embeddings, cache=views[1]) - expected[:, 0]).abs().max()))
            for view in views:
                view.commit()
    return {"apart": max(apart), "steps": len(apart), "graphs": backend.num_graphs}


def main() -> None:
    found = {}
    for family in ("llama", "qwen2", "gemma2"):
        for capacity in (14, KEY_STEP + 90):
            torch._dynamo.reset()
            backbone, backend = tiny_backbone(family), Counted()
            apart = differences(backbone, Compiled(backbone, backend=backend), capacity=capacity)
            found[f"{family}/{capacity}"] = {"apart": max(apart), "steps": len(apart), "graphs": backend.num_graphs}
    torch._dynamo.reset()
    found["llama/shapes"] = every_shape()
    sys.stdout.write(json.dumps({"cases": found, "untouched": is_neighbour_untouched()}))


if __name__ == "__main__":
    main()
