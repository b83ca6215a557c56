"""Drawing: known things asked for in new wordings, recognised by their neighbours. 200 where no limit is given.

Each drawing is looked up among all pictures of the drawn style, one per name. Controls: drawings
held against other prompts (luck), and what is the best to hope for: the target itself through the
autoencoder, and the same thing in the style's earlier edition.

Files, with the repository: emoji/*.tar (in the folder `data`)
"""

import functools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.data import stories
from limner.data.stories import Library, Record
from limner.data.story_text import HELD_OUT
from limner.document.document import Document, Media
from limner.document.media import Image
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score, Unit, answer, drawn
from limner.evaluate.benchmarks.emoji import (
    DRAWN,
    EARLIER,
    Judges,
    at_target_size,
    both_judges,
    decoder_of,
    to_image,
    trained,
)
from limner.evaluate.intervals import bootstrap, permuted, share
from limner.evaluate.metrics.retrieval import best_of_cluster
from limner.evaluate.presets import refuse_choices
from limner.generate.request import Pictures, Request
from limner.modalities.base import Decoder

DEPTHS = (1, 5, 10)
DEFAULT_COUNT = 200


@dataclass(frozen=True)
class Drawing:
    """`library` holds one picture per name: the gallery of all judges, in this order (`gallery`);
    `siblings` the same things in another style. The first judge decides the contact sheet."""

    library: Library
    siblings: Library
    judges: Judges
    name: str = "drawing"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Draw one name of each of `limit` concepts (None: 200)."""
        places = targets(self.library, limit=limit, seed=seed)
        records = [self.library.records[place] for place in places]
        prompts = [prompt(record, seed=seed) for record in records]
        drawings = draw(engine, prompts, seed=seed)
        decoder = decoder_of(engine.model)
        restored = [through_autoencoder(record.image(), decoder=decoder) for record in records]
        older = [
            (place, at_target_size(self.siblings.by_name[record.name][0].image(), decoder=decoder))
            for place, record in zip(places, records, strict=True)
            if record.name in self.siblings.by_name
        ]
        scores = [self._share_drawn_unasked(engine, prompts, records)]
        judges = self.judges(engine.model)
        for judge in judges:
            title = f"judge: {judge.name}"
            scores += self._scores(f"{title}; drawn", judge.ranks(drawings), places)
            scores += self._scores(f"{title}; bound, autoencoder", judge.ranks(restored), places)
            if older:
                where, pictures = zip(*older, strict=True)
                scores += self._scores(f"{title}; bound, other edition", judge.ranks(pictures), where)
        ranked = judges[0].ranks(drawings)
        return Outcome(
            name=self.name,
            setup=(
                "One picture per held-out prompt, of a name seen in training. Looked up among "
                f"all {len(self.library.records)} pictures of the drawn style, at the size that is "
                "drawn. Shuffled: the drawings held against prompts of other concepts."
            ),
            baseline="chance",
            scores=tuple(scores),
            examples=self._examples(drawings, records, ranked, places),
            items=tuple(
                {
                    "key": record.key,
                    "cluster": record.concept,
                    "prompt": asked.messages[0].text,
                    "name": record.name,
                    "rank": float(row[place]),
                    "score": float(row[place] <= DEPTHS[1]),
                }
                for asked, record, row, place in zip(prompts, records, ranked, places, strict=True)
            ),
            settings={"seed": seed, "guidance_scale": Request(prompts[0]).guidance_scale},
        )

    def _scores(self, title: str, ranked: Tensor, places: Sequence[int]) -> list[Score]:
        """Hits within each depth, by name and by concept, and the mean rank."""
        gallery = [record.concept for record in self.library.records]
        clusters = [gallery[place] for place in places]
        of_name = ranked[:, list(places)]
        of_concept = best_of_cluster(ranked, clusters=gallery)[:, list(places)]
        measures = [(f"name R@{k}", (of_name <= k).numpy(), Unit.SHARE, k / len(gallery)) for k in DEPTHS]
        measures += [(f"concept R@{k}", (of_concept <= k).numpy(), Unit.SHARE, None) for k in DEPTHS[:2]]
        middle = (len(gallery) + 1) / 2
        interval = {Unit.SHARE: share, Unit.NUMBER: bootstrap}
        measures.append(("mean rank", of_name.numpy(), Unit.NUMBER, middle))
        return [
            Score(
                name=f"{title}: {name}",
                value=interval[unit](square.diagonal(), clusters=clusters),
                num_items=len(places),
                unit=unit,
                shuffled=permuted(square, clusters=clusters),
                baseline=baseline,
            )
            for name, square, unit, baseline in measures
        ]

    def _share_drawn_unasked(self, engine: Respondent, prompts: Sequence[Document], records: Sequence[Record]) -> Score:
        """How often the model draws by itself when asked to; here its pictures are not refined."""
        requests = [Request(asked, max_new_tokens=24, max_pictures=1, num_inference_steps=1) for asked in prompts]
        drew = [bool(drawn(reply)) for reply in answer(engine, requests)]
        value = share(drew, clusters=[record.concept for record in records])
        return Score("draws when asked, pictures left to the model", value, len(drew))

    def _examples(
        self,
        drawings: Sequence[Image],
        records: Sequence[Record],
        ranked: Tensor,
        places: Sequence[int],
    ) -> tuple[Example, ...]:
        nearest = [self.library.records[int(place)] for place in ranked.argmin(dim=1)]
        own = [float(row[place]) for row, place in zip(ranked, places, strict=True)]
        return tuple(
            Example(
                (drawing, record.image(), near.image()),
                f"{record.name}: drawn, meant, nearest\nrank {rank:g}; nearest: {near.name}",
                rank <= DEPTHS[1],
            )
            for drawing, record, near, rank in zip(drawings, records, nearest, own, strict=True)
        )


def targets(library: Library, *, limit: int | None, seed: int) -> list[int]:
    """Places in a library: a random name of each concept, `limit` of them (None: 200) in random order."""
    rng = random.Random(f"drawing/{seed}")
    by_concept: dict[str, list[int]] = {}
    for place, record in enumerate(library.records):
        by_concept.setdefault(record.concept, []).append(place)
    chosen = [rng.choice(places) for places in by_concept.values()]
    return rng.sample(chosen, min(len(chosen), limit or DEFAULT_COUNT))


def prompt(record: Record, *, seed: int) -> Document:
    """A held-out request for a record's name, in the form that training has."""
    template = random.Random(f"drawing/{seed}/{record.key}").choice(HELD_OUT["draw"])
    asked = stories.draw(0, seed=seed, library=Library([record]), templates=[template])
    return Document(asked.messages[:1])


def draw(engine: Respondent, prompts: Sequence[Document], *, seed: int) -> list[Image]:
    """One picture per prompt, each from noise of its own."""
    requests = [
        Request(asked, max_new_tokens=1, max_pictures=1, pictures=Pictures.NOW, seed=seed + number)
        for number, asked in enumerate(prompts)
    ]
    return [drawn(reply)[0] for reply in answer(engine, requests)]


@torch.inference_mode()
def through_autoencoder(image: Image, *, decoder: Decoder) -> Image:
    """A picture encoded and decoded again: the best that the decoder could draw."""
    pixels = decoder.preprocess(Media(image))[None]
    device = next(decoder.parameters()).device
    latents = decoder.encode(pixels.to(device))
    autoencoder: Any = decoder.get_submodule("autoencoder")
    return to_image(autoencoder.decode(latents)[0])


def load(folder: Path, *, preset: str = "", split: str = "") -> Drawing:
    """The drawn style of the emoji set."""
    refuse_choices("drawing", preset=preset, split=split)
    library = trained(folder, DRAWN)
    return Drawing(library, trained(folder, EARLIER), functools.partial(both_judges, library))
