"""Payloads of media parts: decoded once, lazily, and identified by content.

Owns the way from a file, bytes, an array or a data URL to an RGB picture, and what is no picture as encoded bytes.
Assumes nothing about models. Nothing here opens a network connection: a remote address is refused with a hint.

Data flow: path | bytes | PIL | array | data URL -> `Image` -> `.pil()` (RGB) -> an encoder's or decoder's `preprocess`.
           bytes | data URL -> `File` (sound, moving picture, text) -> its encoder's `preprocess`
"""

import base64
import binascii
import functools
import hashlib
import io
import mimetypes
import struct
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import PIL.Image
import PIL.ImageOps

_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")

MAX_PIXELS = 64_000_000
"""Largest picture that is decoded: 64 megapixels; a larger one is refused before decoding."""


_DAMAGE = (OSError, SyntaxError, EOFError, IndexError, KeyError, TypeError, struct.error, zlib.error)
"""What Pillow's readers are seen to raise on damaged bytes."""


def _data_url_bytes(url: str) -> bytes:
    if not url.startswith("data:"):
        raise ValueError(
            f"cannot read the address `{url[:60]}`; expected a data: URL\n"
            "hint: download the file first, or pass it as data:image/png;base64,..."
        )
    header, comma, body = url.partition(",")
    if not comma or not header.endswith(";base64"):
        raise ValueError(f"a data URL without base64 content: `{url[:40]}`\nhint: use data:image/png;base64,...")
    try:
        return base64.b64decode(body, validate=True)
    # A ValueError of its own is raised for characters beyond ASCII.
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"broken base64 in a data URL ({error})\nhint: encode the file again") from error


def file_bytes(path: str | Path) -> bytes:
    """The bytes of a local file. Raises ValueError when it is missing; a remote address is refused."""
    text = str(path)
    if "://" in text:
        raise ValueError(
            f"`{text:.80}` is an address; files are read from disk\nhint: download it first: the library never fetches"
        )
    if not Path(path).is_file():
        raise ValueError(f"no such file: `{text}`\nhint: check the path; relative paths start at {Path.cwd().name}/")
    return Path(path).read_bytes()


Kind = TypeVar("Kind", bound="File")


@dataclass(frozen=True, eq=False)
class File:
    """What is no picture (a sound, a moving picture, a text) as encoded bytes; its encoder's `preprocess` decodes it.

    Two files are equal when their bytes are. `name` says where the file came from; its ending says what it is.
    """

    data: bytes = field(repr=False)
    name: str = "file"

    default_name: ClassVar[str] = "file"
    """The name of one that brings none."""

    @classmethod
    def from_path(cls: type[Kind], path: str | Path) -> Kind:
        """Read a file. Raises ValueError when it is missing."""
        return cls.from_bytes(file_bytes(path), name=Path(path).name)

    @classmethod
    def from_bytes(cls: type[Kind], data: bytes, *, name: str = "") -> Kind:
        """Take encoded bytes; they are decoded later. Raises ValueError when there are none."""
        name = name or cls.default_name
        if not data:
            raise ValueError(f"`{name}` is empty\nhint: fetch or write the file again")
        return cls(data=bytes(data), name=name)

    @classmethod
    def from_data_url(cls: type[Kind], url: str, *, name: str = "") -> Kind:
        """Take a `data:<type>;base64,` URL; the type becomes the name's ending."""
        name = name or Path(cls.default_name).stem
        ending = mimetypes.guess_extension(url[5 : url.find(";")]) or ""
        return cls.from_bytes(_data_url_bytes(url), name=name if name.endswith(ending) else name + ending)

    @classmethod
    def of(cls: type[Kind], payload: Any) -> Kind:
        """A payload as one of this kind. Raises ValueError for none, and for pictures."""
        if isinstance(payload, cls):
            return payload
        if isinstance(payload, File):
            return cls.from_bytes(payload.data, name=payload.name)
        kind, noun = cls.__name__, Path(cls.default_name).stem
        raise ValueError(f"{type(payload).__name__} is no {noun}\nhint: give a {kind}, such as {kind}.from_path(...)")

    @property
    def media_type(self) -> str:
        """The type that the name's ending stands for, such as `video/mp4`."""
        return mimetypes.guess_type(self.name.lower())[0] or "application/octet-stream"

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the bytes: the item's identity in caches."""
        return hashlib.sha256(self.data).hexdigest()

    def data_url(self) -> str:
        """The file as a data URL of its type."""
        return f"data:{self.media_type};base64," + base64.b64encode(self.data).decode("ascii")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.digest)


