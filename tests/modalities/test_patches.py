import pytest
import torch
from PIL import Image as PillowImage

from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.encoders.patches import PatchEncoder


def encoder(**changes):
    torch.manual_seed(0)
    return PatchEncoder(**({"image_size": 24, "patch_size": 8, "width": 16, "pixel_width": 4} | changes))


def test_rows_are_patches_in_raster_order_and_see_nothing_around_them():
    made = encoder()
    white = torch.ones(1, 3, 24, 24)
    for row in range(9):
        y, x = divmod(row, 3)
        marked = white.clone()
        marked[:, :, 8 * y + 2 : 8 * y + 5, 8 * x + 1 : 8 * x + 6] = -1.0
        changed = (made(marked).values - made(white).values).abs().sum(dim=1) > 1e-6
        assert changed.nonzero().flatten().tolist() == [row]


def test_lengths_and_measure_agree():
    made = encoder()
    picture = Media(Image.from_pil(PillowImage.new("RGB", (30, 50))))
    items = torch.stack([made.preprocess(picture)] * 2)
    features = made(items)
    assert items.shape == (2, 3, 24, 24)
    assert features.lengths.tolist() == [made.measure(picture)] * 2 == [9, 9]
    assert features.values.shape == (18, made.width)


@pytest.mark.parametrize("changes", [{"patch_size": 7}, {"patch_size": 3}])
def test_patches_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError, match="hint: change image_size or patch_size"):
        encoder(**changes)
