"""Speech and pictures in one prompt, on pictures, voices and phrases that were not trained on: figures for the docs.

    limner data build speech-and-pictures --output data/speech_and_pictures
    LIMNER_WHISPER_BASE=data/speech_and_pictures/whisper-base \\
        limner train configs/multi_token/speech_and_pictures.py --output runs/speech_and_pictures
    LIMNER_WHISPER_BASE=data/speech_and_pictures/whisper-base \\
        python -m benchmarks speech_and_pictures --checkpoint runs/speech_and_pictures/together/checkpoint

Asks the trained model and the untrained one (the same model as it is built: fresh projectors, adapters of zero), and
the trained one once more with each row's picture or sound taken from another row. Replies are kept in `--work`, so that
what was asked is not asked again. Intervals: bootstrap over recordings (easy-VQA: over pictures), 95 %.
"""

import argparse
import datetime
import json
import logging
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from limner.config.call import build
from limner.config.serialize import from_json
from limner.data.builders.spoken_phrases import COLORS, SHAPES
from limner.data.formats.conversations import keyed_chat
from limner.document.document import Document
from limner.evaluate.answers import KeptAnswers
from limner.evaluate.benchmarks import easy_vqa
from limner.evaluate.intervals import Interval, share
from limner.evaluate.presets import PLAIN
from limner.evaluate.runner import key_of
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.model.checkpoint import load_checkpoint, read_index

logger = logging.getLogger(__name__)

ROOT = Path(__file__).parents[1]
MARKS = "<!-- speech_and_pictures: begin -->", "<!-- speech_and_pictures: end -->"
BATCH = 32
"""Prompts that are continued together."""

PICTURE, SOUND = "images", "speech_audios"
TRAINED, UNTRAINED = "trained", "untrained"


@dataclass(frozen=True)
class Question:
    """One prompt. `row` has the format `keyed_chat`, without the answer; `cluster` says what is not independent."""

    row: dict[str, Any]
    answer: str
    cluster: str
    split: str = ""


Metric = Callable[[str, str], float]
"""(reply, answer) -> 0 or 1."""

Answered = dict[str, dict[str, list[tuple[Question, str]]]]
"""Who was asked -> task -> questions with their replies. Controls are named by what is another row's."""


