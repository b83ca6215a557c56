"""A KV cache of independent rows.

Rows have lengths of their own and any subset of them may take any number of new tokens in one forward, so rows that
write text and rows that draw never wait for padding of one another. Storage grows with the longest row, up to the
capacity asked for. Rows that stand side by side are read where they lie; others are gathered at every step, so who
lets rows come and go fills holes with `copy` and keeps the used ones first.

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

TOKEN_STEP = 128
"""Storage is made for a multiple of this many tokens."""


class RowCache:
    """Keys and values [rows, heads, allocated, head width] per layer, and the length of each row."""

    def __init__(self, *, num_rows: int, capacity: int, device: torch.device | str = "cpu") -> None:
        self.num_rows = num_rows
        self.capacity = capacity
        self.device = torch.device(device)
        self.lengths = [0] * num_rows
        self.layers: list[tuple[Tensor, Tensor]] = []

    def room(self, row: int) -> int:
        """Tokens that still fit into a row."""
        return self.capacity - self.lengths[row]

    def clear(self, row: int) -> None:
        """Empty a row for another use."""
        self.lengths[row] = 0

    def copy(self, sources: list[int], *, into: list[int]) -> None:
        """Overwrite rows `into` by rows `sources`, all at once: a row may be both."""
        if sources == into:
            return
        lengths = [self.lengths[row] for row in sources]
        num_keys = max(lengths, default=0)
        for layer in self.layers:
            for store in layer:
                store[into, :, :num_keys] = store[sources, :, :num_keys]
        for row, length in zip(into, lengths, strict=True):
            self.lengths[row] = length

    def truncate(self, row: int, length: int) -> None:
        """Leave a row its first `length` tokens."""
        assert length <= self.lengths[row], "nothing is there behind the end"
        self.lengths[row] = length

    def reset(self) -> None:
        """Forget all rows, and give their storage back."""
        self.layers.clear()
        self.lengths = [0] * self.num_rows

    def views(self, row: int, length: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values [heads, length, width] of a row's first tokens, layer by layer; not copied."""
        return [(keys[row, :, :length], values[row, :, :length]) for keys, values in self.layers]

    def load(self, row: int, layers: list[tuple[Tensor, Tensor]], *, length: int) -> None:
        """Begin a row with the first `length` tokens of what `views` gave, of this cache or of another."""
        for index, layer in enumerate(layers):
            stores = self.reserve(index, layer[0][None], layer[1][None], num_keys=length)
            for store, kept in zip(stores, layer, strict=True):
                store[row, :, :length] = kept[:, :length]
        self.lengths[row] = length

    def reserve(self, layer: int, keys: Tensor, values: Tensor, *, num_keys: int) -> tuple[Tensor, Tensor]:
        """The storage of a layer, grown to `num_keys` tokens; `keys` and `values` [rows, heads, tokens, width] say of
        what kind."""
        if layer == len(self.layers):
            self.layers.append((self._grown(None, keys, num_keys), self._grown(None, values, num_keys)))
        elif self.layers[layer][0].shape[2] < num_keys:
            before = self.layers[layer]
            self.layers[layer] = (self._grown(before[0], keys, num_keys), self._grown(before[1], values, num_keys))
        return self.layers[layer]

    def allocate(self) -> None:
        """Grow all storage to the capacity: from then on it stays where it is."""
        for index, (keys, values) in enumerate(self.layers):
            if keys.shape[2] < self.capacity:
                self.reserve(index, keys, values, num_keys=self.capacity)

    def _grown(self, store: Tensor | None, new: Tensor, num_keys: int) -> Tensor:
        """Storage for `num_keys` tokens, and for as many again where some were there before."""
        before = 0 if store is None else store.shape[2]
        allocated = max(num_keys, 2 * before)
        allocated = min(-(-allocated // TOKEN_STEP) * TOKEN_STEP, self.capacity)
        # Zeros: what is masked is multiplied by 0, which not every garbage survives.
        grown = new.new_zeros((self.num_rows, new.shape[1], allocated, new.shape[3]))
        if store is not None:
            grown[:, :, :before] = store
        return grown

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
        starts = [cache.lengths[row] for row in rows]
        adjacent = rows == list(range(rows[0], rows[0] + len(rows)))
        self._slice = slice(rows[0], rows[0] + len(rows)) if adjacent else None
        self.is_aligned = len(set(starts)) == 1 and len(set(counts)) == 1
        self._indices = torch.tensor(rows, device=cache.device)

    @property
    def positions(self) -> Int[Tensor, "batch seq"]:
        """Positions of the new tokens. Those of padding stay within the capacity too: a table of positions has no
        more."""
        positions = self.starts[:, None] + torch.arange(self.num_new, device=self.cache.device)[None, :]
        return positions.clamp(max=self.cache.capacity - 1)

    def mask(self, dtype: torch.dtype) -> Float[Tensor, "batch 1 seq keys"]:
        """The attention mask of this forward."""
        return cached_causal_mask(self.starts, num_new=self.num_new, num_keys=self.num_keys, dtype=dtype)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write new keys and values [rows, heads, new, width]; return all of these rows up to `num_keys`."""
        keys, values = self.cache.reserve(layer_idx, key_states, value_states, num_keys=self.num_keys)
        return self._written(keys, key_states), self._written(values, value_states)

    def _written(self, store: Tensor, new: Tensor) -> Tensor:
        if self.is_aligned and self._slice is not None:
            start = self.cache.lengths[self.rows[0]]
            store[self._slice, :, start : start + self.num_new] = new
        elif self.num_new == 1:
            store[self._indices, :, self.starts] = new[:, :, 0]
        else:
            for index, (row, count) in enumerate(zip(self.rows, self.counts, strict=True)):
                start = self.cache.lengths[row]
                store[row, :, start : start + count] = new[index, :, :count]
        return store[self._indices if self._slice is None else self._slice, :, : self.num_keys]

    def commit(self) -> None:
        """Count the new tokens. Until then a further step would overwrite them."""
        for row, count in zip(self.rows, self.counts, strict=True):
            self.cache.lengths[row] += count

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Longest row, as transformers asks for it when no positions are given."""
        return int(self.starts.max())
