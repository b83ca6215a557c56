"""Document -> pieces: what is said in which order, and what of it is trained, decided before any tokenizing.

One generic renderer driven by role strings. The role strings of a chat model are read off its tokenizer's own chat
template by rendering a conversation of sentinels once and cutting the result at them, so no model needs a table here.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
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
    """Role strings, what begins a document (`begin`) and the system text used when a chat brings none ("" for none).

    `folded_system` is for families without a system role: a system text that opens a chat stands between its `prefix`
    and `stop` at the beginning of the user's first turn.
    """

    roles: Mapping[Role, RoleStrings]
    begin: str = ""
    system: str = ""
    folded_system: RoleStrings | None = None

    @staticmethod
    def from_tokenizer(tokenizer: Any, *, system: str | None = None) -> "Template":
        """Read the role strings off a transformers tokenizer's chat template.

        `system` None keeps the template's own default system text, "" drops it. Raises ValueError when the tokenizer
        has no chat template or one that cannot be cut (it re-orders or edits messages).
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ValueError("the tokenizer has no chat template\nhint: pass a Template with role strings of your own")
        # What is raised where a template has no system role, or does something else with what it says.
        refusals = (ValueError, IndexError, TemplateError)
        try:
            found = _with_system_role(tokenizer)
        except refusals:
            try:
                found = _with_folded_system(tokenizer)
            except refusals as error:
                raise ValueError(
                    "the tokenizer's chat template re-orders or edits messages and cannot be read as "
                    "role strings\nhint: pass a Template with role strings of your own"
                ) from error
        return found if system is None else replace(found, system=system)

    def pieces(self, document: Document, *, reply: bool = False) -> Iterator[Piece]:
        """The pieces of a document, in order.

        With `reply` the end is left open for the model: an open last assistant message or page stays open, after any
        other message the assistant's prefix is added.
        """
        messages = list(document.messages)
        chat = any(message.role != "page" for message in messages)
        if chat and self.system and messages[0].role != "system":
            messages.insert(0, Message("system", (Text(self.system),)))
        folded = self._taken_out(messages)
        if self.begin:
            yield MarkupPiece(self.begin, False)
        for index, message in enumerate(messages):
            strings = self.roles[message.role]
            if strings.prefix:
                yield MarkupPiece(strings.prefix, False)
            if index == 0 and folded is not None and self.folded_system is not None:
                yield MarkupPiece(self.folded_system.prefix, False)
                yield from _said(folded)
                yield MarkupPiece(self.folded_system.stop, False)
            trained = message.role in ("assistant", "page")
            yield from _said(message)
            last = index == len(messages) - 1
            if reply and last and trained:
                return
            if strings.stop:
                yield MarkupPiece(strings.stop, trained)
            if strings.rest:
                yield MarkupPiece(strings.rest, False)
        if reply and messages and messages[-1].role != "page":
            yield MarkupPiece(self.roles["assistant"].prefix, False)

    def _taken_out(self, messages: list[Message]) -> Message | None:
        """The system message that is folded into the user's turn behind it, taken out of `messages`."""
        if self.folded_system is None or not any(message.role == "system" for message in messages):
            return None
        roles = [message.role for message in messages]
        if roles[:2] != ["system", "user"] or "system" in roles[1:]:
            raise ValueError(
                f"the chat has the roles {', '.join(roles)}; this family has no system role of its own\n"
                "hint: say it once, at the beginning, before a user's turn"
            )
        return messages.pop(0)


def _said(message: Message) -> Iterator[Piece]:
    """The pieces of what a message says."""
    for part in message.parts:
        train = message.trained(part)
        if isinstance(part, Text):
            yield TextPiece(part.text, train)
            continue
        for direction in message.directions(part):
            yield MediaPiece(part, direction, train)


def _with_system_role(tokenizer: Any) -> Template:
    """Role strings of a template in which system, user and assistant have turns of their own."""
    eos, bos = tokenizer.eos_token or "", tokenizer.bos_token or ""
    messages = [{"role": role, "content": text} for role, text in _SENTINELS.items()]
    whole = tokenizer.apply_chat_template(messages, tokenize=False)
    before_system, rest = whole.split(_SENTINELS["system"])
    between, rest = rest.split(_SENTINELS["user"])
    after_user, assistant_end = rest.split(_SENTINELS["assistant"])
    system_end = _after(tokenizer, messages[:1])
    user_end = _after(tokenizer, messages[:2])
    if not (between.startswith(system_end) and after_user.startswith(user_end)):
        raise ValueError("a turn's end depends on what follows")
    user_prefix = between[len(system_end) :]
    # A bos that also opens every turn (ChatML) is part of the role strings, not of the document.
    begin = bos if bos and whole.startswith(bos) and not user_prefix.startswith(bos) else ""
    roles: dict[Role, RoleStrings] = {
        "system": RoleStrings(before_system[len(begin) :], *_cut(system_end, eos)),
        "user": RoleStrings(user_prefix, *_cut(user_end, eos)),
        "assistant": RoleStrings(after_user[len(user_end) :], *_cut(assistant_end, eos)),
        "page": RoleStrings("", eos),
    }
    return Template(roles, begin=begin, system=_default_system(tokenizer, roles, begin=begin))


def _with_folded_system(tokenizer: Any) -> Template:
    """Role strings of a template with turns of user and assistant alone (Gemma, the Mistral and Llama 2 families)."""
    eos = tokenizer.eos_token or ""
    texts = (_SENTINELS["user"], _SENTINELS["assistant"], "SentinelAsked", "SentinelSaid")
    messages = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    pieces = []
    rest = tokenizer.apply_chat_template(messages, tokenize=False)
    for text in texts:
        piece, rest = rest.split(text)
        pieces.append(piece)
    user_end, assistant_end = _after(tokenizer, messages[:1]), _after(tokenizer, messages[:2])
    user_prefix, assistant_prefix = pieces[2][len(assistant_end) :], pieces[1][len(user_end) :]
    begin = pieces[0][: len(pieces[0]) - len(user_prefix)]
    first_turn = begin + user_prefix
    if [first_turn, user_end + assistant_prefix, assistant_end + user_prefix, user_end + assistant_prefix] != pieces:
        raise ValueError("a turn depends on where it stands")
    roles: dict[Role, RoleStrings] = {
        "user": RoleStrings(user_prefix, *_cut(user_end, eos)),
        "assistant": RoleStrings(assistant_prefix, *_cut(assistant_end, eos)),
        "page": RoleStrings("", eos),
    }
    return Template(roles, begin=begin, folded_system=_folded_system(tokenizer, messages, first_turn=first_turn))


def _folded_system(tokenizer: Any, messages: list[dict[str, str]], *, first_turn: str) -> RoleStrings:
    """What a template writes around a system text in the user's turn; an empty line where it knows no system text."""
    system = {"role": "system", "content": _SENTINELS["system"]}
    try:
        whole = tokenizer.apply_chat_template([system, *messages[:2]], tokenize=False)
    except TemplateError:
        return RoleStrings("", "\n\n")
    if _SENTINELS["system"] not in whole:
        return RoleStrings("", "\n\n")
    before, after = whole.split(_SENTINELS["system"])
    stop = after.split(_SENTINELS["user"])[0]
    if not before.startswith(first_turn):
        raise ValueError("the system text stands outside of the user's turn")
    return RoleStrings(before[len(first_turn) :], stop)


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
