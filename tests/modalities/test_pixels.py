import pytest
import torch
from PIL import Image as PillowImage

from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.decoders.pixels import LEAST_TIME, PixelFlowDecoder, PixelSpace
from limner.modalities.guidance import NoGuidance


def decoder(**changes):
    torch.manual_seed(0)
    settings = {"size": 16, "patch_size": 8, "condition_width": 12, "width": 32, "num_layers": 1, "num_heads": 2}
    return PixelFlowDecoder(**(settings | changes))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_pixel_space_loses_nothing_and_has_white_at_zero():
    space = PixelSpace(size=4)
    pixels = torch.rand(2, 3, 4, 4) * 2 - 1
    assert torch.allclose(space.decode(space.encode(pixels)), pixels, atol=1e-6)
    assert not space.encode(torch.ones(1, 3, 4, 4)).any()


def test_the_first_prediction_is_a_white_page_and_the_velocity_follows_from_it():
    made = decoder()
    noisy = torch.randn(2, 3, 16, 16)
    velocity = made.predict(noisy, torch.tensor([500.0, 1.0]), torch.randn(2, 4, 12))
    assert torch.allclose(velocity[0], noisy[0] / 0.5)
    assert torch.allclose(velocity[1], noisy[1] / LEAST_TIME)


def test_a_prediction_of_the_clean_picture_has_no_loss():
    made = decoder()
    clean, noise, times = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16), torch.tensor([0.3, 0.9])
    made.transformer.forward = lambda noisy, times, condition: clean
    assert made.loss_of(torch.zeros(2, 4, 12), clean, noise=noise, times=times).abs().max() < 1e-9


def test_it_learns_to_draw_what_each_condition_asks_for():
    made = decoder(draws_per_item=8)
    pixels = torch.ones(2, 3, 16, 16)
    pixels[0, :, :8, :8], pixels[1, :, 8:, 8:] = -1.0, -0.5
    condition = torch.randn(2, 4, 12)
    optimizer = torch.optim.Adam(made.transformer.parameters(), lr=3e-3)
    for step in range(250):
        term = made.loss(condition, made.encode(pixels), generators=generators(2 * step, 2 * step + 1))
        optimizer.zero_grad()
        term.mean.backward()
        optimizer.step()
    made.eval()
    drawn = made.sample(condition[None], guidance=NoGuidance(), generators=generators(7, 8), num_inference_steps=4)
    assert (drawn - pixels).abs().mean() < 0.15
    alone = made.sample(condition[None, 1:], guidance=NoGuidance(), generators=generators(8), num_inference_steps=4)
    assert torch.allclose(alone[0], drawn[1], atol=1e-5)


def test_pictures_of_other_sizes_are_resized():
    picture = Media(Image.from_pil(PillowImage.new("RGB", (40, 20), (255, 0, 0))))
    pixels = decoder().preprocess(picture)
    assert pixels.shape == (3, 16, 16)
    assert torch.allclose(pixels[:, 5, 5], torch.tensor([1.0, -1.0, -1.0]))


def test_a_size_that_the_patches_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="hint: change size or patch_size"):
        decoder(patch_size=7)
