"""Tokenizers trained from nothing: of dynamic length against fixed grids on pictures, and codes of scenes read back.

    python -m benchmarks visual_tokenizer --work out/visual_tokenizer --output docs

Trains the plans of configs/tiny/emoji_tokenizer.py and configs/tiny/scene_tokenizer.py, one after another on one
thread, and measures them on pictures of things that training never showed. A plan that is in --work already is not
trained again, an unfinished one goes on. `--output DIR` gets the table in visual_tokenizer.md, between its marks, and
visual_tokenizer.png: held-out pictures, what is kept of them, what is painted from their codes. `--steps 0.004` tries
it all in minutes.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import PIL.Image
import torch
import torch.nn.functional as F
from torch import Tensor

from limner.config.call import Call, build
from limner.config.load import load
from limner.data.scene_grammar import SceneGrammar
from limner.data.scene_parser import parse, score
from limner.document.document import Direction
from limner.evaluate.report import environment
from limner.modalities.base import Codes
from limner.modalities.guidance import NoGuidance
from limner.modalities.quantizers.codebook import perplexity
from limner.model.checkpoint import load_checkpoint
from limner.model.multimodal import MultimodalLM
from limner.train.plan import run_plan
from limner.train.tokenizer_sheet import contact_sheet, kept_patches
from limner.train.tokenizing import TokenizerPictures, parts

CONFIGS = Path(__file__).parents[1] / "configs" / "tiny"
PLANS = {"dynamic": "config", "even grid": "even", "even grid, 4,096 looks": "even_large", "pooled grid": "pooled"}
"""Plan -> function of the config."""
BEGIN, END = "<!-- measured -->", "<!-- end of measured -->"
SHOWN, VARIANTS = 12, 4


class Measured(NamedTuple):
    """Of held-out pictures through their codes: 1 - cos of features, the same past the codebook, mean squared error of
    pixels in [-1, 1], codes a picture, share of the looks that is used and their perplexity, codes of a look and a
    place that are used, processor minutes of training. What is a list is so for all, for pictures that fill their
    frame, and for small ones on white paper."""

    distance: list[float]
    uncoded: float
    pixels: float
    codes: list[float]
    usage: float
    perplexity: float
    products: int
    minutes: float


def main(arguments: list[str]) -> None:
    """Train what is missing, then print and write the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks visual_tokenizer")
    parser.add_argument("--plans", nargs="*", choices=list(PLANS), default=list(PLANS))
    parser.add_argument("--scenes", type=int, default=400, help="held-out scenes to read back; 0 for none")
    parser.add_argument("--pictures", type=int, default=512, help="held-out pictures to measure on")
    parser.add_argument("--steps", type=float, default=1.0, help="share of the recipes' steps")
    parser.add_argument("--work", type=Path, default=Path("out/visual_tokenizer"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    facts = environment()
    lines = [f"{facts['date']}, {facts['processor']}, {facts['threads']} threads"]
    lines += _pictures(options)
    if options.scenes:
        checkpoint, minutes = _trained(load(CONFIGS / "scene_tokenizer.py"), options, name="scenes")
        right, exact, used, most = _read_back(load_checkpoint(checkpoint), count=options.scenes)
        lines.append(
            f"scenes of held-out combinations, {options.scenes}: {right:.1%} of aspects read back (target 97 %), "
            f"{exact:.1%} of scenes whole, {most} codes a picture, {used} codes in use, {minutes:.1f} processor minutes"
        )
    text = "\n".join(lines)
    print(text)
    if options.output is not None:
        page = options.output / "visual_tokenizer.md"
        before, after = page.read_text().split(BEGIN)[0], page.read_text().split(END)[1]
        page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _pictures(options: argparse.Namespace) -> Iterator[str]:
    yield ""
    yield (
        "| tokenizer | 1 - cos | whole | small | uncoded | codes | whole | small | looks used | perplexity | "
        "place and look | pixels | minutes |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    sheets = []
    for name in options.plans:
        plan = load(CONFIGS / "emoji_tokenizer.py", function=PLANS[name])
        checkpoint, minutes = _trained(plan, options, name=PLANS[name])
        model = load_checkpoint(checkpoint)
        found, sheet = _measured(model, plan, options, minutes=minutes)
        sheets.append(sheet)
        distance = " | ".join(f"{value:.3f}" for value in found.distance)
        codes = " | ".join(f"{value:.1f}" for value in found.codes)
        yield (
            f"| {name} | {distance} | {found.uncoded:.3f} | {codes} | {found.usage:.1%} | {found.perplexity:.0f} | "
            f"{found.products} | {found.pixels:.4f} | {found.minutes:.1f} |"
        )
    yield ""
    if options.output is not None and sheets:
        options.output.mkdir(parents=True, exist_ok=True)
        whole = PIL.Image.new("RGB", (sheets[0].width, sum(sheet.height for sheet in sheets)), "white")
        for number, sheet in enumerate(sheets):
            whole.paste(sheet, (0, number * sheet.height))
        whole.save(options.output / "visual_tokenizer.png")


def _trained(plan: Call, options: argparse.Namespace, *, name: str) -> tuple[Path, float]:
    """Checkpoint and processor minutes, those of earlier goes at the same plan included."""
    for stage in plan.stages:
        stage.num_steps = max(4, round(options.steps * stage.num_steps))
        if options.steps < 1.0 and getattr(stage.objective, "initial_batches", 0):
            stage.objective.initial_batches = 40
            stage.evaluation.num_batches = 1
    folder = options.work / name
    record = folder / "minutes.json"
    before = json.loads(record.read_text()) if record.exists() else 0.0
    started = time.process_time()
    checkpoint = run_plan(plan, output=folder)
    minutes = before + (time.process_time() - started) / 60
    record.write_text(json.dumps(minutes))
    return checkpoint, minutes


@torch.inference_mode()
def _measured(
    model: MultimodalLM, plan: Call, options: argparse.Namespace, *, minutes: float
) -> tuple[Measured, PIL.Image.Image]:
    quantizer, detokenizer = parts(model, "image")
    mixture = build(plan.stages[0].evaluation.mixture)
    loader = TokenizerPictures(modality="image", num_items=SHOWN).loader(mixture, model=model)
    looks = quantizer.codebook.num_codes
    distances, uncoded, errors, lengths, counts = [], [], [], [], torch.zeros(looks)
    whole: list[bool] = []
    products: set[int] = set()
    sheet = None
    while len(whole) < options.pictures:
        batch = loader.next_batch()
        features, pixels = (batch.spans["image", side].values for side in (Direction.IN, Direction.OUT))
        rows = quantizer.rows(features)
        codes = quantizer.codebook(rows.values).codes
        made = detokenizer.features(detokenizer.vectors[codes], rows.lengths, places=rows.places)
        straight = detokenizer.features(rows.values, rows.lengths, places=rows.places)
        painted = detokenizer.painter(made)
        distances.append(_distances(made, features))
        uncoded.append(_distances(straight, features))
        errors.append((painted.clamp(-1.0, 1.0) - pixels).square().flatten(1).mean(dim=1))
        lengths.append(rows.lengths.float())
        # Of the variants of a picture the first is the picture itself.
        whole += [int(key.split("/")[1]) % VARIANTS == 0 for key in batch.spans["image", Direction.IN].keys]
        counts += torch.bincount(codes, minlength=looks)
        products |= set((rows.places * looks + codes).tolist())
        labels = [f"{length} codes" for length in rows.lengths.tolist()]
        sheet = sheet or contact_sheet([pixels, kept_patches(pixels, rows.keep), painted], labels=labels)
    assert sheet is not None
    fills = torch.tensor(whole)
    found = Measured(
        distance=_means(torch.cat(distances), fills),
        uncoded=float(torch.cat(uncoded).mean()),
        pixels=float(torch.cat(errors).mean()),
        codes=_means(torch.cat(lengths), fills),
        usage=float((counts > 0).float().mean()),
        perplexity=perplexity(counts),
        products=len(products),
        minutes=minutes,
    )
    return found, sheet


def _means(values: Tensor, fills: Tensor) -> list[float]:
    return [float(some.mean()) for some in (values, values[fills], values[~fills])]


def _distances(made: Tensor, features: Tensor) -> Tensor:
    return (1.0 - F.cosine_similarity(made, features, dim=-1)).mean(dim=1)


@torch.inference_mode()
def _read_back(model: MultimodalLM, *, count: int) -> tuple[float, float, int, int]:
    """Shares of aspects and of whole scenes that are right, codes in use, most codes of a picture."""
    quantizer, detokenizer = model.speller("image")
    grammar = SceneGrammar()
    aspects: list[bool] = []
    whole, used, most = 0, set(), 0
    for index in range(count):
        scene = grammar.scene(index, seed=0, split="test")
        codes: Codes = quantizer(quantizer.preprocess(grammar.picture(scene))[None])
        used |= set(codes.values.tolist())
        most = max(most, len(codes.values))
        made = detokenizer.sample(codes, guidance=NoGuidance(), generators=[torch.Generator()], num_inference_steps=1)[
            0
        ]
        levels = ((made + 1.0) * 127.5).round().byte().permute(1, 2, 0).numpy()
        right = score(parse(PIL.Image.fromarray(levels)), scene).values()
        aspects += right
        whole += all(right)
    return sum(aspects) / len(aspects), whole / count, len(used), most
