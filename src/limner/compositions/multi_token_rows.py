"""Rows of multi_token: the names of `limner.document.rows` that belong to it."""

from limner.document.rows import Placeholder, placeholder_id, row_document

__all__ = ["Placeholder", "placeholder_id", "row_document"]
