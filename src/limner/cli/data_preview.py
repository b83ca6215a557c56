"""`limner data preview`: a page of what the model sees of a recipe's data."""

from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.cli import options
from limner.cli.files import require_directory, write_atomically
from limner.cli.loading import chosen_stages, is_batched_by, load_plan

if TYPE_CHECKING:
    from limner.data.preview_page import StagePreview
    from limner.model.multimodal import MultimodalLM

Output = Annotated[Path, typer.Option(metavar="FILE.html", help="The page to write.")]


def preview(
    config: options.Config,
    output: Output,
    overrides: options.Overrides = None,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", metavar="NAME", help="Show this stage alone; may be repeated.")
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Packed rows of each stage.")] = 4,
) -> None:
    """Write a page of what the model sees: packed rows with their tokens, targets, masks, spans and pictures.

    Needs the data and the tokenizer of a recipe, but no weights: the model is built as shapes alone.
    """
    if output.suffix.lower() != ".html":
        raise ValueError(f"cannot write `{output}`; expected .html\nhint: try --output {output.stem}.html")
    require_directory(output.parent)
    from limner.data.preview_page import to_page
    from limner.train.stage import Packed

    plan = load_plan(config, overrides or [])
    wanted = chosen_stages(plan, stage, config=config)
    packed = [recorded for recorded in wanted if is_batched_by(recorded, Packed)]
    if not packed:
        names = ", ".join(f"`{recorded.name}`" for recorded in wanted)
        having = ", ".join(recorded.name for recorded in plan.stages if is_batched_by(recorded, Packed))
        raise ValueError(
            f"{names} of `{config}` packs no rows: the model is given pictures alone\n"
            f"hint: stages with packed rows are {having or 'none'}"
        )
    model = _shapes(plan.model)
    previews = [_preview(recorded, model=model, num_rows=rows) for recorded in packed]
    write_atomically(output, to_page(previews, title=f"What the model sees: {Path(config.partition(':')[0]).stem}"))
    for shown in previews:
        tokens, room = sum(row.num_tokens for row in shown.rows), sum(row.capacity for row in shown.rows)
        print(f"{shown.name}\t{len(shown.rows)} rows\t{tokens / max(1, room):.3f} packed")
    print(output)


def _preview(recorded: Any, *, model: "MultimodalLM", num_rows: int) -> "StagePreview":
    from limner.config.call import build
    from limner.data.preview import row_views
    from limner.data.preview_page import StagePreview

    # One row after another, and no feature cache: the model has no weights.
    batching = replace(build(recorded.batching), num_rows=1)
    loader = batching.uncached_loader(build(recorded.mixture), model=model)
    rows = tuple(row for batch in islice(loader, num_rows) for row in row_views(batch, model=model))
    # What a window leaves out is counted when its first row is taken.
    left_out = [f"{number} {what}" for what, number in loader.counters().items() if what.startswith("skipped/")]
    return StagePreview(recorded.name, rows, notes=tuple(left_out))


def _shapes(recorded: Any) -> "MultimodalLM":
    """The model without weights: rendering and preprocessing touch none."""
    import torch

    from limner.config.call import build

    with torch.device("meta"):
        return build(recorded)
