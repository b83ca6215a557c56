"""A mixed batch against the loop that multi_token runs: encoders, projectors and language model forward, in one run.

    python -m benchmarks mixed_batch

Eight conversations: pictures, speech, documents, several items in one prompt, none at all, short and long. Ours is one
`MultimodalLM` over one `Batch`: an encoder and a projector run once over all items of their modality, the language
model over the tokens alone, the output matrix over the targets alone. The peer is written here as its authors describe
it, on the same modules and weights: per conversation each encoder runs on that conversation's items (speech clip by
clip), the MLPs of a projector one after another, and the language model is transformers' own, with logits at every
position.

    padded      the peer on the batch of eight: padded to the longest row (its training with such batches)
    row by row  the peer on one conversation at a time (its published recipe and its server)

Losses, projected rows and hidden states are compared before anything is measured. Forward only, without gradients.
Preprocessing is not measured. Rounds alternate; medians of wall and of processor time.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from limner.backbone.hf import Backbone
from limner.compositions.multi_token import placed, wire
from limner.data.collate import Collator
from limner.document.audio import Audio
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.document.rows import Placeholder
from limner.document.text_file import TextFile
from limner.evaluate.report import environment
from limner.modalities.encoders.gte import GteEncoder
from limner.modalities.encoders.plain_clip import PlainClipEncoder
from limner.modalities.encoders.whisper import WhisperEncoder
from limner.modalities.position_projectors import VectorProjector
from limner.model.multimodal import TEXT, MultimodalLM
from limner.tokens.batch import IGNORED, Batch
from limner.tokens.template import Template
from limner.tokens.tokenizer import byte_tokenizer

TARGET = 2.0
TOLERANCE = 1e-6
SAMPLING_RATE = 16_000


class Found(NamedTuple):
    """What a forward gives: the mean loss, the projected rows of each modality, hidden states of each conversation."""

    loss: float
    projected: dict[str, Tensor]
    hidden: list[Tensor]


def main(arguments: list[str]) -> None:
    """Compare, then measure in turns."""
    options = _options(arguments)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        model = _model(Path(folder), options)
        rows = [[model.render(document, key=f"mixed/{n}/0")] for n, document in enumerate(_documents(options))]
        batch = Collator(model)(rows)
        _compare(ours(model, batch), peer(model, batch, padded=True), name="padded")
        _compare(ours(model, batch), peer(model, batch, padded=False), name="row by row")
        taken = _taken(
            {
                "ours": lambda: model(batch, noise_key=(0,)),
                "padded": lambda: peer(model, batch, padded=True),
                "row by row": lambda: peer(model, batch, padded=False),
            },
            rounds=options.rounds,
        )
        _print(model, batch, taken)
        if options.parts:
            _print_parts(model, batch, rounds=options.rounds)


def ours(model: MultimodalLM, batch: Batch) -> Found:
    """One batch through the model, as it is trained and served."""
    loss = model(batch, noise_key=(0,))[TEXT].mean
    projected = {name: model.read(name, spans.values).values for (name, _), spans in batch.spans.items()}
    hidden = model.hidden_states(batch)
    return Found(float(loss), projected, [hidden[n, :length] for n, length in enumerate(_lengths(batch))])


def peer(model: MultimodalLM, batch: Batch, *, padded: bool) -> Found:
    """The loop over conversations, on the same modules."""
    language_model: Any = model.backbone.language_model
    lengths = _lengths(batch)
    items = _items_by_row(batch)
    embedded: list[Tensor] = []
    projected: dict[str, list[Tensor]] = {name: [] for name, _ in batch.spans}
    total, count = 0.0, 0
    hidden: list[Tensor] = []
    for number, length in enumerate(lengths):
        rows = language_model.get_input_embeddings()(batch.ids[number, :length].clamp(min=0)).clone()
        for name, (slots, values) in items[number].items():
            found = _projected(model, name, ENCODE[name](model.reader(name).encoder, values))
            rows[slots] = found.flatten(0, 1)
            projected[name].append(found.flatten(0, 1))
        embedded.append(rows)
        if not padded:
            states, losses = _answered(language_model, rows[None], batch.labels[number : number + 1, :length])
            hidden.append(states[0])
            total, count = total + float(losses.sum()), count + len(losses)
    if padded:
        longest = max(lengths)
        rows = torch.nn.utils.rnn.pad_sequence(embedded, batch_first=True)
        mask = torch.arange(longest)[None] < torch.tensor(lengths)[:, None]
        states, losses = _answered(language_model, rows, batch.labels[:, :longest], mask=mask)
        hidden = [states[number, :length] for number, length in enumerate(lengths)]
        total, count = float(losses.sum()), len(losses)
    return Found(total / count, {name: torch.cat(found) for name, found in projected.items() if found}, hidden)


def _answered(model: Any, rows: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(hidden states, losses of the targets) of transformers' model, logits in float32 at every position."""
    found = model.get_decoder()(inputs_embeds=rows, attention_mask=mask, use_cache=False).last_hidden_state
    logits = model.get_output_embeddings()(found).float()
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="none")
    return found, losses[labels[:, 1:].flatten() != IGNORED]


