"""Pictures drawn for people's captions: what all such benchmarks have in common.

For each caption `candidates` pictures are drawn, each from noise of its own, and kept; of these the one that the first
matcher likes best stays. Sets of pictures are compared with the real ones of the same captions, pictures with captions
and with the captions' real pictures. Controls: the first candidate alone; real pictures in place of the drawn ones (the
best to hope for); drawn pictures held against other captions; pictures with their pixels shuffled.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from limner.document.document import Document
from limner.document.media import Image
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score, Unit, answer, drawn
from limner.evaluate.intervals import Interval, bootstrap, permuted, share
from limner.evaluate.metrics.features import frechet_distance, kernel_distance
from limner.evaluate.metrics.networks import Matcher, Networks, Pairs, SetNetwork
from limner.generate.request import Pictures, Request

APART = 1_000_003
"""Between the seeds of candidates; more than there are captions."""
MOST_SHUFFLED = 1000
NUM_RESAMPLES = 10


@dataclass(frozen=True)
class Wanted:
    """A caption and the picture that it was written for; `asked` where that is not in a preset's words."""

    key: str
    caption: str
    picture: Path | Image
    asked: Document | None = None

    @property
    def image(self) -> Image:
        """The real picture. Raises ValueError where its file is missing."""
        if isinstance(self.picture, Image):
            return self.picture
        if not self.picture.is_file():
            raise ValueError(
                f"`{self.picture}` is missing (caption {self.key})\nhint: fetch the benchmark's pictures too"
            )
        return Image.from_path(self.picture)


@dataclass(frozen=True)
class Painting:
    """How pictures are asked for; `request` "" asks with the bare caption as a page."""

    name: str
    request: str = ""
    guidance_scale: float = 3.0
    num_inference_steps: int = 24
    candidates: int = 1
    count: int = 30_000

    def document(self, caption: str) -> Document:
        """The prompt."""
        return Document.chat([("user", self.request.format(caption))]) if self.request else Document.page([caption])


PLAIN = Painting("plain", request="Draw a picture: {}")


@dataclass(frozen=True)
class DrawnCaptions:
    """`networks` are opened when they are needed."""

    name: str
    wanted: Sequence[Wanted]
    painting: Painting
    networks: Callable[[], Networks]

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Draw for `limit` captions at random (None: as many as the preset takes), and compare."""
        wanted = self._drawn_lots(limit, seed=seed)
        networks = self.networks()  # before anything is drawn: what is missing is said while it can be mended
        candidates = [
            self._draw(engine, wanted, seed=seed + APART * number) for number in range(self.painting.candidates)
        ]
        captions = [one.caption for one in wanted]
        chosen = _chosen(candidates, captions, networks.matchers)
        best = [candidates[number][place] for place, number in enumerate(chosen)]
        real = [one.image for one in wanted]
        sets: dict[str, Sequence[Image]] = {f"best of {len(candidates)}": best}
        if len(candidates) > 1:
            sets["first candidate"] = candidates[0]
        missing = f" Left out: {'; '.join(networks.missing)}." if networks.missing else ""
        fits, matched = _matched(networks.matchers, best, real, captions)
        middle = float(numpy.median(matched))
        return Outcome(
            name=self.name,
            setup=(
                f"One picture per caption, preset `{self.painting.name}`, best of {self.painting.candidates} by "
                f"{networks.matchers[0].name if networks.matchers else 'nothing'}. Distances: baseline is that of two "
                "halves of the real pictures, shuffled that of drawn pictures with their pixels shuffled, intervals "
                "1.96 standard deviations of resampled sets (kernel: of subsets). Pictures and captions: cosine; R@1: "
                f"the share of pictures whose own caption is nearest.{missing}"
            ),
            baseline="chance, or two real halves",
            scores=(
                *_distances(networks.sets, sets, real, seed=seed),
                *fits,
                *_pairwise(networks.pairs, best, real),
            ),
            examples=tuple(
                Example((picture, target), f"{one.caption}\n(drawn, real)", value >= middle)
                for picture, target, one, value in list(zip(best, real, wanted, matched, strict=True))[:60]
            ),
            items=tuple(
                {"key": one.key, "caption": one.caption, "chosen": number}
                | ({"score": float(value)} if networks.matchers else {})
                for one, number, value in zip(wanted, chosen, matched, strict=True)
            ),
            settings={
                "preset": self.painting.name,
                "seed": seed,
                "candidates": self.painting.candidates,
                "guidance_scale": self.painting.guidance_scale,
                "num_inference_steps": self.painting.num_inference_steps,
            },
        )

    def _drawn_lots(self, limit: int | None, *, seed: int) -> list[Wanted]:
        if len(self.wanted) < 2:
            raise ValueError(f"{len(self.wanted)} captions; expected two or more\nhint: is the annotation file whole?")
        count = min(limit or self.painting.count, len(self.wanted))
        everything = list(self.wanted)
        return everything if count == len(everything) else random.Random(f"captions/{seed}").sample(everything, count)

    def _draw(self, engine: Respondent, wanted: Sequence[Wanted], *, seed: int) -> list[Image]:
        requests = [
            Request(
                one.asked or self.painting.document(one.caption),
                max_new_tokens=1,
                max_pictures=1,
                pictures=Pictures.NOW,
                guidance_scale=self.painting.guidance_scale,
                num_inference_steps=self.painting.num_inference_steps,
                seed=seed + number,
            )
            for number, one in enumerate(wanted)
        ]
        return [drawn(reply)[0] for reply in answer(engine, requests)]


def _chosen(candidates: Sequence[Sequence[Image]], captions: Sequence[str], matchers: Sequence[Matcher]) -> list[int]:
    """Which candidate of each caption the first matcher likes best; the first where there is none to ask."""
    if len(candidates) < 2 or not matchers:
        return [0] * len(captions)
    values = []
    for pictures in candidates:
        shown, said = matchers[0].rows(pictures, captions)
        values.append((shown * said).sum(dim=-1))
    return torch.stack(values).argmax(dim=0).tolist()


def _distances(
    networks: Sequence[SetNetwork], sets: Mapping[str, Sequence[Image]], real: Sequence[Image], *, seed: int
) -> list[Score]:
    """Fréchet and kernel distances of each set; the first set's pictures are those that the control shuffles."""
    generator = numpy.random.default_rng(seed)
    half = len(real) // 2
    order = torch.from_numpy(generator.permutation(len(real)))
    scrambled = [shuffled_pixels(picture, generator=generator) for picture in next(iter(sets.values()))]
    found = []
    for network in networks:
        true, noise = network.features(real), network.features(scrambled)
        halves = (true[order[:half]], true[order[half : 2 * half]])
        for name, pictures in sets.items():
            features = network.features(pictures)
            for title, distance in ((network.frechet, frechet_interval), (network.kernel, kernel_interval)):
                found.append(
                    Score(
                        f"{title}, {name}",
                        distance(features, true),
                        len(pictures),
                        Unit.NUMBER,
                        shuffled=distance(noise, true),
                        baseline=distance(*halves).mean if half > 1 else None,
                    )
                )
    return found


