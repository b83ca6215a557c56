"""Features that were computed elsewhere, taken as they are: any embedding becomes a modality without an encoder."""

import torch
from jaxtyping import Float
from torch import Tensor

from limner.document.array import Array
from limner.document.document import Media
from limner.modalities.base import Encoder, Features


class PrecomputedEncoder(Encoder):
    """Items are arrays [num_rows, width], or [width] where there is one row. Nothing is computed."""

    def __init__(self, *, width: int, num_rows: int = 1) -> None:
        super().__init__()
        self.width = width
        self.num_rows = num_rows

    def preprocess(self, media: Media) -> Float[Tensor, "rows width"]:
        """The values in float32. Raises ValueError for another payload or shape."""
        if not isinstance(media.payload, Array):
            raise ValueError(
                f"a `{media.modality}` is {type(media.payload).__name__}; expected an Array of features\n"
                "hint: wrap the numbers in Array.from_values(...)"
            )
        values = torch.as_tensor(media.payload.values()).float()
        values = values[None] if values.ndim == 1 and self.num_rows == 1 else values
        if values.shape != (self.num_rows, self.width):
            raise ValueError(
                f"`{media.payload.name}` of modality `{media.modality}` has the shape {tuple(values.shape)}; expected "
                f"({self.num_rows}, {self.width})\nhint: compute the features with the encoder the model was trained on"
            )
        return values

    def measure(self, media: Media) -> int:
        """Always `num_rows`."""
        return self.num_rows

    def forward(self, items: Float[Tensor, "items rows width"]) -> Features:
        """The rows of all items, one after another."""
        lengths = torch.full((len(items),), self.num_rows, device=items.device)
        return Features(items.flatten(0, 1), lengths)
