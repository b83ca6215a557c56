"""The server, asked by OpenAI's own client and by clients that mean no good."""

import base64
import http.client
import io
import json
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import openai
import PIL.Image
import pytest
from openai import OpenAI
from served import posted
from tiny import picture

from limner.document.document import Document, Media
from limner.document.media import Image
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.serve.runtime import Runtime

QUICK = {"image": {"num_inference_steps": 2, "guidance_scale": 2.0}}


def chat(client: OpenAI, content: Any = "What?", *, tokens: int = 6, **extra: Any) -> Any:
    return client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": content}], max_completion_tokens=tokens,
        seed=7, extra_body=QUICK | extra,
    )  # fmt: skip


def said_by(engine: Engine, content: list, *, pictures: Pictures, tokens: int = 6) -> Document:
    request = Request(
        Document.chat([("user", content)]), max_new_tokens=tokens, pictures=pictures, guidance_scale=2.0,
        num_inference_steps=2, seed=7,
    )  # fmt: skip
    return engine.run([request])[0]


def test_the_client_gets_what_the_engine_says(client: OpenAI, engine: Engine) -> None:
    answer = chat(client, pictures="none")
    expected = said_by(engine, ["What?"], pictures=Pictures.NONE)
    assert answer.choices[0].message.content == expected.messages[-1].text
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.completion_tokens == 6
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 6


def test_text_and_pictures_come_in_their_order(client: OpenAI, engine: Engine) -> None:
    answer = chat(client, pictures="now")
    parts = answer.choices[0].message.parts
    expected = said_by(engine, ["What?"], pictures=Pictures.NOW).messages[-1].parts
    assert [part["type"] for part in parts] == ["image_url" if isinstance(p, Media) else "text" for p in expected]
    assert [part["id"] for part in parts] == [f"part-{number}" for number in range(len(parts))]
    drawn = Image.from_data_url(parts[0]["image_url"]["url"])
    assert drawn.pil().tobytes() == expected[0].content.pil().tobytes()
    assert answer.usage.images == sum(isinstance(part, Media) for part in expected)


def test_a_stream_folds_into_the_whole(client: OpenAI) -> None:
    whole = chat(client, pictures="now")
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "What?"}], max_completion_tokens=6, seed=7, stream=True,
        stream_options={"include_usage": True}, extra_body=QUICK | {"pictures": "now"},
    )  # fmt: skip
    text, kinds, usage, pictures = "", [], None, []
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            part = getattr(choice.delta, "part", None)
            if part:
                kinds.append(part["type"])
                pictures += [part["image_url"]["url"]] if part["type"] == "image_url" else []
    assert text == whole.choices[0].message.content
    assert usage == whole.usage
    assert kinds[:4] == ["image_started", "progress", "progress", "image_url"]
    assert pictures == [p["image_url"]["url"] for p in whole.choices[0].message.parts if p["type"] == "image_url"]


def test_a_shown_picture_and_an_earlier_answer_are_read(client: OpenAI) -> None:
    shown = {"type": "image_url", "image_url": {"url": picture("red").data_url()}}
    other = {"type": "image_url", "image_url": {"url": picture("blue").data_url()}}
    text = {"type": "text", "text": "What is it?"}
    red, blue = (chat(client, [one, text], pictures="none", tokens=12) for one in (shown, other))
    assert red.usage.prompt_tokens == blue.usage.prompt_tokens
    first = chat(client, pictures="now").choices[0].message
    again = client.chat.completions.create(
        model="tiny", seed=7, max_completion_tokens=4,
        messages=[
            {"role": "user", "content": "What?"},
            {"role": "assistant", "content": first.content, "parts": first.parts},
            {"role": "user", "content": "More."},
        ],
        extra_body=QUICK | {"pictures": "none"},
    )  # fmt: skip
    assert again.usage.prompt_tokens > chat(client, pictures="none").usage.prompt_tokens


def test_pictures_of_a_prompt(client: OpenAI, engine: Engine) -> None:
    answer = client.images.generate(model="tiny", prompt="What?", n=2, extra_body={"seed": 7} | QUICK)
    made = [PIL.Image.open(io.BytesIO(base64.b64decode(one.b64_json))) for one in answer.data]
    expected = said_by(engine, ["What?"], pictures=Pictures.NOW).messages[-1].parts[0]
    assert made[0].convert("RGB").tobytes() == expected.content.pil().tobytes()
    assert made[0].tobytes() != made[1].tobytes()


