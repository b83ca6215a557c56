"""Add a modality in one file: measurements over time, from data over training to answers.

python examples/add_a_modality.py smollm2-135m-instruct runs/series
"""

import sys
from pathlib import Path

import numpy
import torch

from limner.backbone.lora import LoraSpec
from limner.compositions.multi_token import Part, lora_targets, multi_token
from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.document.array import Array
from limner.document.document import Document, Media
from limner.document.rows import Placeholder
from limner.generate.engine import Engine
from limner.generate.request import Request
from limner.modalities.base import Encoder, Features
from limner.model.checkpoint import load_checkpoint
from limner.model.multimodal import MultimodalLM
from limner.train.plan import Plan, run_plan
from limner.train.stage import Packed, Stage, Trainable


class SeriesEncoder(Encoder):
    width = 16  # one row for a series of any length: its course in 16 points

    def preprocess(self, media: Media) -> torch.Tensor:
        values = media.payload.values()
        course = numpy.interp(numpy.linspace(0, len(values) - 1, self.width), range(len(values)), values)
        return torch.tensor((course - values.mean()) / values.std()).float()

    def measure(self, media: Media) -> int:
        return 1

    def forward(self, items: torch.Tensor) -> Features:
        return Features(items, torch.ones(len(items), dtype=torch.long, device=items.device))


class Readings:
    courses = ("rises", lambda t: t), ("falls", lambda t: -t), ("swings", lambda t: numpy.sin(9 * t))

    def __len__(self) -> int:
        return 600

    def __getitem__(self, index: int) -> Document:
        word, course = self.courses[index % 3]
        time = numpy.linspace(0, 1, 20 + index % 40)
        values = 40 + 10 * course(time) + numpy.random.default_rng(index).normal(size=len(time))
        series = Media(Array.from_values(values), modality="series")
        return Document.chat([("user", [series, "What does it do?"]), ("assistant", word)])


def reader(base: str) -> MultimodalLM:
    series = Placeholder("series", "<series>", "series", num_positions=4, modality="series", kind="array")
    lora = LoraSpec(rank=8, alpha=16.0, targets=lora_targets(base))
    return multi_token(language_model=base, parts=[Part(series, SeriesEncoder(), "vector")], lora=lora, system="")


def plan(base: str) -> Call:
    learn = call(
        Stage,
        name="learn",
        mixture=call(Mixture, sources={"readings": call(Readings)}),
        batching=call(Packed, row_length=256, num_rows=1),
        trainable=[call(Trainable, glob="*.input_projector.*"), call(Trainable, glob="backbone.*lora_*")],
        learning_rate=5e-3,
        num_steps=60,
        loss_weights={"text": 1.0},
    )
    return call(Plan, model=call(reader, base=base), stages=[learn])


if __name__ == "__main__":
    import add_a_modality as this  # by a name under which the checkpoint finds the encoder again

    checkpoint = run_plan(this.plan(sys.argv[1]), output=Path(sys.argv[2]))
    model = load_checkpoint(checkpoint, modules=["add_a_modality"])
    asked = [this.Readings()[index] for index in range(600, 612)]  # none of these was trained on
    answers = Engine(model).run([Request(Document(one.messages[:1]), max_new_tokens=12) for one in asked])
    for one, answer in zip(asked, answers, strict=True):
        print(f"it {one.messages[1].text}: {answer.messages[1].text}")
