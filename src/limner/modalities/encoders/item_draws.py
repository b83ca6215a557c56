"""Random draws of a front end as a function of the item: numpy's global generator, seeded by it and put back."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from limner.document.media import File


@contextmanager
def drawn_for(item: File) -> Iterator[None]:
    """Within the context, numpy's global generator gives what belongs to the item's bytes."""
    state = np.random.get_state()
    np.random.seed(int(item.digest[:8], 16))
    try:
        yield
    finally:
        np.random.set_state(state)
