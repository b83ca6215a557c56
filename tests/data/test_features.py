"""The feature cache: values outlive the process, never meet other weights, and are those of the uncached path."""

from pathlib import Path

import pytest
import torch
from tiny import COLOURS, documents, model_call, picture, tiny_model

from limner.config.call import build
from limner.data import features
from limner.data.collate import Collator
from limner.data.feature_store import NoStore
from limner.data.features import FeatureCache
from limner.data.fingerprint import fingerprint
from limner.document.document import Direction, Document, Media
from limner.document.media import Image
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.model.multimodal import MultimodalLM

MEDIA = [Media(picture(colour)) for colour in COLOURS[:3]]
MORE = [Media(picture(colour)) for colour in COLOURS[3:6]]


class Published(ConvolutionalEncoder):
    """The tiny encoder as if its weights were published under a name."""

    @property
    def signature(self) -> str:
        """A name."""
        return self.source


class RandomCrop(ConvolutionalEncoder):
    """An encoder that sees something else at every look."""

    is_random = True


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory."""
    monkeypatch.setenv("LIMNER_FEATURES", str(tmp_path / "features"))
    return tmp_path / "features"


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every item that a frozen part computes."""
    lines: list[str] = []
    compute = features.FrozenPart.compute

    def counted(part: features.FrozenPart, media: Media, **options):
        lines.append(f"{part.name} {part.direction}")
        return compute(part, media, **options)

    monkeypatch.setattr(features.FrozenPart, "compute", counted)
    return lines


def _model(kind: type[ConvolutionalEncoder] = ConvolutionalEncoder, source: str = "") -> MultimodalLM:
    model = tiny_model()
    encoder = build(model_call().encoder)
    encoder.__class__ = kind
    encoder.load_state_dict(model.modality("image").encoder.state_dict())
    encoder.source = source
    model.modality("image").encoder = encoder
    return model.requires_grad_(False)


@pytest.mark.parametrize("direction", list(Direction))
def test_features_are_found_again_by_another_process(direction: Direction, runs: list[str]) -> None:
    values = FeatureCache(_model()).features(MEDIA, direction=direction)
    assert runs == [f"image {direction}"] * 3
    again = FeatureCache(_model()).features(MEDIA, direction=direction)
    assert len(runs) == 3
    assert all(torch.equal(one, two) for one, two in zip(values, again, strict=True))


def test_a_second_writer_keeps_what_the_first_one_left(runs: list[str]) -> None:
    first, second = FeatureCache(_model()), FeatureCache(_model())
    first.features(MEDIA, direction=Direction.IN)
    second.features(MEDIA[:1] + MORE, direction=Direction.IN)
    FeatureCache(_model()).features(MEDIA + MORE, direction=Direction.IN)
    assert len(runs) == 6


def test_an_item_that_stands_twice_is_computed_once(runs: list[str]) -> None:
    found = FeatureCache(_model()).features([*MEDIA, MEDIA[0]], direction=Direction.IN)
    assert len(runs) == 3
    assert torch.equal(found[0], found[3])


def test_published_weights_are_known_by_their_name(store: Path) -> None:
    first, second = _model(Published, "tiny@1"), _model(Published, "tiny@1")
    with torch.no_grad():
        second.modality("image").encoder.positions.add_(1.0)  # the name is believed
    FeatureCache(first).features(MEDIA, direction=Direction.IN)
    FeatureCache(second).features(MEDIA, direction=Direction.IN)
    assert len(list(store.iterdir())) == 1
    FeatureCache(_model(Published, "tiny@2")).features(MEDIA, direction=Direction.IN)
    assert len(list(store.iterdir())) == 2


def test_other_weights_other_sizes_and_other_classes_have_other_fingerprints() -> None:
    def of(kind: type[ConvolutionalEncoder] = ConvolutionalEncoder, *, shift: float = 0.0, size: int = 32) -> str:
        encoder = _model(kind).modality("image").encoder
        encoder.image_size = size
        with torch.no_grad():
            encoder.positions[-1, -1] += shift
        return fingerprint(encoder, transform=encoder)

    assert of() == of()
    assert len({of(), of(shift=1e-3), of(size=64), of(Published), of(RandomCrop)}) == 5


