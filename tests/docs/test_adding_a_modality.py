"""docs/adding_a_modality.md does what it says, on a tiny language model named `base`."""

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limner.tokens.tokenizer import byte_tokenizer

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs" / "adding_a_modality.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("modality")
    published(place / "base")
    return place


def published(path: Path) -> None:
    """A language model over bytes whose random weights are large enough to have an opinion."""
    tokenizer = byte_tokenizer().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=256, initializer_range=0.3, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Any]:
    """The names that the page's snippets leave, run one after the other."""
    namespace: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(REPOSITORY / "examples"))
        for block in blocks("python"):
            exec(compile(block, PAGE.name, "exec"), namespace)
    return namespace


def test_every_snippet_runs_as_written_one_after_the_other(said: dict[str, Any]) -> None:
    assert tuple(said["rows"].values.shape) == (1, 16)
    assert [span.length for span in said["sequence"].spans] == [4]
    assert said["heard"][0].messages[0].text == "What does it do?"


def test_the_model_answers_for_series_that_it_has_not_seen(said: dict[str, Any]) -> None:
    assert said["said"] == ["rises", "falls", "swings"]
    assert said["answer"].messages[-1].text == "rises"


@pytest.mark.slow
def test_the_file_itself_runs_from_data_to_answers(folder: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "examples"))
    monkeypatch.setattr("sys.argv", ["add_a_modality.py", str(folder / "base"), str(folder / "whole")])
    runpy.run_path(str(REPOSITORY / "examples" / "add_a_modality.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert all(line == f"it {line.rpartition(': ')[2]}: {line.rpartition(': ')[2]}" for line in lines)


def test_a_checkpoint_runs_no_code_that_nobody_named(said: dict[str, Any], folder: Path) -> None:
    with pytest.raises(ValueError, match="is outside"):
        said["load_checkpoint"](folder / said["checkpoint"])


def test_the_server_has_the_options_that_the_page_names() -> None:
    import typer

    from limner.cli.main import app

    (lines,) = blocks("sh")
    words = shlex.split(lines.splitlines()[1])
    assert words[:2] == ["limner", "serve"]
    command = typer.main.get_command(app).commands["serve"]
    assert command.make_context("serve", words[2:]).params["port"] == 8000
    options = {name for parameter in command.params for name in parameter.opts}
    assert {"--media-root", "--fetch-media"} <= options
    from limner.cli.loading import MODULES

    assert f"export {MODULES}=add_a_modality" in lines
