"""A ControlNet beside the UNet: what it changes, and what not."""

import PIL.Image
import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from limner.document.document import Document, Media, Message, Text
from limner.document.media import Image
from limner.modalities.decoders.controlnet import ControlledDiffusion
from limner.modalities.decoders.variational import VariationalAutoencoder
from limner.modalities.guidance import ClassifierFreeGuidance
from limner.modalities.noise import keyed_generator


def tiny_decoder() -> ControlledDiffusion:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        block_out_channels=(16, 16),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=8,
        attention_head_dim=2,
    )
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    )
    controlnet = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    scheduler = {"clip_sample": False}
    return ControlledDiffusion(VariationalAutoencoder(vae, size=32), unet, scheduler, controlnet=controlnet).eval()


def ask(*items: int) -> dict:
    return {
        "guidance": ClassifierFreeGuidance(2.0),
        "generators": [keyed_generator("controlled", item) for item in items],
        "num_inference_steps": 2,
    }


CONDITION = torch.randn(2, 2, 3, 8, generator=keyed_generator("condition"))
CONTROL = torch.rand(2, 3, 32, 32, generator=keyed_generator("control"))


def test_an_untrained_controlnet_changes_nothing_and_a_trained_one_something():
    decoder = tiny_decoder()
    plain = decoder.sample(CONDITION, **ask(0, 1))
    torch.testing.assert_close(decoder.with_control(CONTROL).sample(CONDITION, **ask(0, 1)), plain, atol=1e-5, rtol=0)
    for layer in [*decoder.controlnet.controlnet_down_blocks, decoder.controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight, std=0.5)
    torch.nn.init.normal_(decoder.controlnet.controlnet_cond_embedding.conv_out.weight)
    steered = decoder.with_control(CONTROL).sample(CONDITION, **ask(0, 1))
    assert (steered - plain).abs().max() > 1e-3
    assert torch.equal(decoder.sample(CONDITION, **ask(0, 1)), plain)
    alone = decoder.with_control(CONTROL[1:]).sample(CONDITION[:, 1:], **ask(1))
    torch.testing.assert_close(steered[1:], alone, atol=1e-4, rtol=0)


def test_items_follow_the_control_pictures_of_their_documents():
    decoder = tiny_decoder()
    decoder.control_scale = 0.5
    picture = Image.from_pil(PIL.Image.new("RGB", (64, 48), (255, 0, 0)))
    shown = Document.chat([("user", ["A fox", Media(picture, directions=())]), ("assistant", ["Here:"])])
    free = shown.followed_by(Message("user", (Text("Another"),)))  # a control picture is for one turn
    assert decoder.following([free, free]) is decoder
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 32, 32)
    for layer in [*decoder.controlnet.controlnet_down_blocks, decoder.controlnet.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight, std=0.5)
    torch.nn.init.normal_(decoder.controlnet.controlnet_cond_embedding.conv_out.weight)
    found = decoder.following([shown, free]).sample(CONDITION, **ask(0, 1))
    expected = decoder.with_control(red, scale=0.5).sample(CONDITION[:, :1], **ask(0))
    torch.testing.assert_close(found[:1], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1:], decoder.sample(CONDITION[:, 1:], **ask(1)), atol=1e-4, rtol=0)


def test_a_controlnet_for_another_generator_is_refused():
    decoder = tiny_decoder()
    wider = ControlNetModel.from_unet(decoder.unet, conditioning_embedding_out_channels=(4, 4, 8, 8))
    wider.register_to_config(cross_attention_dim=16)
    with pytest.raises(ValueError, match=r"a condition of 16; expected .* a condition of 8, the UNet's\nhint: "):
        ControlledDiffusion(decoder.autoencoder, decoder.unet, {}, controlnet=wider)


def test_a_control_picture_of_another_size_is_refused():
    steered = tiny_decoder().with_control(CONTROL)
    with pytest.raises(ValueError, match=r"2 control pictures of 32x32 for 4 rows of 32x64\nhint: give one per"):
        steered.sample(CONDITION, **ask(0, 1), size=(32, 64))
