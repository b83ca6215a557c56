"""`limner data cache`: what the feature cache holds, and clearing it."""

import shutil
from pathlib import Path
from typing import Annotated

import typer


def cache(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Folders, as they are listed; all by default.")
    ] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Delete them: what they hold is computed again.")] = False,
) -> None:
    """List the features that are kept, by the part and the weights that they come from."""
    from limner.data.feature_store import LIMIT_VARIABLE, bytes_below, features_limit, features_root

    root = features_root()
    folders = {path.name: path for path in sorted(root.glob("*")) if (path / "about.txt").is_file()}
    unknown = [name for name in names or () if name not in folders]
    if unknown:
        raise ValueError(f"`{root}` holds no features `{unknown[0]}`\nhint: `limner data cache` lists what there is")
    for name in names or folders:
        print(_line(folders[name]))
        if clear:
            shutil.rmtree(folders[name])
    if not clear:
        limit = features_limit()
        most = "no limit" if limit is None else f"of {limit / 1e9:.3g} GB"
        print(f"{root}\t{bytes_below(root) / 1e9:.3g} GB\t{most} ({LIMIT_VARIABLE})")
    elif not names:
        print(f"{root}\tcleared")


def _line(folder: Path) -> str:
    """Name, items, size, and what it belongs to."""
    from limner.data.feature_store import RECORD_SIZE

    sizes = {path: path.stat().st_size for path in folder.iterdir()}
    number = sum(size // RECORD_SIZE for path, size in sizes.items() if path.suffix == ".index")
    about = (folder / "about.txt").read_text(encoding="utf-8").splitlines()
    return f"{folder.name}\t{number} items\t{sum(sizes.values()) / 1e6:.1f} MB\t{about[0] if about else ''}"
