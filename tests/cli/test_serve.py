"""`limner serve` as a process: answers, drains on SIGTERM, ends well."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request

import pytest

from limner.cli.serve import command


def test_a_process_answers_and_finishes_what_runs_before_it_ends(checkpoint):
    environment = os.environ | {"LIMNER_API_KEYS": "one,two", "PYTHONUNBUFFERED": "1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "limner.cli.main", "serve", str(checkpoint), "--port", "0", "--rows", "2"],
        stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        address = next(found[0] for line in server.stderr if (found := re.search(r"http://[\d.]+:\d+", line)))
        reading = threading.Thread(target=server.stderr.read, daemon=True)
        reading.start()
        body = {
            "messages": [{"role": "user", "content": "What?"}],
            "max_tokens": 150,
            "stream": True,
            "pictures": "none",
        }
        request = urllib.request.Request(
            f"{address}/v1/chat/completions", data=json.dumps(body).encode(),
            headers={"Authorization": "Bearer two", "Content-Type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(request, timeout=60) as response:
            first = response.readline()
            server.send_signal(signal.SIGTERM)
            rest = response.read().decode()
        assert first.startswith(b"data: ")
        assert rest.rstrip().endswith("data: [DONE]")
        assert '"finish_reason": "' in rest
        assert server.wait(60) in (0, -signal.SIGTERM)
        reading.join(10)
    finally:
        server.kill()
        server.wait(10)
        server.stderr.close()


def test_rows_are_answered_as_the_options_say(checkpoint, tmp_path, monkeypatch):
    import uvicorn
    from served import posted, serving
    from tiny import picture

    served = []
    monkeypatch.setattr(uvicorn.Server, "run", lambda server: served.append(server.config.app))
    (tmp_path / "red.png").write_bytes(picture("red").data)
    command(str(checkpoint), media_root=tmp_path, fetch_media=True, max_new_tokens=4, api_key=[])
    monkeypatch.undo()
    row = {"messages": [{"role": "user", "content": "<image>?"}]}
    with serving(served[0]) as address:
        status, body = posted(f"{address}/generate", row | {"images": ["red.png"]})
        assert (status, set(body)) == (200, {"output"})
        assert posted(f"{address}/generate", row | {"images": ["http://127.0.0.1/"]})[0] == 400


def test_networks_are_checked_before_anything_is_loaded():
    with pytest.raises(ValueError, match=r"without --fetch-media\nhint: "):
        command("nothing", fetch_network=["10.0.0.0/8"])
    with pytest.raises(ValueError, match=r"is no network.*\nhint: "):
        command("nothing", fetch_media=True, fetch_network=["10.0.0.300"])
