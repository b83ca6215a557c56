"""The feature cache on disk: a published encoder's features outlive the process, and never meet other weights."""

from pathlib import Path

import pytest
import torch
from tiny import COLOURS, model_call, picture, tiny_model

from limner.config.call import build
from limner.data import features
from limner.data.features import FeatureCache
from limner.document.document import Direction, Media
from limner.modalities.encoders.convolutional import ConvolutionalEncoder
from limner.model.multimodal import MultimodalLM


class Published(ConvolutionalEncoder):
    """The tiny encoder as if its weights were published under a name; counts what it is asked to compute."""

    num_runs = 0

    @property
    def signature(self) -> str:
        """A name."""
        return self.source

    def forward(self, items: torch.Tensor):
        """Counted."""
        self.num_runs += len(items)
        return super().forward(items)


def _model(source: str = "tiny@1") -> MultimodalLM:
    model = tiny_model()
    encoder = build(model_call().encoder)
    encoder.__class__ = Published
    encoder.load_state_dict(model.modality("image").encoder.state_dict())
    encoder.source = source
    model.modality("image").encoder = encoder
    return model.requires_grad_(False)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache directory, written to after every third new item."""
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path))
    monkeypatch.setattr(features, "SAVE_EVERY", 3)
    return tmp_path / "features"


MEDIA = [Media(picture(colour)) for colour in COLOURS[:3]]


def test_features_of_a_published_encoder_are_found_again(store: Path) -> None:
    first = _model()
    values = FeatureCache(first).features(MEDIA, direction=Direction.IN)
    assert first.modality("image").encoder.num_runs == 3
    assert [file.suffix for file in store.iterdir()] == [".safetensors"]
    second = _model()
    again = FeatureCache(second).features(MEDIA, direction=Direction.IN)
    assert second.modality("image").encoder.num_runs == 0
    assert all(torch.equal(one, two) for one, two in zip(values, again, strict=True))


def test_a_second_writer_keeps_what_the_first_one_left(store: Path) -> None:
    FeatureCache(_model()).features(MEDIA, direction=Direction.IN)
    more = [Media(picture(colour)) for colour in COLOURS[3:6]]
    FeatureCache(_model()).features(more, direction=Direction.IN)
    third = _model()
    FeatureCache(third).features(MEDIA + more, direction=Direction.IN)
    assert third.modality("image").encoder.num_runs == 0


def test_other_weights_have_other_features(store: Path) -> None:
    FeatureCache(_model("tiny@1")).features(MEDIA, direction=Direction.IN)
    changed = _model("tiny@2")
    FeatureCache(changed).features(MEDIA, direction=Direction.IN)
    assert changed.modality("image").encoder.num_runs == 3
    assert len(list(store.iterdir())) == 2


def test_what_is_trained_or_unpublished_is_not_written(store: Path) -> None:
    FeatureCache(_model(source="")).features(MEDIA, direction=Direction.IN)
    FeatureCache(_model()).features(MEDIA, direction=Direction.OUT)
    assert not store.exists()
    trained = _model()
    trained.modality("image").encoder.requires_grad_(True)
    assert not FeatureCache(trained).covers("image", Direction.IN)


def test_few_new_features_are_not_worth_a_file(store: Path) -> None:
    FeatureCache(_model()).features(MEDIA[:2], direction=Direction.IN)
    assert not store.exists()
