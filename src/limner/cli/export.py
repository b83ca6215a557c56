"""`limner export`: a checkpoint as it is shipped: half precision, and with changes to its description."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="A checkpoint directory.")],
    output: Annotated[Path, typer.Argument(metavar="DIR", help="The directory to write.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the model's description, e.g. dtype=float32."),
    ] = None,
) -> None:
    """Write a checkpoint again with float16 weights. What else lies in DIR is kept."""
    import torch

    from limner.config.overrides import apply_overrides
    from limner.config.serialize import from_json, to_json
    from limner.model.checkpoint import load_checkpoint, read_index, save_checkpoint

    index = read_index(checkpoint)
    description = to_json(apply_overrides(from_json(index["model"]), overrides or []))
    model = load_checkpoint(checkpoint)
    fresh = output / "export"
    save_checkpoint(model, fresh, description=description, meta=index["meta"], dtype=torch.float16)
    for file in fresh.iterdir():
        file.replace(output / file.name)
    fresh.rmdir()
    print(output)
