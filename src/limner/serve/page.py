"""The chat page: Gradio before the same runtime, with the admission, limits and keys of the routes.

    what is asked -> ChatBody -> Service (as POST /v1/chat/completions does it) -> Talk -> mark-up, as it comes

A conversation (`Talk`) is kept in OpenAI's form, so that the page is a client like others. Gradio shows it and holds
the controls; what stands in a conversation is written by `page_view`, what it looks like is `page_style`.
"""

import asyncio
import importlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from limner.document.html import to_html
from limner.serve.errors import described, told
from limner.serve.guard import is_key
from limner.serve.openai import Answer, to_document, to_request
from limner.serve.page_style import COLOURS, STYLE
from limner.serve.page_view import Shelf, escaped, part_of_file, shown
from limner.serve.runtime import Failed, Ticket
from limner.serve.schema import ChatBody, ChatMessage, ImageOptions
from limner.serve.service import Service

PATH = "/ui"
DECIDING = {"let the model decide": "auto", "text only": "none", "picture now": "now"}
PROMPTS = ("Tell me a short illustrated story about a fox.", "Draw a sailboat.", "Tell me about the moon.")
QUESTION = "What is this?"
OFTEN = 0.05
"""Seconds between two updates of the page while text comes."""
KEPT_SECONDS = 3600
"""How long files of a page are kept, and conversations that nobody looks at."""


@dataclass(frozen=True)
class How:
    """What the controls say. `pictures` is auto, none or now."""

    pictures: str = "auto"
    guidance_scale: float = 3.0
    steps: int = 24
    temperature: float = 0.7
    seed: int = 0


DEFAULT = How()


class Stopped(Exception):
    """Whoever asked has read enough."""


class Talk:
    """A conversation: messages in OpenAI's form, with `parts` in order.

    `note` says what went wrong last; `stopped` that the answer under way is not wanted, `left` that the whole is not.

    No dataclass: Gradio would write one into its page.
    """

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.note = ""
        self.ticket: Ticket | None = None
        self.stopped = False
        self.left = False

    def body(self, how: How) -> ChatBody:
        """What is asked for next. Raises pydantic's ValidationError."""
        return ChatBody(
            messages=[ChatMessage(**message) for message in self.messages],
            pictures=how.pictures,  # pyright: ignore[reportArgumentType] - checked by the body
            temperature=how.temperature,
            top_p=0.9,
            # By its place: the same words asked twice are answered in two ways.
            seed=how.seed + len(self.messages),
            image=ImageOptions(guidance_scale=how.guidance_scale, num_inference_steps=how.steps),
        )


class Chat:
    """Conversations with one service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def parts(self, talk: Talk, text: str, files: Sequence[str]) -> list[dict[str, Any]]:
        """What a message brings; nothing where it cannot be read, and the talk's note says why."""
        limits = self.service.settings.limits
        if len(files) > limits.max_media:
            talk.note = f"{len(files)} files; the most is {limits.max_media}"
            return []
        try:
            found = await self.service.read(lambda: [part_of_file(path, limits=limits) for path in files])
        except Exception as error:
            talk.note = told(error)[1]["error"]["message"]
            return []
        return [*found, *([{"type": "text", "text": text}] if text else [])]

    async def turn(self, talk: Talk, parts: Sequence[dict[str, Any]], how: How) -> AsyncIterator[None]:
        """Say `parts` and let the model answer; `talk` is changed as the answer comes, and each step says so.

        What went wrong becomes the talk's note. Who stops listening cancels the answer, and keeps what came of it.
        """
        before = len(talk.messages)
        talk.note = ""
        talk.messages.append({"role": "user", "parts": list(parts)})
        yield
        try:
            limits = self.service.settings.limits
            body = talk.body(how)
            request = await self.service.read(lambda: to_request(body, limits=limits))
            talk.ticket = self.service.runtime.submit(request)
            reply: dict[str, Any] = {"role": "assistant", "parts": []}
            talk.messages.append(reply)
            if talk.stopped:  # before there was a ticket to cancel
                self.stop(talk)
            async for _ in self._answered(talk.ticket, reply):
                yield
        except Stopped:
            pass
        except ValidationError as error:
            talk.note, _ = described([one | {"loc": ("body", *one["loc"])} for one in error.errors()], fields=())
        except Exception as error:
            talk.note = told(error)[1]["error"]["message"]
        finally:
            talk.ticket, talk.stopped = None, False
            _without_what_is_unfinished(talk)
        if talk.note:
            del talk.messages[before:]
        yield

    def stop(self, talk: Talk) -> None:
        """End the answer that is under way, or about to begin; what came of it stays."""
        # The flag first: `turn` sets the ticket and then looks at the flag, so one of the two sees the other.
        talk.stopped = True
        if (ticket := talk.ticket) is not None:
            self.service.runtime.cancel(ticket)
            ticket.tell(Failed(Stopped()))

    def leave(self, talk: Talk) -> None:
        """End the answer that is under way; nobody will look at this conversation again."""
        talk.left = True
        self.stop(talk)

    async def _answered(self, ticket: Ticket, reply: dict[str, Any]) -> AsyncIterator[None]:
        answer, last = Answer("", ""), 0.0
        async for deltas, media in self.service.events(ticket, answer):
            drawing = next(
                (delta["part"] for delta in deltas if delta["part"]["type"] in ("progress", "image_started")), None
            )
            reply["parts"] = [*answer.parts, *([drawing] if drawing else [])]
            if drawing or media or time.monotonic() - last > OFTEN:
                last = time.monotonic()
                yield


