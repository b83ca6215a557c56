"""The flow decoder: its randomness, its loss, its sampler."""

import pytest
import torch

from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import FlowDecoder
from limner.modalities.guidance import ClassifierFreeGuidance, NoGuidance
from limner.modalities.noise import keyed_generator

WIDTH = 8


def tiny_decoder(*, draws_per_item: int = 2) -> FlowDecoder:
    torch.manual_seed(0)
    autoencoder = PictureAutoencoder(
        size=16,
        fold=2,
        channels=(16, 16),
        latent_channels=4,
        encoder_blocks=(1, 1),
        decoder_blocks=(1, 1),
    )
    decoder = FlowDecoder(
        autoencoder,
        condition_width=WIDTH,
        width=32,
        num_layers=2,
        num_heads=2,
        draws_per_item=draws_per_item,
    )
    # As after training: the zero start of the last layer would hide the condition and the order of
    # rows.
    torch.nn.init.normal_(decoder.transformer.proj_out.weight, std=0.3)
    return decoder


def generators(*items: int) -> list[torch.Generator]:
    return [keyed_generator("flow", item) for item in items]


def batch(decoder: FlowDecoder, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = keyed_generator("flow batch")
    condition = torch.randn(count, 3, WIDTH, generator=source)
    return condition, torch.randn(count, *decoder.autoencoder.latent_shape, generator=source)


def sample(decoder, condition, *items, guidance=None, steps=3, on_step=None):
    return decoder.sample(
        condition,
        guidance=guidance or NoGuidance(),
        generators=generators(*items),
        num_inference_steps=steps,
        on_step=on_step,
    )


def test_the_loss_counts_items_times_draws_and_does_not_change_with_batching_or_order():
    decoder = tiny_decoder()
    condition, latents = batch(decoder, 4)
    whole = decoder.loss(condition, latents, generators=generators(0, 1, 2, 3))
    backwards = decoder.loss(condition.flip(0), latents.flip(0), generators=generators(3, 2, 1, 0))
    single = [
        decoder.loss(condition[item, None], latents[item, None], generators=generators(item)) for item in range(4)
    ]
    assert whole.count == 8 == sum(term.count for term in single)
    torch.testing.assert_close(whole.sum, backwards.sum, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whole.sum, sum(term.sum for term in single), rtol=1e-5, atol=1e-5)


def test_the_loss_depends_on_the_generators_alone_and_not_on_the_global_seed():
    decoder = tiny_decoder()
    condition, latents = batch(decoder, 2)
    first = decoder.loss(condition, latents, generators=generators(0, 1)).sum
    torch.manual_seed(99)
    again = decoder.loss(condition, latents, generators=generators(0, 1)).sum
    other = decoder.loss(condition, latents, generators=generators(2, 3)).sum
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_an_untrained_decoder_has_the_loss_of_predicting_zero():
    torch.manual_seed(0)
    fresh = FlowDecoder(tiny_decoder().autoencoder, condition_width=WIDTH, width=32, num_layers=1, num_heads=2)
    condition, latents = batch(fresh, 64)
    loss = fresh.loss(condition, latents, generators=generators(*range(64))).mean
    # |noise - x|^2 of two independent unit-variance tensors.
    torch.testing.assert_close(loss, torch.tensor(2.0), atol=0.15, rtol=0)


def test_gradients_reach_every_trainable_parameter_and_the_condition():
    decoder = tiny_decoder()
    condition, latents = batch(decoder, 2)
    condition.requires_grad_(True)
    decoder.loss(condition, latents, generators=generators(0, 1)).mean.backward()
    trainable = [(name, p) for name, p in decoder.named_parameters() if p.requires_grad]
    assert [name for name, p in trainable if p.grad is None or not p.grad.isfinite().all()] == []
    # The bias of a key shifts all scores of a query alike: softmax removes it, so its gradient is
    # zero by nature.
    assert [name for name, p in trainable if not p.grad.any() and "to_k.bias" not in name] == []
    assert condition.grad is not None
    assert condition.grad.abs().sum() > 0
    assert not any(name.startswith("autoencoder.") for name, _ in trainable)


def test_overfitting_one_item_brings_the_loss_down():
    decoder = tiny_decoder(draws_per_item=4)
    condition, latents = batch(decoder, 1)
    optimizer = torch.optim.Adam([p for p in decoder.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(150):
        loss = decoder.loss(condition, latents, generators=generators(step)).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.4 * sum(losses[:20])


def test_a_picture_is_the_same_alone_and_in_a_batch():
    decoder = tiny_decoder()
    condition, _ = batch(decoder, 3)
    together = sample(decoder, condition[None], 0, 1, 2)
    alone = torch.cat([sample(decoder, condition[None, item, None], item) for item in range(3)])
    assert together.shape == (3, 3, 16, 16)
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_the_same_key_gives_the_same_picture_and_another_key_another_one():
    decoder = tiny_decoder()
    condition, _ = batch(decoder, 1)
    first = sample(decoder, condition[None], 5)
    assert torch.equal(first, sample(decoder, condition[None], 5))
    assert not torch.equal(first, sample(decoder, condition[None], 6))


def test_guidance_of_scale_one_is_no_guidance_and_a_higher_scale_is_not():
    decoder = tiny_decoder()
    condition, _ = batch(decoder, 2)
    both = torch.stack([condition, torch.zeros_like(condition)])
    plain = sample(decoder, condition[None], 0, 1)
    one = sample(decoder, both, 0, 1, guidance=ClassifierFreeGuidance(1.0))
    three = sample(decoder, both, 0, 1, guidance=ClassifierFreeGuidance(3.0))
    torch.testing.assert_close(plain, one, atol=1e-4, rtol=1e-4)
    assert (plain - three).abs().max() > 1e-2


def test_every_step_is_reported_and_the_last_one_is_the_picture():
    decoder = tiny_decoder()
    condition, _ = batch(decoder, 2)
    seen = []
    pixels = sample(decoder, condition[None], 0, 1, steps=4, on_step=lambda *report: seen.append(report))
    assert [(step, total) for step, total, _ in seen] == [(step, 4) for step in range(4)]
    assert torch.equal(decoder.autoencoder.decode(seen[-1][2]), pixels)


def test_the_sampler_follows_an_exact_velocity_to_the_latents():
    decoder = tiny_decoder()
    condition, latents = batch(decoder, 1)
    start = torch.randn(decoder.autoencoder.latent_shape, generator=generators(0)[0])[None]
    decoder.predict = lambda noisy, times, rows: start - latents
    seen = []
    sample(decoder, condition[None], 0, steps=5, on_step=lambda *report: seen.append(report))
    torch.testing.assert_close(seen[-1][2], latents, atol=1e-5, rtol=1e-5)


def test_a_wide_picture_keeps_its_proportions_on_a_white_ground():
    decoder = tiny_decoder()
    black = torch.zeros(10, 40, 3, dtype=torch.uint8).numpy()
    pixels = decoder.preprocess(Media(Image.from_array(black)))
    assert pixels.shape == (3, 16, 16)
    assert (pixels[:, 6:10] == -1.0).all()
    assert (pixels[:, :6] == 1.0).all()
    assert (pixels[:, 10:] == 1.0).all()


def test_rows_and_branches_that_do_not_match_are_refused_with_the_numbers():
    decoder = tiny_decoder()
    condition, latents = batch(decoder, 2)
    with pytest.raises(ValueError, match="condition has 1 branches; expected 2 for ClassifierFreeGuidance"):
        sample(decoder, condition[None], 0, 1, guidance=ClassifierFreeGuidance(3.0))
    with pytest.raises(ValueError, match="1 rows of generators"):
        decoder.loss(condition, latents, generators=generators(0))
    with pytest.raises(ValueError, match="num_heads 3"):
        FlowDecoder(decoder.autoencoder, width=32, num_heads=3)
