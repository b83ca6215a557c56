"""Payloads: every kind of picture becomes RGB; what is no picture is refused in one line."""

import io
import struct
import zlib

import numpy
import PIL.Image
import pytest

from limner.document.document import Document, Media
from limner.document.html import Section, to_html
from limner.document.media import File, Image


def _encoded(picture: PIL.Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, format=kind, **options)
    return stream.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def test_transparency_lies_over_white() -> None:
    image = Image.from_pil(PIL.Image.new("RGBA", (2, 2), (255, 0, 0, 0)))
    assert image.pil().mode == "RGB"
    assert image.pil().getpixel((0, 0)) == (255, 255, 255)


def test_exif_orientation_is_applied() -> None:
    picture = PIL.Image.new("RGB", (6, 4), "red")
    exif = picture.getexif()
    exif[0x0112] = 6  # rotate by a quarter turn
    image = Image.from_bytes(_encoded(picture, "JPEG", exif=exif))
    assert image.size == (4, 6)
    assert image.pil().size == (4, 6)  # (width, height)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "F"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    image = Image.from_pil(PIL.Image.new(mode, (3, 2)))
    assert (image.pil().mode, image.pil().size) == ("RGB", (3, 2))


def test_a_cmyk_jpeg_becomes_rgb() -> None:
    image = Image.from_bytes(_encoded(PIL.Image.new("CMYK", (3, 2)), "JPEG"))
    assert image.pil().getpixel((1, 1)) == (255, 255, 255)


def test_one_pixel_is_a_picture() -> None:
    assert Image.from_pil(PIL.Image.new("RGB", (1, 1), (9, 8, 7))).pil().getpixel((0, 0)) == (
        9,
        8,
        7,
    )


def test_an_array_becomes_the_same_pixels() -> None:
    array = numpy.arange(24, dtype="uint8").reshape(2, 4, 3)
    assert numpy.array_equal(numpy.array(Image.from_array(array).pil()), array)


def test_the_digest_follows_the_content_alone() -> None:
    red = _encoded(PIL.Image.new("RGB", (2, 2), "red"))
    assert Image(red, name="a").digest == Image(red, name="b").digest
    assert Image(red) == Image(red, name="b")
    assert Image(red).digest != Image(_encoded(PIL.Image.new("RGB", (2, 2), "blue"))).digest


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG", _encoded(PIL.Image.new("RGB", (9, 9)))[:20]])
def test_what_is_no_picture_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(ValueError, match="`letter` is not a picture") as caught:
        Image.from_bytes(data, name="letter")
    assert str(caught.value).count("\nhint: ") == 1


def test_a_truncated_picture_is_refused_when_its_pixels_are_asked_for() -> None:
    noise = numpy.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype="uint8")
    whole = Image.from_array(noise).data
    image = Image.from_bytes(whole[: len(whole) // 2], name="half")
    with pytest.raises(ValueError, match=r"`half` is damaged .*\nhint: "):
        image.pil()


@pytest.mark.parametrize("edge", [8_001, 10_000, 20_000])
def test_too_many_pixels_are_refused_before_decoding(edge: int) -> None:
    with pytest.raises(ValueError, match=r"(?s)`huge`.*64000000.*hint: scale the picture down"):
        Image.from_bytes(_png_header(edge, edge), name="huge")


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no such image file: .*nothing\.png.*\nhint: "):
        Image.from_path(tmp_path / "nothing.png")


def test_an_array_of_floats_is_refused_with_the_remedy() -> None:
    with pytest.raises(ValueError, match=r"float32.*\nhint: scale floats"):
        Image.from_array(numpy.zeros((2, 2, 3), dtype="float32"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
def test_damaged_bytes_are_one_line_and_a_hint_wherever_they_are_damaged(kind: str) -> None:
    rng = numpy.random.default_rng(0)
    whole = _encoded(PIL.Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype="uint8")), kind)
    said = []
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            broken[place] = rng.integers(256)
        try:
            Image.from_bytes(bytes(broken)).pil()
        except ValueError as error:
            said.append(str(error))
    assert [text for text in said if text.count("\nhint: ") != 1] == []


def test_a_file_is_known_by_its_bytes_and_its_ending() -> None:
    film = File.from_bytes(b"film", name="a/FOX.MP4")
    assert film.media_type == "video/mp4"
    assert film == File(b"film", name="other")
    assert film.digest != File(b"other").digest
    again = File.from_data_url(film.data_url(), name="again")
    assert (again, again.name) == (film, "again.mp4")
    assert File(b"x", name="no-ending").media_type == "application/octet-stream"
    with pytest.raises(ValueError, match=r"`none\.wav` is empty\nhint: "):
        File.from_bytes(b"", name="none.wav")
    with pytest.raises(ValueError, match=r"cannot read the address `http://x/a\.mp4`[^\n]*\nhint: "):
        File.from_data_url("http://x/a.mp4")


def test_a_document_carries_a_file_and_says_that_it_is_no_picture() -> None:
    media = Media(File(b"film", name="fox.mp4"), modality="video")
    document = Document.chat([("user", [media, "What runs?"]), ("assistant", "A fox.")])
    assert Document.from_json(document.to_json()) == document
    with pytest.raises(ValueError, match=r"`fox\.mp4` of modality `video` is no picture\nhint: "):
        _ = media.content
    with pytest.raises(ValueError, match=r"`fox\.mp4` has no OpenAI form here\nhint: "):
        document.to_openai()
    assert "fox.mp4" in to_html([Section((document,))], title="t", footer="")
