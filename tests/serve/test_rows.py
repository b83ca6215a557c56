"""POST /generate: the recorded answers, many clients at once, and what is refused."""

import base64
import functools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from served import posted, serving
from tiny import picture, tiny_model

from limner.compositions.multi_token_checkpoint import merged
from limner.document.document import Document
from limner.document.media import Image
from limner.evaluate.golden.multi_token_files import Files
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.serve.app import create_app
from limner.serve.fetch import Fetched, Fetching
from limner.serve.openai import Limits
from limner.serve.rows import Rows, RowSettings, placeholders_of
from limner.serve.runtime import Runtime
from limner.serve.service import Settings

GOLDEN = Path(__file__).parents[1] / "golden" / "multi_token"
CASES = json.loads((GOLDEN / "serve" / "cases.json").read_text())["cases"]
QUICK = ("toy_finetune", "vision_clip_pool", "mix_vision_speech")
ANSWERED = sorted({case["checkpoint"].rpartition("/")[2] for case in CASES if "response" in case})
LIMITS = Limits(max_media=6, max_media_bytes=200_000, max_pixels=1_000_000)

pytestmark = pytest.mark.filterwarnings("ignore:Token indices sequence length")


def application(engine: Engine, **settings: Any):
    rows = Rows(placeholders_of(engine.model), settings=RowSettings(limits=LIMITS, **settings))
    return create_app(Runtime(engine, num_rows=8), settings=Settings("rows"), rows=rows)


@functools.cache
def golden_engine(checkpoint: str) -> Engine:
    return Engine(merged(Files(GOLDEN).checkpoint(f"checkpoints/{checkpoint}")))


@pytest.fixture(scope="module")
def toys() -> Iterator[str]:
    """A server of the checkpoint whose items are numbers."""
    with serving(application(golden_engine("toy_finetune"), max_new_tokens=24)) as address:
        yield address


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Iterator[str]:
    """A server of a tiny model that reads and draws, with a folder of media, fetching from public addresses."""
    root = tmp_path_factory.mktemp("files") / "media"
    root.mkdir()
    (root / "red.png").write_bytes(picture("red").data)
    (root.parent / "secret.png").write_bytes(picture("red").data)
    (root / "way_out.png").symlink_to(root.parent / "secret.png")
    (root / "large.png").write_bytes(b"0" * 200_001)
    engine = Engine(tiny_model(), context_length=512)
    with serving(application(engine, max_new_tokens=8, media_root=root, fetching=Fetching())) as address:
        yield address


def of(checkpoint: str) -> list[dict]:
    return [c for c in CASES if c["checkpoint"] == f"checkpoints/{checkpoint}" and "response" in c]


@pytest.mark.parametrize(
    "checkpoint", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ANSWERED]
)
def test_eight_clients_at_once_get_the_recorded_answers(checkpoint: str) -> None:
    cases = (of(checkpoint) * 8)[:8]
    served = serving(application(golden_engine(checkpoint), max_new_tokens=24, media_root=GOLDEN))
    with served as address, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda case: posted(f"{address}/generate", case["request"]), cases))
    assert answers == [(200, case["response"]) for case in cases]


def test_what_the_original_failed_on_is_told_in_one_line() -> None:
    failed = [case for case in CASES if "problem" in case]
    engine = golden_engine("vision_clip_pool")
    with serving(application(engine, max_new_tokens=4, media_root=GOLDEN)) as address:
        for case in failed:
            status, body = posted(f"{address}/generate", case["request"])
            # Without any placeholder, a row without items is a question like any other.
            asked = "".join(message["content"] for message in case["request"].get("messages", []))
            assert status == (400 if "<image>" in asked or not asked else 200), case["problem"]
            assert status == 200 or "\n" not in body["error"]["message"]


def test_keys_of_others_are_left_alone_and_lists_may_be_missing(toys: str) -> None:
    row = {"messages": [{"role": "user", "content": "What is a cloud?"}], "id": 7, "images": ["file:///etc/passwd"]}
    status, body = posted(f"{toys}/generate", row)
    assert (status, set(body)) == (200, {"output"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "judge", "content": "<toy>"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
        ({"messages": [{"role": "assistant", "content": "Yes."}]}, "not the user's"),
        ({"toys": "one"}, "list of items"),
        ({"toys": []}, "without an item"),
        ({"toys": [[0.0] * 5] * 2}, "have no <toy>"),
        ({"toys": [[0.0] * 4]}, "has the shape"),
        ({"toys": [[0.0, [1.0]]]}, "array of numbers"),
        ({"toys": [["a"] * 5]}, "array of numbers"),
        ({"toys": [[float("nan")] * 5]}, "no numbers"),
        ({"toys": [None]}, "array of numbers"),
        ({"toys": [[0.0] * 5] * 7}, "more than 6 items"),
        ({"toys": ["/etc/passwd"]}, "reads no files"),
        ({"toys": [{"path": "/etc/passwd"}]}, "reads no files"),
        ({"toys": ["http://127.0.0.1/a.npy"]}, "fetches nothing"),
        ({"toys": ["data:application/x-npy;base64,AAAA"]}, "cannot be read as numbers"),
    ],
)
def test_rows_that_cannot_be_answered_are_refused_by_name(toys: str, change: dict, message: str) -> None:
    row = {"messages": [{"role": "user", "content": "Describe <toy>."}], "toys": [[0.0] * 5]} | change
    status, body = posted(f"{toys}/generate", row)
    told = f"{body['error']['message']} {body['error']['param']}"
    assert status == 400
    assert message in told
    assert "\n" not in told


