"""`limner serve`: the engine behind HTTP."""

import contextlib
import ipaddress
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.cli import options
from limner.cli.loading import STDERR, locate_checkpoint, open_engine

if TYPE_CHECKING:
    from fastapi import FastAPI

    from limner.model.multimodal import MultimodalLM
    from limner.serve.rows import RowSettings

MOST_TIMES_TRAINED = 16
"""Pixels of a picture that may be asked for, over those that the decoder was trained for."""
PAGE_GRACE = 60
"""Seconds that answers have to end when a server with a page is to."""


def command(
    model: options.Model,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    rows: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 16,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are told to come again.")] = 64,
    token_budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most tokens that requests which run at once may come to hold, with all their pictures; else any.",
        ),
    ] = None,
    api_key: Annotated[
        list[str] | None,
        typer.Option(help="A key that lets in; may be repeated. LIMNER_API_KEYS holds more, separated by commas."),
    ] = None,
    media_root: Annotated[
        Path | None,
        typer.Option(file_okay=False, exists=True, help="A folder whose files rows sent to /generate may name."),
    ] = None,
    fetch_media: Annotated[
        bool, typer.Option("--fetch-media", help="Let rows name http(s) addresses, public ones only.")
    ] = False,
    fetch_network: Annotated[
        list[str] | None,
        typer.Option(
            help="A network that is not public and may be fetched from, such as 10.1.0.0/16; may be repeated."
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of an answer to /generate.")] = 128,
    ui: Annotated[
        bool, typer.Option("--ui", help="A chat page besides, at /ui; with keys, they are its password.")
    ] = False,
    device: options.DeviceOption = options.Device.AUTO,
    weights: options.WeightsOption = options.Weights.EXACT,
    compiles: options.Compile = False,
) -> None:
    """Serve OpenAI's chat and image routes, and rows at /generate. SIGTERM lets what runs finish, then ends."""
    if fetch_network and not fetch_media:
        raise ValueError(
            "--fetch-network without --fetch-media\nhint: give both; nothing is fetched without the latter"
        )
    allowed = networks(fetch_network or ())
    keys = [*(api_key or ()), *(key for key in os.environ.get("LIMNER_API_KEYS", "").split(",") if key)]
    with _installed():
        import uvicorn

        from limner.serve.fetch import Fetching
        from limner.serve.rows import RowSettings

    fetching = Fetching(networks=allowed) if fetch_media else None
    answering = RowSettings(max_new_tokens=max_new_tokens, media_root=media_root, fetching=fetching)
    app = application(
        model,
        rows=rows,
        max_waiting=max_waiting,
        token_budget=token_budget,
        api_keys=keys,
        answering=answering,
        ui=ui,
        device=device,
        weights=weights,
        compiles=compiles,
    )
    if host not in ("127.0.0.1", "localhost", "::1") and not keys:
        STDERR.print("anybody who reaches this port may use the model: --api-key NAME lets in only who knows it")
    STDERR.print("routes: " + ", ".join(routes_of(app)), soft_wrap=True, highlight=False)
    # Browsers keep a connection open for as long as they show the page.
    grace = PAGE_GRACE if ui else None
    config = uvicorn.Config(
        app, host=host, port=port, log_level="info", access_log=False, timeout_graceful_shutdown=grace
    )
    uvicorn.Server(config).run()


def application(
    model: str,
    *,
    rows: int = 16,
    max_waiting: int = 64,
    token_budget: int | None = None,
    api_keys: Sequence[str] = (),
    answering: "RowSettings | None" = None,
    ui: bool = False,
    device: options.Device = options.Device.AUTO,
    weights: options.Weights = options.Weights.EXACT,
    compiles: bool = False,
) -> "FastAPI":
    """What is served, to be run by any ASGI server. Raises ValueError for what is not installed and no such model."""
    with _installed():
        from limner.serve.app import create_app
        from limner.serve.openai import Limits
        from limner.serve.page import PATH, add_page, require_gradio
        from limner.serve.rows import Rows, RowSettings, placeholders_of
        from limner.serve.runtime import Runtime
        from limner.serve.service import Settings

    if ui:
        require_gradio()  # before a model is loaded
    engine = open_engine(model, device=device, weights=weights, compiles=compiles)
    modalities = [engine.model.modality(name) for name in engine.model.modalities]
    areas = [math.prod(part.maker.decoder.target_size) for part in modalities if part.maker is not None]
    areas += [math.prod(part.speller.detokenizer.target_size) for part in modalities if part.speller is not None]
    limits = Limits(max_drawn_pixels=MOST_TIMES_TRAINED * max(areas, default=0))
    settings = Settings(model.rstrip("/").rpartition("/")[2], api_keys=tuple(api_keys), limits=limits)
    rows_of_data = Rows(placeholders_of(engine.model), settings=answering or RowSettings())
    runtime = Runtime(engine, num_rows=rows, max_waiting=max_waiting, token_budget=token_budget)
    app = create_app(runtime, settings=settings, rows=rows_of_data, page=PATH if ui else "")
    if ui:
        add_page(app, hears=hears(engine.model), examples=examples_of(locate_checkpoint(model)))
        STDERR.print(f"the page is at {PATH}")
    return app


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise ValueError(f"serving needs `{error.name}`\nhint: pip install 'limner[serve]'") from error


def routes_of(app: "FastAPI") -> list[str]:
    """Method and path of what is served."""
    routes = [route for route in app.routes if getattr(route, "include_in_schema", False)]
    return [f"{min(route.methods)} {route.path}" for route in routes]  # pyright: ignore[reportAttributeAccessIssue]


def hears(model: "MultimodalLM") -> bool:
    """Whether a model reads sounds."""
    return "sound" in model.modalities and model.modality("sound").reader is not None


def examples_of(checkpoint: Path) -> list[Path]:
    """Pictures to ask about that came with a model."""
    return sorted((checkpoint / "demo").glob("*.webp"))[:3]


def networks(given: Sequence[str]) -> tuple[str, ...]:
    """Networks as they were given. Raises ValueError for what is none."""
    for network in given:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"`{network}` is no network ({error})\nhint: write 10.1.0.0/16 or 10.1.2.3") from error
    return tuple(given)
