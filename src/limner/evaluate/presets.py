"""How a benchmark's questions are put: the wordings and lengths under which others reported their scores.

A prompt decides a score as much as a model does, so each has a name and is written into the report.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from limner.document.document import Document, Message, Role, Text
from limner.document.media import Image
from limner.generate.request import Pictures, Request


@runtime_checkable
class _Named(Protocol):
    @property
    def name(self) -> str: ...


Named = TypeVar("Named", bound=_Named)


@dataclass(frozen=True)
class Preset:
    """`system`, then the picture with `question` (its "{}" is the benchmark's own), then the reply, begun by `begin`.

    `cut_at` ends a reply at the first of these strings, for answers of a word or two.
    """

    name: str
    question: str = "{}"
    system: str = ""
    begin: str = ""
    max_new_tokens: int = 32
    cut_at: tuple[str, ...] = ()
    lower: bool = False

    def request(self, image: Image, question: str, *, seed: int = 0) -> Request:
        """Greedy, in words only."""
        turns: list[tuple[Role, list]] = [("system", [self.system])] if self.system else []
        asked = self.question.format(question)
        turns.append(("user", [image, asked] if asked else [image]))
        document = Document.chat(turns)
        if self.begin:
            document = document.followed_by(Message("assistant", (Text(self.begin),)))
        return Request(document, max_new_tokens=self.max_new_tokens, pictures=Pictures.NONE, seed=seed)

    def reply(self, message: Message) -> str:
        """What was said, without what it was begun with."""
        said = message.text.removeprefix(self.begin).strip()
        for mark in self.cut_at:
            said = said.partition(mark)[0]
        said = said.strip()
        return said.lower().removesuffix(".") if self.lower else said


PLAIN = Preset("plain", question="{}\nAnswer in one word or a short phrase.", cut_at=("\n",), lower=True)
PLAIN_CAPTION = Preset("plain", question="Describe the picture in one sentence.", max_new_tokens=48, cut_at=("\n",))

DREAMLLM_SYSTEM = "Based on the image, please answer the question."
_SHORT = {"system": DREAMLLM_SYSTEM, "cut_at": (",",), "lower": True}
DREAMLLM_VQA = Preset(
    "dreamllm",
    question="{}Please provide an accurate answer within one word.",
    begin="The short answer '(one word)' is:",
    **_SHORT,
)
DREAMLLM_READING = Preset(
    "dreamllm",
    question="{}Please provide an accurate answer within one word.",
    begin="The answer is:",
    **_SHORT,
)
DREAMLLM_KNOWLEDGE = Preset(
    "dreamllm",
    question="{}Please provide an accurate and brief answer within one word.",
    begin="The short answer '(one word)' is:",
    **_SHORT,
)
DREAMLLM_CAPTION = Preset(
    "dreamllm",
    system="Based on the image, give the image caption briefly.",
    question="Please summarize object in one sentence within 10 words.",
    begin="The image depicts",
    max_new_tokens=64,
)
DREAMLLM_PARAGRAPH = Preset(
    "dreamllm",
    system="Based on the image, please describe the image in detail.",
    question="Please describe the image in detail.",
    begin="The image depicts",
    max_new_tokens=256,
)
DREAMLLM_OBJECTS = Preset(
    "dreamllm",
    system="Based on the image, please objectively and accurately indicate whether the object exists.",
    begin="The answer is:",
)
LAVIT_VQA = Preset("lavit", question="Question: {} Answer:", max_new_tokens=10, cut_at=("\n", ",", "."), lower=True)
LAVIT_CAPTION = Preset("lavit", question="", max_new_tokens=36, cut_at=(".",))


def chosen(presets: tuple[Named, ...], name: str, *, benchmark: str) -> Named:
    """The preset of a benchmark by name; "" is its first. Raises ValueError for one that it has not."""
    for preset in presets:
        if name in ("", preset.name):
            return preset
    known = ", ".join(preset.name for preset in presets)
    raise ValueError(f"`{benchmark}` has no preset `{name}`\nhint: it has {known}")


def refuse_choices(benchmark: str, *, preset: str, split: str) -> None:
    """Raises ValueError where a preset or a split is chosen of a benchmark that has one of each."""
    for kind, given in (("preset", preset), ("split", split)):
        if given:
            raise ValueError(f"`{benchmark}` has no {kind} `{given}`\nhint: leave --{kind} out")
