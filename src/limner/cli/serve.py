"""`limner serve`: the engine behind HTTP."""

import ipaddress
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from limner.cli import options
from limner.cli.loading import STDERR, open_engine

MOST_TIMES_TRAINED = 16
"""Pixels of a picture that may be asked for, over those that the decoder was trained for."""


def command(
    model: options.Model,
    host: Annotated[str, typer.Option(help="Where to listen; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 8000,
    rows: Annotated[int, typer.Option(min=1, help="Requests that run at once.")] = 16,
    max_waiting: Annotated[int, typer.Option(min=0, help="Requests that may wait; more are told to come again.")] = 64,
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
    device: options.DeviceOption = options.Device.AUTO,
) -> None:
    """Serve OpenAI's chat and image routes, and rows at /generate. SIGTERM lets what runs finish, then ends."""
    try:
        import uvicorn

        from limner.serve.app import Settings, create_app
        from limner.serve.fetch import Fetching
        from limner.serve.openai import Limits
        from limner.serve.rows import Rows, RowSettings, placeholders_of
        from limner.serve.runtime import Runtime
    except ModuleNotFoundError as error:
        raise ValueError(f"serving needs `{error.name}`\nhint: pip install 'limner[serve]'") from error

    if fetch_network and not fetch_media:
        raise ValueError(
            "--fetch-network without --fetch-media\nhint: give both; nothing is fetched without the latter"
        )
    fetching = Fetching(networks=networks(fetch_network or ())) if fetch_media else None
    keys = [*(api_key or ()), *(key for key in os.environ.get("LIMNER_API_KEYS", "").split(",") if key)]
    engine = open_engine(model, device=device)
    runtime = Runtime(engine, num_rows=rows, max_waiting=max_waiting)
    # A picture is drawn within one step, for which all others wait.
    makers = [engine.model.modality(name).maker for name in engine.model.modalities]
    areas = [math.prod(maker.decoder.target_size) for maker in makers if maker is not None]
    limits = Limits(max_drawn_pixels=MOST_TIMES_TRAINED * max(areas, default=0))
    settings = Settings(model.rstrip("/").rpartition("/")[2], api_keys=tuple(keys), limits=limits)
    if host not in ("127.0.0.1", "localhost", "::1") and not keys:
        STDERR.print("anybody who reaches this port may use the model: --api-key NAME lets in only who knows it")
    answering = RowSettings(max_new_tokens=max_new_tokens, media_root=media_root, fetching=fetching)
    rows_of_data = Rows(placeholders_of(engine.model), settings=answering)
    config = uvicorn.Config(
        create_app(runtime, settings=settings, rows=rows_of_data),
        host=host,
        port=port,
        log_level="info",
        access_log=False,
    )
    uvicorn.Server(config).run()


def networks(given: Sequence[str]) -> tuple[str, ...]:
    """Networks as they were given. Raises ValueError for what is none."""
    for network in given:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ValueError(f"`{network}` is no network ({error})\nhint: write 10.1.0.0/16 or 10.1.2.3") from error
    return tuple(given)
