"""Codes that tell places: blank patches have none, what stands elsewhere is the same look at another place."""

import PIL.Image
import torch

from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.base import Codes
from limner.modalities.guidance import NoGuidance
from limner.modalities.quantizers.codebook import Codebook
from limner.modalities.quantizers.detokenizer import GridDecoder, PatchPainter
from limner.modalities.quantizers.placed import PlacedDetokenizer, PlacedTokenizer

LOOKS, WIDTH = 32, 8


def tokenizer() -> PlacedTokenizer:
    torch.manual_seed(0)
    return PlacedTokenizer(codebook=Codebook(LOOKS, width=WIDTH), size=48, patch_size=16, width=16).eval()


def shown(**squares: str) -> Media:
    """White paper with squares of a colour at "row_column"."""
    picture = PIL.Image.new("RGB", (48, 48), "white")
    for place, colour in squares.items():
        row, column = int(place[1]), int(place[2])
        picture.paste(colour, (16 * column, 16 * row, 16 * column + 16, 16 * row + 16))
    return Media(Image.from_pil(picture))


def spelled(*media: Media) -> list[tuple[int, ...]]:
    found = tokenizer()
    return found(torch.stack([found.preprocess(one) for one in media])).items()


def test_blank_paper_has_no_codes_and_a_patch_two() -> None:
    blank, one, two = spelled(shown(), shown(p12="black"), shown(p00="red", p21="black"))
    assert blank == ()
    assert one[0] == LOOKS + 5
    assert one[1] < LOOKS
    assert (two[0], two[2]) == (LOOKS, LOOKS + 7)
    assert two[3] == one[1]
    assert tokenizer().num_codes == LOOKS + 9
    assert tokenizer().max_length == 18


def test_what_is_not_said_stays_white_and_nonsense_is_not_drawn() -> None:
    torch.manual_seed(0)
    detokenizer = PlacedDetokenizer(
        decoder=GridDecoder(code_width=WIDTH, width=16, num_patches=9),
        painter=PatchPainter(width=16, grid=3, patch_size=16),
        num_codes=LOOKS,
        code_width=WIDTH,
    )
    for tensor in (detokenizer.vectors, *detokenizer.painter.parameters()):  # it begins at white paper
        torch.nn.init.normal_(tensor)
    said = Codes.of([[LOOKS + 4, 3], [], [LOOKS + 4, LOOKS + 4, 3, 7], [5, LOOKS]])
    with torch.no_grad():
        pixels = detokenizer.sample(said, guidance=NoGuidance(), generators=[], num_inference_steps=1)
    assert pixels.shape == (4, 3, 48, 48)
    assert not bool((pixels[0, :, 16:32, 16:32] == 1.0).all())
    assert torch.equal(pixels[0], pixels[2])
    for blank in (pixels[1], pixels[3]):
        assert bool((blank == 1.0).all())
