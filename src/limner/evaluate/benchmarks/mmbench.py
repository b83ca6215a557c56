"""MMBench (Liu et al. 2023): multiple choice, asked once for every rotation of the choices; right only if all are.

File, from https://github.com/open-compass/MMBench: mmbench_<split>_en.tsv, pictures inside (base64)
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.document.media import Image
from limner.evaluate.annotations import Record, read_table
from limner.evaluate.answers import Respondent
from limner.evaluate.benchmark import Example, Outcome, Score
from limner.evaluate.benchmarks.short_answers import Asked, ask
from limner.evaluate.intervals import share
from limner.evaluate.presets import Preset, chosen

LETTERS = "ABCDEFGH"
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
    """A question, its choices in order, and the place of the right one (None where it is secret)."""

    key: str
    image: Image
    question: str
    choices: tuple[str, ...]
    right: int | None
    row: dict[str, str] = field(default_factory=dict)

    def turned(self, turn: int) -> Asked:
        """The question with its choices moved on by `turn` places; the answer is a letter."""
        moved = self.choices[turn:] + self.choices[:turn]
        lines = [self.question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, moved, strict=False))]
        right = () if self.right is None else (LETTERS[(self.right - turn) % len(moved)],)
        return Asked(f"{self.key}/{turn}", self.image, "\n".join(lines), right)


@dataclass(frozen=True)
class MMBench:
    """`asked` in the order of the file."""

    asked: Sequence[Choice]
    preset: Preset
    name: str = "mmbench"

    def run(self, engine: Respondent, *, limit: int | None, seed: int) -> Outcome:
        """Ask the first `limit` questions, each with all rotations of its choices."""
        asked = list(self.asked if limit is None else self.asked[:limit])
        if not asked:
            raise ValueError("the benchmark has no questions\nhint: is its table whole?")
        turns = [one.turned(turn) for one in asked for turn in range(len(one.choices))]
        replies = dict(
            zip([turn.key for turn in turns], ask(engine, turns, preset=self.preset, seed=seed), strict=True)
        )
        said = {turn.key: letter_of(replies[turn.key], turn.question) for turn in turns}
        known = [one for one in asked if one.right is not None]
        right = {one.key: [said[t.key] == t.answers[0] for t in self._turns(one)] for one in known}
        return Outcome(
            name=self.name,
            setup=(
                f"Greedy, preset `{self.preset.name}`; a reply stands for the letter it begins with, or the one choice "
                "it repeats. Circular: right in every rotation of the choices. Once: right in the given order."
            ),
            baseline="chance",
            scores=self._scores(known, right),
            examples=tuple(
                Example((one.image,), f"{one.question}\n> {replies[f'{one.key}/0']}", all(right[one.key]))
                for one in known[:60]
            ),
            items=tuple(
                {"key": one.key, "cluster": one.key, "replies": [replies[t.key] for t in self._turns(one)]}
                | ({"score": float(all(right[one.key]))} if one.key in right else {})
                for one in asked
            ),
            settings={"preset": self.preset.name, "seed": seed},
            submissions={"mmbench.submission": [self._submitted(one, said) for one in asked]},
        )

    def _turns(self, one: Choice) -> list[Asked]:
        return [one.turned(turn) for turn in range(len(one.choices))]

    def _scores(self, known: Sequence[Choice], right: dict[str, list[bool]]) -> tuple[Score, ...]:
        if not known:
            return ()
        keys = [one.key for one in known]
        once = sum(1.0 / len(one.choices) for one in known) / len(known)
        circular = sum(len(one.choices) ** -float(len(one.choices)) for one in known) / len(known)
        return (
            Score("circular", share([all(right[key]) for key in keys], clusters=keys), len(keys), baseline=circular),
            Score("once", share([right[key][0] for key in keys], clusters=keys), len(keys), baseline=once),
        )

    def _submitted(self, one: Choice, said: dict[str, str]) -> dict[str, Any]:
        return {**one.row, "prediction": said[f"{one.key}/0"]}


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
    rows = read_table(folder / f"mmbench_{split}_en.tsv")
    return MMBench([_choice(row) for row in rows], chosen(PRESETS, preset, benchmark="mmbench"))


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
