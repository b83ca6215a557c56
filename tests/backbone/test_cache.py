"""The KV cache: rows of their own lengths, in any steps, give what one whole forward gives."""

import pytest
import torch
from tiny import tiny_backbone

from limner.backbone.attention import cached_causal_mask, packed_causal_mask
from limner.backbone.cache import RowCache


def _whole(backbone, ids: list[int]) -> torch.Tensor:
    row = torch.tensor([ids])
    mask = packed_causal_mask(torch.ones_like(row), dtype=backbone.dtype)
    positions = torch.arange(len(ids))[None]
    return backbone.hidden_states(backbone.embed(row), positions=positions, mask=mask)[0]


def _stepped(backbone, cache: RowCache, rows: list[int], pieces: list[list[int]]) -> list[torch.Tensor]:
    step = cache.step(rows, counts=[len(piece) for piece in pieces])
    width = max(map(len, pieces))
    ids = torch.tensor([piece + [0] * (width - len(piece)) for piece in pieces])
    mask = step.mask(backbone.dtype)
    hidden = backbone.hidden_states(backbone.embed(ids), positions=step.positions, mask=mask, cache=step)
    step.commit()
    return [states[: len(piece)] for states, piece in zip(hidden, pieces, strict=True)]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt_neox"])
@pytest.mark.parametrize("seed", range(4))
@torch.no_grad()
def test_any_rows_in_any_steps_give_what_one_forward_gives(family: str, seed: int) -> None:
    backbone = tiny_backbone(family, tied=family != "gpt_neox")
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, low: int = 0) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    texts = [[draw(53) for _ in range(draw(20, 4))] for _ in range(3)]
    left = [list(text) for text in texts]
    found: list[list[torch.Tensor]] = [[], [], []]
    cache = RowCache(num_rows=3, capacity=20)
    while any(left):
        rows = [row for row in range(3) if left[row] and draw(3)]
        if draw(2):
            rows.reverse()  # the order of rows in a step is free
        if not rows:
            continue
        counts = [draw(len(left[row]) + 1, 1) for row in rows]
        pieces = [left[row][:count] for row, count in zip(rows, counts, strict=True)]
        for row, states in zip(rows, _stepped(backbone, cache, rows, pieces), strict=True):
            found[row].append(states)
        for row, count in zip(rows, counts, strict=True):
            del left[row][:count]
    for text, states in zip(texts, found, strict=True):
        torch.testing.assert_close(torch.cat(states), _whole(backbone, text), atol=2e-5, rtol=1e-4)
    assert cache.lengths == [len(text) for text in texts]


@torch.no_grad()
def test_a_step_that_is_not_committed_is_overwritten() -> None:
    backbone = tiny_backbone()
    cache = RowCache(num_rows=1, capacity=8)
    _stepped(backbone, cache, [0], [[1, 2]])
    lost = cache.step([0], counts=[1])
    backbone.hidden_states(
        backbone.embed(torch.tensor([[9]])),
        positions=lost.positions,
        mask=lost.mask(backbone.dtype),
        cache=lost,
    )
    (states,) = _stepped(backbone, cache, [0], [[3, 4]])
    torch.testing.assert_close(states, _whole(backbone, [1, 2, 3, 4])[2:], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_a_row_may_be_filled_to_its_last_place_and_no_further() -> None:
    backbone = tiny_backbone()
    cache = RowCache(num_rows=2, capacity=4)
    _stepped(backbone, cache, [0, 1], [[1, 2, 3], [4]])
    # Row 1 takes more than row 0: padding of row 0 would stand past the capacity.
    states = _stepped(backbone, cache, [0, 1], [[5], [6, 7, 8]])
    torch.testing.assert_close(states[0], _whole(backbone, [1, 2, 3, 5])[3:], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(states[1], _whole(backbone, [4, 6, 7, 8])[1:], atol=2e-5, rtol=1e-4)
    assert [cache.room(0), cache.room(1)] == [0, 0]
    with pytest.raises(ValueError, match=r"row 1 holds 4 tokens and cannot take 1 more.*\nhint: "):
        cache.step([1], counts=[1])


@torch.no_grad()
def test_rows_can_be_copied_all_at_once_cleared_and_outgrow_what_was_allocated() -> None:
    backbone = tiny_backbone()
    cache = RowCache(num_rows=3, capacity=2000)
    _stepped(backbone, cache, [0, 1], [[1, 2, 3], [4]])
    assert cache.layers[0][0].shape[2] < 2000
    cache.copy([1, 0, 0], into=[0, 1, 2])
    states = _stepped(backbone, cache, [0, 1, 2], [[5], [6, 7], [8]])
    for found, text, place in zip(states, ([4, 5], [1, 2, 3, 6, 7], [1, 2, 3, 8]), (1, 3, 3), strict=True):
        torch.testing.assert_close(found, _whole(backbone, text)[place:], atol=2e-5, rtol=1e-4)
    cache.clear(1)
    long = [index % 50 for index in range(40)]
    _stepped(backbone, cache, [1], [long])
    assert cache.lengths == [2, 40, 4]
    allocated = cache.layers[0][0].shape[2]
    cache.lengths[1] = allocated  # as if it had been filled
    _stepped(backbone, cache, [1], [[1]])
    assert cache.layers[0][0].shape[2] >= 2 * allocated
    (states,) = _stepped(backbone, cache, [0], [[9]])
    torch.testing.assert_close(states, _whole(backbone, [4, 5, 9])[2:], atol=2e-5, rtol=1e-4)


def test_masks_are_causal_within_documents_and_padding_sees_itself() -> None:
    mask = packed_causal_mask(torch.tensor([[1, 1, 2, 2, 0]]), dtype=torch.float32)[0, 0] == 0
    expected = [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]
    assert mask.int().tolist() == expected
    cached = cached_causal_mask(torch.tensor([0, 2]), num_new=2, num_keys=4, dtype=torch.float32) == 0
    assert cached[:, 0].int().tolist() == [
        [[1, 0, 0, 0], [1, 1, 0, 0]],
        [[1, 1, 1, 0], [1, 1, 1, 1]],
    ]
