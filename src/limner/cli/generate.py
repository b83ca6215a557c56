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
    steps: options.Steps = 24,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    max_new_tokens: options.MaxNewTokens = 256,
    device: options.DeviceOption = options.Device.AUTO,
    output: Annotated[str, typer.Option(help="page.html, document.json, or - for JSON on stdout.")] = "limner.html",
) -> None:
    """Answer one prompt with words and pictures."""
    require_text(prompt, option="--prompt")
    images = [Image.from_path(path) for path in image or []]
    for shown in images:
        shown.pil()  # a damaged file fails here, before a model is loaded
    target = None if output == "-" else require_page_path(Path(output))
    engine = open_engine(model, device=device)

    from limner.generate.request import Pictures, Request
    from limner.generate.sampling import Sampling

    request = Request(
        Document.chat([("user", [*images, prompt])]),
        max_new_tokens=max_new_tokens,
        sampling=Sampling(temperature=temperature, top_p=top_p),
        pictures=Pictures(pictures),
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        seed=seed,
    )
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
