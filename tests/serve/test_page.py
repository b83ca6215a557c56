"""The page without a browser: conversations, their mark-up, and where pictures lie."""

import asyncio
from collections.abc import Iterator

import PIL.Image
import pytest
from tiny import picture

from limner.document.media import Image
from limner.generate.engine import Engine
from limner.serve import page as pages
from limner.serve.openai import Limits
from limner.serve.page import Chat, How, Talk, require_gradio
from limner.serve.page_view import Shelf, part_of_file, shown
from limner.serve.runtime import Runtime
from limner.serve.service import Service, Settings

ASKED = [{"type": "text", "text": "What?"}]
QUICK = How(pictures="now", steps=3)


@pytest.fixture(scope="module")
def service(engine: Engine) -> Iterator[Service]:
    limits = Limits(max_media=1, max_new_tokens=16)
    found = Service(Runtime(engine, num_rows=2), settings=Settings("tiny", limits=limits))
    yield found
    found.close()


def taken(service: Service, talk: Talk, parts: list[dict], how: How) -> list[str]:
    """How the conversation looked, each time that it changed."""

    async def run() -> list[str]:
        shelf = Shelf("/shelf")
        return [shown(talk.messages, shelf=shelf, note=talk.note) async for _ in Chat(service).turn(talk, parts, how)]

    return asyncio.run(run())


def test_an_answer_comes_with_its_progress_and_stays_in_order(service: Service) -> None:
    talk = Talk()
    seen = taken(service, talk, ASKED, QUICK)
    assert "thinking" not in seen[0]
    assert any("step 2 of 3" in one for one in seen)
    assert "<progress" not in seen[-1]
    assert [message["role"] for message in talk.messages] == ["user", "assistant"]
    assert talk.messages[1]["parts"][0]["type"] == "image_url"
    before = [dict(message) for message in talk.messages]
    taken(service, talk, [{"type": "text", "text": "More."}], How(pictures="none"))
    assert talk.messages[:2] == before
    assert len(talk.messages) == 4


def test_what_cannot_be_answered_is_told_and_forgotten(service: Service) -> None:
    talk = Talk()
    shown_twice = [{"type": "image_url", "image_url": {"url": picture(one).data_url()}} for one in ("red", "blue")]
    assert 'role="alert"' in taken(service, talk, [*shown_twice, *ASKED], QUICK)[-1]
    assert talk.messages == []
    taken(service, talk, ASKED, How(steps=0))
    assert "`num_inference_steps` is `0`; expected at least 1" in talk.note
    taken(service, talk, [{"type": "text", "text": "word " * 2000}], QUICK)
    assert "the context holds" in talk.note


@pytest.mark.parametrize("closed", [True, False])
def test_who_stops_an_answer_keeps_what_came_of_it(service: Service, closed: bool) -> None:
    talk = Talk()

    async def run() -> None:
        chat = Chat(service)
        turn = chat.turn(talk, ASKED, How(pictures="now", steps=200))
        async for _ in turn:
            if "step" in shown(talk.messages, shelf=Shelf("")):
                if closed:
                    break
                chat.stop(talk)
        await turn.aclose()

    asyncio.run(run())
    assert not talk.note
    assert talk.messages[-1]["role"] == "assistant"
    assert [part["type"] for part in talk.messages[-1]["parts"]] == ["text"]
    taken(service, talk, ASKED, How(pictures="none"))
    assert len(talk.messages) == 4


def test_text_is_shown_as_it_is() -> None:
    said = "<script>alert(1)</script> ${value} {{value}} `x`\\n"
    page = shown([{"role": "user", "parts": [{"type": "text", "text": said}]}], shelf=Shelf(""))
    assert not {"<script", "${", "{{", "`", "\\"} & {
        mark for mark in ("<script", "${", "{{", "`", "\\") if mark in page
    }


