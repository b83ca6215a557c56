"""Spoken phrases about coloured shapes: which are said, by which voices, and the synthesiser that says them.

Owns: the phrases, their pronunciation, the voices, what is held out of training, and the way through Kokoro-82M (an
int8 ONNX export; English voices of `kokoro-js`; both Apache-2.0). Assumes onnxruntime and numpy where sounds are made;
what is said is a pure function of the tables below. Data flow:

    (phrase, voice, speed) -> phonemes -> ids + style row -> 24 kHz samples -> 16-bit WAV

Held out of training: `HELDOUT_VOICES`, `HELDOUT_TEMPLATES`, `HELDOUT_PAIRS` (pictures of these colours and shapes are
trained on, the words never stand together in speech).
"""

import hashlib
import importlib
import io
import itertools
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

RATE = 24_000
"""Samples per second that the synthesiser gives."""

COLORS = ("red", "green", "blue", "yellow", "black", "gray", "teal", "brown")
SHAPES = ("circle", "rectangle", "triangle")

_SPOKEN = """
a ɐ
black blˈæk
blue blˈu
brown bɹˈWn
circle sˈɜɹkᵊl
color kˈʌləɹ
gray ɡɹˈA
green ɡɹˈin
here hˈɪɹ
i ˈI
is ɪz
it ɪt
rectangle ɹˈɛktˌæŋɡᵊl
red ɹˈɛd
see sˈi
shape ʃˈAp
something sˈʌmθɪŋ
teal tˈil
the ðə
there ðɛɹ
this ðɪs
triangle tɹˈIˌæŋɡᵊl
yellow jˈɛlO
"""  # noqa: RUF001
PRONUNCIATIONS: Mapping[str, str] = {
    word: symbols for word, _, symbols in (line.partition(" ") for line in _SPOKEN.strip().splitlines())
}
"""Words in Kokoro's alphabet of phonemes (General American)."""

TEMPLATES = (
    "a {color} {shape}",
    "{color} {shape}",
    "the {shape} is {color}",
    "this is a {color} {shape}",
    "i see a {color} {shape}",
    "there is a {color} {shape}",
    "a {shape}",
    "the shape is a {shape}",
    "something {color}",
    "the color is {color}",
)
HELDOUT_TEMPLATES = ("here is a {color} {shape}", "it is a {color} {shape}", "this {shape} is {color}")
HELDOUT_PAIRS = (("teal", "triangle"), ("brown", "circle"), ("green", "rectangle"), ("black", "triangle"))

VOICES = (
    "af_alloy", "af_aoede", "af_bella", "af_heart", "af_jessica", "af_kore", "af_nova", "af_river", "am_adam",
    "am_echo", "am_eric", "am_fenrir", "am_liam", "am_onyx", "am_puck", "bf_alice", "bf_emma", "bm_daniel", "bm_george",
)  # fmt: skip
HELDOUT_VOICES = ("af_sarah", "af_sky", "am_michael", "bf_isabella", "bm_lewis")

SPEEDS = (0.9, 1.0, 1.1, 1.2)


@dataclass(frozen=True)
class Phrase:
    """What is said. `color` and `shape` are "" where the phrase names none."""

    text: str
    color: str
    shape: str

    def shows(self, *, color: str, shape: str) -> bool:
        """Whether it is true of a picture of a `shape` in `color`."""
        return self.color in ("", color) and self.shape in ("", shape)


@dataclass(frozen=True)
class Clip:
    """One recording: `split` is "train", "voices" (a held-out voice says what was trained on) or "phrases" (a held-out
    voice says what was not)."""

    split: str
    phrase: Phrase
    voice: str
    speed: float

    @property
    def key(self) -> str:
        """A file name, a pure function of what is said, by whom and how fast."""
        return f"{self.phrase.text.replace(' ', '-')}.{self.voice}.{round(100 * self.speed)}"


def phrases(templates: Sequence[str]) -> list[Phrase]:
    """All phrases of some templates."""
    found: dict[str, Phrase] = {}
    for template in templates:
        colors = COLORS if "{color}" in template else ("",)
        shapes = SHAPES if "{shape}" in template else ("",)
        for color, shape in itertools.product(colors, shapes):
            text = template.format(color=color, shape=shape)
            found[text] = Phrase(text, color, shape)
    return list(found.values())


