"""One token per row in shapes that do not change: a step that torch.compile makes a graph of, and GPUs replay.

    embeddings [rows d_model] --laid out over LINES--> decoder, all keys of a bucket --> hidden states [rows d_model]

Where rows come and go, every step has other rows and another longest one; a graph of each would be made anew. Here the
storage of a cache is made whole at once, rows without a token are run and not written, and keys behind a row's end are
masked. So there are as many graphs as pairs of line count (powers of two) and key count (multiples of `KEY_STEP`).

Assumes a language model whose decoder torch.compile takes as one graph; it is compiled when a shape is first met.
"""

from typing import Any

import torch
import torch._dynamo
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from limner.backbone.attention import cached_causal_mask
from limner.backbone.cache import CacheStep
from limner.backbone.hf import Backbone

KEY_STEP = 512
"""Keys that are attended to are a multiple of this, or all."""
_MOST_GRAPHS = {"recompile_limit": 1024, "accumulated_recompile_limit": 1024}
"""Of all shapes and storages: a pair of line and key counts makes one, and torch's own limit is eight."""


class Compiled:
    """The step of one model, compiled. `options` are those of torch.compile; by default the mode is the one for CUDA
    graphs where the model is on a GPU."""

    def __init__(self, backbone: Backbone, **options: Any) -> None:
        self.backbone = backbone
        on_gpu = backbone.added_input.device.type == "cuda"
        options = {"mode": "reduce-overhead" if on_gpu else None} | options
        self._step = torch.compile(self._run, dynamic=False, fullgraph=True, **options)

    @torch.no_grad()
    def __call__(self, embeddings: Float[Tensor, "rows d_model"], *, cache: CacheStep) -> Float[Tensor, "rows d_model"]:
        """Hidden states after the final norm of one new token per row."""
        rows, store = cache.rows, cache.cache
        if not store.layers:  # nobody has said yet how wide keys are
            mask = cache.mask(self.backbone.dtype)
            states = self.backbone.hidden_states(embeddings[:, None], positions=cache.positions, mask=mask, cache=cache)
            return states[:, 0]
        store.allocate()
        for stored in (part for layer in store.layers for part in layer):
            # Graphs write into it; those of a GPU take that only of what stays where it is.
            torch._dynamo.mark_static_address(stored)
        num_lines = min(1 << max(rows).bit_length(), store.num_rows)
        num_keys = min(-(-cache.num_keys // KEY_STEP) * KEY_STEP, store.capacity)
        lines = torch.tensor(rows, device=embeddings.device)
        whole = embeddings.new_zeros(num_lines, embeddings.shape[1]).index_copy(0, lines, embeddings)
        starts = cache.starts.new_zeros(num_lines).index_copy(0, lines, cache.starts)
        is_new = torch.zeros_like(starts, dtype=torch.bool).index_fill(0, lines, True)
        with torch._dynamo.config.patch(_MOST_GRAPHS):
            states = self._step(whole, starts, is_new, store.layers, num_keys)
        return states[lines]

    def logits_within(self, hidden: Float[Tensor, "rows d_model"], ids: range) -> Float[Tensor, "rows vocab"]:
        """`Backbone.logits_within`."""
        return self.backbone.logits_within(hidden, ids)

    def _run(
        self,
        embeddings: Float[Tensor, "lines d_model"],
        starts: Int[Tensor, " lines"],
        is_new: Bool[Tensor, " lines"],
        layers: list[tuple[Tensor, Tensor]],
        num_keys: int,
    ) -> Float[Tensor, "lines d_model"]:
        mask = cached_causal_mask(starts, num_new=1, num_keys=num_keys, dtype=self.backbone.dtype)
        cache = _Lines(layers, starts, is_new, num_keys)
        positions = starts[:, None]
        return self.backbone.hidden_states(embeddings[:, None], positions=positions, mask=mask, cache=cache)[:, 0]


class _Lines(Cache):
    """The first rows of a `RowCache`, of which some take a token each."""

    def __init__(self, layers: list[tuple[Tensor, Tensor]], starts: Tensor, is_new: Tensor, num_keys: int) -> None:
        super().__init__(layers=[])
        self.stores = layers
        self.starts = starts
        self.is_new = is_new
        self.num_keys = num_keys
        self.lines = torch.arange(len(starts), device=starts.device)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write one key and value per line that is new; return all lines up to `num_keys`."""
        keys, values = self.stores[layer_idx]
        return self._written(keys, key_states), self._written(values, value_states)

    def _written(self, store: Tensor, new: Tensor) -> Tensor:
        before = store[self.lines, :, self.starts]
        store[self.lines, :, self.starts] = torch.where(self.is_new[:, None, None], new[:, :, 0], before)
        return store[: len(self.lines), :, : self.num_keys]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Not asked for where positions are given."""
        return 0
