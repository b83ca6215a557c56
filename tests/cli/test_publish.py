"""`limner publish`: complete, loadable, explained by its run, and without traces of the machine."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from transformers import LlamaConfig, LlamaForCausalLM

from limner import zoo
from limner.backbone.lora import LoraSpec
from limner.cli import publish
from limner.cli.model_card import foreign_modules
from limner.compositions.multi_token import Part, multi_token
from limner.config.call import Call, call
from limner.data.mixture import Mixture
from limner.document.rows import Placeholder
from limner.modalities.encoders.precomputed import PrecomputedEncoder
from limner.model.checkpoint import load_checkpoint
from limner.tokens.tokenizer import byte_tokenizer
from limner.train.plan import Plan, run_plan
from limner.train.stage import Evaluation, Packed, Stage, Trainable

BASE = "smollm2-135m-instruct"


class Greetings:
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        from limner.document.array import Array
        from limner.document.document import Document, Media

        seen = Media(Array.from_values([float(index)] * 3), modality="series")
        return Document.chat([("user", [seen, "?"]), ("assistant", "ab" * (index + 1))])


def model(base: str = BASE) -> Call:
    place = call(Placeholder, name="series", token="<series>", data_key="series", num_positions=2, modality="series", kind="array")  # fmt: skip  # noqa: E501
    part = call(Part, placeholder=place, encoder=call(PrecomputedEncoder, width=3), layout="vector")
    return call(multi_token, language_model=base, parts=[part], lora=call(LoraSpec, rank=2, alpha=4.0), system="")


def plan(base: str = BASE) -> Call:
    def mixture() -> Call:
        return call(Mixture, sources={"greetings": call(Greetings)})

    stage = call(
        Stage,
        name="greet",
        mixture=mixture(),
        batching=call(Packed, row_length=64, num_rows=1),
        trainable=[call(Trainable, glob="*.input_projector.*"), call(Trainable, glob="*lora_*")],
        learning_rate=1e-2,
        num_steps=3,
        loss_weights={"text": 1.0},
        evaluation=call(Evaluation, mixture=mixture(), every=2, num_batches=1, keep_best=False),
    )
    return call(Plan, model=model(base), stages=[stage])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run on a tiny language model in the place of a published one."""
    place = tmp_path_factory.mktemp("publish")
    tokenizer = byte_tokenizer().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=128, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(place / "base")
    tokenizer.save_pretrained(place / "base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(zoo.environment_variable(BASE), str(place / "base"))
        return run_plan(plan(), output=place / "run")


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where the language model is found."""
    monkeypatch.setenv(zoo.environment_variable(BASE), str(trained.parents[2] / "base"))
    return trained


def published(checkpoint: Path, output: Path, **options: str) -> None:
    publish.command(checkpoint=checkpoint, output=output, **options)


def test_the_folder_is_complete_loads_and_tells_its_run(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "greeter"
    published(run, folder)
    assert {file.name for file in folder.iterdir()} == {file.name for file in run.iterdir()} | {"README.md"}
    loaded, original = load_checkpoint(folder), load_checkpoint(run)
    assert all(torch.equal(value, original.state_dict()[name]) for name, value in loaded.state_dict().items())
    card = (folder / "README.md").read_bytes()
    assert card.startswith(b'---\nlicense: "apache-2.0"\nlibrary_name: limner\nbase_model:\n')
    text = card.decode()
    metrics = [json.loads(line) for line in (run.parent / "metrics.jsonl").read_text().splitlines()]
    for said in (
        "# greeter",
        "reads text, series and writes text",
        "`<series>`, key `series` | 2 |",
        "greetings (Greetings)",
        f"{metrics[0]['loss']:.4g} at step 0, {metrics[-1]['loss']:.4g} at step 2",
        "held out, loss:",
        "trained parameters: ",
        "torch ",
    ):
        assert said in text, said


def test_the_front_matter_is_yaml(run: Path, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml")
    published(run, tmp_path / "out", licence="MIT")
    matter = yaml.safe_load((tmp_path / "out" / "README.md").read_text().split("---\n")[1])
    assert matter["license"] == "mit"
    assert matter["base_model"] == [zoo.ENTRIES[BASE].hub]
    assert "series" in matter["tags"]


def test_code_of_others_is_named() -> None:
    encoder = {"_target_": "series.SeriesEncoder", "width": 3}
    described = {"_target_": "limner.x.y", "parts": [{"_target_": "limner.z", "encoder": encoder}], "system": ""}
    assert foreign_modules(described) == ["series"]
    assert foreign_modules({"_target_": "limner.x.y"}) == []


def test_nothing_of_the_machine_is_repeated(run: Path, tmp_path: Path) -> None:
    published(run, tmp_path / "out")
    for file in (tmp_path / "out").iterdir():
        assert str(run.parents[2]).encode() not in file.read_bytes()
        assert str(Path.home()).encode() + b"/" not in file.read_bytes()


def test_a_missing_adapter_is_found(run: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    from limner.model.checkpoint import _sha256

    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    state = {name: value for name, value in load_file(broken / "backbone.safetensors").items() if "lora_" not in name}
    save_file(state, broken / "backbone.safetensors")
    index = json.loads((broken / "limner.json").read_text())
    index["components"]["backbone"] = _sha256(broken / "backbone.safetensors")
    (broken / "limner.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks \d+ tensors: .*lora_"):
        published(broken, tmp_path / "out")
    (broken / "backbone.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks backbone.safetensors"):
        published(broken, tmp_path / "other")
    assert not list((tmp_path / "out").iterdir())


def test_what_others_could_not_load_is_refused(run: Path, tmp_path: Path) -> None:
    index = json.loads((run / "limner.json").read_text())
    with pytest.raises(ValueError, match=r"which nobody else has\nhint: "):
        publish.check_public(index | {"external": {"backbone.language_model": "/data/base@1"}})
    for value in ("/data/weights", "~/weights", "../weights", r"C:\weights"):
        with pytest.raises(ValueError, match=r"`model.parts.0.encoder` is the local path"):
            publish.check_public(index | {"model": {"parts": [{"encoder": value}]}})
    publish.check_public(index)


def test_a_folder_with_something_in_it_is_refused(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty\nhint: "):
        published(run, tmp_path)


def test_only_upload_uploads(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    import huggingface_hub

    calls: list[tuple] = []

    class Hub:
        def create_repo(self, name: str, *, exist_ok: bool) -> None:
            calls.append((name, exist_ok))

        def upload_folder(self, *, repo_id: str, folder_path: Path) -> str:
            calls.append((repo_id, sorted(file.name for file in folder_path.iterdir())))
            return "https://hub.example/commit"

    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    published(run, tmp_path / "dry")
    assert calls == []
    published(run, tmp_path / "wet", upload="me/greeter")
    assert calls[0] == ("me/greeter", True)
    assert calls[1] == ("me/greeter", sorted(file.name for file in (tmp_path / "wet").iterdir()))
    assert "https://hub.example/commit" in capsys.readouterr().out


def test_the_verb_has_its_options() -> None:
    app = typer.Typer()
    app.command("publish")(publish.command)
    parameters = typer.main.get_command(app).params
    assert {"--output", "--upload", "--licence", "--name"} <= {name for one in parameters for name in one.opts}
