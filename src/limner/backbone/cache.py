"""A KV cache of independent rows.

Rows have lengths of their own and any subset of them may take any number of new tokens in one forward, so rows that
write text and rows that draw never wait for padding of one another. Storage is allocated once, at the capacity asked
for.

    cache = RowCache(num_rows=4, capacity=512)
    step = cache.step([0, 2], counts=[7, 5])       # a transformers Cache for one forward of two rows
    backbone.hidden_states(embeddings, positions=step.positions, mask=step.mask(dtype), cache=step)
    step.commit()
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache

from limner.backbone.attention import cached_causal_mask


class RowCache:
    """Keys and values [rows, heads, capacity, head width] per layer, and the length of each row."""

    def __init__(self, *, num_rows: int, capacity: int, device: torch.device | str = "cpu") -> None:
        self.num_rows = num_rows
        self.capacity = capacity
        self.device = torch.device(device)
        self.lengths = [0] * num_rows
        self.layers: list[tuple[Tensor, Tensor]] = []

    def room(self, row: int) -> int:
        """Tokens that still fit into a row."""
        return self.capacity - self.lengths[row]

    def step(self, rows: list[int], *, counts: list[int]) -> "CacheStep":
        """A view for one forward in which row `rows[i]` takes `counts[i]` new tokens (right-padded to the largest).

        Raises ValueError when a row has no room.
        """
        for row, count in zip(rows, counts, strict=True):
            if count > self.room(row):
                raise ValueError(
                    f"row {row} holds {self.lengths[row]} tokens and cannot take {count} more; "
                    f"its capacity is {self.capacity}\nhint: shorten the prompt or raise the context length"
                )
        return CacheStep(self, rows, counts)


class CacheStep(Cache):
    """One forward over some rows of a `RowCache`; what transformers models take as `past_key_values`."""

    def __init__(self, cache: RowCache, rows: list[int], counts: list[int]) -> None:
        super().__init__(layers=[])
        self.cache = cache
        self.rows = rows
        self.counts = counts
        self.num_new = max(counts)
        self.starts = torch.tensor([cache.lengths[row] for row in rows], device=cache.device)
        # Padding of a shorter row may stand past the capacity; it is dropped when written.
        self.num_keys = min(max(cache.lengths[row] for row in rows) + self.num_new, cache.capacity)
        self._whole = rows == list(range(cache.num_rows))
        self._aligned = len(set(self.starts.tolist())) == 1 and len(set(counts)) == 1

    @property
    def positions(self) -> Int[Tensor, "batch seq"]:
        """Positions of the new tokens."""
        return self.starts[:, None] + torch.arange(self.num_new, device=self.cache.device)[None, :]

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "batch 1 seq keys"]:
        """The attention mask of this forward."""
        return cached_causal_mask(self.starts, num_new=self.num_new, num_keys=self.num_keys, dtype=dtype)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values [rows, heads, new, width]; return all of these rows up to `num_keys`."""
        layers = self.cache.layers
        if layer_idx == len(layers):
            _, heads, _, width = key_states.shape
            shape = (self.cache.num_rows, heads, self.cache.capacity, width)
            layers.append((key_states.new_zeros(shape), value_states.new_zeros(shape)))
        keys, values = layers[layer_idx]
        return self._written(keys, key_states), self._written(values, value_states)

    def _written(self, store: Tensor, new: Tensor) -> Tensor:
        if self._whole and self._aligned:
            start = self.cache.lengths[0]
            store[:, :, start : start + self.num_new] = new
        else:
            for index, (row, count) in enumerate(zip(self.rows, self.counts, strict=True)):
                start = self.cache.lengths[row]
                store[row, :, start : start + count] = new[index, :, :count]
        if self._whole:
            return store[:, :, : self.num_keys]
        return store[self.rows, :, : self.num_keys]

    def commit(self) -> None:
        """Count the new tokens. Until then a further step would overwrite them."""
        for row, count in zip(self.rows, self.counts, strict=True):
            self.cache.lengths[row] += count

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Longest row, as transformers asks for it when no positions are given."""
        return int(self.starts.max())