def _without_what_is_unfinished(talk: Talk) -> None:
    """Take back pictures that were never finished, and an answer that never began."""
    last = talk.messages[-1]
    if last["role"] == "assistant":
        last["parts"] = [part for part in last["parts"] if part["type"] in ("text", "image_url")]
        if not last["parts"]:
            last["parts"] = [{"type": "text", "text": ""}]


def add_page(app: FastAPI, *, hears: bool = False, examples: Sequence[Path] = (), how: How = DEFAULT) -> FastAPI:
    """Put the page at `PATH`, and lead there from `/`. `app` is `create_app(..., page=PATH)`.

    `hears` lets sounds in; `examples` are pictures to ask about; `how` is what the controls say at first. Raises
    ValueError where Gradio is missing.
    """
    gradio = require_gradio()
    service: Service = app.state.service
    shelf = Shelf(f"{PATH}/shelf")

    @app.get("/", include_in_schema=False)
    async def lead() -> RedirectResponse:
        return RedirectResponse(PATH + "/")

    @app.get(PATH + "/shelf/{name}", include_in_schema=False)
    async def taken(name: str) -> Response:
        """A picture or a sound of a conversation."""
        return shelf.response(name)

    keys = service.settings.api_keys
    blocks = _page(gradio, Chat(service), shelf=shelf, hears=hears, examples=examples, start=how)
    return gradio.mount_gradio_app(
        app,
        blocks,
        PATH,
        auth=(lambda name, key: is_key(key, keys)) if keys else None,
        auth_message="Any name will do; the password is a key of this server.",
        max_file_size=service.settings.limits.max_media_bytes,
        theme=_theme(gradio),
        css=STYLE,
        root_path=PATH,
        footer_links=[],
        ssr_mode=False,
        show_error=False,
        enable_monitoring=False,
    )


def require_gradio() -> Any:
    """The library. Raises ValueError where it is missing."""
    try:
        return importlib.import_module("gradio")
    except ModuleNotFoundError as error:
        raise ValueError(f"the page needs `{error.name}`\nhint: pip install 'limner[ui]'") from error


def _theme(gradio: Any) -> Any:
    # Fonts of the machine: a page opens no connection to anybody else.
    serif = ["Iowan Old Style", "Palatino Linotype", "Palatino", "Book Antiqua", "URW Palladio L", "Georgia", "serif"]
    base = gradio.themes.Base(font=serif, font_mono=["ui-monospace", "monospace"], radius_size="sm")
    return base.set(**COLOURS)


@dataclass
class _Controls:
    """What people press, and what tells them."""

    talk: Any
    said: Any
    box: Any
    page: Any
    how: Sequence[Any]