def main(arguments: list[str]) -> None:
    """Ask, print the table, write it into the page."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    torch.set_num_threads(options.threads)
    found = questions(options.data, num_questions=options.questions)
    asked = {name: rows[: options.limit] for name, rows in found.items()}
    some = {name: rows[:: max(1, len(rows) // options.controls)] for name, rows in asked.items()}
    started = time.process_time()
    answered: Answered = {}
    for name, engine, key in engines(options):
        kept = KeptAnswers(engine, folder=options.work, model_key=key)
        rows = asked if name == TRAINED else some
        answered[name] = {task: ask(kept, rows[task], folder=options.data) for task in rows}
        for what in (PICTURE, SOUND) if name == TRAINED else ():
            answered[what] = {
                task: ask(kept, swapped(rows, what), folder=options.data)
                for task, rows in some.items()
                if what in rows[0].row
            }
    text = table(answered)
    text += f"\n{options.note}{(time.process_time() - started) / 60:.0f} minutes of one core's time.\n"
    print(text)
    _write(text, options.output)


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks speech_and_pictures", description=__doc__)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "speech_and_pictures")
    parser.add_argument("--checkpoint", type=Path, default=Path("runs/speech_and_pictures/together/checkpoint"))
    parser.add_argument("--only", choices=(TRAINED, UNTRAINED), help="ask this model alone")
    parser.add_argument("--limit", type=int, help="most rows of each task")
    parser.add_argument("--questions", type=int, help="questions of easy-VQA's test split, at random; all by default")
    parser.add_argument("--controls", type=int, default=1000, help="questions of a task that others are asked, about")
    parser.add_argument("--context", type=int, default=256, help="most tokens of a prompt and its answer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("out/speech_and_pictures"), help="where replies are kept")
    parser.add_argument("--output", type=Path, help="page whose table is replaced")
    parser.add_argument("--note", default="", help="what stands before the time, such as the hardware")
    return parser.parse_args(arguments)


def engines(options: argparse.Namespace) -> Iterator[tuple[str, Engine, str]]:
    """Name, engine, and the key of its kept replies."""
    if options.only != UNTRAINED:
        model = load_checkpoint(options.checkpoint)
        yield TRAINED, Engine(model, context_length=options.context), key_of(str(options.checkpoint))
    if options.only != TRAINED:
        torch.manual_seed(0)
        model = build(from_json(read_index(options.checkpoint)["model"]))
        yield UNTRAINED, Engine(model, context_length=options.context), UNTRAINED


def questions(data: Path, *, num_questions: int | None) -> dict[str, list[Question]]:
    """The held-out questions by task."""
    found: dict[str, list[Question]] = {}
    for task in ("listen", "compare", "explain"):
        lines = (data / f"{task}.heldout.jsonl").read_text(encoding="utf-8").splitlines()
        found[task] = [_question(json.loads(line)) for line in lines]
    benchmark = easy_vqa.load(data / "easy_vqa")
    places = range(len(benchmark.asked))
    if num_questions is not None and num_questions < len(places):
        places = sorted(random.Random("questions").sample(places, num_questions))
    found["easy_vqa"] = []
    for place in places:
        one = benchmark.asked[place]
        assert isinstance(one.picture, Path)
        content = "<image>" + PLAIN.question.format(one.question)
        row = {"messages": [{"role": "user", "content": content}], PICTURE: [str(one.picture.relative_to(data))]}
        split = "yes or no" if one.answers[0] in ("yes", "no") else "what"
        found["easy_vqa"].append(Question(row, one.answers[0], one.picture.name, split))
    return found


def _question(row: dict[str, Any]) -> Question:
    *asked, answer = row["messages"]
    items = {key: row[key] for key in (PICTURE, SOUND) if key in row}
    return Question({"messages": asked, **items}, answer["content"], row[SOUND][0], row["split"])


def swapped(rows: Sequence[Question], what: str) -> list[Question]:
    """The same questions, each with the picture or the sound of another one about another item."""
    order = list(range(len(rows)))
    random.Random(f"swapped/{what}").shuffle(order)
    found = list(rows)
    for place, here in enumerate(order):
        others = (order[(place + step) % len(order)] for step in range(1, len(order)))
        item = next(rows[other].row[what] for other in others if rows[other].row[what] != rows[here].row[what])
        one = rows[here]
        found[here] = Question({**one.row, what: item}, one.answer, one.cluster, one.split)
    return found


def ask(engine: KeptAnswers, rows: Sequence[Question], *, folder: Path) -> list[tuple[Question, str]]:
    """The questions with their replies, in order; long and short prompts are not mixed."""
    replies: dict[int, str] = {}
    order = sorted(range(len(rows)), key=lambda place: len(rows[place].row["messages"][0]["content"]))
    for start in range(0, len(order), BATCH):
        places = order[start : start + BATCH]
        requests = [request(rows[place], folder=folder) for place in places]
        for place, document in zip(places, engine.run(requests), strict=True):
            replies[place] = document.messages[-1].text.strip()
        logger.info("asked %d of %d", start + len(places), len(order))
    return [(row, replies[place]) for place, row in enumerate(rows)]


def request(question: Question, *, folder: Path) -> Request:
    """Greedy, in words only, a little longer than the longest answer."""
    document: Document = keyed_chat(question.row, lambda name: (folder / name).read_bytes())
    is_long = question.answer.startswith("shown:")
    return Request(document, max_new_tokens=32 if is_long else 14, pictures=Pictures.NONE)


def plain(text: str) -> str:
    """Lower case, words and single spaces alone."""
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def same(reply: str, answer: str) -> float:
    """Word for word."""
    return float(plain(reply) == plain(answer))


def same_keys(reply: str, answer: str) -> float:
    """The same colours and shapes, in whatever words."""
    keys = {*COLORS, *SHAPES}
    return float(set(plain(reply).split()) & keys == set(plain(answer).split()) & keys)


def verdict(reply: str, answer: str) -> float:
    """Yes or no, the last one that is said."""
    said = re.findall(r"\b(yes|no)\b", reply.lower())
    return float(bool(said) and said[-1] == re.findall(r"\b(yes|no)\b", answer)[-1])


def field(name: str) -> Metric:
    """Whether one field of an explained answer has the right colours and shapes."""

    def metric(reply: str, answer: str) -> float:
        given, wanted = (re.search(rf"{name}: ([^;]*)", text) for text in (reply.lower(), answer))
        return float(given is not None and wanted is not None and same_keys(given[1], wanted[1]))

    return metric


SCORES: tuple[tuple[str, str, Metric, str], ...] = (
    ("easy_vqa", "easy-VQA, published test split", same, ""),
    ("easy_vqa", "- of these: what colour, what shape", same, "what"),
    ("easy_vqa", "- of these: yes or no", same, "yes or no"),
    ("listen", "what is said, word for word", same, ""),
    ("listen", "- of these: known phrases, new voices", same, "voices"),
    ("listen", "- of these: new phrases, new voices", same, "phrases"),
    ("listen", "what is said, colour and shape", same_keys, ""),
    ("compare", "does it fit, yes or no", verdict, ""),
    ("explain", "what each says, then whether it fits: fits", verdict, ""),
    ("explain", "- what is shown, colour and shape", field("shown"), ""),
    ("explain", "- what is said, colour and shape", field("said"), ""),
)
"""(task, how it is called, metric, part of the rows)."""


def table(answered: Answered) -> str:
    """Markdown: a line per score."""
    lines = [
        "| held out, % right (95 % interval) | rows | trained | untrained | picture of another row | "
        "speech of another row | always the commonest |",
        "|---|---|---|---|---|---|---|",
    ]
    everything = answered.get(TRAINED) or answered[UNTRAINED]
    for task, title, metric, part in SCORES:
        rows = [row for row, _ in everything[task] if part in ("", row.split)]
        if not rows:
            continue
        cells = [
            _cell(metric, [pair for pair in answered.get(column, {}).get(task, ()) if part in ("", pair[0].split)])
            for column in (TRAINED, UNTRAINED, PICTURE, SOUND)
        ]
        commonest, _ = Counter(row.answer for row in rows).most_common(1)[0]
        best = sum(metric(commonest, row.answer) for row in rows) / len(rows)
        lines.append("| " + " | ".join([title, str(len(rows)), *cells, f"{100 * best:.1f}"]) + " |")
    heard = [(row.answer, reply) for row, reply in everything["listen"]]
    lines.append(f"\nWord error rate of what is said: {100 * word_error_rate(heard):.1f} %.")
    return "\n".join([*lines, f"{datetime.date.today().isoformat()}, greedy answers.", ""])


def _cell(metric: Metric, pairs: Sequence[tuple[Question, str]]) -> str:
    if not pairs:
        return ""
    values = [metric(reply, row.answer) for row, reply in pairs]
    found: Interval = share(values, clusters=[row.cluster for row, _ in pairs])
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def word_error_rate(pairs: Sequence[tuple[str, str]]) -> float:
    """Wrong, missing and additional words per word that was said; `pairs` of (said, reply)."""
    errors = sum(_edits(plain(said).split(), plain(reply).split()) for said, reply in pairs)
    return errors / sum(len(plain(said).split()) for said, _ in pairs)


def _edits(said: Sequence[str], reply: Sequence[str]) -> int:
    """Levenshtein distance in words."""
    row = list(range(len(reply) + 1))
    for number, word in enumerate(said, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(reply, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1]


def _write(text: str, output: Path | None) -> None:
    """Put the table between the marks of a page."""
    if output is None:
        return
    page, (begin, end) = output.read_text(encoding="utf-8"), MARKS
    if begin not in page or end not in page:
        raise ValueError(f"`{output}` has no {begin} ... {end}\nhint: put the marks where the table belongs")
    output.write_text(page[: page.index(begin)] + f"{begin}\n{text}" + page[page.index(end) :], encoding="utf-8")
