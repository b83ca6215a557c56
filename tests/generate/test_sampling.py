"""From logits to tokens: every setting does what it says, and needs no luck."""

import pytest
import torch

from limner.generate.sampling import Sampling, next_token
from limner.modalities.noise import keyed_generator

LOGITS = torch.tensor([2.0, 1.0, 0.5, -1.0, -9.0])


def _drawn(sampling: Sampling, *, said: tuple[int, ...] = (), num: int = 400) -> set[int]:
    generator = keyed_generator(0, "test")
    return {next_token(LOGITS, said=list(said), sampling=sampling, generator=generator) for _ in range(num)}


def test_temperature_zero_takes_the_best() -> None:
    assert _drawn(Sampling(), num=5) == {0}


def test_top_k_and_top_p_leave_the_tail_out() -> None:
    assert _drawn(Sampling(temperature=1.0)) >= {0, 1, 2, 3}
    assert _drawn(Sampling(temperature=1.0, top_k=2)) == {0, 1}
    assert _drawn(Sampling(temperature=1.0, top_p=0.7)) == {0, 1}


def test_a_repetition_penalty_turns_to_what_was_not_said() -> None:
    assert _drawn(Sampling(repetition_penalty=5.0), said=(0,), num=2) == {1}


def test_shares_follow_the_softmax() -> None:
    generator = keyed_generator(1)
    sampling = Sampling(temperature=1.0)
    drawn = [next_token(LOGITS, said=[], sampling=sampling, generator=generator) for _ in range(2000)]
    shares = torch.bincount(torch.tensor(drawn), minlength=5) / 2000
    torch.testing.assert_close(shares, LOGITS.softmax(-1), atol=0.035, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"repetition_penalty": 0.0},
    ],
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(wrong))} is .*; expected .*\nhint: "):
        Sampling(**wrong)
