"""Text <-> ids, with markup switched on only for the template's own strings.

Wraps a transformers tokenizer. What people write goes through `text_ids`, where "<|im_end|>" or "<image>" are plain
characters: text can forge neither roles nor media. Role strings of the template go through `markup_ids`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class TextTokenizer:
    """A transformers tokenizer behind three verbs."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    @staticmethod
    def from_pretrained(path: str | Path) -> "TextTokenizer":
        """Load from a local directory."""
        from transformers import AutoTokenizer

        return TextTokenizer(AutoTokenizer.from_pretrained(str(path)))

    def text_ids(self, text: str) -> list[int]:
        """Ids of what somebody wrote; special tokens in it stay characters."""
        return self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True) if text else []

    def markup_ids(self, text: str) -> list[int]:
        """Ids of a template string; special tokens in it are tokens."""
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, special tokens left out."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a turn or a page."""
        return () if self.tokenizer.eos_token_id is None else (self.tokenizer.eos_token_id,)


CHAT_MARKUP = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> TextTokenizer:
    """A tokenizer whose tokens are the 256 bytes and the ChatML markup: needs no file and can write any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=CHAT_MARKUP[0],
        bos_token=CHAT_MARKUP[1],
        eos_token=CHAT_MARKUP[2],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return TextTokenizer(fast)