def test_alone_or_among_many_an_answer_is_the_same(client: OpenAI) -> None:
    """Guidance included: were it dropped under load, the pictures would differ."""
    asked = [("What?", "none"), ("Draw!", "now"), ("Tell.", "auto"), ("A longer question, is it?", "now")] * 4
    alone = [chat(client, text, pictures=mode).choices[0].message.parts for text, mode in asked[:4]]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda one: chat(client, one[0], pictures=one[1]), asked))
    for place, answer in enumerate(together):
        same_parts(answer.choices[0].message.parts, alone[place % 4])


def same_parts(one: list[dict], other: list[dict]) -> None:
    """The same text, and the first picture to a level of rounding. Later ones follow from what was rounded before:
    a level there may be several."""
    assert [part.get("text") for part in one] == [part.get("text") for part in other]
    pairs = [pair for pair in zip(one, other, strict=True) if pair[0]["type"] == "image_url"]
    for number, pair in enumerate(pairs):
        mine, theirs = (numpy.asarray(Image.from_data_url(p["image_url"]["url"]).pil(), dtype=int) for p in pair)
        assert abs(mine - theirs).max() <= (1 if number == 0 else 8)


def test_models_health_and_metrics(client: OpenAI, address: str) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    with urllib.request.urlopen(f"{address}/health") as response:
        assert json.load(response)["status"] == "ok"
    request = urllib.request.Request(f"{address}/metrics", headers={"Authorization": "Bearer secret"})
    with urllib.request.urlopen(request) as response:
        assert "limner_requests_total" in response.read().decode()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"temperature": -1}, "temperature"),
        ({"pictures": "maybe"}, "pictures"),
        ({"wisdom": 3}, "wisdom"),
        ({"stop": ["x"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"n": 2}, "n"),
        ({"image": {"guidance_scale": 0.5}}, "image.guidance_scale"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(client: OpenAI, extra: dict, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, **extra)
    assert refused.value.body["param"] == message
    assert refused.value.body["type"] == "invalid_request_error"


def big_png() -> bytes:
    stream = io.BytesIO()
    PIL.Image.new("L", (3000, 3000)).save(stream, "PNG")
    return stream.getvalue()


def big_picture() -> str:
    return "data:image/png;base64," + base64.b64encode(big_png()).decode()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"temperature": -1}, "`temperature` is `-1`; expected at least 0"),
        ({"pictures": "maybe"}, "`pictures` is `maybe`; expected 'auto', 'none' or 'now'"),
        ({"sede": 3}, "no field `sede` (hint: did you mean `seed`?)"),
        ({"messages": []}, "`messages` is a list; expected at least 1 of them"),
        ({"messages": [{"role": "user", "content": [{"type": "film"}]}]}, "`messages[0].content[0]` is an object"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "`messages[0].content[0].text` is missing"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "`messages[0].content` is"),
    ],
)
def test_errors_are_one_line_with_the_field_and_a_hint(address: str, extra: dict, message: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}]} | extra
    status, told = posted(f"{address}/v1/chat/completions", body, key="secret")
    assert status == 400
    assert told["error"]["message"].startswith(message)
    assert "(hint: " in told["error"]["message"]
    assert "\n" not in told["error"]["message"]


def test_a_stop_string_ends_the_answer_before_it(client: OpenAI) -> None:
    whole = chat(client, pictures="none", tokens=24).choices[0].message.content
    stop = whole[4:6]
    for given in (stop, ["never said", stop]):
        cut = chat(client, pictures="none", tokens=24, stop=given).choices[0]
        assert cut.message.content == whole[: whole.index(stop)]
        assert cut.finish_reason == "stop"


def png(colour: str, *, size: tuple[int, int] = (32, 32)) -> bytes:
    return picture(colour, size=size).data


def drawn(answer: Any) -> list[bytes]:
    return [PIL.Image.open(io.BytesIO(base64.b64decode(one.b64_json))).convert("RGB").tobytes() for one in answer.data]


