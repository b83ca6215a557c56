"""The SDXL kind of latent diffusion: pooled condition, sizes, float32 autoencoder."""

import numpy
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.decoders.latent_diffusion import DenoisingLoss
from limner.modalities.decoders.latent_diffusion_xl import LatentDiffusionXL, PooledCondition
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.modalities.guidance import ClassifierFreeGuidance
from limner.modalities.noise import keyed_generator
from limner.modalities.projectors import LinearProjector

SCHEDULER = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
HIDDEN, WIDTH, POOLED = 12, 16, 10


def tiny_decoder(**settings) -> LatentDiffusionXL:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=WIDTH,
        attention_head_dim=(1, 2),
        transformer_layers_per_block=(1, 2),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=POOLED + 6 * 8,
    )
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.13,
    )
    autoencoder = VariationalAutoencoder(vae, size=16, keep_float32=True)
    return LatentDiffusionXL(
        autoencoder, unet, SCHEDULER, pooled_width=POOLED, denoising=DenoisingLoss(**settings)
    ).eval()


def condition_of(items: int) -> torch.Tensor:
    torch.manual_seed(1)
    projector = PooledCondition(
        LinearProjector(width_in=HIDDEN, width_out=WIDTH), LinearProjector(width_in=HIDDEN, width_out=POOLED)
    )
    hidden = torch.randn(2, items, 5, HIDDEN, generator=keyed_generator("hidden"))
    with torch.no_grad():
        return projector(hidden)


def generators(*items: int) -> list[torch.Generator]:
    return [keyed_generator("xl", item) for item in items]


def picture(height: int, width: int) -> Media:
    shape = (height, width, 3)
    levels = torch.randint(0, 256, shape, generator=keyed_generator("pixels"), dtype=torch.uint8)
    return Media(Image.from_array(numpy.asarray(levels)))


def test_the_pooled_row_is_the_projected_mean_of_the_queries():
    projector = PooledCondition(
        LinearProjector(width_in=HIDDEN, width_out=WIDTH), LinearProjector(width_in=HIDDEN, width_out=POOLED)
    )
    hidden = torch.randn(3, 5, HIDDEN)
    condition = projector(hidden)
    assert condition.shape == (3, 6, WIDTH)
    torch.testing.assert_close(condition[:, -1, :POOLED], projector.pooled(hidden.mean(dim=1)))
    assert not condition[:, -1, POOLED:].any()


def test_sizes_travel_with_pixels_and_moments():
    decoder = tiny_decoder()
    pixels = decoder.preprocess(picture(20, 40))
    moments = decoder.encode(pixels[None])
    assert pixels.shape == (3, 17, 16)
    assert moments.shape == (1, 8, 9, 8)
    # Scaled to 16x32, of which columns 8 to 24 are kept.
    assert moments[0, 0, -1, :4].tolist() == [20, 40, 0, 8]


def test_the_network_is_told_the_pooled_vector_and_six_sizes():
    decoder, condition, told = tiny_decoder(), condition_of(1), []
    decoder.unet.register_forward_pre_hook(
        lambda module, given, named: told.append(named["added_cond_kwargs"]), with_kwargs=True
    )
    moments = decoder.encode(decoder.preprocess(picture(20, 40))[None])
    with torch.no_grad():
        decoder.loss(condition[0], moments, generators=generators(0))
    assert told[0]["time_ids"].tolist() == [[20, 40, 0, 8, 16, 16]]
    torch.testing.assert_close(told[0]["text_embeds"], condition[0, :, -1, :POOLED])
    decoder.sample(
        condition,
        guidance=ClassifierFreeGuidance(2.0),
        generators=generators(0),
        num_inference_steps=1,
        size=(16, 32),
    )
    assert told[1]["time_ids"].tolist() == [[16, 32, 0, 0, 16, 32]] * 2


def test_a_picture_and_a_loss_are_the_same_alone_and_in_a_batch():
    decoder, condition = tiny_decoder(draws_per_item=2), condition_of(2)
    ask = {"guidance": ClassifierFreeGuidance(2.0), "num_inference_steps": 3}
    both = decoder.sample(condition, generators=generators(0, 1), **ask)
    alone = decoder.sample(condition[:, 1:], generators=generators(1), **ask)
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=0)
    moments = decoder.encode(torch.stack([decoder.preprocess(picture(20, 40)), decoder.preprocess(picture(16, 16))]))
    with torch.no_grad():
        whole = decoder.loss(condition[0], moments, generators=generators(0, 1))
        part = decoder.loss(condition[0, 1:], moments[1:], generators=generators(1))
    assert whole.per_item is not None
    torch.testing.assert_close(whole.per_item[1], part.sum, rtol=1e-5, atol=0)


def test_the_pooled_vector_reaches_the_loss_with_gradients():
    decoder = tiny_decoder()
    condition = condition_of(1)[0].requires_grad_(True)
    moments = decoder.encode(decoder.preprocess(picture(16, 16))[None])
    decoder.loss(condition, moments, generators=generators(0)).mean.backward()
    assert condition.grad is not None
    assert condition.grad[0, -1, :POOLED].abs().sum() > 0


def test_the_autoencoder_stays_in_float32_when_the_model_is_cast():
    decoder = tiny_decoder()
    before = decoder.autoencoder.network.decoder.conv_in.weight.clone()
    decoder.to(torch.bfloat16)
    assert decoder.unet.dtype == torch.bfloat16
    assert torch.equal(decoder.autoencoder.network.decoder.conv_in.weight, before)
    pixels = decoder.sample(
        condition_of(1), guidance=ClassifierFreeGuidance(2.0), generators=generators(0), num_inference_steps=2
    )
    assert pixels.dtype == torch.float32
    assert pixels.isfinite().all()


def test_a_network_for_another_pooled_width_is_refused():
    decoder = tiny_decoder()
    with pytest.raises(ValueError, match=r"width 58; expected \"text_time\", 60\nhint: take an SDXL UNet"):
        LatentDiffusionXL(decoder.autoencoder, decoder.unet, SCHEDULER, pooled_width=POOLED + 2)
