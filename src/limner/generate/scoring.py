"""Which of several pictures fits what was asked for: scorers for best-of-n.

A scorer sees the document up to the place of the picture, and the candidates; higher is better.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from limner.data.collate import Collator
from limner.document.document import Direction, Document, Media, Text
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED


@runtime_checkable
class Scorer(Protocol):
    """How well pictures fit a prompt."""

    def scores(self, prompt: Document, pictures: Sequence[Media]) -> Float[Tensor, " pictures"]:
        """A score per picture, higher is better."""
        ...


def words_for_picture(prompt: Document) -> str:
    """The words that a picture at the end of `prompt` is to show: those since the last picture of the last message that
    has words."""
    for message in reversed(prompt.messages):
        words: list[str] = []
        for part in message.parts:
            if isinstance(part, Text):
                words.append(part.text)
            elif "".join(words).strip() and message.parts[-1] is not part:
                words = []
        if found := "".join(words).strip():
            return found
    return ""


class LikelihoodScorer:
    """How likely the model finds the words once it has read the picture: mean log-probability of a token, in nats.

    `question` "" scores the words as a page that goes on behind the picture, as in captioning; otherwise as the answer
    to that question about the picture.
    """

    def __init__(self, model: MultimodalLM, *, question: str = "") -> None:
        self.model = model
        self.question = question

    @torch.inference_mode()
    def scores(self, prompt: Document, pictures: Sequence[Media]) -> Float[Tensor, " pictures"]:
        """The mean log-probability of the prompt's words behind each picture."""
        words = words_for_picture(prompt)
        if not words:
            return torch.zeros(len(pictures))
        rows = [[self.model.render(self._document(picture, words))] for picture in pictures]
        batch = Collator(self.model)(rows).to(self.model.device)
        hidden = self.model.hidden_states(batch)
        totals = []
        for states, labels in zip(hidden, batch.labels, strict=True):
            places = torch.nonzero(labels != IGNORED).flatten()
            scores = self.model.backbone.logits(states[places - 1]).log_softmax(dim=-1)
            totals.append(scores.gather(1, labels[places][:, None]).mean())
        return torch.stack(totals).cpu()

    def _document(self, picture: Media, words: str) -> Document:
        shown = Media(picture.payload, modality=picture.modality, train=False, directions=(Direction.IN,))
        if not self.question:
            return Document.page([shown, words])
        return Document.chat([("user", [shown, self.question]), ("assistant", words)])


class ClipScorer:
    """Cosine similarity of picture and words under a CLIP in `directory` (transformers' layout), -1 to 1.

    Raises ValueError where there is none.
    """

    def __init__(self, directory: str | Path, *, device: torch.device | str = "cpu") -> None:
        if not (Path(directory) / "config.json").is_file():
            raise ValueError(
                f"no CLIP in `{directory}`: it has no config.json\nhint: give the directory of a downloaded model"
            )
        from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel

        loaded: Any = CLIPModel.from_pretrained(str(directory))  # its `to` is not typed as what it is
        self.model: Any = loaded.to(device).eval()
        self.tokenizer: Any = AutoTokenizer.from_pretrained(str(directory))
        self.processor: Any = CLIPImageProcessor.from_pretrained(str(directory))

    @torch.inference_mode()
    def scores(self, prompt: Document, pictures: Sequence[Media]) -> Float[Tensor, " pictures"]:
        """The cosine similarity of the prompt's words, cut to CLIP's length, and each picture."""
        length = self.model.config.text_config.max_position_embeddings
        ids = self.tokenizer(words_for_picture(prompt), truncation=True, max_length=length, return_tensors="pt")
        pixels = self.processor([picture.content.pil() for picture in pictures], return_tensors="pt")
        found = self.model(
            input_ids=ids["input_ids"].to(self.model.device),
            attention_mask=ids["attention_mask"].to(self.model.device),
            pixel_values=pixels["pixel_values"].to(self.model.device),
        )
        return torch.cosine_similarity(found.image_embeds, found.text_embeds).cpu()
