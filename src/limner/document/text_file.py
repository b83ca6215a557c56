"""Text payloads: a document that is read as a thing (embedded, summed up into few rows), not as the prompt's own text.

Data flow: path | string | bytes | data URL -> `TextFile` -> `.text` -> an encoder's `preprocess`.
"""

from dataclasses import dataclass

from limner.document.media import File, Kind


@dataclass(frozen=True, eq=False)
class TextFile(File):
    """A text as UTF-8 bytes. Two are equal when their bytes are."""

    default_name = "text.txt"

    @staticmethod
    def from_text(text: str, *, name: str = "text.txt") -> "TextFile":
        """Take a string, which may be empty."""
        return TextFile(text.encode(), name=name)

    @classmethod
    def from_bytes(cls: type[Kind], data: bytes, *, name: str = "") -> Kind:
        """Take UTF-8 bytes, none too. Raises ValueError for what is no UTF-8 text."""
        found = cls(bytes(data), name=name or cls.default_name)
        _decoded(found)  # what is no text fails here
        return found

    @property
    def text(self) -> str:
        """The text itself."""
        return _decoded(self)


def _decoded(file: File) -> str:
    try:
        return file.data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"`{file.name}` is no UTF-8 text ({error})\nhint: save it as UTF-8") from error
