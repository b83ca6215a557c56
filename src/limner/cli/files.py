"""Reading what a user names, writing what a user asked for: whole or not at all, before the work is
done where possible.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from limner.config.load import load
from limner.config.serialize import from_json
from limner.document.document import Document
from limner.document.html import Section, to_html


def write_atomically(path: Path, content: str) -> None:
    """Write a text file as UTF-8: either all of it stands there afterwards, or what stood there
    before.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
        # mkstemp makes it private; what the user asked for is an ordinary file.
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def require_directory(path: Path) -> Path:
    """Make a directory and see that it can be written, so that minutes of work are not lost. Raises
    ValueError.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise ValueError(
            f"cannot write to the directory `{path}` ({error.strerror})\nhint: give another one with --output"
        ) from error
    return path


def require_page_path(path: Path) -> Path:
    """A path for `write_document`. Raises ValueError for another suffix or a directory that cannot
    be written.
    """
    if path.suffix.lower() not in (".html", ".json"):
        raise ValueError(f"cannot write `{path}`; expected .html, .json or -\nhint: try --output page.html")
    if path.is_dir():
        raise ValueError(f"`{path}` is a directory; expected a file\nhint: try --output {path / 'page.html'}")
    require_directory(path.parent)
    return path


def write_document(document: Document, path: Path, *, title: str, footer: str) -> None:
    """Write a page (.html) or a document (.json)."""
    if path.suffix.lower() == ".json":
        write_atomically(path, json.dumps(document.to_json(), ensure_ascii=False, indent=1) + "\n")
    else:
        write_atomically(path, to_html([Section((document,))], title=title, footer=footer))


def require_text(text: str, *, option: str) -> str:
    """Text that says something and can be written as UTF-8. Raises ValueError that names the
    option.
    """
    if not text.strip():
        raise ValueError(f"{option} is empty\nhint: say what to describe, draw or tell")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{option} is not valid UTF-8\nhint: check the terminal's encoding") from error
    return text


def load_recipe(address: str) -> Any:
    """A configuration from a config file, or a recorded one from JSON (a run's stage.json)."""
    if not address.endswith(".json"):
        return load(address)
    path = Path(address)
    if not path.is_file():
        raise ValueError(f"no such file: `{path}`\nhint: each stage of a run has a stage.json")
    try:
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"`{path}` is no JSON ({error})\nhint: give a run's stage.json") from error
