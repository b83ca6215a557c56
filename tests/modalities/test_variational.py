"""Variational autoencoders: what is cached is the moments, what is random is drawn anew from the item's generator."""

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.modalities.noise import keyed_generator


def tiny_network() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
        scaling_factor=0.5,
        shift_factor=0.25,
    ).eval()


def tiny_autoencoder() -> VariationalAutoencoder:
    return VariationalAutoencoder(tiny_network(), size=16)


def pictures(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=keyed_generator("pictures")) * 2 - 1


def generators(*items: int, step: int = 0) -> list[torch.Generator]:
    return [keyed_generator("variational", step, item) for item in items]


def test_moments_are_the_networks_own_and_draws_follow_them() -> None:
    autoencoder = tiny_autoencoder()
    moments = autoencoder.encode(pictures(2))
    assert moments.shape == (2, 8, 8, 8)
    assert autoencoder.latent_shape == (4, 8, 8)
    with torch.no_grad():
        posterior = autoencoder.network.encode(pictures(2)).latent_dist
    draws = torch.stack([autoencoder.draw(moments, generators=generators(0, 1, step=step)) for step in range(400)])
    raw = draws / 0.5 + 0.25
    torch.testing.assert_close(raw.mean(0), posterior.mean, atol=0.25, rtol=0)
    assert float((raw.std(0) / posterior.std).mean()) == pytest.approx(1.0, abs=0.02)


def test_a_draw_depends_on_its_own_generator_alone() -> None:
    autoencoder = tiny_autoencoder()
    moments = autoencoder.encode(pictures(3))
    together = autoencoder.draw(moments, generators=generators(0, 1, 2))
    assert torch.equal(together[1:2], autoencoder.draw(moments[1:2], generators=generators(1)))
    assert not torch.equal(together, autoencoder.draw(moments, generators=generators(0, 1, 2, step=1)))


def test_latents_decode_to_pictures_and_the_scale_is_undone() -> None:
    autoencoder = tiny_autoencoder()
    moments = autoencoder.encode(pictures(1))
    sharp = torch.cat([moments[:, :4], torch.full_like(moments[:, 4:], -1e6)], dim=1)  # no spread: the mean itself
    latents = autoencoder.draw(sharp, generators=generators(0))
    torch.testing.assert_close(latents, (moments[:, :4] - 0.25) * 0.5)
    with torch.no_grad():
        expected = autoencoder.network.decode(moments[:, :4]).sample.clamp(-1, 1)
        torch.testing.assert_close(autoencoder.decode(latents), expected, atol=1e-4, rtol=1e-4)


def test_a_flow_learns_on_draws_of_the_cached_moments() -> None:
    decoder = FlowDecoder(tiny_autoencoder(), condition_width=8, width=16, num_layers=1, num_heads=2)
    condition = torch.randn(2, 3, 8, generator=keyed_generator("condition"))
    moments = decoder.encode(pictures(2))
    with torch.no_grad():
        both = decoder.loss(condition, moments, generators=generators(0, 1))
        again = decoder.loss(condition, moments, generators=generators(0, 1))
        later = decoder.loss(condition, moments, generators=generators(0, 1, step=1))
        alone = [decoder.loss(condition[i : i + 1], moments[i : i + 1], generators=generators(i)) for i in range(2)]
    assert torch.equal(both.sum, again.sum)
    assert not torch.equal(both.sum, later.sum)
    assert float(both.sum) == pytest.approx(sum(float(term.sum) for term in alone), rel=1e-5)


def test_a_size_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"size is 17; expected a multiple of 2.*\nhint: "):
        VariationalAutoencoder(tiny_network(), size=17)


def test_it_is_read_from_a_directory(tmp_path) -> None:
    tiny_network().save_pretrained(tmp_path)
    loaded = VariationalAutoencoder.from_pretrained(tmp_path, size=16)
    assert torch.equal(loaded.encode(pictures(1)), tiny_autoencoder().encode(pictures(1)))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
