"""`limner generate`: one prompt, one reply, as a page or as JSON."""

import json
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from limner.cli import options
from limner.cli.files import require_page_path, require_text, write_document
from limner.cli.loading import open_engine
from limner.cli.progress import streaming
from limner.cli.settings import Settings, size_of
from limner.document.document import Document
from limner.document.media import Image


def command(
    model: options.Model,
    prompt: Annotated[str, typer.Option(help="What to describe, draw or tell.")],
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
    output: Annotated[str, typer.Option(help="page.html, document.json, or - for JSON on stdout.")] = "limner.html",
) -> None:
    """Answer one prompt with words and pictures."""
    require_text(prompt, option="--prompt")
    images = [Image.from_path(path) for path in image or []]
    for shown in images:
        shown.pil()  # a damaged file fails here, before a model is loaded
    target = None if output == "-" else require_page_path(Path(output))
    size_of(size)
    engine = open_engine(model, device=device)
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
    request = settings.request(Document.chat([("user", [*images, prompt])]), model=engine.model)
    started = time.perf_counter()
    document = engine.run([request], on_event=streaming(_to_stderr))[0]
    seconds = time.perf_counter() - started
    print(f"\n({seconds:.1f} s)", file=sys.stderr)
    if target is None:
        print(json.dumps(document.to_json(), ensure_ascii=False))
        return
    footer = f"Made by {Path(model).name} with seed {seed} in {seconds:.1f} s."
    write_document(document, target, title=_title(prompt), footer=footer)
    print(target)


def _to_stderr(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _title(prompt: str) -> str:
    words = " ".join(prompt.split())
    return words if len(words) <= 60 else words[:60].rsplit(" ", 1)[0] + " ..."
