import torch

from limner.compositions.scene_model import scene_model
from limner.config.call import build, call
from limner.config.serialize import to_json
from limner.data.collate import Collator
from limner.data.feature_store import MemoryStore
from limner.data.features import FeatureCache
from limner.data.scene_grammar import MAKERS, GrammarTask
from limner.document.document import Direction
from limner.modalities.decoders.pixels import PixelFlowDecoder
from limner.modalities.encoders.patches import PatchEncoder
from limner.model.checkpoint import load_checkpoint, save_checkpoint


def description():
    return call(
        scene_model,
        encoder=call(PatchEncoder, width=16, pixel_width=4),
        decoder=call(PixelFlowDecoder, size=48, condition_width=8, width=16, num_layers=1, num_heads=2),
        num_queries=9,
        d_model=32,
        num_layers=1,
        num_heads=2,
    )


def batch_of(model):
    return Collator(model)([[model.render(GrammarTask(task=task, length=1)[0], key=f"{task}/0/0")] for task in MAKERS])


def test_every_task_trains_every_part():
    torch.manual_seed(0)
    model = build(description())
    terms = model(batch_of(model), noise_key=(0, 0))
    assert set(terms) == {"text", "image"}
    sum(term.mean for term in terms.values()).backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without


def test_a_checkpoint_rebuilds_the_same_model(tmp_path):
    torch.manual_seed(0)
    model = build(description()).eval()
    save_checkpoint(model, tmp_path / "model", description=to_json(description()))
    again = load_checkpoint(tmp_path / "model")
    with torch.no_grad():
        ours, theirs = (one(batch_of(one), noise_key=(0, 0)) for one in (model, again))
    assert {name: float(term.sum) for name, term in ours.items()} == {
        name: float(term.sum) for name, term in theirs.items()
    }


def test_pixels_that_are_only_laid_out_anew_are_not_cached():
    cache = FeatureCache(build(description()), open_store=lambda part: MemoryStore())
    assert not cache.covers("image", Direction.OUT)