def test_a_shelf_keeps_what_was_asked_for_last() -> None:
    shelf = Shelf("/shelf", max_bytes=10)
    first, again, second = (shelf.address("image/png", one) for one in ("AAAAAAAA", "AAAAAAAA", "BBBBBBBB"))
    assert first == again != second
    assert shelf.response(second.rpartition("/")[2]).body == b"\x04\x10\x41" * 2
    assert shelf.response(first.rpartition("/")[2]).status_code == 404
    assert shelf.response("nothing").status_code == 404


def test_files_become_parts(tmp_path) -> None:
    (tmp_path / "a.png").write_bytes(picture("red").data)
    (tmp_path / "b.wav").write_bytes(b"RIFF1234WAVE")
    (tmp_path / "b.mp3").write_bytes(b"\xff\xf3\x40")
    (tmp_path / "c.txt").write_text("no")

    def part(name: str) -> dict:
        return part_of_file(str(tmp_path / name), limits=Limits(max_pixels=100))

    assert part("a.png")["type"] == "image_url"
    assert part("b.wav")["input_audio"]["format"] == "wav"
    assert part("b.mp3")["input_audio"]["format"] == "mp3"
    with pytest.raises(ValueError, match=r"`c.txt` is not a picture"):
        part("c.txt")
    PIL.Image.new("RGB", (20, 20)).save(tmp_path / "d.bmp")
    with pytest.raises(ValueError, match="20x20 pixels; most are 100"):
        part("d.bmp")


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "jpeg"), ("a.webp", "webp"), ("a.gif", "gif"), ("a.bmp", "png")])
def test_a_picture_keeps_its_bytes_where_browsers_show_them(tmp_path, name: str, kind: str) -> None:
    PIL.Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    part, shelf = part_of_file(str(tmp_path / name), limits=Limits()), Shelf("/shelf")
    address = shown([{"role": "user", "parts": [part]}], shelf=shelf).partition('src="/shelf/')[2].partition('"')[0]
    answer = shelf.response(address)
    assert answer.media_type == f"image/{kind}"
    assert (answer.body == (tmp_path / name).read_bytes()) == (kind != "png")
    assert Image.from_bytes(bytes(answer.body)).size == (8, 8)


def test_too_many_files_and_files_that_are_none_are_told(service: Service, tmp_path) -> None:
    (tmp_path / "c.bmp").write_text("no")
    talk = Talk()
    paths = [str(tmp_path / "c.bmp")]
    assert asyncio.run(Chat(service).parts(talk, "What?", paths * 2)) == []
    assert talk.note == "2 files; the most is 1"
    assert asyncio.run(Chat(service).parts(talk, "What?", paths)) == []
    assert "`c.bmp` is not a picture" in talk.note
    assert asyncio.run(Chat(service).parts(talk, "What?", [])) == ASKED


def test_a_long_conversation_can_still_be_kept(service: Service, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_folder", lambda: str(tmp_path))
    talk = Talk()
    drawn = {"type": "image_url", "image_url": {"url": picture("red").data_url()}}
    talk.messages = [{"role": "user", "parts": ASKED}, {"role": "assistant", "parts": [drawn] * 3}]
    assert pages._written(talk, service, title="tiny").read_text(encoding="utf-8").count("<img") == 3


@pytest.mark.parametrize("leave", [True, False])
def test_who_stops_before_there_is_a_ticket_is_heard(service: Service, leave: bool) -> None:
    talk = Talk()

    async def run() -> None:
        chat = Chat(service)
        async for _ in chat.turn(talk, ASKED, How(pictures="now", steps=200)):
            if len(talk.messages) == 1:
                assert talk.ticket is None
                (chat.leave if leave else chat.stop)(talk)

    asyncio.run(run())
    assert (talk.note, talk.stopped, talk.left) == ("", False, leave)
    assert talk.messages[1:] == [{"role": "assistant", "parts": [{"type": "text", "text": ""}]}]


def test_without_gradio_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(ValueError, match=r"the page needs `gradio`\nhint: pip install 'limner\[ui\]'"):
        require_gradio()