def test_weights_that_change_under_a_cache_get_other_features(runs: list[str], store: Path) -> None:
    model = _model()
    cache = FeatureCache(model)
    before = cache.features(MEDIA, direction=Direction.IN)
    with torch.no_grad():
        model.modality("image").encoder.positions.add_(1.0)
    after = cache.features(MEDIA, direction=Direction.IN)
    assert len(runs) == 6
    assert not torch.equal(before[0], after[0])
    assert len(list(store.iterdir())) == 2


def test_what_is_trained_or_random_is_not_covered(store: Path) -> None:
    trained = _model()
    trained.modality("image").encoder.requires_grad_(True)
    for model, reason in ((trained, "is trained in this stage"), (_model(RandomCrop), "has a random transform")):
        cache = FeatureCache(model)
        assert not cache.covers("image", Direction.IN)
        assert cache.covers("image", Direction.OUT)
        assert not cache.holds(MEDIA[0], Direction.IN)
        with pytest.raises(ValueError, match=rf"encoder of `image` {reason}.*\nhint: "):
            cache.features(MEDIA, direction=Direction.IN)
    assert not store.exists()


@pytest.mark.parametrize("direction", list(Direction))
def test_a_cache_says_what_it_holds_and_takes_what_was_preprocessed_elsewhere(
    direction: Direction, runs: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _model()
    cache, other = FeatureCache(model), FeatureCache(_model())
    part = model.reader("image").encoder if direction is Direction.IN else model.maker("image").decoder
    expected = FeatureCache(model, open_store=lambda part: NoStore()).features(MEDIA, direction=direction)
    values = [part.preprocess(item) for item in MEDIA]
    assert not cache.holds(MEDIA[0], direction)
    monkeypatch.setattr(Image, "pil", lambda image: pytest.fail("decoded again"))
    found = cache.features(MEDIA, direction=direction, values=values)
    assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
    assert cache.holds(MEDIA[0], direction)
    assert other.holds(MEDIA[2], direction)
    other.features(MEDIA, direction=direction)
    assert len(runs) == 6


def test_an_item_does_not_depend_on_its_neighbours_or_on_the_mode_of_the_model() -> None:
    model = _model()
    alone = FeatureCache(model, open_store=lambda part: NoStore())
    model.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        together = alone.features(MEDIA, direction=Direction.IN)
    assert torch.equal(together[1], alone.features(MEDIA[1:2], direction=Direction.IN)[0])
    encoder = model.modality("image").encoder
    expected = encoder(encoder.preprocess(MEDIA[1])[None]).values
    assert together[1].dtype == torch.float32
    assert torch.equal(together[1], expected)


def test_losses_and_gradients_are_bit_identical_with_and_without_the_cache(runs: list[str]) -> None:
    def step(open_store: features.OpenStore) -> list[torch.Tensor]:
        model = _model()
        model.modality("image").input_projector.requires_grad_(True)
        model.backbone.requires_grad_(True)
        rows = [[model.render(document, key=str(index)) for index, document in enumerate(documents())]]
        collate = Collator(model, cache=FeatureCache(model, open_store=open_store))
        terms = model(collate(rows), noise_key=(0, 1))
        torch.stack([term.mean for term in terms.values()]).sum().backward()
        gradients = [p.grad for p in model.parameters() if p.requires_grad]
        return [*[term.sum for term in terms.values()], *gradients]

    without = step(lambda part: NoStore())
    computed = len(runs)
    filling, held = step(features.disk_store), step(features.disk_store)
    assert len(runs) == 2 * computed
    for one, two, three in zip(without, filling, held, strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one, three)


def test_a_picture_that_cannot_be_decoded_is_named_and_leaves_nothing(store: Path) -> None:
    broken = Image(picture("red").data[:60], name="broken.png")
    cache = FeatureCache(_model())
    with pytest.raises(ValueError, match=r"broken\.png.*\nhint: "):
        cache.features([Media(broken)], direction=Direction.IN)
    assert not cache.holds(Media(broken), Direction.IN)


def test_something_still_to_be_made_is_not_held() -> None:
    cache = FeatureCache(_model())
    assert not cache.holds(Media(None, directions=(Direction.OUT,)), Direction.OUT)
    page = Document.page([Media(None, directions=(Direction.OUT,))])
    spans = Collator(cache.model, cache=cache)([[cache.model.render(page)]]).spans["image", Direction.OUT]
    assert not spans.encoded
