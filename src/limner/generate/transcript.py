"""The text part that a reply is writing: from ids to text that is certain.

    add(id) ... -> more: text nobody was told yet, once it cannot change any more;  close: all that is left

Two things wait: the bytes of an unfinished character, and text that may be the beginning of a stop string. Of the stop
strings that occur, the one that ends first counts (of several the longest), so where a text is cut does not depend on
how it was cut into tokens.
"""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]
UNFINISHED = "\ufffd"
"""What the bytes of a character that is still incomplete are decoded to."""


class Transcript:
    """The text of one part; after `close` it is that of the next part. `decode` is the tokenizer's."""

    def __init__(self, *, stops: Sequence[str] = ()) -> None:
        self.stops = tuple(stops)
        self.stopped = False
        self._begin()

    def _begin(self) -> None:
        self.ids: list[int] = []
        self._told = ""
        self._held = ""
        # Of the ids, those whose text is told or held; and the place from which on they are decoded once more.
        self._num_read = 0
        self._window = 0

    def add(self, token: int) -> None:
        """The part goes on with a token."""
        self.ids.append(token)

    def more(self, decode: Decode) -> str:
        """Text that is certain and was not told; `stopped` says whether a stop string ended it."""
        new = self._unread(decode)
        if not new or new.endswith(UNFINISHED):
            return ""
        self._window, self._num_read = self._num_read, len(self.ids)
        return self._tell(self._held + new)

    def close(self, decode: Decode) -> tuple[str, str]:
        """What was not told of the part, and the whole of it. The next part begins."""
        self._window, new, self._num_read = self._num_read, self._unread(decode), len(self.ids)
        more = self._tell(self._held + new)
        if not self.stopped:
            more, self._told = more + self._held, self._told + self._held
        whole = self._told
        self._begin()
        return more, whole

    def _unread(self, decode: Decode) -> str:
        """What the ids say that were not read. A few before them stand for all: what a token says depends on no more,
        and reading stays linear in the length of a text."""
        if self.stopped or self._num_read == len(self.ids):
            return ""
        near = self.ids[self._window :]
        return decode(near)[len(decode(near[: self._num_read - self._window])) :]

    def _tell(self, text: str) -> str:
        """Of new text, what is certain; the rest is held."""
        end = self._stop_in(text)
        if end is not None:
            certain, self._held, self.stopped = text[:end], "", True
        else:
            kept = max((_overlap(text, stop) for stop in self.stops), default=0)
            certain, self._held = text[: len(text) - kept], text[len(text) - kept :]
        self._told += certain
        return certain

    def _stop_in(self, text: str) -> int | None:
        """Where text ends because of a stop string, None where none occurs."""
        found = [(place + len(stop), place) for stop in self.stops if (place := text.find(stop)) >= 0]
        return min(found)[1] if found else None


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a beginning of `stop`, but not the whole of it."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if stop.startswith(text[-length:])), 0)
