"""Packed training against padded fine-tuning of the same LLaVA: real tokens per second, in one run.

    python -m benchmarks packed_training

Ours is Limner's `Trainer` over packed rows. The peer is transformers' own `LlavaForConditionalGeneration` under its own
`Trainer`, with its defaults: batches in random order, padded to their longest example. Both have a CLIP tower (frozen),
a two-layer projector and a Llama of the same sizes, the same documents rendered to the same ids and targets, the same
pictures through the same preprocessing, the same fused AdamW, and steps of about the same number of real tokens. No
document is seen twice in a round, so the feature cache spares no run of the tower. Rounds of the two alternate, so that
a machine that is busy at times is busy for both; the figure is the median over all steps but the first two of each.

`--sampling group_by_length` gives the peer batches of like lengths, which its defaults do not.
"""

import argparse
import json
import logging
import math
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import PIL.Image
import torch
import transformers
from torch import Tensor
from torch.utils.data import Dataset

from limner.backbone.hf import Backbone
from limner.data.mixture import Mixture
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.modalities.base import Modality
from limner.modalities.encoders.clip import ClipEncoder
from limner.modalities.projectors import MLPProjector, Rowwise
from limner.model.multimodal import MultimodalLM
from limner.tokens.batch import IGNORED
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer
from limner.tokens.vocabulary import Vocabulary, span_roles
from limner.train.optim import TorchOptimizer
from limner.train.stage import Packed, Schedule, Stage, Trainable
from limner.train.trainer import Trainer

WARM_UP = 2
"""First steps of a round, which are not measured."""
TARGET = 2.2


class Conversations:
    """A source: a picture, a question, and an answer whose length is log-normal, as answers are. Made beforehand."""

    def __init__(self, *, num_conversations: int, options: argparse.Namespace) -> None:
        draw = random.Random(options.seed)
        lengths = [draw.lognormvariate(math.log(options.median), options.spread) for _ in range(num_conversations)]
        longest = options.longest
        self.documents = [
            self._made(min(longest, max(8, round(length))), edge=options.image_size, draw=draw) for length in lengths
        ]

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, index: int) -> Document:
        return self.documents[index]

    @staticmethod
    def _made(length: int, *, edge: int, draw: random.Random) -> Document:
        picture = PIL.Image.frombytes("RGB", (edge, edge), draw.randbytes(3 * edge * edge))
        shown = Media(Image.from_pil(picture), directions=(Direction.IN,))
        answer = "".join(draw.choices("abcdefgh ", k=length))
        return Document.chat([("user", [shown, "What is it?"]), ("assistant", answer)])


class Padded(Dataset):
    """The same conversations as the peer's examples, rendered and preprocessed by the same code."""

    def __init__(self, source: Conversations, model: MultimodalLM, *, image_token: int) -> None:
        self.source = source
        self.model = model
        self.image_token = image_token

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sequence = self.model.render(self.source[index])
        ids = torch.tensor(sequence.ids)
        labels = torch.where(torch.tensor(sequence.trained), ids, IGNORED)
        (span,) = sequence.spans
        ids[span.start : span.start + span.length] = self.image_token
        pixels = self.model.reader("image").encoder.preprocess(sequence.media[span.item])
        return {"input_ids": ids, "labels": labels, "pixel_values": pixels, "length": len(ids)}


def pad(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch as wide as its longest example, as transformers' collators make it."""
    rows = torch.nn.utils.rnn.pad_sequence

    def padded(name: str, value: int) -> Tensor:
        return rows([example[name] for example in examples], batch_first=True, padding_value=value)

    mask = rows([torch.ones_like(example["input_ids"]) for example in examples], batch_first=True)
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", IGNORED),
        "attention_mask": mask,
        "pixel_values": torch.stack([example["pixel_values"] for example in examples]),
    }


class Steps(NamedTuple):
    """Real tokens and seconds of the measured steps, and the share of what was computed that were real tokens."""

    tokens: list[int]
    seconds: list[float]
    filled: float

    @property
    def speeds(self) -> list[float]:
        """Tokens per second of each step."""
        return [tokens / seconds for tokens, seconds in zip(self.tokens, self.seconds, strict=True)]


def main(arguments: list[str]) -> None:
    """Alternate both, and print their real tokens per second and the ratio."""
    options = _options(arguments)
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        tower = Path(folder) / "tower"
        transformers.CLIPVisionModel(_vision(options)).save_pretrained(tower)
        ours: list[Steps] = []
        peers: list[Steps] = []
        for number in range(options.rounds):
            options.seed = number
            directory = Path(folder) / str(number)
            ours.append(packed(tower, directory / "packed", options))
            peers.append(padded(tower, directory / "padded", options))
    _print("Limner, packed", ours)
    _print(f"transformers {transformers.__version__}, padded, {options.sampling}", peers)
    ratio = _median(ours) / _median(peers)
    print(f"\nratio of real tokens/s: {ratio:.2f} (target: {TARGET}); {torch.get_num_threads()} threads")


def _median(rounds: list[Steps]) -> float:
    return statistics.median(speed for steps in rounds for speed in steps.speeds)


