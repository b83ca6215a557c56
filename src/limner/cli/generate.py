"""`limner generate`: one prompt, one reply, as a page or as JSON; or the rows of a file, for scripts."""

import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.cli import options
from limner.cli.files import require_page_path, require_text, write_document
from limner.cli.generate_rows import Bad, answer_rows, answered, read_rows, require_rows_path
from limner.cli.loading import open_engine
from limner.cli.progress import streaming
from limner.cli.settings import Settings, size_of
from limner.document.document import Document
from limner.document.media import Image

if TYPE_CHECKING:
    from limner.generate.engine import Engine


def command(
    model: options.Model,
    prompt: Annotated[str | None, typer.Option(help="What to describe, draw or tell.")] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(help="A picture to show before the prompt; may be repeated."),
    ] = None,
    seed: options.Seed = 0,
    pictures: options.PicturesOption = options.Pictures.AUTO,
    guidance_scale: options.GuidanceScale = 3.0,
    guidance_rescale: options.GuidanceRescale = 0.0,
    negative: options.Negative = "",
    steps: options.Steps = 24,
    sampler: options.Sampler = "",
    size: options.Size = "",
    best_of: options.BestOf = 1,
    scorer: options.ScorerOption = "",
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    max_new_tokens: options.MaxNewTokens = 256,
    beams: options.Beams = 1,
    device: options.DeviceOption = options.Device.AUTO,
    weights: options.WeightsOption = options.Weights.EXACT,
    compiles: options.Compile = False,
    rows: Annotated[
        Path | None,
        typer.Option("--input", help='Many prompts instead, a line of JSON each: {"prompt": ..., "images": [...]}'),
    ] = None,
    together: Annotated[int, typer.Option(min=1, help="Rows of --input that are answered at once.")] = 8,
    output: Annotated[
        str, typer.Option(help="page.html, document.json, or - for JSON on stdout; answers.jsonl for --input.")
    ] = "",
) -> None:
    """Answer one prompt with words and pictures, or every row of a file."""
    if (prompt is None) == (rows is None):
        raise typer.BadParameter("expected --prompt or --input, one of them")
    size_of(size)
    settings = Settings(
        seed=seed,
        pictures=pictures,
        guidance_scale=guidance_scale,
        guidance_rescale=guidance_rescale,
        negative=negative,
        steps=steps,
        sampler=sampler,
        size=size,
        best_of=best_of,
        scorer=scorer,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        beams=beams,
    )
    opened = functools.partial(open_engine, model, device=device, weights=weights, compiles=compiles)
    if rows is not None:
        if image:
            raise ValueError("--image with --input\nhint: rows name their own pictures, under `images`")
        _answer_file(rows, settings, model=model, opened=opened, together=together, output=output or "answers.jsonl")
    else:
        assert prompt is not None, "one of the two is given"
        _answer(prompt, image or [], settings, model=model, opened=opened, output=output or "limner.html")


def _answer(
    prompt: str, image: list[Path], settings: Settings, *, model: str, opened: Callable[[], "Engine"], output: str
) -> None:
    require_text(prompt, option="--prompt")
    images = [Image.from_path(path) for path in image]
    for shown in images:
        shown.pil()  # a damaged file fails here, before a model is loaded
    target = None if output == "-" else require_page_path(Path(output))
    engine = opened()
    request = settings.request(Document.chat([("user", [*images, prompt])]), model=engine.model)
    started = time.perf_counter()
    document = engine.run([request], on_event=streaming(_to_stderr))[0]
    seconds = time.perf_counter() - started
    print(f"\n({seconds:.1f} s)", file=sys.stderr)
    if target is None:
        print(json.dumps(document.to_json(), ensure_ascii=False))
        return
    footer = f"Made by {Path(model).name} with seed {settings.seed} in {seconds:.1f} s."
    write_document(document, target, title=_title(prompt), footer=footer)
    print(target)


def _answer_file(
    path: Path, settings: Settings, *, model: str, opened: Callable[[], "Engine"], together: int, output: str
) -> None:
    target, bad = require_rows_path(Path(output)), Bad()
    if target.resolve() == path.resolve():
        raise ValueError(f"--input and --output are one file: `{path}`\nhint: give another --output")
    asked = read_rows(path, settings, model=model, bad=bad)
    done = answered(target, asked)
    left = [row for row in asked if row.line not in done]
    if left:
        engine = opened()
        with target.open("a", encoding="utf-8") as stream:
            answer_rows(engine, left, num_together=together, output=stream, bad=bad)
    print(target)
    if bad.lines:
        first = ", ".join(str(line) for line in sorted(bad.lines)[:5])
        raise ValueError(
            f"{len(bad.lines)} rows of `{path}` have no answer: lines {first}{' ...' if len(bad.lines) > 5 else ''}\n"
            "hint: mend them and run the same again; what is answered is not asked again"
        )


def _to_stderr(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _title(prompt: str) -> str:
    words = " ".join(prompt.split())
    return words if len(words) <= 60 else words[:60].rsplit(" ", 1)[0] + " ..."
