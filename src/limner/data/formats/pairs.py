"""Formats of pairs: a picture or a film with its text, a picture with a picture.

Which of the two is given and which is learned is the format's name: `caption` writes, `creation` draws.
"""

from limner.data.formats import rows
from limner.data.formats.rows import Read, Row
from limner.document.document import Direction, Document, Media, Text
from limner.document.video import Video


def native(row: Row, read: Read) -> Document:
    """Limner's own JSON (`Document.to_json`), pictures inside as data URLs."""
    return Document.from_json(row)


def caption(row: Row, read: Read) -> Document:
    """{"image", "caption"} -> a page on which the picture is read and the caption is written."""
    words = rows.text(row, "caption")
    return Document.page([Media(_picture(row, "image", read), directions=(Direction.IN,)), words])


def creation(row: Row, read: Read) -> Document:
    """{"image", "caption"} -> a page on which the caption is given and the picture is made."""
    words = Text(rows.text(row, "caption"), train=False)
    return Document.page([words, Media(_picture(row, "image", read), directions=(Direction.OUT,))])


def image_image(row: Row, read: Read) -> Document:
    """{"image", "target"?} -> a page on which the picture is read and the target (itself by default) is made."""
    source = _picture(row, "image", read)
    target = source if row.get("target") is None else _picture(row, "target", read)
    return Document.page([Media(source, directions=(Direction.IN,)), Media(target, directions=(Direction.OUT,))])


def video_caption(row: Row, read: Read) -> Document:
    """{"video", "caption"} -> a page on which the film is read and the caption is written."""
    words = rows.text(row, "caption")
    film = rows.file(rows.value(row, "video", kind=object), key="video", read=read, kind=Video)
    return Document.page([Media(film, modality="video", directions=(Direction.IN,)), words])


def tokenized_caption(row: Row, read: Read) -> Document:
    """{"image", "caption", "input_ids", "labels"} -> as `caption`; the caption is trained where any label says so.

    The ids belong to the vocabulary that they were made with, so the caption is tokenized again; `labels` (0 or 1 for
    every id) must match them in number.
    """
    ids, labels = rows.value(row, "input_ids", kind=list), rows.value(row, "labels", kind=list)
    if len(ids) != len(labels) or any(label not in (0, 1) for label in labels):
        raise ValueError(
            f"row has {len(ids)} input_ids and {len(labels)} labels; expected as many, each 0 or 1\n"
            "hint: repair the row, or read it with the format `caption`"
        )
    words = Text(rows.text(row, "caption"), train=any(labels))
    return Document.page([Media(_picture(row, "image", read), directions=(Direction.IN,)), words])


def _picture(row: Row, key: str, read: Read):
    return rows.picture(rows.value(row, key, kind=object), key=key, read=read)
