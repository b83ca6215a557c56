"""Text <-> ids of sentencepiece checkpoints, as the original slow tokenizer made them; its ids depend on a switch.

Today's tokenizer libraries give other ids after special tokens and no longer know the switch `legacy`, so the model
file is asked directly. Assumes a directory with `tokenizer.model`, `tokenizer_config.json` and, where tokens were
added, `added_tokens.json` or `added_tokens_decoder` in the config.

    text --split at special tokens--> chunks --sentencepiece, "▁" in front of each (legacy) or of the whole--> ids
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from limner.tokens.tokenizer import TextTokenizer

_UNDERLINE = "\u2581"
_WITHOUT_PREFIX = b"\x1a\x02\x18\x00"
"""Behind a serialised model: normalizer_spec.add_dummy_prefix = false (protobuf merges what is repeated)."""


class AddedToken(NamedTuple):
    """A special token and whether it swallows the spaces beside it."""

    id: int
    lstrip: bool = False
    rstrip: bool = False


class _Verbs:
    """What other modules ask of the tokenizer library's own object, answered by a `SentencePieceText`."""

    def __init__(self, text: "SentencePieceText") -> None:
        self._text = text

    @property
    def all_special_ids(self) -> list[int]:
        """Ids of special tokens."""
        return [token.id for token in self._text.special.values()]

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any) -> str:
        """Text of ids."""
        return self._text.decode(ids) if skip_special_tokens else self._text.decode_markup(ids)


