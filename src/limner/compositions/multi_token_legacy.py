"""The original encoding of multi_token: the ids and labels that its published checkpoints were trained on.

The chat template writes one string; it is cut at `[INST] ... [/INST]`; what lies inside is not trained, everything else
is (the first token and the space behind an answer too). Each piece is cut at placeholders, and every fragment is
tokenized by itself. Markup in what a user writes is markup, as it was. What the original accepted silently and trained
wrongly (items without placeholders, placeholders without items) is refused.

Data flow: Document -> chat template -> fragments -> ids (placeholders negative), labels -> Sequence with bare spans.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from limner import zoo
from limner.backbone.lora import LoraSpec
from limner.compositions.multi_token import Part, load_backbone, wire
from limner.document.document import Direction, Document, Media, Text
from limner.document.rows import Placeholder, row_document, split_tokens
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED
from limner.tokens.render import Renderer
from limner.tokens.sequence import Sequence as TokenSequence
from limner.tokens.sequence import Span
from limner.tokens.template import Template
from limner.tokens.tokenizer import TextTokenizer

_INSTRUCTION = re.compile(r"(\[INST\][\s\S]*?\[/INST\])")


@dataclass(frozen=True)
class LegacyEncoding:
    """Ids and labels as the original makes them. `spans` are (index of the placeholder's kind, first position)."""

    input_ids: tuple[int, ...]
    labels: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]


def encode_messages(
    messages: Sequence[Mapping[str, str]],
    *,
    placeholders: Sequence[Placeholder],
    tokenizer: TextTokenizer,
    chat_template: str | None = None,
) -> LegacyEncoding:
    """Encode messages whose text holds placeholders. `chat_template` None takes the tokenizer's own.

    Raises ValueError where the template refuses the roles, and for a placeholder outside an instruction.
    """
    from jinja2 import TemplateError

    try:
        text = tokenizer.tokenizer.apply_chat_template(
            [dict(message) for message in messages], chat_template=chat_template, tokenize=False
        )
    except TemplateError as error:
        raise ValueError(
            f"the chat template refuses these roles ({error})\nhint: let user and assistant take turns, user first"
        ) from error
    kinds = {placeholder.token: index for index, placeholder in enumerate(placeholders)}
    ids: list[int] = []
    labels: list[int] = []
    spans: list[tuple[int, int]] = []
    for piece in filter(None, _INSTRUCTION.split(text)):
        is_instruction = "[INST]" in piece
        for fragment in split_tokens(piece, list(kinds)):
            if fragment not in kinds:
                new = tokenizer.markup_ids(fragment)
                ids += new
                labels += [IGNORED] * len(new) if is_instruction else new
                continue
            if not is_instruction:
                raise ValueError(
                    f"a {fragment} stands outside of what the user asks\nhint: put it into a user's message, "
                    "before anything that reads [/INST]"
                )
            placeholder = placeholders[kinds[fragment]]
            spans.append((kinds[fragment], len(ids)))
            ids += [placeholder.token_id] * placeholder.num_positions
            labels += [IGNORED] * placeholder.num_positions
    return LegacyEncoding(tuple(ids), tuple(labels), tuple(spans))


def encode_row(
    row: Mapping[str, Any], *, placeholders: Sequence[Placeholder], tokenizer: TextTokenizer, chat_template: str | None
) -> LegacyEncoding:
    """Encode a row as strictly as the original: a list for every modality, even an empty one. Raises ValueError."""
    missing = [placeholder.data_key for placeholder in placeholders if placeholder.data_key not in row]
    if missing:
        raise ValueError(f"the row has no `{missing[0]}`\nhint: a model of this kind expects every list, empty or not")
    document = row_document(row, placeholders=placeholders)
    messages = legacy_messages(document, placeholders=placeholders)
    return encode_messages(messages, placeholders=placeholders, tokenizer=tokenizer, chat_template=chat_template)


def legacy_messages(document: Document, *, placeholders: Sequence[Placeholder]) -> list[dict[str, str]]:
    """A Document's messages as text with placeholders. Raises ValueError for text that forges a placeholder."""
    tokens = {placeholder.modality: placeholder.token for placeholder in placeholders}
    messages: list[dict[str, str]] = []
    for message in document.messages:
        if message.role == "page":
            raise ValueError("a page has no roles\nhint: the original encoding knows conversations only")
        content = ""
        for part in message.parts:
            if isinstance(part, Text):
                if forged := [token for token in tokens.values() if token in part.text]:
                    raise ValueError(
                        f"{forged[0]} is written out in a {message.role}'s text\n"
                        "hint: give the item itself as a part, or write the text otherwise"
                    )
                content += part.text
                continue
            if part.modality not in tokens:
                raise ValueError(
                    f"the model has no modality `{part.modality}`; it has {', '.join(tokens)}\nhint: leave the part out"
                )
            content += tokens[part.modality]
        messages.append({"role": message.role, "content": content})
    return messages


