"""A real browser drives the page by its keyboard alone: what is asked comes back illustrated, in order, to be kept."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from hearing import hearing_model
from served import serving
from tiny import picture

gradio = pytest.importorskip("gradio", reason="the page needs the extra `ui`")
playwright = pytest.importorskip("playwright.sync_api", reason="driving a browser needs playwright")

from limner.document.audio import Audio  # noqa: E402 - after the skips
from limner.document.document import Media  # noqa: E402 - after the skips
from limner.document.html import from_html  # noqa: E402
from limner.generate.engine import Engine  # noqa: E402
from limner.generate.request import Request  # noqa: E402
from limner.serve.app import create_app  # noqa: E402
from limner.serve.openai import Limits  # noqa: E402
from limner.serve.page import PATH, How, add_page  # noqa: E402
from limner.serve.runtime import Runtime, Ticket  # noqa: E402
from limner.serve.service import Settings  # noqa: E402

# Gradio's and Starlette's own, of newer versions of one another.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
KEY = "secret"


@pytest.fixture(scope="module")
def runtime(engine: Engine) -> Runtime:
    return Runtime(engine, num_rows=4)


@pytest.fixture(scope="module")
def address(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "red.png").write_bytes(picture("red").data)
    settings = Settings("tiny", limits=Limits(max_new_tokens=24))
    app = create_app(runtime, settings=settings, page=PATH)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "files"))
        add_page(app, examples=[folder / "red.png"], how=How(steps=4))
        with serving(app) as place:
            yield place


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        try:
            found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    context = browser.new_context(accept_downloads=True, viewport={"width": 1000, "height": 900})
    context.set_default_timeout(60_000)
    shown = context.new_page()
    shown.goto(address)
    shown.locator("#begin button").last.wait_for()
    yield shown
    context.close()


def focused(page: Any) -> str:
    return page.evaluate("document.activeElement.closest('[id]')?.id + ' ' + document.activeElement.innerText")


def reach(page: Any, name: str) -> None:
    """Walk with the tabulator to the control of that name."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if name in focused(page):
            return
    pytest.fail(f"the tabulator does not lead to {name}")


def answered(page: Any) -> None:
    page.locator("#keep:not([disabled])").wait_for()
    page.locator("#ask button.submit-button").wait_for()


def test_a_conversation_by_keyboard_alone(page: Any, tmp_path: Path) -> None:
    reach(page, "What is this?")
    page.keyboard.press("Enter")
    page.locator("#ask img").wait_for()
    page.keyboard.press("Enter")
    page.locator("#talk .user img").wait_for()
    answered(page)
    page.locator("label", has_text="picture now").locator("input").focus()
    page.keyboard.press("Space")
    page.locator("#ask textarea").focus()
    page.keyboard.type("What is <it>?")
    page.keyboard.press("Enter")
    page.locator("#talk progress").first.wait_for()
    page.locator("#ask button.submit-button").wait_for()
    assert page.locator("#talk .user p[dir]").last.inner_text() == "What is <it>?"
    first = page.locator("#talk .assistant").last.locator("p[dir], figure").first
    assert first.evaluate("part => part.tagName") == "FIGURE"
    drawn = page.locator("#talk .assistant img").last
    assert drawn.evaluate("image => image.complete && image.naturalWidth") == 32
    reach(page, "Download")
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "conversation.html"
    download.value.save_as(tmp_path / "kept.html")
    document = from_html((tmp_path / "kept.html").read_text(encoding="utf-8"))
    assert [message.role for message in document.messages] == ["user", "assistant"] * 2
    assert [type(part).__name__ for part in document.messages[0].parts] == ["Media", "Text"]
    assert isinstance(document.messages[3].parts[0], Media)
    reach(page, "Begin anew")
    page.keyboard.press("Enter")
    page.locator("#talk .welcome").wait_for()


def test_an_answer_can_be_stopped_and_who_leaves_frees_the_row(page: Any, runtime: Runtime) -> None:
    page.locator("button", has_text=re.compile("How it draws")).click()
    page.locator("input[type=number]").nth(1).fill("100")
    page.locator("label", has_text="picture now").locator("input").check()
    for leave in ("stop", "close"):
        page.locator("#ask textarea").fill("What?")
        page.locator("#ask textarea").press("Enter")
        page.locator("#talk progress").first.wait_for()
        if leave == "stop":
            page.locator("#ask button.stop-button").click()
            page.locator("#ask button.submit-button").wait_for()
            assert page.locator("#talk progress").count() == 0
        else:
            page.close()
        for _ in range(300):
            if not runtime.load.running:
                break
            time.sleep(0.1)
        assert runtime.load.running == 0


class Noting(Runtime):
    """A runtime that keeps what it was asked."""

    asked: tuple[Request, ...] = ()

    def submit(self, request: Request) -> Ticket:
        self.asked += (request,)
        return super().submit(request)


def test_a_sound_that_is_uploaded_can_be_heard_on_the_page_and_reaches_the_model(
    browser: Any, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "files"))
    wave = numpy.sin(numpy.linspace(0, 700, 8000)).astype(numpy.float32) / 2
    (tmp_path / "tone.wav").write_bytes(Audio.from_samples(wave, rate=16_000).data)
    runtime = Noting(Engine(hearing_model()), num_rows=1)
    app = create_app(runtime, settings=Settings("hearing", limits=Limits(max_new_tokens=8)), page=PATH)
    add_page(app, hears=True)
    with serving(app) as place:
        page = browser.new_context().new_page()
        page.set_default_timeout(60_000)
        page.goto(place)
        page.locator("#begin button").last.wait_for()
        page.locator("#ask input[type=file]").first.set_input_files(tmp_path / "tone.wav")
        page.locator("#ask .thumbnail-item, #ask audio").first.wait_for()
        page.locator("#ask textarea").fill("What is heard?")
        page.locator("#ask textarea").press("Enter")
        player = page.locator("#talk .user audio")
        player.wait_for()
        page.wait_for_function("document.querySelector('#talk .user audio').readyState > 0")
        assert abs(player.evaluate("sound => sound.duration") - 0.5) < 0.01
        answered(page)
        assert page.locator("#talk .assistant").count() == 1
        assert page.locator("[role=alert]").count() == 0
        page.context.close()
    sound = runtime.asked[0].document.messages[-1].parts[0]
    assert isinstance(sound, Media)
    assert sound.modality == "sound"
    assert isinstance(sound.payload, Audio)
    assert sound.payload.data == (tmp_path / "tone.wav").read_bytes()


def test_a_page_with_keys_asks_for_one(engine: Engine, browser: Any, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    app = create_app(Runtime(engine, num_rows=1), settings=Settings("tiny", api_keys=(KEY,)), page=PATH)
    add_page(app)
    with serving(app) as place:
        page = browser.new_context().new_page()
        page.set_default_timeout(60_000)
        page.goto(place)
        for key in ("wrong", KEY):  # what was wrong is emptied
            page.locator("input").first.fill("me")
            page.locator("input[type=password]").fill(key)
            page.locator("button", has_text="Login").click()
            if key != KEY:
                page.locator("text=Incorrect").wait_for()
        page.locator("#ask textarea").wait_for()
        page.context.close()