class SentencePieceText(TextTokenizer):
    """A sentencepiece model and special tokens, behind the verbs of a tokenizer.

    `legacy`: every chunk between special tokens gets a leading "▁" of its own; otherwise the whole text gets one.
    """

    def __init__(
        self,
        model: bytes,
        *,
        special: Mapping[str, AddedToken],
        legacy: bool,
        begin: str = "<s>",
        end: str = "</s>",
        unknown: str = "<unk>",
        spaced: Sequence[str] = (),
    ) -> None:
        """`spaced` names the special tokens that decoding puts spaces around."""
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError as error:
            raise ValueError(
                "this checkpoint's tokenizer needs sentencepiece, which is not installed\n"
                'hint: pip install "limner[originals]"'
            ) from error

        self.processor: Any = SentencePieceProcessor(model_proto=model if legacy else model + _WITHOUT_PREFIX)
        super().__init__(_Verbs(self))
        self.legacy = legacy
        self.special = dict(special)
        self.spaced = frozenset(spaced)
        self.begin, self.end, self.unknown = begin, end, unknown
        self._tokens = {token.id: text for text, token in special.items()}
        longest_first = sorted(special, key=len, reverse=True)
        # Without special tokens, what never matches: an empty pattern would split between all characters.
        self._split = re.compile("(" + ("|".join(map(re.escape, longest_first)) or "(?!)") + ")")
        self._unknown_length = len(self._pieces(unknown))

    @staticmethod
    def from_directory(path: Path, *, legacy: bool | None = None) -> "SentencePieceText":
        """Read a checkpoint's tokenizer; `legacy` None takes what its config says (true where it says nothing)."""
        config = _json(path / "tokenizer_config.json")
        names = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
        added = [_content(token) for token in config.get("additional_special_tokens") or ()]
        if not added:
            stored = _json(path / "special_tokens_map.json").get("additional_special_tokens") or ()
            added = [_content(token) for token in stored]
        ids: dict[str, AddedToken] = {t: AddedToken(i) for t, i in _json(path / "added_tokens.json").items()}
        for index, entry in config.get("added_tokens_decoder", {}).items():
            ids[entry["content"]] = AddedToken(int(index), entry.get("lstrip", False), entry.get("rstrip", False))
        model = (path / "tokenizer.model").read_bytes()
        chosen = bool(config.get("legacy", True)) if legacy is None else legacy
        found = SentencePieceText(model, special=ids, legacy=chosen, spaced=[t for t in added if t in ids])
        for text in (names["bos_token"], names["eos_token"], names["unk_token"]):
            if text and text not in found.special:
                ids[text] = AddedToken(found.processor.piece_to_id(text))
        size = found.processor.get_piece_size()
        return SentencePieceText(
            model,
            special=ids,
            legacy=chosen,
            begin=names["bos_token"] or "<s>",
            end=names["eos_token"] or "</s>",
            unknown=names["unk_token"] or "<unk>",
            spaced=[token for token in added if token in ids and ids[token].id >= size],
        )

    def id_of(self, token: str) -> int:
        """The id of a special token. Raises ValueError for one that the files do not name."""
        if token not in self.special:
            known = ", ".join(self.special)
            raise ValueError(f"the tokenizer has no token `{token}`; it has {known}\nhint: see added_tokens.json")
        return self.special[token].id

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """The id that ends a turn or a page."""
        return (self.id_of(self.end),)

    def text_ids(self, text: str) -> list[int]:
        """Ids of what somebody wrote; special tokens in it stay characters."""
        return self._ids(self._pieces(text if self.legacy else _with_prefix(text))) if text else []

    def markup_ids(self, text: str) -> list[int]:
        """Ids of text whose special tokens are tokens. No begin token is added."""
        return self._ids(self.tokens_of(text))

    def prompt_ids(self, text: str, *, max_length: int | None = None) -> list[int]:
        """The begin token and the ids of a text with markup, cut to `max_length` ids in all."""
        return [self.id_of(self.begin), *self.markup_ids(text)][:max_length]

    def tokens_of(self, text: str) -> list[str]:
        """Tokens of a text with markup."""
        if not text:
            return []
        if self.legacy:
            return self._chunks(text)
        tokens = self._chunks(_with_prefix(text))
        # The "▁" put in front of a text that begins with a special token is nobody's.
        starts_special = len(tokens) > 1 and tokens[0] == _UNDERLINE and tokens[1] in self.special
        return tokens[1:] if starts_special else tokens

    def tokens_of_ids(self, ids: Sequence[int]) -> list[str]:
        """The token of each id."""
        return [self._tokens[index] if index in self._tokens else self.processor.id_to_piece(index) for index in ids]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self._text([token for token in self.tokens_of_ids(ids) if token not in self.special])

    def decode_markup(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens written out."""
        return self._text(self.tokens_of_ids(ids))

    def _chunks(self, text: str) -> list[str]:
        parts = self._split.split(text)  # text, token, text, token, ..., text
        for place in range(1, len(parts), 2):
            token = self.special[parts[place]]
            if token.rstrip:
                parts[place + 1] = parts[place + 1].lstrip()
            if token.lstrip:
                parts[place - 1] = parts[place - 1].rstrip()
        found: list[str] = []
        for place, part in enumerate(parts):
            found += [part] if place % 2 else self._pieces(part)
        return found

    def _pieces(self, text: str) -> list[str]:
        """Pieces of a chunk without special tokens."""
        if not text:
            return []
        if self.legacy or not text.startswith((_UNDERLINE, " ")):
            return self.processor.encode(text, out_type=str)
        # Without its own prefix the model would swallow a leading space; behind something it does not.
        return self.processor.encode(self.unknown + text, out_type=str)[self._unknown_length :]

    def _ids(self, tokens: Sequence[str]) -> list[int]:
        return [self.special[t].id if t in self.special else self.processor.piece_to_id(t) for t in tokens]

    def _text(self, tokens: Sequence[str]) -> str:
        """Tokens as text: added tokens stand between spaces, others are joined by the model."""
        parts: list[str] = []
        run: list[str] = []
        for token in [*tokens, None]:
            if token is not None and token not in self.spaced:
                run.append(token)
                continue
            if run and (text := self._joined(run)):
                parts.append(text)
            run = []
            parts += [] if token is None else [token]
        return " ".join(parts)

    def _joined(self, tokens: list[str]) -> str:
        tokens = [tokens[0].removeprefix(_UNDERLINE), *tokens[1:]]
        text, run, after_special = "", [], False
        for place, token in enumerate(tokens):
            if token not in self.special:
                run.append(token)
                after_special = False
                continue
            if self.legacy and place and not after_special:
                text += " "
            text += self.processor.decode(run) + token
            run, after_special = [], True
        return text + self.processor.decode(run)


def _with_prefix(text: str) -> str:
    return _UNDERLINE + text.replace(_UNDERLINE, " ")


def _content(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
