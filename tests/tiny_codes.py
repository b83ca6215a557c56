"""A quantizer and a detokenizer at their smallest, and a tiny model that says pictures with them.

A picture is a grid of patches; a code is the row of a palette that is nearest to the mean colour of a patch. White
patches at the end are left out, so lengths differ from picture to picture.
"""

from collections.abc import Sequence

import numpy
import torch
from tiny import picture
from torch import Tensor, nn

from limner.compositions.code_model import scene_code_model
from limner.config.call import Call, build, call
from limner.document.document import Direction, Document, Media
from limner.modalities.base import Codes, Detokenizer, Quantizer
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.model.multimodal import MultimodalLM

PALETTE = ((1, 1, 1), (1, -1, -1), (-1, -1, 1), (-1, 0, -1), (1, 0.3, -1), (0, -1, 0), (-1, -1, -1))
"""White first: what is left out at the end. Then red, blue, green, orange, purple, black."""
SIDE, GRID = 24, 3


def palette() -> nn.Parameter:
    """The colours, which nothing trains."""
    return nn.Parameter(torch.tensor(PALETTE, dtype=torch.float32), requires_grad=False)


class ColourQuantizer(Quantizer):
    """Patches -> nearest colours, without white ones at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.palette = palette()
        self.num_codes, self.max_length = len(PALETTE), GRID * GRID
        self._runs = 0

    def preprocess(self, media: Media) -> Tensor:
        """RGB in [-1, 1]."""
        picture = media.content.pil().resize((SIDE, SIDE))
        return torch.from_numpy(numpy.array(picture)).permute(2, 0, 1).float().div_(127.5).sub_(1.0)

    def forward(self, items: Tensor) -> Codes:
        """Nearest rows of the palette."""
        self._runs += len(items)
        means = nn.functional.avg_pool2d(items, SIDE // GRID).flatten(2).transpose(1, 2)  # [items patches 3]
        nearest = torch.cdist(means, self.palette[None].expand(len(items), -1, -1)).argmin(dim=-1)
        found = []
        for row in nearest.tolist():
            while row and row[-1] == 0:
                row.pop()
            found.append(row)
        return Codes.of(found, device=items.device)


class ColourDetokenizer(Detokenizer):
    """Codes -> patches of their colours, white where no code is left."""

    target_size = (SIDE, SIDE)

    def __init__(self) -> None:
        super().__init__()
        self.palette = palette()

    def sample(
        self, codes, *, guidance, generators: Sequence, num_inference_steps: int, sampler="", size=None, on_step=None
    ):
        """Flat colours."""
        grids = torch.zeros(len(codes.lengths), GRID * GRID, dtype=torch.long)
        for row, item in zip(grids, codes.items(), strict=True):
            row[: len(item)] = torch.tensor(item, dtype=torch.long)
        pixels = self.palette[grids].transpose(1, 2).unflatten(2, (GRID, GRID))
        return nn.functional.interpolate(pixels, size=(SIDE, SIDE), mode="nearest")


def code_model_call(*, reads: bool = False, context_length: int = 256) -> Call:
    """The recorded description; with `reads` pictures that a user shows go through an encoder."""
    encoder = call(ConvolutionalEncoder, image_size=32, width=16, num_halvings=3) if reads else None
    return call(
        scene_code_model,
        quantizer=call(ColourQuantizer),
        detokenizer=call(ColourDetokenizer),
        encoder=encoder,
        d_model=32,
        num_layers=2,
        num_heads=2,
        context_length=context_length,
    )


def tiny_code_model(*, seed: int = 0, reads: bool = False, context_length: int = 256) -> MultimodalLM:
    """The tiny model, every weight a function of `seed`, with logits far enough apart to tell rows from rows."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build(code_model_call(reads=reads, context_length=context_length))
        torch.nn.init.normal_(model.backbone.added_input, std=0.3)
    for part in (model.modalities["image"].quantizer, model.modalities["image"].detokenizer):
        part.requires_grad_(False)
    return model.eval()


def said(colour: str) -> Media:
    """A picture of one colour that the model only makes."""
    return Media(picture(colour), directions=(Direction.OUT,))


def code_documents() -> list[Document]:
    """A chat that reads, a page that makes, a page of text, a chat that makes and goes on, a picture of no code."""
    return [
        Document.chat([("user", ["What?", picture("red")]), ("assistant", "A red one.")]),
        Document.page(["Once ", picture("blue"), " end"]),
        Document.page(["Only words."]),
        Document.chat([("user", "Draw."), ("assistant", ["Here: ", picture("green"), " a green one."])]),
        Document.page(["Nothing ", picture("white"), "."]),
    ]
