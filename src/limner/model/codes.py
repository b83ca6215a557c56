"""Codes of media as the model would say them: each item is quantised once, alone.

Alone, because in a stack the last bits of a quantizer's features would depend on the neighbours, and with them a code
that two rows of the codebook are equally near to. In training the same answer comes from the feature cache
(`FeatureCache.spell`), which keeps it on disk; this one remembers in memory, for whoever renders without a cache.
"""

from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from limner.document.document import Media
from limner.modalities.base import Quantizer, Speller

MOST_KEPT = 4096
"""Items whose codes are remembered; the one asked for longest ago goes first."""


class SpokenCodes:
    """media -> codes, by the quantizer of its modality; `speller` finds that by name."""

    def __init__(self, speller: Callable[[str], Speller]) -> None:
        self.speller = speller
        self._known: OrderedDict[tuple[str, str, tuple[tuple[int, int], ...]], tuple[int, ...]] = OrderedDict()

    def __call__(self, media: Media) -> tuple[int, ...]:
        """Codes of one item. Raises ValueError for what cannot be decoded or is still to be made."""
        quantizer = self.speller(media.modality).quantizer
        digest = media.content.digest if media.payload is None else media.payload.digest
        # Written to in place, a weight keeps its identity and changes its version; replaced, it is another one.
        key = (media.modality, digest, tuple((id(tensor), tensor._version) for tensor in _tensors(quantizer)))
        if key not in self._known:
            found = quantise(quantizer, quantizer.preprocess(media))
            self._known[key] = tuple(found.tolist())
            if len(self._known) > MOST_KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return self._known[key]


@torch.no_grad()
def quantise(quantizer: Quantizer, item: Tensor) -> Tensor:
    """Codes [tokens] of one preprocessed item, on the CPU. Raises ValueError where there are more than there may be."""
    tensors = _tensors(quantizer)
    device = tensors[0].device if tensors else torch.device("cpu")
    quantizer.eval()  # what stands still neither drops out nor moves running statistics
    with torch.autocast(device.type, enabled=False):
        values = quantizer(item[None].to(device)).values
    if len(values) > quantizer.max_length:
        raise ValueError(
            f"{type(quantizer).__name__} gave {len(values)} codes; its max_length is {quantizer.max_length}\n"
            "hint: raise max_length"
        )
    return values.to("cpu", torch.long)


def _tensors(quantizer: Quantizer) -> list[Tensor]:
    return [*quantizer.parameters(), *quantizer.buffers()]
