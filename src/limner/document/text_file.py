"""Text payloads: a document that is read as a thing (embedded, summed up into few rows), not as the prompt's own text.

Data flow: path | string | bytes | data URL -> `TextFile` -> `.text` -> an encoder's `preprocess`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.document.array import file_bytes
from limner.document.media import File


@dataclass(frozen=True, eq=False)
class TextFile(File):
    """A text as UTF-8 bytes. Two are equal when their bytes are."""

    @staticmethod
    def from_text(text: str, *, name: str = "text.txt") -> "TextFile":
        """Take a string, which may be empty."""
        return TextFile(text.encode(), name=name)

    @staticmethod
    def from_path(path: str | Path) -> "TextFile":
        """Read a file. Raises ValueError when it is missing or is no UTF-8 text."""
        return TextFile.from_bytes(file_bytes(path), name=Path(path).name)

    @staticmethod
    def from_bytes(data: bytes, *, name: str = "text.txt") -> "TextFile":
        """Take UTF-8 bytes. Raises ValueError when they are none."""
        found = TextFile(bytes(data), name=name)
        found.text  # noqa: B018 - what is no text fails here
        return found

    @staticmethod
    def from_data_url(url: str, *, name: str = "text.txt") -> "TextFile":
        """Take a `data:text/...;base64,` URL."""
        file = File.from_data_url(url, name=name)
        return TextFile.from_bytes(file.data, name=file.name)

    @staticmethod
    def of(payload: Any) -> "TextFile":
        """A payload as a text. Raises ValueError for none, and for pictures."""
        if isinstance(payload, TextFile):
            return payload
        if isinstance(payload, File):
            return TextFile.from_bytes(payload.data, name=payload.name)
        raise ValueError(f"{type(payload).__name__} is no text\nhint: give a TextFile, such as TextFile.from_text(...)")

    @property
    def text(self) -> str:
        """The text itself."""
        try:
            return self.data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"`{self.name}` is no UTF-8 text ({error})\nhint: save it as UTF-8") from error
