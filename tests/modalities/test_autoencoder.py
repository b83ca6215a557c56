"""The picture autoencoder: shapes, scale, and that it learns."""

import pytest
import torch

from limner.modalities.decoders.autoencoder import LATENT_BOUND, PictureAutoencoder
from limner.modalities.noise import keyed_generator


def tiny_autoencoder() -> PictureAutoencoder:
    torch.manual_seed(0)
    return PictureAutoencoder(
        size=16,
        fold=2,
        channels=(16, 16),
        latent_channels=4,
        encoder_blocks=(1, 1),
        decoder_blocks=(1, 1),
    )


def pictures(count: int, size: int = 16) -> torch.Tensor:
    """White pictures with one dark square each, at a place of its own."""
    pixels = torch.ones(count, 3, size, size)
    for index in range(count):
        start = 1 + index % (size // 2)
        pixels[index, :, start : start + 6, 2 : 2 + 6] = -0.8
    return pixels


def generators(*items: int) -> list[torch.Generator]:
    return [keyed_generator("autoencoder", item) for item in items]


def test_latents_have_the_announced_shape_and_pictures_come_back_in_range():
    autoencoder = tiny_autoencoder()
    latents = autoencoder.encode(pictures(3))
    assert latents.shape == (3, *autoencoder.latent_shape) == (3, 4, 4, 4)
    restored = autoencoder.decode(10 * latents)
    assert restored.shape == (3, 3, 16, 16)
    assert restored.abs().max() <= 1.0


def test_encoding_is_deterministic_and_independent_of_the_batch():
    autoencoder = tiny_autoencoder()
    together = autoencoder.encode(pictures(3))
    alone = torch.cat([autoencoder.encode(picture[None]) for picture in pictures(3)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_calibrated_latents_have_zero_mean_and_unit_variance_per_channel():
    autoencoder = tiny_autoencoder()
    autoencoder.calibrate(pictures(8))
    latents = autoencoder.encode(pictures(8))
    torch.testing.assert_close(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)


def test_calibration_does_not_change_what_a_picture_decodes_to():
    autoencoder = tiny_autoencoder()
    before = autoencoder.decode(autoencoder.encode(pictures(4)))
    autoencoder.calibrate(pictures(4))
    after = autoencoder.decode(autoencoder.encode(pictures(4)))
    torch.testing.assert_close(before, after, atol=1e-4, rtol=1e-4)


def test_the_scale_survives_saving_and_loading():
    autoencoder = tiny_autoencoder()
    autoencoder.calibrate(pictures(8))
    loaded = tiny_autoencoder()
    loaded.load_state_dict(autoencoder.state_dict())
    assert torch.equal(loaded.encode(pictures(2)), autoencoder.encode(pictures(2)))
    assert not torch.equal(loaded.latent_mean, torch.zeros(4))


def test_latents_before_scaling_stay_within_the_bound():
    autoencoder = tiny_autoencoder()
    assert autoencoder.encode(1000 * pictures(2)).abs().max() <= LATENT_BOUND


def test_the_loss_is_a_sum_that_does_not_change_with_batching_or_order():
    autoencoder = tiny_autoencoder()
    whole = autoencoder.reconstruction_loss(pictures(4), generators=generators(0, 1, 2, 3))
    backwards = autoencoder.reconstruction_loss(pictures(4).flip(0), generators=generators(3, 2, 1, 0))
    halves = [
        autoencoder.reconstruction_loss(pictures(4)[start : start + 2], generators=generators(start, start + 1))
        for start in (0, 2)
    ]
    assert whole.count == sum(half.count for half in halves) == 4
    torch.testing.assert_close(whole.sum, halves[0].sum + halves[1].sum, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.sum, backwards.sum, rtol=1e-5, atol=1e-5)


def test_the_loss_reaches_every_parameter():
    autoencoder = tiny_autoencoder()
    autoencoder.reconstruction_loss(pictures(2), generators=generators(0, 1)).mean.backward()
    missing = [name for name, p in autoencoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert missing == []


def test_it_learns_to_redraw_one_picture():
    autoencoder = tiny_autoencoder()
    optimizer = torch.optim.Adam(autoencoder.parameters(), lr=3e-3)
    first = last = 0.0
    for step in range(60):
        loss = autoencoder.reconstruction_loss(pictures(1), generators=generators(step)).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = first or loss.item(), loss.item()
    assert last < 0.3 * first


def test_sizes_that_do_not_fit_are_refused_with_the_numbers():
    with pytest.raises(ValueError, match="size is 60; expected a multiple of 8"):
        PictureAutoencoder(size=60)
    with pytest.raises(ValueError, match="2, 2 and 1 resolutions"):
        PictureAutoencoder(encoder_blocks=(1, 1), decoder_blocks=(1,))
    with pytest.raises(ValueError, match="the last of channels is 190"):
        PictureAutoencoder(channels=(96, 190))
    with pytest.raises(ValueError, match="pictures are 8x8; expected 16x16"):
        tiny_autoencoder().encode(pictures(1, size=8))
