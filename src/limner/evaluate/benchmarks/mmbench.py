"""MMBench (Liu et al. 2023): multiple choice, asked once for every rotation of the choices; right only if all are.

Tables that hold the rotations themselves, under the question's number plus millions, are asked as they stand.

File, from https://github.com/open-compass/MMBench: mmbench_<split>_en.tsv, pictures inside (base64)
"""

import base64
import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limner.document.media import Image
from limner.evaluate.annotations import Record, read_table
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score
from limner.evaluate.benchmarks.short_answers import Asked, ask
from limner.evaluate.intervals import share
from limner.evaluate.presets import Preset, chosen

LETTERS = "ABCDEFGH"
APART = 1_000_000
"""Between the numbers of a question's rotations, in tables that hold them."""
_LETTER = re.compile(rf"\(?([{LETTERS}{LETTERS.lower()}])(?:[).:,]|$)")
PRESETS = (
    Preset("plain", question="{}\nAnswer with the letter of the right choice.", max_new_tokens=8),
    Preset(
        "dreamllm",
        system="This is an exam, please answer according to the image, hint and question.",
        question="{}Please provide an accurate and detailed answer.",
        max_new_tokens=64,
    ),
)


@dataclass(frozen=True)
class Choice:
    """A question, its choices in order, and the place of the right one (None where it is secret).

    row: what the table says of it, but for the picture and the answer; empty for a rotation of our own.
    """

    key: str
    image: Image
    question: str
    choices: tuple[str, ...]
    right: int | None
    row: dict[str, str] = field(default_factory=dict)

    def turned(self, turn: int) -> "Choice":
        """The question with its choices moved on by `turn` places."""
        right = None if self.right is None else (self.right - turn) % len(self.choices)
        moved = self.choices[turn:] + self.choices[:turn]
        return Choice(f"{self.key}/{turn}", self.image, self.question, moved, right)

    @property
    def asked(self) -> Asked:
        """What is asked; the answer is a letter."""
        lines = [self.question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, self.choices, strict=False))]
        return Asked(self.key, self.image, "\n".join(lines), () if self.right is None else (LETTERS[self.right],))


@dataclass(frozen=True)
class MMBench:
    """`questions` in the order of the file: each with all its rotations, the given order first."""

    questions: Sequence[tuple[Choice, ...]]
    preset: Preset
    name: str = "mmbench"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask the first `limit` questions, each with all rotations of its choices."""
        questions = list(self.questions if limit is None else self.questions[:limit])
        if not questions:
            raise ValueError("the benchmark has no questions\nhint: is its table whole?")
        turns = [turn.asked for question in questions for turn in question]
        replies = dict(
            zip([turn.key for turn in turns], ask(engine, turns, preset=self.preset, seed=seed), strict=True)
        )
        said = {turn.key: letter_of(replies[turn.key], turn.question) for turn in turns}
        right = {
            question[0].key: [turn.right is not None and said[turn.key] == LETTERS[turn.right] for turn in question]
            for question in questions
            if question[0].right is not None
        }
        known = [question for question in questions if question[0].key in right]
        return Outcome(
            name=self.name,
            setup=(
                f"Greedy, preset `{self.preset.name}`; a reply stands for the letter it begins with, or the one choice "
                "it repeats. Circular: right in every rotation of the choices. Once: right in the given order."
            ),
            baseline="chance",
            scores=_scores(known, right),
            examples=tuple(
                Example((one[0].image,), f"{one[0].question}\n> {replies[one[0].key]}", all(right[one[0].key]))
                for one in known[:60]
            ),
            items=tuple(
                {"key": one[0].key, "cluster": one[0].key, "replies": [replies[turn.key] for turn in one]}
                | ({"score": float(all(right[one[0].key]))} if one[0].key in right else {})
                for one in questions
            ),
            settings={"preset": self.preset.name, "seed": seed},
            submissions={"mmbench.submission.tsv": _submission(questions, said)},
        )


def _scores(known: Sequence[tuple[Choice, ...]], right: dict[str, list[bool]]) -> tuple[Score, ...]:
    if not known:
        return ()
    keys = [one[0].key for one in known]
    once = sum(1.0 / len(one[0].choices) for one in known) / len(known)
    circular = sum(len(one[0].choices) ** -float(len(one)) for one in known) / len(known)
    return (
        Score("circular", share([all(right[key]) for key in keys], clusters=keys), len(keys), baseline=circular),
        Score("once", share([right[key][0] for key in keys], clusters=keys), len(keys), baseline=once),
    )


def _submission(questions: Sequence[tuple[Choice, ...]], said: dict[str, str]) -> str:
    """The table that the server takes: the rows that were read, with a column for what was chosen."""
    rows = [{**turn.row, "prediction": said[turn.key]} for one in questions for turn in one if turn.row]
    columns = list(dict.fromkeys(name for row in rows for name in row if name != "prediction"))
    stream = io.StringIO()
    writer = csv.DictWriter(stream, [*columns, "prediction"], restval="", delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def letter_of(reply: str, question: str) -> str:
    """The letter that a reply stands for, "" where it stands for none or for several."""
    text = reply.strip()
    if begun := _LETTER.match(text):
        return begun[1].upper()
    choices = {line[0]: line[3:] for line in question.splitlines() if line[1:3] == ". " and line[0] in LETTERS}
    found = [letter for letter, choice in choices.items() if choice and choice.lower() in text.lower()]
    return found[0] if len(found) == 1 else ""


def load(folder: Path, *, preset: str = "", split: str = "dev") -> MMBench:
    """The benchmark of a split; the answers of `test` are secret."""
    questions: dict[str, list[Choice]] = {}
    for row in read_table(folder / f"mmbench_{split}_en.tsv"):
        choice = _choice(row)
        number = str(int(choice.key) % APART) if choice.key.isdecimal() else choice.key
        questions.setdefault(number, []).append(choice)
    return MMBench(
        [_rotations(together) for together in questions.values()], chosen(PRESETS, preset, benchmark="mmbench")
    )


def _rotations(together: Sequence[Choice]) -> tuple[Choice, ...]:
    """Those of the table; where it has none, all of our own behind the given order."""
    first = together[0]
    return tuple(together) if len(together) > 1 else (first, *map(first.turned, range(1, len(first.choices))))


def _choice(row: Record) -> Choice:
    choices = tuple(row.text(letter) for letter in LETTERS if letter in row.value)
    if len(choices) < 2:
        raise row.wrong(f"{len(choices)} choices", hint="expected columns A, B and so on")
    letter = row.text("answer") if "answer" in row.value else ""
    if letter and letter not in LETTERS[: len(choices)]:
        raise row.wrong(f"the answer is `{letter}`", hint=f"expected one of {LETTERS[: len(choices)]}")
    try:
        picture = base64.b64decode(row.text("image"), validate=True)
    except ValueError as error:
        raise row.wrong(f"the picture is no base64 ({error})", hint="fetch the table again") from error
    hint = f"{row.text('hint')}\n" if "hint" in row.value else ""
    told = {name: value for name, value in row.value.items() if name not in ("image", "answer")}
    return Choice(
        row.text("index"),
        Image.from_bytes(picture, name=f"mmbench {row.text('index')}"),
        hint + row.text("question"),
        choices,
        LETTERS.index(letter) if letter else None,
        told,
    )
