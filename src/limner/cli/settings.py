"""How a reply is made, as the command line and a line of a chat say it: one set of settings behind several verbs."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner.cli import options
from limner.cli.options import Pictures
from limner.document.document import Document

if TYPE_CHECKING:
    import torch

    from limner.generate.request import Request
    from limner.generate.scoring import ClipScorer
    from limner.model.multimodal import MultimodalLM

BLOCK = re.compile(r"\{([^{}]*)(?:\}|$)")
EXAMPLE = "A fox in the snow {cfg: 7.5, steps: 50, seed: 3}"
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

    @property
    def names(self) -> list[str]:
        """The settings that can be changed as these stand: beams write text alone."""
        beams = self.pictures is Pictures.NONE
        return [entry.name for entry in fields(self) if entry.name != "beams" or beams]

    def request(self, document: Document, *, model: "MultimodalLM") -> "Request":
        """The request that asks `model` so. Raises ValueError for settings out of range."""
        from limner.generate.beams import BeamSearch
        from limner.generate.request import Pictures as Who
        from limner.generate.request import Request
        from limner.generate.sampling import Sampling
        from limner.generate.scoring import LikelihoodScorer

        scorer = None
        if self.best_of > 1:
            scorer = _clip(self.scorer, model.device) if self.scorer else LikelihoodScorer(model)
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


@lru_cache(maxsize=1)
def _clip(directory: str, device: "torch.device") -> "ClipScorer":
    """A scorer, loaded once for all rows and turns that ask for it."""
    from limner.generate.scoring import ClipScorer

    return ClipScorer(directory, device=device)


@dataclass(frozen=True)
class Turn:
    """A line of a chat: what is said, pictures shown with it, and settings of this turn alone."""

    text: str
    images: tuple[Path, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)

    @staticmethod
    def of(line: str, *, settings: Settings | None = None) -> "Turn":
        """Read `words {cfg: 7.5, steps: 100, image: path, negative: "dark, blurry"}`.

        Other braces are words. Raises ValueError for an unknown key, for a value out of its type, and for braces that
        look like settings and are none: `{cfg 7.5}`, `{cfg: 7.5` and settings before the end of the line. `settings`
        are those that the turn begins with.
        """
        known = (settings or Settings(pictures=Pictures.NONE)).names
        found = re.search(r"\{([^{}]*)\}\s*$", line)
        entries = _entries(found[1]) if found else None
        text = line if found is None or entries is None else line[: found.start()].strip()
        for block in BLOCK.finditer(text):
            if _looks_like_settings(block[1]):
                raise ValueError(
                    f"`{block[0]}` cannot be read as settings\n"
                    f"hint: they are `key: value` in braces, at the end of a line: {EXAMPLE}"
                )
        images = tuple(Path(value).expanduser() for key, value in entries or () if key == "image")
        changes = dict(_change(key, value, known=known) for key, value in entries or () if key != "image")
        return Turn(text, images, changes)

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


def listed(settings: Settings) -> str:
    """A line per setting: its names, its value, what it does."""
    lines = []
    for name in settings.names:
        short = [other for other, long in SHORT.items() if long == name]
        value = getattr(settings, name)
        names, said = ", ".join([name, *short]), str(value) if value != "" else "-"
        lines.append(f"  {names:<28} {said:<6} {_HELP[name]}")
    return "\n".join(lines)


_HELP: Mapping[str, str] = {
    name: alias.__metadata__[0].help
    for name, alias in {
        "seed": options.Seed,
        "pictures": options.PicturesOption,
        "guidance_scale": options.GuidanceScale,
        "guidance_rescale": options.GuidanceRescale,
        "negative": options.Negative,
        "steps": options.Steps,
        "sampler": options.Sampler,
        "size": options.Size,
        "best_of": options.BestOf,
        "scorer": options.ScorerOption,
        "temperature": options.Temperature,
        "top_p": options.TopP,
        "max_new_tokens": options.MaxNewTokens,
        "beams": options.Beams,
    }.items()
}
"""What the options of the same names say of themselves."""


def _looks_like_settings(text: str) -> bool:
    """Whether words in braces were meant as settings: a known key with `:` or `=`, or with a value of its kind."""
    found = re.match(r"\s*(\w+)(\s*[:=]|\s+)\s*([^,]*)", text)
    if found is None or (found[1] not in SHORT and found[1] not in _KINDS and found[1] != "image"):
        return False
    if found[2].strip():
        return True
    kind = _KINDS.get(SHORT.get(found[1], found[1]), str)
    if kind is str:
        return re.fullmatch(r"\S+\.\w+|\d+[xX]\d+", found[3].strip()) is not None
    try:
        kind(found[3].strip())
    except ValueError:
        return False
    return True


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


_KINDS: Mapping[str, Any] = {entry.name: entry.type for entry in fields(Settings)}


def _change(key: str, text: str, *, known: Sequence[str]) -> tuple[str, Any]:
    name = SHORT.get(key, key)
    if name not in _KINDS:
        names = ["image", *SHORT, *known]
        close = get_close_matches(key, names, n=1)
        raise ValueError(f"no setting `{key}`\nhint: " + (f"did you mean {close[0]}?" if close else ", ".join(names)))
    try:
        return name, _KINDS[name](text)
    except ValueError as error:
        expected = ", ".join(Pictures) if _KINDS[name] is Pictures else f"a {_KINDS[name].__name__}"
        raise ValueError(
            f"{key} is `{text}`; expected {expected}\nhint: try {{{key}: {getattr(Settings(), name)}}}"
        ) from error
