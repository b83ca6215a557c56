"""The packages themselves, where they are installed: torch-fidelity, torchmetrics, stlpips-pytorch. Weights are random,
in the layout that the published ones have: the path from a user's file to a score is what is shown."""

import importlib
import logging
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from tiny import picture

from limner.document.media import Image
from limner.evaluate.metrics.features import frechet_distance, kernel_distance
from limner.evaluate.metrics.networks import Clip, Inception, ShiftTolerantLpips, found_networks

ITEMS = 10
pytestmark = pytest.mark.filterwarnings("ignore")  # the packages' own


def installed(name: str) -> Any:
    """A package, or the end of the test; a torchvision that does not fit this torch breaks packages in many ways."""
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"{name}: {error}")


def photos(seed: int) -> list[Image]:
    """Squares of Inception's size: coarse noise, enlarged."""
    pixels = numpy.random.default_rng(seed).integers(0, 256, size=(ITEMS, 8, 8, 3), dtype=numpy.uint8)
    return [Image.from_array(one.repeat(32, 0).repeat(32, 1)) for one in pixels]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`networks` with an inception.pth."""
    module = installed("torch_fidelity.feature_extractor_inceptionv3")
    folder = tmp_path_factory.mktemp("networks")
    file = folder / "inception.pth"
    torch.save({}, file)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(module.FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        made = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)
        )
    torch.save(made.state_dict(), file)
    return folder


def test_fid_and_kid_are_those_of_torch_fidelity(folder: Path, tmp_path: Path) -> None:
    fidelity = installed("torch_fidelity")
    sets = [photos(0), photos(1)]
    for number, shown in enumerate(sets):
        (tmp_path / str(number)).mkdir()
        for place, one in enumerate(shown):
            one.pil().save(tmp_path / str(number) / f"{place}.png")
    official = fidelity.calculate_metrics(
        input1=str(tmp_path / "0"),
        input2=str(tmp_path / "1"),
        fid=True,
        kid=True,
        kid_subsets=4,
        kid_subset_size=6,
        feature_extractor_weights_path=str(folder / "inception.pth"),
        cuda=False,
        save_cpu_ram=True,  # reads in this process
        verbose=False,
        cache=False,
    )
    network = Inception(folder / "inception.pth")
    one, other = map(network.features, sets)
    assert one.shape == (ITEMS, 2048)
    assert frechet_distance(one, other) == pytest.approx(official["frechet_inception_distance"], rel=1e-5, abs=1e-6)
    found = kernel_distance(one, other, num_subsets=4, subset_size=6)
    assert found.mean == pytest.approx(official["kernel_inception_distance_mean"], rel=1e-5, abs=1e-6)


def test_fid_is_that_of_torchmetrics(folder: Path) -> None:
    installed("torchmetrics")
    fid = installed("torchmetrics.image.fid")
    metric = fid.FrechetInceptionDistance(
        feature=2048, feature_extractor_weights_path=str(folder / "inception.pth")
    ).set_dtype(torch.float64)
    sets = [photos(0), photos(1)]
    for is_real, shown in zip((True, False), sets, strict=True):
        pixels = torch.stack([torch.from_numpy(numpy.array(one.pil())).permute(2, 0, 1) for one in shown])
        metric.update(pixels, real=is_real)
    network = Inception(folder / "inception.pth")
    found = frechet_distance(*map(network.features, sets))
    assert found == pytest.approx(float(metric.compute()), rel=1e-4, abs=1e-6)


def test_weights_of_another_network_are_left_out_with_a_hint(folder: Path, tmp_path: Path, caplog: Any) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "inception.pth")
    with caplog.at_level(logging.WARNING):
        found = found_networks(tmp_path)
    assert "FID" not in [one.frechet for one in found.sets]
    told = next(line for line in found.missing if line.startswith("FID and KID"))
    assert "state_dict" in told
    assert "networks/inception.pth" in caplog.text


def test_clip_scores_are_those_of_torchmetrics(tmp_path: Path, tiny_clip: Path) -> None:
    module = installed("torchmetrics.functional.multimodal.clip_score")
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel, CLIPProcessor

    model: Any = CLIPModel.from_pretrained(tiny_clip).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_clip)
    # torchmetrics 1.9 expects what transformers 4 gave: rows, not an object that holds them.
    model.get_image_features = lambda pixels: model.visual_projection(model.vision_model(pixels).pooler_output)
    model.get_text_features = lambda ids, mask: model.text_projection(model.text_model(ids, mask).pooler_output)
    processor = CLIPProcessor(CLIPImageProcessor.from_pretrained(tiny_clip), tokenizer)
    pictures, texts = [picture("red"), picture("blue"), picture("green")], ["a red wall", "blue", "a wall"]
    shown, said = Clip(tiny_clip).rows(pictures, texts)
    for place, (one, text) in enumerate(zip(pictures, texts, strict=True)):
        pixels = torch.from_numpy(numpy.array(one.pil())).permute(2, 0, 1)
        official = module.clip_score(pixels, text, model_name_or_path=lambda: (model, processor))
        assert 100 * max(0.0, float(shown[place] @ said[place])) == pytest.approx(float(official), abs=1e-3)


def test_shift_tolerant_distances_grow_with_the_difference() -> None:
    installed("stlpips_pytorch.stlpips")
    import limner.evaluate.metrics.networks as module

    lpips = ShiftTolerantLpips(module._shift_tolerant())
    shown = photos(0)[:2]
    moved = [Image.from_array(numpy.roll(numpy.array(one.pil()), 4, axis=1)) for one in shown]
    same, near, far = (lpips.distances(shown, others) for others in (shown, moved, shown[::-1]))
    assert same.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    assert (near < far).all()
