"""The Sana decoder: diffusers' transformer over any latent space, trained and sampled as a flow."""

import pytest
import torch
from diffusers.models.transformers.sana_transformer import SanaTransformer2DModel

from limner.modalities.decoders.autoencoder import PictureAutoencoder
from limner.modalities.decoders.flow import SanaDecoder
from limner.modalities.guidance import ClassifierFreeGuidance, NoGuidance
from limner.modalities.noise import keyed_generator

WIDTH = 8


def tiny_decoder(*, channels: int = 4, **settings) -> SanaDecoder:
    torch.manual_seed(0)
    autoencoder = PictureAutoencoder(
        size=16, fold=2, channels=(16, 16), latent_channels=4, encoder_blocks=(1, 1), decoder_blocks=(1, 1)
    )
    transformer = SanaTransformer2DModel(
        in_channels=channels,
        out_channels=channels,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
        mlp_ratio=2.0,
        sample_size=4,
    )
    return SanaDecoder(autoencoder, transformer, {"shift": 3.0}, **settings)


def generators(*items: int) -> list[torch.Generator]:
    return [keyed_generator("sana", item) for item in items]


def batch(items: int) -> tuple[torch.Tensor, torch.Tensor]:
    source = keyed_generator("sana batch")
    condition = torch.randn(2, items, 3, WIDTH, generator=source)
    return condition, torch.randn(items, 4, 4, 4, generator=source)


@pytest.mark.parametrize("name", ["euler", "dpm++"])
def test_a_picture_is_the_same_alone_and_in_a_batch_and_of_the_size_asked_for(name: str):
    decoder, (condition, _) = tiny_decoder(), batch(3)
    ask = {"guidance": ClassifierFreeGuidance(3.0), "num_inference_steps": 4, "sampler": name, "size": (16, 32)}
    together = decoder.sample(condition, generators=generators(0, 1, 2), **ask)
    alone = decoder.sample(condition[:, 1:2], generators=generators(1), **ask)
    assert together.shape == (3, 3, 16, 32)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=0)


def test_guidance_of_scale_one_is_none():
    decoder, (condition, _) = tiny_decoder(), batch(1)
    ask = {"generators": generators(0), "num_inference_steps": 3}
    one = decoder.sample(condition, guidance=ClassifierFreeGuidance(1.0), **ask)
    none = decoder.sample(condition[:1], guidance=NoGuidance(), **ask | {"generators": generators(0)})
    torch.testing.assert_close(one, none, atol=1e-4, rtol=0)


def test_the_loss_of_an_item_depends_on_its_generator_alone():
    decoder, (condition, latents) = tiny_decoder(draws_per_item=2), batch(2)
    both = decoder.loss(condition[0], latents, generators=generators(0, 1))
    second = decoder.loss(condition[0, 1:], latents[1:], generators=generators(1))
    assert both.count == 4
    assert both.per_item is not None
    torch.testing.assert_close(both.per_item[1], second.sum.detach(), rtol=1e-5, atol=0)


def test_training_brings_the_loss_down():
    decoder, (condition, latents) = tiny_decoder(draws_per_item=4), batch(1)
    optimizer = torch.optim.Adam(decoder.transformer.parameters(), lr=3e-3)
    losses = []
    for step in range(120):
        loss = decoder.loss(condition[0], latents, generators=generators(step)).mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_keys_and_values_are_kept_between_steps():
    decoder, (condition, _) = tiny_decoder(), batch(1)
    calls = []
    for block in decoder.transformer.transformer_blocks:
        block.attn2.to_k.register_forward_hook(lambda *given: calls.append(given))
    decoder.sample(condition[:1], guidance=NoGuidance(), generators=generators(0), num_inference_steps=5)
    assert len(calls) == 2


def test_a_transformer_for_other_latents_is_refused():
    with pytest.raises(ValueError, match="the transformer takes 6 channels; expected 4"):
        tiny_decoder(channels=6)
