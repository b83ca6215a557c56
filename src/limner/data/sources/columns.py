"""Columns: what a format calls a key and what a row calls it.

{"caption": "name", "video": "{page_dir}/{videoid}.mp4"}: a row's own key, or a template over its keys.
"""

from collections.abc import Mapping
from typing import Any

Columns = Mapping[str, str]


def renamed(row: Mapping[str, Any], columns: Columns) -> Mapping[str, Any]:
    """The row with the format's keys added. Raises ValueError for a column that the row does not have."""
    if not columns:
        return row
    added = {}
    for key, column in columns.items():
        try:
            added[key] = column.format_map(row) if "{" in column else row[column]
        except KeyError as error:
            raise ValueError(
                f"row has no column {error}; it has {', '.join(map(str, row))}\nhint: correct `columns` of the source"
            ) from error
    return {**row, **added}
