"""`limner publish`: a complete folder with a model card; uploaded only where that is asked for."""

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any

import typer

from limner import zoo
from limner.cli.files import require_directory, write_atomically
from limner.cli.loading import MODULES, STDERR


def command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint directory, as of a run.")],
    output: Annotated[Path, typer.Option(metavar="DIR", help="The folder to prepare: a new or an empty one.")],
    name: Annotated[str, typer.Option(help="The model's name; without, the folder's.")] = "",
    licence: Annotated[str, typer.Option(help="The licence; without, that of the language model, where known.")] = "",
    upload: Annotated[
        str, typer.Option("--upload", metavar="OWNER/NAME", help="Upload the folder to this repository of the Hub.")
    ] = "",
) -> None:
    """Prepare DIR: the checkpoint, whole and loadable, and a model card from the run's own figures. Nothing is uploaded
    without --upload.
    """
    from limner.cli.model_card import model_card, shipped
    from limner.model.checkpoint import load_checkpoint, read_index

    index = read_index(checkpoint)
    licence = licence or _licence(index)
    check_public(index)
    require_directory(output)
    if any(output.iterdir()):
        raise ValueError(f"`{output}` is not empty\nhint: give a new folder, so that nothing else is published")
    # Loading is the check: every tensor that the description asks for, adapters too, is there, whole, and fits.
    modules = [module for module in os.environ.get(MODULES, "").split(",") if module]
    model = load_checkpoint(checkpoint, modules=modules)
    card = model_card(model, name=name or output.name, licence=licence, index=index, checkpoint=checkpoint)
    for file in shipped(index):
        shutil.copyfile(checkpoint / file, output / file)
    write_atomically(output / "README.md", card)
    for file in sorted(output.iterdir()):
        print(f"{file.stat().st_size:>12,}  {file.name}")
    if not upload:
        STDERR.print(f"prepared {output}; nothing was uploaded: --upload OWNER/NAME does that")
        return
    print(_uploaded(output, upload))


def check_public(index: Mapping[str, Any]) -> None:
    """Raise ValueError for what others could not load, or should not read: local paths, parts without a public name."""
    for part, source in index["external"].items():
        if source.partition("@")[0] not in zoo.ENTRIES:
            raise ValueError(
                f"`{part}` comes from `{source.partition('@')[0]}`, which nobody else has\n"
                f"hint: build the model from a name that `limner models` lists; these are {', '.join(zoo.ENTRIES)}"
            )
    for key, value in _strings({"model": index["model"], "meta": index["meta"]}, key=""):
        if _is_local(value):
            raise ValueError(
                f"`{key}` is the local path `{value}`\nhint: write the checkpoint again with another value: "
                f"limner export CHECKPOINT DIR {key.removeprefix('model.')}=..."
            )


def _strings(value: Any, *, key: str) -> Iterator[tuple[str, str]]:
    """Every string below a value, with its dotted key."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, below in value.items():
            yield from _strings(below, key=f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for number, below in enumerate(value):
            yield from _strings(below, key=f"{key}.{number}")


def _is_local(text: str) -> bool:
    if "\n" in text or "{" in text or len(text) > 1000:
        return False  # a template, a text
    local = Path(text).is_absolute() or PureWindowsPath(text).is_absolute() or text.startswith(("~", "./", "../"))
    return local or ("/" in text and Path(text).exists())


def _licence(index: Mapping[str, Any]) -> str:
    source = index["external"].get("backbone.language_model", "").partition("@")[0]
    entry = zoo.ENTRIES.get(source)
    if entry is None:
        raise ValueError("the model's licence is not known\nhint: say it, as in --licence apache-2.0")
    return entry.licence


def _uploaded(folder: Path, repository: str) -> str:
    """Upload a folder; the address of the commit. Raises ValueError where the Hub refuses."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        return str(api.upload_folder(repo_id=repository, folder_path=folder))
    except (HfHubHTTPError, OSError) as error:
        first = str(error).partition("\n")[0]
        raise ValueError(f"`{repository}` was not uploaded ({first})\nhint: `hf auth login`, and try again") from error
