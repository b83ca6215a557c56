"""Document -> pieces: what is said in which order, and what of it is trained, decided before any tokenizing.

One generic renderer driven by role strings. The role strings of a chat model are read off its tokenizer's own chat
template by rendering a conversation of sentinels once and cutting the result at them, so no model needs a table here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from limner.document.document import Direction, Document, Media, Message, Role, Text

_SENTINELS: dict[Role, str] = {"system": "SentinelSystem", "user": "SentinelUser", "assistant": "SentinelAssistant"}


@dataclass(frozen=True)
class TextPiece:
    """What somebody wrote: markup in it is inert."""

    text: str
    train: bool


@dataclass(frozen=True)
class MarkupPiece:
    """A template string: markup in it is real."""

    text: str
    train: bool


@dataclass(frozen=True)
class MediaPiece:
    """One span of one media part."""

    media: Media
    direction: Direction
    train: bool


Piece = TextPiece | MarkupPiece | MediaPiece


@dataclass(frozen=True)
class RoleStrings:
    """`prefix` opens a message, `stop` ends it (and is trained where the message is), `rest` follows."""

    prefix: str
    stop: str
    rest: str = ""


@dataclass(frozen=True)
class Template:
    """Role strings, what begins a document (`begin`) and the system text used when a chat brings none ("" for none)."""

    roles: Mapping[Role, RoleStrings]
    begin: str = ""
    system: str = ""

    @staticmethod
    def from_tokenizer(tokenizer: Any, *, system: str | None = None) -> "Template":
        """Read the role strings off a transformers tokenizer's chat template.

        `system` None keeps the template's own default system text, "" drops it. Raises ValueError when the tokenizer
        has no chat template or one that cannot be cut (it re-orders or edits messages).
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError("the tokenizer has no chat template\nhint: pass a Template with role strings of your own")
        eos, bos = tokenizer.eos_token or "", tokenizer.bos_token or ""
        messages = [{"role": role, "content": text} for role, text in _SENTINELS.items()]
        try:
            whole = tokenizer.apply_chat_template(messages, tokenize=False)
            before_system, rest = whole.split(_SENTINELS["system"])
            between, rest = rest.split(_SENTINELS["user"])
            after_user, assistant_end = rest.split(_SENTINELS["assistant"])
            system_end = _after(tokenizer, messages[:1])
            user_end = _after(tokenizer, messages[:2])
            if not (between.startswith(system_end) and after_user.startswith(user_end)):
                raise ValueError("a turn's end depends on what follows")
        except (ValueError, TemplateError) as error:
            raise ValueError(
                "the tokenizer's chat template re-orders or edits messages and cannot be read as "
                "role strings\nhint: pass a Template with role strings of your own"
            ) from error
        user_prefix = between[len(system_end) :]
        # A bos that also opens every turn (ChatML) is part of the role strings, not of the document.
        begin = bos if bos and whole.startswith(bos) and not user_prefix.startswith(bos) else ""
        roles: dict[Role, RoleStrings] = {
            "system": RoleStrings(before_system[len(begin) :], *_cut(system_end, eos)),
            "user": RoleStrings(user_prefix, *_cut(user_end, eos)),
            "assistant": RoleStrings(after_user[len(user_end) :], *_cut(assistant_end, eos)),
            "page": RoleStrings("", eos),
        }
        if system is None:
            system = _default_system(tokenizer, roles, begin=begin)
        return Template(roles=roles, begin=begin, system=system)

    def pieces(self, document: Document, *, reply: bool = False) -> Iterator[Piece]:
        """The pieces of a document, in order.

        With `reply` the end is left open for the model: an open last assistant message or page stays open, after any
        other message the assistant's prefix is added.
        """
        messages = list(document.messages)
        chat = any(message.role != "page" for message in messages)
        if chat and self.system and messages[0].role != "system":
            messages.insert(0, Message("system", (Text(self.system),)))
        if self.begin:
            yield MarkupPiece(self.begin, False)
        for index, message in enumerate(messages):
            strings = self.roles[message.role]
            if strings.prefix:
                yield MarkupPiece(strings.prefix, False)
            trained = message.role in ("assistant", "page")
            for part in message.parts:
                train = message.trained(part)
                if isinstance(part, Text):
                    yield TextPiece(part.text, train)
                    continue
                for direction in message.directions(part):
                    yield MediaPiece(part, direction, train)
            last = index == len(messages) - 1
            if reply and last and trained:
                return
            if strings.stop:
                yield MarkupPiece(strings.stop, trained)
            if strings.rest:
                yield MarkupPiece(strings.rest, False)
        if reply and messages and messages[-1].role != "page":
            yield MarkupPiece(self.roles["assistant"].prefix, False)


def _cut(text: str, stop: str) -> tuple[str, str]:
    """Split after the stop token: ("<eos>", "\\n") of "<eos>\\n"."""
    if not stop or stop not in text:
        return text, ""
    end = text.index(stop) + len(stop)
    return text[:end], text[end:]


def _after(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    """What the chat template writes after the last of `messages`."""
    return tokenizer.apply_chat_template(messages, tokenize=False).split(messages[-1]["content"])[1]


def _default_system(tokenizer: Any, roles: Mapping[Role, RoleStrings], *, begin: str) -> str:
    """The system text which the tokenizer's template adds by itself, or ""."""
    user = {"role": "user", "content": _SENTINELS["user"]}
    head = tokenizer.apply_chat_template([user], tokenize=False).split(_SENTINELS["user"])[0]
    opening = begin + roles["system"].prefix
    closing = roles["system"].stop + roles["system"].rest + roles["user"].prefix
    if not (head.startswith(opening) and head.endswith(closing)):
        return ""
    return head[len(opening) : len(head) - len(closing)]