class LegacyRenderer(Renderer):
    """A Renderer that encodes as the original did; `reply` leaves the end as the template writes it."""

    def __init__(
        self, renderer: Renderer, *, placeholders: Sequence[Placeholder], chat_template: str | None = None
    ) -> None:
        super().__init__(
            template=renderer.template,
            tokenizer=renderer.tokenizer,
            vocabulary=renderer.vocabulary,
            measure=renderer.measure,
        )
        self.placeholders = tuple(placeholders)
        self.chat_template = chat_template

    def __call__(self, document: Document, *, reply: bool = False, key: str = "") -> TokenSequence:
        """Render a document. Raises ValueError for one that the original cannot say."""
        if reply and document.messages and document.messages[-1].role == "assistant":
            raise ValueError("an answer cannot be continued\nhint: end with what the user asks")
        messages = legacy_messages(document, placeholders=self.placeholders)
        encoding = encode_messages(
            messages, placeholders=self.placeholders, tokenizer=self.tokenizer, chat_template=self.chat_template
        )
        return legacy_sequence(
            encoding, placeholders=self.placeholders, media=[media for _, media in document.media()], key=key
        )


def legacy_sequence(
    encoding: LegacyEncoding, *, placeholders: Sequence[Placeholder], media: Sequence[Media], key: str = ""
) -> TokenSequence:
    """An encoding and its items, in order, as a Sequence. The label on the first token predicts nothing."""
    spans = tuple(
        Span(placeholders[kind].modality, Direction.IN, start, placeholders[kind].num_positions, item, edge=0)
        for item, (kind, start) in enumerate(encoding.spans)
    )
    if [span.modality for span in spans] != [item.modality for item in media]:
        raise ValueError(f"{len(media)} items for {len(spans)} placeholders\nhint: every placeholder needs its item")
    trained = (False, *(label != IGNORED for label in encoding.labels[1:]))
    return TokenSequence(encoding.input_ids, trained[: len(encoding.input_ids)], spans, tuple(media), key)


@dataclass(frozen=True)
class LegacyBatch:
    """Rows padded on the right and cut to the longest length allowed."""

    input_ids: Int[Tensor, "batch seq"]
    labels: Int[Tensor, "batch seq"]
    attention_mask: Bool[Tensor, "batch seq"]


def collate(rows: Sequence[LegacyEncoding], *, pad_id: int, max_length: int | None = None) -> LegacyBatch:
    """Pad and cut as the original: the mask is false wherever the id is the padding's, inside a row too."""
    ids = [torch.tensor(row.input_ids) for row in rows]
    labels = [torch.tensor(row.labels) for row in rows]
    padded = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True, padding_value=pad_id)[:, :max_length]
    targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)[:, :max_length]
    return LegacyBatch(padded, targets, padded != pad_id)


def multi_token_legacy(
    *,
    language_model: str,
    parts: Sequence[Part],
    lora: LoraSpec | None = None,
    chat_template: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
) -> MultimodalLM:
    """`multi_token` with the original's encoding. `chat_template` None takes the tokenizer's own.

    A template belongs to a checkpoint: the published ones were trained with the one of 2023.
    """
    path = zoo.locate(language_model)
    model = wire(
        load_backbone(path, lora=lora, dtype=getattr(torch, dtype)),
        tokenizer=TextTokenizer.from_pretrained(path),
        template=Template(roles={}),
        parts=parts,
        external={"backbone.language_model": f"{language_model}@{zoo.fingerprint(path)}"},
    )
    placeholders = [part.placeholder for part in parts]
    return use_legacy_encoding(model, placeholders=placeholders, chat_template=chat_template)


def use_legacy_encoding(
    model: MultimodalLM, *, placeholders: Sequence[Placeholder], chat_template: str | None = None
) -> MultimodalLM:
    """Let a model of `multi_token` render as the original did. Returns the same model."""
    model.render = LegacyRenderer(model.render, placeholders=placeholders, chat_template=chat_template)
    return model