def test_an_edit_draws_what_is_asked_for_with_pictures_shown(client: OpenAI, engine: Engine) -> None:
    quick = {"seed": 7, "num_inference_steps": 2, "guidance_scale": 2.0}
    made = drawn(client.images.edit(image=png("red"), prompt="What?", model="tiny", n=2, extra_body=quick))
    expected = said_by(engine, [picture("red"), "What?"], pictures=Pictures.NOW).messages[-1].parts[0]
    assert made[0] == expected.content.pil().tobytes()
    assert made[0] != made[1]
    other = drawn(client.images.edit(image=png("blue"), prompt="What?", model="tiny", extra_body=quick))
    both = drawn(client.images.edit(image=[png("red"), png("blue")], prompt="What?", model="tiny", extra_body=quick))
    assert len({made[0], other[0], both[0]}) == 3


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # by OpenAI, not by others who speak its form
def test_a_variation_is_drawn_after_its_picture(client: OpenAI) -> None:
    quick = {"seed": 7, "num_inference_steps": 2}
    red, blue = (drawn(client.images.create_variation(image=png(one), extra_body=quick)) for one in ("red", "blue"))
    assert red != blue


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ({"image": b"no picture"}, "image", "is not a picture"),
        ({"image": big_png(), "size": "32x32"}, "image", "3000x3000"),
        ({"image": [png("red"), b"no"]}, "image[1]", "is not a picture"),
        ({"image": png("red"), "mask": png("red")}, "mask", "no field `mask`"),
        ({"image": png("red"), "size": "9984x9984"}, "size", "most are"),
        ({"image": png("red"), "n": 11}, "n", "at most 10"),
    ],
)
def test_bad_edits_are_refused_by_name(client: OpenAI, given: dict, param: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=re.escape(message)) as refused:
        client.images.edit(prompt="x", model="tiny", **given)
    assert refused.value.body["param"] == param


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.com/a.png", "fetches nothing"),
        ("data:image/png;base64,!!!!", "messages[0].content[0]"),
        ("data:image/png;base64," + base64.b64encode(b"no picture").decode(), "messages[0].content[0]"),
        (big_picture(), "3000x3000"),
        ("data:image/png;base64," + "A" * 300_000, "200000 bytes"),
    ],
)
def test_bad_pictures_are_refused_with_their_place(client: OpenAI, url: str, message: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        chat(client, [{"type": "image_url", "image_url": {"url": url}}])
    told = f"{refused.value.body['message']} {refused.value.body['param']}"
    assert message in told
    assert "Traceback" not in told


def test_one_request_that_asks_for_too_much_harms_no_other(client: OpenAI) -> None:
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(chat, client, pictures="none", tokens=40) for _ in range(2)]
        with pytest.raises(openai.BadRequestError, match="temperature"):
            client.chat.completions.create(
                model="tiny", messages=[{"role": "user", "content": "x"}], temperature=1e-40, max_completion_tokens=4
            )
        with pytest.raises(openai.BadRequestError, match=r"most are \d+ in all"):
            client.images.generate(model="tiny", prompt="x", size="9984x9984")
        long = picture("red", size=(1, 4000)).data_url()
        with pytest.raises(openai.BadRequestError, match="as long as wide"):
            chat(client, [{"type": "image_url", "image_url": {"url": long}}])
        assert len({answer.result().choices[0].message.content for answer in good}) == 1


def test_a_prompt_that_leaves_no_room_for_the_picture_asked_for_is_refused(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="a picture takes"):
        client.images.generate(model="tiny", prompt="x" * 225)


def test_a_prompt_that_is_too_long_is_refused_and_others_go_on(client: OpenAI) -> None:
    with ThreadPoolExecutor(4) as pool:
        good = [pool.submit(chat, client, pictures="none") for _ in range(3)]
        with pytest.raises(openai.BadRequestError, match="the context holds"):
            chat(client, "word " * 2000)
        assert len({answer.result().choices[0].message.content for answer in good}) == 1


def test_keys_models_and_bodies_are_checked(client: OpenAI, address: str) -> None:
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.NotFoundError, match="this server has `tiny`"):
        client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": "x"}])
    assert _status(address, b"{not json") == 400
    assert _status(address, b"[]") == 400
    assert _status(address, b"{}", length=1_000_001) == 413
    assert _status(address, b"{}", chunked=True) == 411


def _status(address: str, body: bytes, *, length: int | None = None, chunked: bool = False) -> int:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=30)
    connection.putrequest("POST", "/v1/chat/completions")
    for name, value in (("Authorization", "Bearer secret"), ("Content-Type", "application/json")):
        connection.putheader(name, value)
    connection.putheader("Content-Length", str(len(body) if length is None else length))
    if chunked:
        connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders(body)
    response = connection.getresponse()
    assert set(json.load(response)) == {"error"}
    connection.close()
    return response.status


def test_a_client_that_leaves_frees_its_row(client: OpenAI, runtime: Runtime) -> None:
    stream = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "What?"}], max_completion_tokens=400, stream=True,
        extra_body=QUICK | {"pictures": "none"},
    )  # fmt: skip
    next(iter(stream))
    stream.close()
    deadline = time.monotonic() + 20
    while runtime.load.running and time.monotonic() < deadline:
        time.sleep(0.05)
    assert runtime.load.running == 0
