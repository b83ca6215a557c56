"""`limner serve`: the engine behind HTTP."""

import os
from typing import Annotated

import typer

from limner.cli import options
from limner.cli.loading import STDERR, open_engine


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
    device: options.DeviceOption = options.Device.AUTO,
) -> None:
    """Serve OpenAI's chat and image routes. SIGTERM lets what runs finish, then ends."""
    try:
        import uvicorn

        from limner.serve.app import Settings, create_app
        from limner.serve.runtime import Runtime
    except ModuleNotFoundError as error:
        raise ValueError(f"serving needs `{error.name}`\nhint: pip install 'limner[serve]'") from error

    keys = [*(api_key or ()), *(key for key in os.environ.get("LIMNER_API_KEYS", "").split(",") if key)]
    engine = open_engine(model, device=device)
    runtime = Runtime(engine, num_rows=rows, max_waiting=max_waiting)
    settings = Settings(model.rstrip("/").rpartition("/")[2], api_keys=tuple(keys))
    if host not in ("127.0.0.1", "localhost", "::1") and not keys:
        STDERR.print("anybody who reaches this port may use the model: --api-key NAME lets in only who knows it")
    config = uvicorn.Config(
        create_app(runtime, settings=settings), host=host, port=port, log_level="info", access_log=False
    )
    uvicorn.Server(config).run()
