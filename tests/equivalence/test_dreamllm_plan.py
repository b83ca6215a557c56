"""DreamLLM's stages in one command: killed in every stage = uninterrupted; merged by itself; pages come out."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from dreamllm_killed import STEPS, recipe

from limner.config.call import build
from limner.document.document import Document, Media, Message, Text
from limner.generate.engine import Engine
from limner.generate.request import Pictures, Request
from limner.model.checkpoint import load_checkpoint, read_components, read_index

TESTS = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plan run twice, once under fire (tests/dreamllm_killed.py)."""
    directory = tmp_path_factory.mktemp("dreamllm")
    paths = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    ran = subprocess.run(
        [sys.executable, str(TESTS / "dreamllm_killed.py"), str(directory)],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "LIMNER_CACHE": str(directory / "cache")},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return directory


def _state(path: Path) -> dict[str, torch.Tensor]:
    return read_components(path / "checkpoint", index=read_index(path / "checkpoint"))


def _part(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    found = {name: value for name, value in state.items() if name.startswith(f"modalities.image.{part}.")}
    assert found, part
    return found


def _same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_killed_in_the_middle_of_every_stage_it_ends_with_the_same_bits(runs: Path) -> None:
    found = json.loads((runs / "results.json").read_text())
    assert found["kills"] == list(STEPS)
    assert len(found["whole"]["curve"]) == sum(STEPS.values())
    assert found["broken"]["curve"] == found["whole"]["curve"]
    assert found["broken"]["weights"] == found["whole"]["weights"]


def test_stage_two_joins_what_two_runs_trained(runs: Path) -> None:
    whole = runs / "whole"
    origins = json.loads((whole / "joint" / "start.json").read_text())
    assert origins.pop("image.input_projector") == "stage comprehension"
    assert set(origins.values()) == {"stage creation"}
    published, comprehension, creation = (_state(whole / name) for name in ("published", "comprehension", "creation"))
    # Connectors began as built in both runs, and each has trained its own.
    for part, trained, still in (
        ("input_projector", comprehension, creation),
        ("queries", creation, comprehension),
        ("output_projector", creation, comprehension),
    ):
        assert not _same(_part(trained, part), _part(still, part))
        assert not _same(_part(still, part), _part(published, part))
    for run in (comprehension, creation):
        assert _same(_part(run, "decoder"), _part(published, "decoder"))
        backbone = {name: value for name, value in run.items() if name.startswith("backbone.")}
        assert _same(backbone, {name: published[name] for name in backbone})


def test_the_merged_model_is_the_input_projector_of_one_and_the_rest_of_the_other(runs: Path, tmp_path: Path) -> None:
    from limner.train.plan import hand_over

    plan, whole = recipe(), runs / "whole"
    merged = build(plan.model)
    stage = build(next(stage for stage in plan.stages if stage.name == "joint"))
    hand_over(merged, stage, output=whole, before=list(STEPS)[:4])
    found = merged.state_dict()
    comprehension, creation = _state(whole / "comprehension"), _state(whole / "creation")
    assert _same(_part(found, "input_projector"), _part(comprehension, "input_projector"))
    for part in ("queries", "output_projector", "decoder"):
        assert _same(_part(found, part), _part(creation, part))


def _shown(document: Document) -> list[numpy.ndarray]:
    return [numpy.asarray(media.content.pil()).astype(int) for _, media in document.media()]


def test_the_final_model_writes_a_page_whose_pictures_follow_the_text_before_them(runs: Path) -> None:
    engine = Engine(load_checkpoint(runs / "whole" / "instructions" / "checkpoint"))

    def written(first: str, second: str) -> list[numpy.ndarray]:
        """A page of two texts, each with the picture that the model makes behind it."""
        page = Document.page([first])
        (page,) = engine.run([_request(page)])
        parts = (*page.messages[0].parts[:2], Text(second))
        assert isinstance(parts[1], Media)
        (page,) = engine.run([_request(Document((Message("page", parts),)))])
        return _shown(page)

    one = written("A large red circle in the top left.", " A small blue star in the bottom right.")
    assert len(one) == 2
    same = written("A large red circle in the top left.", " A small blue star in the bottom right.")
    assert all((left == right).all() for left, right in zip(one, same, strict=True))
    first, second = written("A small green cross in the middle center.", " A small blue star in the bottom right.")
    assert _difference(one[0], first) > 0
    # The second text is the same: what differs is the picture that was read back before it.
    assert _difference(one[1], second) > 0
    _, other = written("A large red circle in the top left.", " A large yellow square in the top right.")
    assert _difference(one[1], other) > 0


def _request(document: Document) -> Request:
    """One picture at once; the same seed for every page."""
    return Request(document, pictures=Pictures.NOW, max_pictures=1, max_new_tokens=1, num_inference_steps=4, seed=3)


def _difference(left: numpy.ndarray, right: numpy.ndarray) -> float:
    return float(abs(left - right).mean())
