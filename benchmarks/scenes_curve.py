"""How well a model trained by configs/tiny/scenes.py reads and draws scenes of the test split, and its loss curve.

    python -m benchmarks scenes_curve --run runs/scenes --output docs

Prints a Markdown table and writes scenes_curve.svg. Answers are compared word for word, drawings are read back by the
exact parser; `shuffled` scores each against another item's truth.
"""

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from limner.data import scenes
from limner.data.scene_parser import parse, score
from limner.document.document import Document, Media
from limner.evaluate.report import environment
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.model.checkpoint import load_checkpoint

WIDTH, HEIGHT, MARGIN = 720, 260, 46


def main(arguments: list[str]) -> None:
    """Evaluate the last stage's checkpoint and draw the curves of all stages."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks scenes_curve")
    parser.add_argument("--run", type=Path, default=Path("runs/scenes"))
    parser.add_argument("--output", type=Path, default=Path("docs"))
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args(arguments)
    if not (options.run / "together" / "checkpoint").is_dir():
        print(f"no run in {options.run}: limner train configs/tiny/scenes.py --output {options.run}")
        return
    engine = Engine(load_checkpoint(options.run / "together" / "checkpoint"))
    print("| scenes never seen | right | shuffled |\n|---|---|---|")
    for name, right, shuffled in (_answers(engine, options.limit), _drawings(engine, options.limit)):
        print(f"| {name} (n = {options.limit}) | {right:.1%} | {shuffled:.1%} |")
    print(", ".join(f"{key}: {value}" for key, value in environment().items()))
    curves = {stage: _smooth(_losses(options.run / stage / "metrics.jsonl")) for stage in ("autoencoder", "together")}
    (options.output / "scenes_curve.svg").write_text(_svg(curves))


def _answers(engine: Engine, limit: int) -> tuple[str, float, float]:
    drawn = [scenes.sample_scene(index, seed=1, split="test") for index in range(limit)]
    asked = [scenes.question_document(scene, seed=index) for index, scene in enumerate(drawn)]
    requests = [
        Request(Document(document.messages[:1]), max_new_tokens=24, pictures=Pictures.NONE) for document in asked
    ]
    said = [reply.messages[-1].text.strip() for reply in engine.run(requests)]
    truth = [document.messages[1].text.strip() for document in asked]
    right = sum(a == b for a, b in zip(said, truth, strict=True)) / limit
    counts = Counter(truth)
    shuffled = sum(counts[answer] for answer in said) / limit**2
    return "questions answered exactly", right, shuffled


def _drawings(engine: Engine, limit: int) -> tuple[str, float, float]:
    wanted = [scenes.sample_scene(index, seed=2, split="test") for index in range(limit)]
    asked = [scenes.creation_document(scene, seed=index) for index, scene in enumerate(wanted)]
    requests = [
        Request(Document(document.messages[:1]), max_new_tokens=1, max_pictures=1, pictures=Pictures.NOW, seed=index)
        for index, document in enumerate(asked)
    ]
    found = [_read_back(reply) for reply in engine.run(requests)]
    aspects = [document.meta["aspects"] for document in asked]

    def share(targets: Sequence[scenes.Scene], stated: Sequence[list[str]]) -> float:
        marks = [
            mark
            for scene, target, names in zip(found, targets, stated, strict=True)
            for mark in (score(scene, target, aspects=names).values() if scene else [False] * len(names))
        ]
        return sum(marks) / len(marks)

    turned = wanted[1:] + wanted[:1]
    return "stated aspects drawn", share(wanted, aspects), share(turned, aspects[1:] + aspects[:1])


def _read_back(reply: Document) -> scenes.Scene | None:
    pictures = [part for part in reply.messages[-1].parts if isinstance(part, Media)]
    try:
        return parse(pictures[0].content.pil())
    except (IndexError, ValueError):
        return None


def _losses(file: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in file.read_text().splitlines()]


def _smooth(values: list[float], *, window: int = 15) -> list[float]:
    windows = (values[max(0, end - window) : end + 1] for end in range(len(values)))
    return [sum(part) / len(part) for part in windows]


def _svg(curves: dict[str, list[float]]) -> str:
    """One panel per stage: steps to the right, loss upwards from zero."""
    panel = WIDTH / len(curves)
    shapes = []
    for number, (stage, losses) in enumerate(curves.items()):
        left, top = number * panel + MARGIN, 26
        wide, high, most = panel - MARGIN - 16, HEIGHT - top - 34, max(losses)
        points = " ".join(
            f"{left + wide * i / max(1, len(losses) - 1):.1f},{top + high * (1 - loss / most):.1f}"
            for i, loss in enumerate(losses)
        )
        shapes += [
            f'<path d="M{left},{top} V{top + high} H{left + wide}" fill="none" stroke="#999"/>',
            f'<polyline points="{points}" fill="none" stroke="#a03020" stroke-width="1.5"/>',
            f'<text x="{left}" y="16">{stage}: loss {losses[0]:.2f} to {losses[-1]:.2f}</text>',
            f'<text x="{left + wide}" y="{HEIGHT - 14}" text-anchor="end">{len(losses)} steps</text>',
            f'<text x="{left - 6}" y="{top + 6}" text-anchor="end">{most:.1f}</text>',
            f'<text x="{left - 6}" y="{top + high}" text-anchor="end">0</text>',
        ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="serif" font-size="13">'
        f'<rect width="100%" height="100%" fill="#fdfaf3"/>{"".join(shapes)}</svg>\n'
    )