def _page(gradio: Any, chat: Chat, *, shelf: Shelf, hears: bool, examples: Sequence[Path], start: How) -> Any:
    name = chat.service.settings.model_name
    with gradio.Blocks(
        title=f"Limner: {name}", analytics_enabled=False, delete_cache=(KEPT_SECONDS, KEPT_SECONDS), fill_height=True
    ) as blocks:
        talk = gradio.State(Talk(), time_to_live=KEPT_SECONDS)
        gradio.HTML(f"<h1>Limner</h1><p>{escaped(name)} reads and writes illustrated pages</p>", elem_id="masthead")
        said = gradio.HTML(shown(Talk().messages, shelf=shelf), elem_id="talk", autoscroll=True)
        kinds = ["image", *(["audio"] if hears else [])]
        box = gradio.MultimodalTextbox(
            placeholder="Ask, tell, or show a picture" + (" or a sound" if hears else ""),
            label="Your message",
            show_label=False,
            file_types=kinds,
            file_count="multiple",
            sources=["upload", "microphone"] if hears else ["upload"],
            autofocus=True,
            elem_id="ask",
        )
        with gradio.Row(elem_id="how"):
            pictures = gradio.Radio(list(DECIDING), value=next(iter(DECIDING)), label="Pictures", scale=4)
            page = gradio.DownloadButton("Download", interactive=False, elem_id="keep", min_width=130)
            anew = gradio.Button("Begin anew", elem_id="anew", min_width=110)
        with gradio.Accordion("How it draws and writes", open=False):
            how = (
                pictures,
                gradio.Slider(
                    1, 12, value=3, step=0.5, label="Guidance", info="how strictly pictures follow the words"
                ),
                gradio.Slider(1, 100, value=start.steps, step=1, label="Steps", info="of denoising per picture"),
                gradio.Slider(
                    0, 1.5, value=start.temperature, step=0.1, label="Freedom of words", info="0: the likeliest"
                ),
                gradio.Number(start.seed, precision=0, label="Seed", info="the same seed gives the same answer"),
            )
        asked = [{"text": text, "files": []} for text in PROMPTS]
        asked += [{"text": QUESTION, "files": [str(path)]} for path in examples]
        with gradio.Column(elem_id="begin"):
            shown_examples = gradio.Examples([[one] for one in asked], [box], label="To begin with")
        controls = _Controls(talk, said, box, page, how)
        _connect(gradio, chat, controls, shelf=shelf)

        def begin_anew(old: Talk) -> tuple[Any, ...]:
            chat.leave(old)
            ready = gradio.MultimodalTextbox(submit_btn=True, stop_btn=False)
            return Talk(), shown([], shelf=shelf), ready, gradio.DownloadButton(value=None, interactive=False)

        anew.click(begin_anew, [talk], [talk, said, box, page], show_progress="hidden", api_visibility="private")
        to_box = "() => document.querySelector('#ask textarea').focus()"
        anew.click(None, js=to_box)
        shown_examples.dataset.click(None, js=to_box)
    return blocks


def _connect(gradio: Any, chat: Chat, controls: _Controls, *, shelf: Shelf) -> None:
    """A message is sent, its answer comes, and may be stopped."""
    name = chat.service.settings.model_name

    def view(talk: Talk) -> str:
        return shown(talk.messages, shelf=shelf, note=talk.note)

    async def idle(talk: Talk, **changes: Any) -> tuple[Any, Any, Any]:
        """The conversation, the box ready for more, and the page to be kept."""
        box = gradio.MultimodalTextbox(submit_btn=True, stop_btn=False, **changes)
        if not talk.messages:
            return view(talk), box, gradio.DownloadButton(interactive=False)
        path = await asyncio.to_thread(_written, talk, chat.service, title=name)
        return view(talk), box, gradio.DownloadButton(value=str(path), interactive=True)

    async def send(given: dict[str, Any] | None, talk: Talk, *how: Any) -> AsyncIterator[tuple[Any, ...]]:
        text, files = (given or {}).get("text", "").strip(), (given or {}).get("files", [])
        if not text and not files:
            yield await idle(talk)
            return
        # Sliders give whole numbers as such.
        asked = How(DECIDING[how[0]], float(how[1]), int(how[2]), float(how[3]), int(how[4] or 0))
        same = gradio.skip()
        talk.note, talk.stopped = "", False
        yield view(talk), gradio.MultimodalTextbox(value=None, submit_btn=False, stop_btn=True), same
        parts = await chat.parts(talk, text, files)
        if parts:
            async for _ in chat.turn(talk, parts, asked):
                if not talk.left:
                    yield view(talk), same, same
        # What could not be answered comes back, to be said otherwise.
        ready = await idle(talk, **({"value": given} if talk.note else {}))
        if not talk.left:
            yield ready

    outputs = [controls.said, controls.box, controls.page]
    controls.box.submit(
        send, [controls.box, controls.talk, *controls.how], outputs,
        show_progress="hidden", concurrency_limit=None, api_visibility="private",
    )  # fmt: skip
    controls.box.stop(chat.stop, [controls.talk], show_progress="hidden", api_visibility="private")


def _written(talk: Talk, service: Service, *, title: str) -> Path:
    """The conversation as one HTML file, where Gradio hands files out and clears them away."""
    messages = [ChatMessage(**message) for message in talk.messages]
    # Each turn was within the limits; all of them together may have more pictures than one may bring.
    limits = replace(service.settings.limits, max_media=sys.maxsize, max_media_bytes=sys.maxsize)
    document = to_document(messages, limits=limits)
    folder = Path(tempfile.mkdtemp(prefix="limner-", dir=_folder()))
    path = folder / "conversation.html"
    path.write_text(to_html(document, title="A conversation", footer=f"With {title}."), encoding="utf-8")
    return path


def _folder() -> str:
    folder = importlib.import_module("gradio.utils").get_upload_folder()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return folder
