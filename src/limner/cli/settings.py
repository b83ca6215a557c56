"""How a reply is made, as the command line and a line of a chat say it: one set of settings behind several verbs."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.cli.options import Pictures
from limner.document.document import Document

if TYPE_CHECKING:
    from limner.generate.request import Request
    from limner.model.multimodal import MultimodalLM

ENTRY = re.compile(r"""\s*(\w+)\s*:\s*("[^"]*"|'[^']*'|[^,"']*)\s*(?:,|$)""")
SHORT = {"cfg": "guidance_scale", "rescale": "guidance_rescale", "num_inference_steps": "steps"}
"""Other names of settings in a chat; `cfg` and `steps` are those of DreamLLM's prompt."""


@dataclass(frozen=True)
class Settings:
    """See the options of the same names. `size` is "HxW" or "", `beams` 1 is none, `scorer` a directory of a CLIP."""

    seed: int = 0
    pictures: Pictures = Pictures.AUTO
    guidance_scale: float = 3.0
    guidance_rescale: float = 0.0
    negative: str = ""
    steps: int = 24
    sampler: str = ""
    size: str = ""
    best_of: int = 1
    scorer: str = ""
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    beams: int = 1

    def request(self, document: Document, *, model: "MultimodalLM") -> "Request":
        """The request that asks `model` so. Raises ValueError for settings out of range."""
        from limner.generate.beams import BeamSearch
        from limner.generate.request import Pictures as Who
        from limner.generate.request import Request
        from limner.generate.sampling import Sampling
        from limner.generate.scoring import ClipScorer, LikelihoodScorer

        scorer = None
        if self.best_of > 1:
            scorer = ClipScorer(self.scorer, device=model.device) if self.scorer else LikelihoodScorer(model)
        sampling = Sampling(temperature=self.temperature, top_p=self.top_p)
        return Request(
            document,
            max_new_tokens=self.max_new_tokens,
            sampling=sampling if self.beams == 1 else BeamSearch(self.beams),
            pictures=Who(self.pictures),
            guidance_scale=self.guidance_scale,
            guidance_rescale=self.guidance_rescale,
            # Asked for as the prompt is: by a user.
            negative=Document.chat([("user", self.negative)]) if self.negative else None,
            num_inference_steps=self.steps,
            sampler=self.sampler,
            size=size_of(self.size),
            best_of=self.best_of,
            scorer=scorer,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Turn:
    """A line of a chat: what is said, pictures shown with it, and settings of this turn alone."""

    text: str
    images: tuple[Path, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(line: str) -> "Turn":
        """Read `words {cfg: 7.5, steps: 100, image: path, negative: "dark, blurry"}`.

        Braces that hold no `key: value` are words. Raises ValueError for an unknown key and for a value out of its
        type.
        """
        found = re.search(r"\{([^{}]*)\}\s*$", line)
        entries = _entries(found[1]) if found else None
        if found is None or entries is None:
            return Turn(line)
        images = tuple(Path(value).expanduser() for key, value in entries if key == "image")
        changes = dict(_change(key, value) for key, value in entries if key != "image")
        return Turn(line[: found.start()].strip(), images, changes)

    def applied(self, settings: Settings) -> Settings:
        """The settings of this turn."""
        return replace(settings, **self.changes)


def size_of(text: str) -> tuple[int, int] | None:
    """(h, w) of "512x768", None of "". Raises ValueError for anything else."""
    if not text:
        return None
    found = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", text)
    if found is None:
        raise ValueError(f"size is `{text}`; expected HEIGHTxWIDTH in pixels\nhint: try 256x256")
    return int(found[1]), int(found[2])


def _entries(text: str) -> list[tuple[str, str]] | None:
    """Keys and values, None where the text is something else."""
    entries: list[tuple[str, str]] = []
    place = 0
    while place < len(text.rstrip()):
        found = ENTRY.match(text, place)
        if found is None:
            return None
        entries.append((found[1], found[2].strip().strip("\"'")))
        place = found.end()
    return entries or None


def _change(key: str, text: str) -> tuple[str, Any]:
    name = SHORT.get(key, key)
    kinds: dict[str, Any] = {entry.name: entry.type for entry in fields(Settings)}
    if name not in kinds:
        known = ["image", *SHORT, *kinds]
        close = get_close_matches(key, known, n=1)
        raise ValueError(f"no setting `{key}`\nhint: " + (f"did you mean {close[0]}?" if close else ", ".join(known)))
    try:
        return name, kinds[name](text)
    except ValueError as error:
        expected = ", ".join(Pictures) if kinds[name] is Pictures else f"a {kinds[name].__name__}"
        raise ValueError(
            f"{key} is `{text}`; expected {expected}\nhint: try {{{key}: {getattr(Settings(), name)}}}"
        ) from error
