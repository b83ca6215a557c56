"""Recorded cases of LaVIT pass, all of them are looked at, and a changed recording or weight is found."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import lavit as recorded
from safetensors.torch import load_file, save_file

from limner.compositions.lavit_writing import write_lavit
from limner.compositions.weights import read_tensor_file
from limner.evaluate.golden import lavit
from limner.evaluate.golden.check import Check
from limner.evaluate.golden.lavit_cases import Cases
from limner.evaluate.golden.verify import family_of


@pytest.fixture(scope="module")
def checks() -> list[Check]:
    return list(lavit.checks(recorded.required()))


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(recorded.required(), tmp_path / "copied"))


def _cases(directory: Path) -> list[dict[str, Any]]:
    return json.loads((directory / "cases" / "cases.json").read_text())["cases"]


def _failed(directory: Path, only: str) -> list[str]:
    found = list(lavit.checks(directory, only=only))
    assert found, f"no checks match {only}"
    return [check.case for check in found if not check.passed]


def test_all_recorded_cases_pass(checks: list[Check]) -> None:
    assert [check for check in checks if not check.passed] == []


def test_everything_that_is_listed_is_checked(checks: list[Check]) -> None:
    listed = sum(
        len(case["outputs"]) + len(case["expected_json"]) + len(case["png"]) for case in _cases(recorded.required())
    )
    sizes = [check for check in checks if check.case.startswith("ids/sizes/")]
    assert len(sizes) == 7
    assert len(checks) - len(sizes) == listed
    assert len({check.case for check in checks}) == len(checks)


def test_the_family_is_recognised_by_its_files(tmp_path: Path) -> None:
    assert family_of(recorded.required()) is lavit
    assert not lavit.recognises(tmp_path)


def test_changed_recordings_are_found_where_they_are(copied: Path) -> None:
    file = copied / "cases" / "merger.safetensors"
    tensors = load_file(file)
    tensors["out.understanding"][3, 5, 7] += 1e-2
    save_file(tensors, file)
    assert _failed(copied, "merger") == ["merger/merger/out.understanding"]
    cases = copied / "cases" / "cases.json"
    entries = json.loads(cases.read_text())
    case = next(entry for entry in entries["cases"] if entry["name"] == "question_clean")
    case["expected_json"]["processed"][0] += "?"
    case["expected_json"]["nobody_knows"] = 1
    cases.write_text(json.dumps(entries))
    expected = ["text-tokenizer/question_clean/processed", "text-tokenizer/question_clean/nobody_knows"]
    assert _failed(copied, "text-tokenizer") == expected


def test_a_changed_weight_is_found(copied: Path) -> None:
    file = copied / "checkpoint" / "visual_tokenizer" / "tokenizer_encoder.bin"
    tensors = torch.load(file, weights_only=True)
    tensors["token_predictor.out_conv.4.bias"] = tensors["token_predictor.out_conv.4.bias"] + torch.tensor([0.1, 0.0])
    file.unlink()
    torch.save(tensors, file)
    assert _failed(copied, "selector/*") == ["selector/selector/out.logprobs"]


def test_the_recorded_checkpoint_is_written_back_the_same(tmp_path: Path) -> None:
    source = recorded.required() / "checkpoint"
    cases = Cases(recorded.required())
    for part in ("backbone", "encoder", "codebook", "tokenizer", "reader", "low_res", "high_res"):
        getattr(cases.lavit, part)
    write_lavit(cases.lavit, tmp_path / "written")
    for file in sorted(file.relative_to(source) for file in source.rglob("*") if file.is_file()):
        if file.suffix not in (".bin", ".safetensors") or file.name == "uncond_embeddings.bin":
            assert (source / file).read_bytes() == (tmp_path / "written" / file).read_bytes()
            continue
        before, after = read_tensor_file(source / file), read_tensor_file(tmp_path / "written" / file)
        assert list(before) == list(after)
        assert {name: tensor.dtype for name, tensor in before.items()} == {n: t.dtype for n, t in after.items()}
        assert [name for name, tensor in before.items() if not torch.equal(tensor, after[name])] == []
