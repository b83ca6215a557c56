"""A directory of another size, vocabulary and offsets is checked by what it says itself: nothing of it stands in code.

Its values are our own: what this shows is that the way from a directory to its checks knows no sizes and no ids.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from lavit_originals import HEADS, PATCHES, write_lavit_original
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from limner.compositions.lavit import read_lavit
from limner.evaluate.golden import lavit
from limner.evaluate.golden.lavit_cases import Cases
from limner.modalities.noise import keyed_generator

LOGITS = {"compare": "allclose", "atol": 1e-4, "rtol": 1e-4}
EXACT = {"compare": "exact"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases whose expected values are filled in by what is computed for them."""
    folder = tmp_path_factory.mktemp("recorded")
    write_lavit_original(folder / "checkpoint")
    (folder / "cases").mkdir()
    (folder / "inputs").mkdir()
    picture = torch.randint(0, 256, (20, 31, 3), generator=keyed_generator("picture"), dtype=torch.uint8)
    Image.fromarray(picture.numpy()).save(folder / "inputs" / "one.png")
    ids = read_lavit(folder / "checkpoint", heads=HEADS).ids
    heads = asdict(HEADS)
    named = {"text_vocab": ids.text_size, "image_start": ids.text_size, "first_code": ids.text_size + 2}
    sizes = {
        "vision": {"heads": heads["encoder"]},
        "merger": {"heads": heads["merger"]},
        "feature_decoder": {"heads": heads["feature_decoder"], "attnpool_heads": heads["pool"]},
        "quantizer": {},
        "ids": {**named, "vocab": ids.size},
    }
    (folder / "sizes.json").write_text(json.dumps(sizes))
    entries = _entries(first_code=ids.first_code)
    for entry, tensors in entries:
        save_file(tensors, folder / entry["file"])
    cases = folder / "cases" / "cases.json"
    cases.write_text(json.dumps({"cases": [entry for entry, _ in entries]}))
    for case in Cases(folder).wanted():
        found = lavit.SECTIONS[case.name.split("/")[0]](case)
        expected = {name: found[name].clone().contiguous() for name in case.outputs}
        save_file({**load_file(folder / case.entry["file"]), **expected}, folder / case.entry["file"])
    return folder


def _entries(*, first_code: int) -> list[tuple[dict[str, Any], dict[str, Tensor]]]:
    gumbel = {"noise.gumbel.0": -torch.empty(1, PATCHES, 2).exponential_(generator=keyed_generator("gumbel")).log()}
    latents = {"noise.latents.0": torch.randn(1, 4, 4, 6, generator=keyed_generator("latents"))}
    columns = torch.arange(first_code, first_code + 5)
    pixels = {"pixels": {"from_case": "squeezed", "tensor": "out.pixels"}}
    steps = {"index.candidate_ids": columns, "out.cond_logits": torch.zeros(3)}
    return [
        _entry("1 preprocess", "squeezed", {"files": ["inputs/one.png"]}, {"out.pixels": LOGITS}),
        _entry("7 tokenize", "codes", pixels, {"out.ids": EXACT, "out.z_q": LOGITS}, gumbel),
        _entry(
            "9 understanding",
            "said",
            {**pixels, "prompt": ["a"], "settings": {"max_length": 5, "min_length": 2}},
            {"out.ids": EXACT, "out.sequence_scores": LOGITS},
            gumbel,
        ),
        _entry(
            "10 text-to-image ids",
            "drawn",
            {"prompts": ["a cat", ""], "settings": {"use_nucleus_sampling": False, "max_length": 6, "min_length": 3}},
            {"out.ids": EXACT, "out.cond_logits": LOGITS, "out.guided_logits": LOGITS},
            steps,
        ),
        _entry(
            "12 pixel decoding",
            "pixels",
            {
                "kind": "highres",
                "token_rows": [[0, first_code, first_code + 3, 2]],
                "settings": {"height": 8, "width": 12, "num_inference_steps": 2},
            },
            {"out.latents_per_step": LOGITS, "out.image_float": LOGITS},
            latents,
        ),
    ]


def _entry(
    group: str,
    name: str,
    inputs: dict[str, Any],
    outputs: dict[str, Any],
    tensors: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    entry = {"name": name, "group": group, "file": f"cases/{name}.safetensors", "inputs": inputs, "outputs": outputs}
    return {**entry, "expected_json": {}, "png": []}, {"unused": torch.zeros(1), **(tensors or {})}


def test_a_directory_of_other_sizes_passes(directory: Path) -> None:
    found = list(lavit.checks(directory))
    assert [check for check in found if not check.passed] == []
    assert len(found) == 7 - 3 + 10


def test_what_is_named_otherwise_is_found(directory: Path, tmp_path: Path) -> None:
    sizes = json.loads((directory / "sizes.json").read_text())
    sizes["ids"]["first_code"] += 1
    for name in ("cases", "checkpoint", "inputs"):
        (tmp_path / name).symlink_to(directory / name)
    (tmp_path / "sizes.json").write_text(json.dumps(sizes))
    assert [check.case for check in lavit.checks(tmp_path) if not check.passed] == ["ids/sizes/first_code"]