def clips(*, num_train: int, num_heldout: int) -> list[Clip]:
    """The recordings, in a shuffled order: `num_train` of known voices and phrases, half of `num_heldout` of each
    held-out split. Raises ValueError for more than there are."""
    known = [phrase for phrase in phrases(TEMPLATES) if (phrase.color, phrase.shape) not in HELDOUT_PAIRS]
    unknown = [phrase for phrase in phrases(TEMPLATES) if (phrase.color, phrase.shape) in HELDOUT_PAIRS]
    unknown += phrases(HELDOUT_TEMPLATES)
    wanted = (
        ("train", known, VOICES, num_train),
        ("voices", known, HELDOUT_VOICES, num_heldout // 2),
        ("phrases", unknown, HELDOUT_VOICES, num_heldout // 2),
    )
    return _shuffled([clip for args in wanted for clip in _split(*args)], salt="order")


def _split(split: str, said: Sequence[Phrase], voices: Sequence[str], count: int) -> list[Clip]:
    """`count` recordings: every phrase as often as any other, give or take one, each time by another voice."""
    if not 0 <= count <= len(said) * len(voices):
        raise ValueError(
            f"{count} recordings of split `{split}` are wanted; there are {len(said) * len(voices)}\nhint: take fewer"
        )
    order = _shuffled([Clip(split, phrase, voices[0], 1.0) for phrase in said], salt=split)
    found = []
    for number in range(count):
        phrase, turn = order[number % len(order)].phrase, number // len(order)
        first = _number(phrase.text, split) % len(voices)
        voice = voices[(first + turn * 7) % len(voices)]  # 7 shares no factor with the number of either voices
        speed = SPEEDS[_number(phrase.text, voice) % len(SPEEDS)]
        found.append(Clip(split, phrase, voice, speed))
    return found


def _number(*key: str) -> int:
    return int.from_bytes(hashlib.sha256("\x1f".join(key).encode()).digest()[:8])


def _shuffled(items: Sequence[Clip], *, salt: str) -> list[Clip]:
    return sorted(items, key=lambda clip: _number(salt, clip.split, clip.key))


def phonemes(text: str) -> str:
    """The pronunciation of a phrase. Raises ValueError for a word that is not in the table."""
    for word in text.split():
        if word not in PRONUNCIATIONS:
            raise ValueError(f"`{word}` has no pronunciation\nhint: add it to PRONUNCIATIONS")
    return " ".join(PRONUNCIATIONS[word] for word in text.split()) + "."


class Synthesiser:
    """Kokoro-82M as an ONNX graph, on one thread.

    model:      bytes of the graph.
    alphabet:   phoneme -> id.
    voices:     name -> style rows, float32 [510, 256] as bytes; the row is chosen by the number of phonemes.
    """

    def __init__(self, model: bytes, *, alphabet: Mapping[str, int], voices: Mapping[str, bytes]) -> None:
        """Open the graph. Raises ValueError where onnxruntime is missing."""
        try:
            onnxruntime: Any = importlib.import_module("onnxruntime")
        except ImportError as error:
            raise ValueError(
                "the synthesiser needs onnxruntime, which is not installed\nhint: pip install onnxruntime"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._alphabet = dict(alphabet)
        self._voices = dict(voices)

    def say(self, clip: Clip) -> bytes:
        """A recording as mono 16-bit WAV, silence at both ends cut off."""
        import numpy

        ids = [self._alphabet[symbol] for symbol in phonemes(clip.phrase.text)]
        styles = numpy.frombuffer(self._voices[clip.voice], dtype="<f4").reshape(-1, 256)
        inputs = {
            "tokens": numpy.array([[0, *ids, 0]], dtype=numpy.int64),
            "style": styles[len(ids) : len(ids) + 1],
            "speed": numpy.array([clip.speed], dtype=numpy.float32),
        }
        samples = numpy.ravel(self._session.run(None, inputs)[0])
        return wav(samples)


def wav(samples: Any, *, rate: int = RATE, threshold: float = 0.01, margin: float = 0.05) -> bytes:
    """Samples in [-1, 1] as mono 16-bit WAV; what is below `threshold` at the ends is cut but for `margin` seconds."""
    import numpy

    loud = numpy.flatnonzero(numpy.abs(samples) > threshold)
    if len(loud):
        around = int(margin * rate)
        samples = samples[max(0, loud[0] - around) : loud[-1] + around]
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((numpy.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return stream.getvalue()
