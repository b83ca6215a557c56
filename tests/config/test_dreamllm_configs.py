"""The shipped recipes say what was published, and name parts that their models have."""

from fnmatch import fnmatchcase
from pathlib import Path

import published_rows
import pytest
import torch

from limner.config.call import build
from limner.config.load import load
from limner.model.checkpoint import component_of
from limner.train.stage import select_trainable

CONFIGS = Path(__file__).parents[2] / "configs" / "dreamllm"

CONNECTORS = {"image.input_projector", "image.queries", "image.output_projector"}
PUBLISHED = {
    # learning rate, text and image weights, steps of 128 documents, what is trained
    "comprehension": (2e-3, 1.0, 0.0, 578_813, {"image.input_projector"}),
    "creation": (2e-3, 0.0, 1.0, 468_750, {"image.queries", "image.output_projector"}),
    "joint": (2e-5, 1.0, 10.0, 132_813, {"backbone"} | CONNECTORS),
    "instructions": (4e-5, 1.0, 10.0, 10_044, {"backbone"} | CONNECTORS),
}


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The whole plan, its model without weights."""
    with pytest.MonkeyPatch.context() as patch, torch.device("meta"):
        patch.setenv("LIMNER_DATA", str(published_rows.write(tmp_path_factory.mktemp("data"))))
        return build(load(CONFIGS / "plan.py"))


def test_every_stage_is_as_published(plan):
    assert [stage.name for stage in plan.stages] == list(PUBLISHED)
    for stage in plan.stages:
        rate, text, image, steps, trained = PUBLISHED[stage.name]
        assert {group.learning_rate for group in stage.trainable} == {rate}
        assert stage.loss_weights == {"text": text, "image": image}
        assert stage.num_steps == steps
        assert (stage.batching.num_rows, stage.accumulation, stage.batching.row_length) == (16, 8, 2048)
        assert (stage.max_gradient_norm, stage.save_every) == (1.0, 2000)
        assert stage.schedule.factor(0, 1000) == pytest.approx(1 / 3)
        assert stage.optimizer.options == {"betas": (0.9, 0.999), "eps": 1e-8}
        assert stage.mixture.condition_dropout == 0.1
        groups = select_trainable(plan.model, stage.trainable)
        found = {component_of(name) for parameters in groups.values() for name in parameters}
        assert found == trained


def test_what_is_handed_over_are_components(plan):
    components = {component_of(name) for name in plan.model.state_dict()}
    for stage in plan.stages:
        for glob, _ in stage.origins:
            assert any(fnmatchcase(component, glob) for component in components), glob


def test_documents_come_in_the_directions_of_their_stage(plan):
    comprehension, creation, joint, _ = (stage.mixture for stage in plan.stages)
    modes = {name: getattr(source, "mode", None) for name, source in comprehension.sources.items()}
    assert modes == {
        "llava_pretrain": None,
        "laion400m_orig": "comprehension",
        "laion_coco": "comprehension",
        "blip_laion": "comprehension",
        "gqa": None,
    }
    assert {source.mode for source in creation.sources.values()} == {"creation"}
    assert joint.sources["blip_laion"].mode == "joint"
    for mixture in (comprehension, creation, joint):
        for position in range(20):
            assert plan.model.render(mixture.document(position)[0]).spans