def frechet_interval(features: Tensor, true: Tensor) -> Interval:
    """The distance, give or take 1.96 standard deviations of that of resampled pictures."""
    generator = numpy.random.default_rng(0)
    values = []
    for _ in range(NUM_RESAMPLES):
        places = torch.from_numpy(generator.integers(0, len(features), size=len(features)))
        values.append(frechet_distance(features[places], true))
    value, spread = frechet_distance(features, true), 1.96 * float(numpy.std(values, ddof=1))
    return Interval(value, max(0.0, value - spread), value + spread)


def kernel_interval(features: Tensor, true: Tensor) -> Interval:
    """The mean over subsets of 1,000, or of half of the pictures where there are fewer: whole sets are all alike."""
    return kernel_distance(features, true, subset_size=min(1000, max(2, min(len(features), len(true)) // 2)))


def _matched(
    matchers: Sequence[Matcher], pictures: Sequence[Image], real: Sequence[Image], captions: Sequence[str]
) -> tuple[list[Score], list[float]]:
    """Scores of pictures against captions, and each picture's by the first matcher (0 without one)."""
    scores: list[Score] = []
    own = list(range(len(captions)))
    first: list[float] = []
    for matcher in matchers:
        for title, shown in (("", pictures), ("bound, real pictures: ", real)):
            rows, said = matcher.rows(shown, captions)
            whole = rows @ said.T
            values = whole.diagonal().double().numpy()
            if not first:
                first = values.tolist()
            nearest = (whole >= whole.diagonal()[:, None]).sum(dim=-1).eq(1).numpy()
            some = whole[:MOST_SHUFFLED, :MOST_SHUFFLED].double().numpy()
            luck = permuted(some, clusters=own[:MOST_SHUFFLED], num_permutations=200)
            hits = numpy.eye(len(some), dtype=bool)[(whole[:MOST_SHUFFLED, :MOST_SHUFFLED]).argmax(dim=-1).numpy()]
            scores += [
                Score(f"{title}{matcher.name}", bootstrap(values, clusters=own), len(own), Unit.NUMBER, shuffled=luck),
                Score(
                    f"{title}{matcher.name}, R@1",
                    share(nearest, clusters=own),
                    len(own),
                    shuffled=permuted(hits, clusters=own[:MOST_SHUFFLED], num_permutations=200),
                    baseline=1.0 / len(own),
                ),
            ]
    return scores, first or [0.0] * len(captions)


def _pairwise(networks: Sequence[Pairs], pictures: Sequence[Image], real: Sequence[Image]) -> list[Score]:
    """Distance of each picture to the real one of its caption; shuffled: to that of the next caption."""
    own = list(range(len(pictures)))
    moved = [*real[1:], real[0]]
    return [
        Score(
            f"{network.name} to the caption's real picture",
            bootstrap(network.distances(pictures, real).double().numpy(), clusters=own),
            len(own),
            Unit.NUMBER,
            shuffled=bootstrap(network.distances(pictures, moved).double().numpy(), clusters=own),
        )
        for network in networks
    ]


def shuffled_pixels(picture: Image, *, generator: numpy.random.Generator) -> Image:
    """The same colours in random places."""
    pixels = numpy.asarray(picture.pil())
    flat = pixels.reshape(-1, pixels.shape[-1])
    return Image.from_array(numpy.ascontiguousarray(generator.permutation(flat).reshape(pixels.shape)))