def _print(name: str, rounds: list[Steps]) -> None:
    tokens = statistics.mean(count for steps in rounds for count in steps.tokens)
    filled = statistics.mean(steps.filled for steps in rounds)
    print(f"{name}: {_median(rounds):.0f} real tokens/s; {tokens:.0f} tokens a step, {filled:.0%} of positions real")


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks packed_training")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="measured steps of a round")
    parser.add_argument("--batch", type=int, default=16, help="the peer's examples per step; LLaVA 1.5 has 16")
    parser.add_argument("--median", type=float, default=120.0, help="median length of an answer, in tokens")
    parser.add_argument("--spread", type=float, default=1.0, help="standard deviation of its logarithm")
    parser.add_argument("--longest", type=int, default=1024)
    parser.add_argument("--sampling", choices=["random", "group_by_length"], default="random")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    options = parser.parse_args(arguments)
    options.seed = 0
    return options


def _vision(options: argparse.Namespace) -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        image_size=options.image_size,
        patch_size=14,
    )


def _text(options: argparse.Namespace) -> transformers.LlamaConfig:
    return transformers.LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.d_model,
        intermediate_size=options.d_model * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=options.d_model // 64,
        max_position_embeddings=4096,
    )


def _ours(tower: Path, options: argparse.Namespace) -> MultimodalLM:
    """Limner's LLaVA: one wiring of its parts."""
    torch.manual_seed(options.seed)
    tokenizer = byte_tokenizer()
    roles = span_roles("image", [Direction.IN])
    # The rows are there already: byte ids need few of the vocabulary's.
    backbone = Backbone(transformers.LlamaForCausalLM(_text(options)), num_added=len(roles))
    encoder = ClipEncoder(tower)
    projector = MLPProjector(width_in=encoder.width, width_out=options.d_model, normalise=False)
    return MultimodalLM(
        backbone,
        modalities={"image": Modality(encoder=encoder, input_projector=Rowwise(projector))},
        vocabulary=Vocabulary.grow(options.vocabulary, roles=roles),
        template=Template.from_tokenizer(tokenizer.tokenizer, system=""),
        tokenizer=tokenizer,
    )


def _source(options: argparse.Namespace) -> Conversations:
    return Conversations(num_conversations=4 * (options.steps + WARM_UP) * options.batch, options=options)


def packed(tower: Path, directory: Path, options: argparse.Namespace) -> Steps:
    """A round of ours. A row holds as many tokens as the peer's examples have on average."""
    model, source = _ours(tower, options), _source(options)
    mean = statistics.mean(len(model.render(source[index])) for index in range(len(source)))
    stage = Stage(
        name="packed",
        mixture=Mixture(sources={"conversations": source}),
        batching=Packed(row_length=max(options.longest + 200, round(mean * options.batch)), num_rows=1),
        trainable=[
            Trainable("backbone.*", options.learning_rate),
            Trainable("modalities.image.input_projector.*", options.learning_rate),
        ],
        num_steps=options.steps + WARM_UP,
        loss_weights={"text": 1.0},
        optimizer=TorchOptimizer("AdamW", {"betas": (0.9, 0.98), "fused": True}),
        schedule=Schedule(),
        precision="float32",
        sample_every=1,
    )
    ends: list[float] = []
    trainer = Trainer(
        model,
        stage=stage,
        directory=directory,
        seed=options.seed,
        on_sample=lambda model, step: ends.append(time.perf_counter()),
    )
    trainer.run()
    lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    tokens = [line["tokens"] for line in lines[WARM_UP:]]
    # What runs is tokens alone: rows end where their documents do.
    return Steps(tokens, _differences(ends), 1.0 if model.backbone.segmented else 0.0)


def padded(tower: Path, directory: Path, options: argparse.Namespace) -> Steps:
    """A round of the peer."""
    torch.manual_seed(options.seed)
    config = transformers.LlavaConfig(
        vision_config=_vision(options), text_config=_text(options), image_token_index=options.vocabulary - 1
    )
    model = transformers.LlavaForConditionalGeneration(config)
    # The added begin and end tokens of a picture stand in its vocabulary as well.
    model.resize_token_embeddings(options.vocabulary + 3, mean_resizing=False)
    model.model.vision_tower.requires_grad_(False)
    contents: list[tuple[int, int]] = []
    trainer = transformers.Trainer(
        model=model,
        args=_arguments(directory, options),
        train_dataset=Padded(_source(options), _ours(tower, options), image_token=options.vocabulary - 1),
        data_collator=_counting(pad, contents),
    )
    clock = Clock()
    trainer.add_callback(clock)
    trainer.train()
    measured = contents[WARM_UP : WARM_UP + options.steps]
    filled = sum(tokens for tokens, _ in measured) / sum(room for _, room in measured)
    return Steps([tokens for tokens, _ in measured], _differences(clock.ends), filled)


def _arguments(directory: Path, options: argparse.Namespace) -> transformers.TrainingArguments:
    return transformers.TrainingArguments(
        output_dir=str(directory),
        use_cpu=True,
        per_device_train_batch_size=options.batch,
        max_steps=options.steps + WARM_UP,
        learning_rate=options.learning_rate,
        lr_scheduler_type="cosine",
        optim="adamw_torch_fused",
        adam_beta2=0.98,
        train_sampling_strategy=options.sampling,
        remove_unused_columns=False,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=options.seed,
    )


def _counting(collate: Callable[..., dict[str, Tensor]], contents: list[tuple[int, int]]) -> Callable[..., Any]:
    def counted(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
        batch = collate(examples)
        contents.append((int(batch["attention_mask"].sum()), batch["attention_mask"].numel()))
        return batch

    return counted


class Clock(transformers.TrainerCallback):
    """The times at which steps ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.ends.append(time.perf_counter())


def _differences(ends: list[float]) -> list[float]:
    """Seconds of the measured steps."""
    return [after - before for before, after in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]