@dataclass(frozen=True, eq=False)
class Image:
    """A picture as encoded bytes (PNG, JPEG, WebP, ...), decoded to RGB when first asked for.

    Two images are equal when their bytes are. `name` says where the picture came from and appears in messages.
    """

    data: bytes = field(repr=False)
    name: str = "image"

    @staticmethod
    def from_path(path: str | Path) -> "Image":
        """Read a file. Raises ValueError when it is missing or is no picture."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(
                f"no such image file: `{path}`\nhint: check the path; relative paths start at {Path.cwd().name}/"
            )
        return Image.from_bytes(path.read_bytes(), name=path.name)

    @staticmethod
    def from_bytes(data: bytes, *, name: str = "image") -> "Image":
        """Take encoded bytes; the header is checked now, the pixels are decoded later."""
        image = Image(data=bytes(data), name=name)
        image.size  # noqa: B018 - opens the header, so that what is not a picture fails here
        return image

    @staticmethod
    def from_pil(picture: PIL.Image.Image, *, name: str = "image") -> "Image":
        """Encode a PIL picture losslessly (PNG)."""
        stream = io.BytesIO()
        if picture.mode not in _PNG_MODES:
            picture = picture.convert("RGB")
        picture.save(stream, format="PNG")
        return Image(data=stream.getvalue(), name=name)

    @staticmethod
    def from_array(array: Any, *, name: str = "image") -> "Image":
        """Take an uint8 array [height, width, 3], values 0..255."""
        shape, kind = getattr(array, "shape", None), str(getattr(array, "dtype", "?"))
        if kind != "uint8" or shape is None or len(shape) != 3 or shape[2] != 3:
            raise ValueError(
                f"an image array has shape {shape} and type {kind}; expected uint8 [height, width, 3]\n"
                "hint: scale floats to 0..255 and convert with .astype('uint8')"
            )
        return Image.from_pil(PIL.Image.fromarray(array), name=name)

    @staticmethod
    def from_data_url(url: str, *, name: str = "image") -> "Image":
        """Take a `data:image/...;base64,` URL. A remote address is refused: the library never fetches."""
        return Image.from_bytes(_data_url_bytes(url), name=name)

    def _open(self) -> PIL.Image.Image:
        try:
            with warnings.catch_warnings():
                # Ours is the lower limit, and an error.
                warnings.simplefilter("ignore", PIL.Image.DecompressionBombWarning)
                picture = PIL.Image.open(io.BytesIO(self.data))
        except PIL.Image.DecompressionBombError as error:
            raise ValueError(
                f"`{self.name}` is far larger than the {MAX_PIXELS} pixels that are decoded\n"
                "hint: scale the picture down first"
            ) from error
        except (*_DAMAGE, ValueError) as error:
            raise ValueError(
                f"`{self.name}` is not a picture that can be read\n"
                "hint: PNG, JPEG, WebP, GIF and BMP files are understood"
            ) from error
        if picture.width * picture.height > MAX_PIXELS:
            raise ValueError(
                f"`{self.name}` has {picture.width}x{picture.height} pixels; at most {MAX_PIXELS} are decoded\n"
                "hint: scale the picture down first"
            )
        return picture

    @functools.cached_property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as stored, before EXIF rotation."""
        picture = self._open()
        # Reading a header costs a tenth of decoding: the first decoding goes on from here.
        self.__dict__["_opened"] = picture
        return picture.height, picture.width

    def __reduce__(self) -> tuple[type, tuple[bytes, str]]:
        """Without an opened header, which cannot be pickled."""
        return Image, (self.data, self.name)

    def pil(self) -> PIL.Image.Image:
        """The picture as RGB: EXIF orientation applied, transparency over white."""
        stored = self.__dict__.pop("_opened", None) or self._open()
        try:
            picture = stored
            # In place, and RGB as it is: a copy costs a tenth of decoding.
            PIL.ImageOps.exif_transpose(picture, in_place=True)
            picture.load()
            if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
                layer = picture.convert("RGBA")
                canvas = PIL.Image.new("RGBA", layer.size, (255, 255, 255, 255))
                return PIL.Image.alpha_composite(canvas, layer).convert("RGB")
            return picture if picture.mode == "RGB" else picture.convert("RGB")
        # ValueError: what Pillow says of a text chunk that unpacks to too much.
        except (*_DAMAGE, ValueError) as error:
            raise ValueError(
                f"`{self.name}` is damaged and cannot be decoded ({error})\nhint: open and save it again"
            ) from error

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the encoded bytes: the item's identity in caches and noise keys."""
        return hashlib.sha256(self.data).hexdigest()

    def png_bytes(self) -> bytes:
        """The picture as PNG bytes, whatever it was before."""
        if self.data.startswith(b"\x89PNG"):
            return self.data
        return Image.from_pil(self.pil()).data

    def data_url(self) -> str:
        """The picture as a `data:image/png;base64,` URL."""
        return "data:image/png;base64," + base64.b64encode(self.png_bytes()).decode("ascii")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.digest)