def test_a_bad_row_among_good_ones_fails_alone(toys: str) -> None:
    good, bad = of("toy_finetune")[0], {"messages": [{"role": "user", "content": "<toy>"}], "toys": [[0.0] * 4]}
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda row: posted(f"{toys}/generate", row), [good["request"], bad, good["request"], bad])
        )
    assert [status for status, _ in found] == [200, 400, 200, 400]
    assert found[0][1] == found[2][1] == good["response"]


def red_row(item: Any) -> dict:
    return {"messages": [{"role": "user", "content": "Name <image>."}], "images": [item]}


def test_a_model_that_reads_pictures_has_the_route_too(pictures: str) -> None:
    engine = Engine(tiny_model(), context_length=512)
    asked = Document.chat([("user", ["Name ", picture("red"), "."])])
    expected = engine.run([Request(asked, max_new_tokens=8, pictures=Pictures.NONE)])[0].messages[-1].text.strip()
    for item in (picture("red").data_url(), "red.png", {"path": "red.png"}):
        assert posted(f"{pictures}/generate", red_row(item)) == (200, {"output": expected})


def big() -> str:
    import numpy

    return Image.from_array(numpy.zeros((1001, 1000, 3), "uint8")).data_url()


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("../secret.png", "no file"),
        ("/etc/passwd", "no file"),
        ("way_out.png", "no file"),
        (".", "no file"),
        ("a\0b.png", "null"),
        ("x" * 5000, "no file"),
        ("large.png", "200001 bytes"),
        (big(), "1000x1001 pixels"),
        ("data:image/png;base64," + "A" * 300_000, "200000 bytes"),
        ("data:image/png;base64," + base64.b64encode(b"no picture").decode(), "not a picture"),
        ({"bytes": "no"}, "expected a data URL, a path or numbers"),
        ({"path": "/etc/hostname", "array": [0]}, "no file"),
        (7, "expected a path or its bytes"),
        ("file:///etc/passwd", "expected http"),
        ("http://127.0.0.1:80/a.png", "public address"),
        ("http://169.254.169.254/latest/meta-data/", "public address"),
        ("https://localhost/a.png", "public address"),
    ],
)
def test_items_from_where_they_must_not_come_are_refused(pictures: str, item: Any, message: str) -> None:
    status, body = posted(f"{pictures}/generate", red_row(item))
    assert status == 400
    assert message in body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    assert "secret" not in body["error"]["message"] or "secret" in str(item)


def test_a_sound_of_numbers_needs_its_rate() -> None:
    from limner.document.rows import read_audio

    with pytest.raises(ValueError, match="sampling_rate"):
        read_audio({"array": [0.0, 0.1]}, Path())
    with pytest.raises(ValueError, match="sampling_rate"):
        read_audio({"array": [0.0, 0.1], "sampling_rate": 10**12}, Path())
    assert read_audio({"array": [0.0] * 8000, "sampling_rate": 16000}, Path()).seconds == 0.5


def test_many_slow_addresses_take_no_longer_than_one(monkeypatch) -> None:
    from limner.serve import rows as module

    given: list[float] = []

    def fetched(url: str, *, types: Any, fetching: Fetching) -> Any:
        given.append(fetching.timeout)
        time.sleep(0.2)
        return Fetched(picture("red").data, "red.png")

    monkeypatch.setattr(module, "fetch", fetched)
    settings = RowSettings(limits=LIMITS, fetching=Fetching(timeout=2.0))
    rows = Rows(placeholders_of(tiny_model()), settings=settings)
    body = module.RowBody(messages=[{"role": "user", "content": "<image><image>"}], images=["http://a/", "http://b/"])
    assert len(list(rows.request(body).document.media())) == 2
    assert given[0] <= 2.0
    assert given[1] <= given[0] - 0.2