def _projected(model: MultimodalLM, name: str, features: Tensor) -> Tensor:
    """[items, positions, d_model] of [items, rows, width]."""
    projector: Any = model.reader(name).input_projector
    if isinstance(projector, VectorProjector):
        return torch.cat([mlp(features) for mlp in projector.mlps], dim=-2)
    return projector.layers(features)


def _clip(encoder: Any, pixels: Tensor) -> Tensor:
    return encoder.network(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]


def _whisper(encoder: Any, clips: Tensor) -> Tensor:
    start = torch.full((1, 1), encoder.network.config.decoder_start_token_id)
    found = [encoder.network(clip[None], decoder_input_ids=start).last_hidden_state for clip in clips]
    return torch.cat(found)


def _gte(encoder: Any, texts: Tensor) -> Tensor:
    texts = texts[:, : int((texts >= 0).sum(dim=1).max())]
    mask = (texts >= 0).long()
    states = encoder.network(input_ids=texts.clamp(min=0), attention_mask=mask).last_hidden_state
    return ((states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True))[:, None]


ENCODE: Mapping[str, Callable[[Any, Tensor], Tensor]] = {"image": _clip, "speech": _whisper, "document": _gte}
"""Features [items, rows, width] of one conversation's items."""


def _items_by_row(batch: Batch) -> list[dict[str, tuple[Tensor, Tensor]]]:
    """Per conversation and modality: (places of the slots in the row, its preprocessed items)."""
    width = batch.ids.shape[1]
    found: list[dict[str, tuple[Tensor, Tensor]]] = [{} for _ in range(len(batch.ids))]
    for (name, _), spans in batch.spans.items():
        starts = spans.slots.split(spans.lengths.tolist())
        owners = torch.tensor([int(slots[0]) // width for slots in starts])
        for number in owners.unique().tolist():
            chosen = (owners == number).nonzero().flatten().tolist()
            places = torch.cat([starts[item] for item in chosen]) % width
            found[number][name] = (places, spans.values[chosen])
    return found


def _lengths(batch: Batch) -> list[int]:
    return (batch.documents > 0).sum(dim=1).tolist()


def _compare(ours: Found, theirs: Found, *, name: str) -> None:
    """Print how far apart both are, relative to the largest value; end the run where that is too far."""
    pairs = [(ours.projected[key], theirs.projected[key]) for key in ours.projected]
    apart = {
        "loss": abs(ours.loss - theirs.loss) / abs(theirs.loss),
        "projected rows": max(_apart(mine, other) for mine, other in pairs),
        "hidden states": max(_apart(mine, other) for mine, other in zip(ours.hidden, theirs.hidden, strict=True)),
    }
    print(f"apart from {name}: " + ", ".join(f"{key} {value:.1e}" for key, value in apart.items()))
    if apart["loss"] > TOLERANCE or apart["projected rows"] > TOLERANCE or apart["hidden states"] > 10 * TOLERANCE:
        raise SystemExit(f"the results of both are not equal to {TOLERANCE}")


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


class Taken(NamedTuple):
    """Seconds of the rounds."""

    wall: list[float]
    processor: list[float]


def _taken(runs: Mapping[str, Callable[[], Any]], *, rounds: int) -> dict[str, Taken]:
    """Seconds of each, in turns, after a round that is not measured."""
    taken = {name: Taken([], []) for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if number:
                taken[name].wall.append(time.perf_counter() - wall)
                taken[name].processor.append(time.process_time() - processor)
    return taken


def _print(model: MultimodalLM, batch: Batch, taken: dict[str, Taken]) -> None:
    facts, lengths = environment(), _lengths(batch)
    parameters = sum(parameter.numel() for parameter in model.backbone.parameters())
    counts = ", ".join(f"{len(spans.lengths)} {name}" for (name, _), spans in batch.spans.items())
    print(f"{facts['date']}, {facts['processor']}, {facts['threads']} threads; language model {parameters / 1e6:.0f}M")
    print(f"{len(lengths)} rows of {min(lengths)} to {max(lengths)} positions, {sum(lengths)} in all; {counts}")
    for name, seconds in taken.items():
        wall, processor = (1000 * statistics.median(values) for values in seconds)
        print(f"{name}: {wall:.0f} ms, {processor:.0f} ms of processor time")
    for name in ("padded", "row by row"):
        wall, processor = (
            statistics.median(theirs) / statistics.median(mine)
            for theirs, mine in zip(taken[name], taken["ours"], strict=True)
        )
        print(f"ratio to {name}: {wall:.2f} (processor time {processor:.2f}; target: {TARGET})")


def _print_parts(model: MultimodalLM, batch: Batch, *, rounds: int) -> None:
    """Milliseconds of each encoder over all items, and item by item."""
    for (name, _), spans in batch.spans.items():
        encoder: Any = model.reader(name).encoder
        seconds = _taken(
            {
                "ours": lambda encoder=encoder, values=spans.values: encoder(values),
                "item by item": lambda name=name, encoder=encoder, values=spans.values: [
                    ENCODE[name](encoder, item[None]) for item in values
                ],
            },
            rounds=rounds,
        )
        print(f"{name}: " + ", ".join(f"{key} {1000 * statistics.median(t.wall):.0f} ms" for key, t in seconds.items()))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks mixed_batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--d-model", type=int, default=512)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--tower-width", type=int, default=384, help="of all encoders")
    parser.add_argument("--tower-layers", type=int, default=4)
    parser.add_argument("--audio-frames", type=int, default=1500, help="what Whisper hears of a clip: 50 a second")
    parser.add_argument("--parts", action="store_true", help="measure each encoder alone too")
    return parser.parse_args(arguments)


def _model(folder: Path, options: argparse.Namespace) -> MultimodalLM:
    """Sizes of a small Llama, CLIP at patches of 14, Whisper-tiny, a six-layer BERT; weights are random."""
    width, heads = options.tower_width, options.tower_width // 64
    config = transformers.LlamaConfig(
        vocab_size=options.vocabulary,
        hidden_size=options.d_model,
        intermediate_size=options.d_model * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=options.d_model // 64,
        num_key_value_heads=max(1, options.d_model // 128),
        max_position_embeddings=4096,
    )
    tokenizer = byte_tokenizer()
    sizes = {"num_hidden_layers": options.tower_layers, "hidden_size": width, "intermediate_size": 4 * width}
    vision = transformers.CLIPVisionConfig(
        **sizes, num_attention_heads=heads, image_size=options.image_size, patch_size=14
    )
    transformers.CLIPVisionModel(vision).save_pretrained(folder / "clip")
    _save_whisper(folder / "whisper", options, heads=heads)
    _save_bert(folder / "bert", sizes, heads=heads)
    parts = [
        placed(_placeholder("image", "image"), PlainClipEncoder(folder / "clip"), layout="patch"),
        placed(_placeholder("speech", "sound"), WhisperEncoder(folder / "whisper"), layout="vector", positions=10),
        placed(_placeholder("document", "text"), GteEncoder(folder / "bert"), layout="vector", positions=4),
    ]
    backbone = Backbone(transformers.LlamaForCausalLM(config))
    template = Template.from_tokenizer(tokenizer.tokenizer, system="")
    return wire(backbone, tokenizer=tokenizer, template=template, parts=parts).eval()


def _placeholder(name: str, kind: Any) -> Placeholder:
    return Placeholder(name, f"<{name}>", f"{name}s", 0, name, kind)


def _save_whisper(folder: Path, options: argparse.Namespace, *, heads: int) -> None:
    width = options.tower_width
    config = transformers.WhisperConfig(
        d_model=width,
        encoder_layers=options.tower_layers,
        decoder_layers=options.tower_layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        decoder_ffn_dim=4 * width,
        max_source_positions=options.audio_frames,
    )
    transformers.WhisperModel(config).save_pretrained(folder)
    transformers.WhisperFeatureExtractor(chunk_length=options.audio_frames // 50).save_pretrained(folder)


def _save_bert(folder: Path, sizes: dict[str, int], *, heads: int) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *_WORDS]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    transformers.BertModel(transformers.BertConfig(**sizes, num_attention_heads=heads)).save_pretrained(folder)


_WORDS = (
    "the",
    "old",
    "new",
    "ship",
    "house",
    "river",
    "light",
    "stone",
    "word",
    "day",
    "sees",
    "holds",
    "finds",
    "near",
)


def _documents(options: argparse.Namespace) -> list[Document]:
    """Eight conversations."""
    draw = random.Random(0)

    def said(count: int) -> str:
        return " ".join(draw.choices(_WORDS, k=count))

    def picture() -> Media:
        edge = options.image_size
        data = draw.randbytes(3 * edge * edge)
        shown = Image.from_pil(PIL.Image.frombytes("RGB", (edge, edge), data))
        return Media(shown, modality="image", directions=(Direction.IN,))

    def speech(seconds: float) -> Media:
        wave = np.sin(np.arange(int(seconds * SAMPLING_RATE)) * draw.uniform(0.05, 0.3)) / 2
        return Media(Audio.from_samples(wave, rate=SAMPLING_RATE), modality="speech", directions=(Direction.IN,))

    def text(count: int) -> Media:
        return Media(TextFile.from_text(said(count)), modality="document", directions=(Direction.IN,))

    return [
        Document.chat([("user", [picture(), "What is it?"]), ("assistant", said(8))]),
        Document.chat([("user", [picture(), picture(), picture(), "Which is older?"]), ("assistant", said(12))]),
        Document.chat([("user", [speech(4.0), "What is said?"]), ("assistant", said(10))]),
        Document.chat([("user", [picture(), "Is it what ", speech(2.0), " says?"]), ("assistant", said(3))]),
        Document.chat([("user", [text(60), text(300), text(120), text(40), said(8)]), ("assistant", said(20))]),
        Document.chat([("user", [text(200), said(6)]), ("assistant", said(12))]),
        Document.chat([("user", said(6)), ("assistant", said(4))]),
        Document.chat([("user", said(20)), ("assistant", said(30)), ("user", said(8)), ("assistant", said(24))]),
    ]
