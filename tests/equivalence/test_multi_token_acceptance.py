"""What docs/multi_token.md promises of the original's list of wishes, where no other test holds it.

One model that reads pictures, speech, sounds and texts by real encoders of tiny size, over a tiny language model; rows
of several items, of one, of none.
"""

import ast
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from limner.backbone.hf import Backbone
from limner.backbone.lora import FourBit, LoraSpec
from limner.compositions.multi_token import Part, multi_token, placed
from limner.config.call import Call, build, call
from limner.config.serialize import to_json
from limner.data import features
from limner.data.collate import Collator
from limner.data.feature_store import NoStore
from limner.data.features import FeatureCache
from limner.data.sources.json_rows import JsonRows
from limner.document.audio import Audio
from limner.document.document import Document, Media
from limner.document.media import Image
from limner.document.rows import Placeholder
from limner.document.text_file import TextFile
from limner.modalities.encoders.clap import ClapEncoder
from limner.modalities.encoders.gte import GteEncoder
from limner.modalities.encoders.plain_clip import PlainClipEncoder
from limner.modalities.encoders.whisper import WhisperEncoder
from limner.model.checkpoint import load_checkpoint, save_checkpoint
from limner.model.multimodal import MultimodalLM
from limner.tokens.tokenizer import byte_tokenizer

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "multi_token.md"
ENCODERS, ITEMS = TESTS / "golden" / "multi_token" / "encoders", TESTS / "golden" / "multi_token" / "items"


def read_by(name: str, data_key: str, kind: Any, encoder: type, folder: str, positions: int = 0) -> Call:
    """A modality as a recipe writes it."""
    placeholder = call(
        Placeholder,
        name=name,
        token=f"<{name}>",
        data_key=data_key,
        num_positions=0,
        modality=name,
        kind=kind,
    )
    layout = "vector" if positions else "patch"
    return call(
        placed,
        placeholder=placeholder,
        encoder=call(encoder, path=str(ENCODERS / folder)),
        layout=layout,
        positions=positions,
    )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama and its tokenizer."""
    path = tmp_path_factory.mktemp("base")
    tokenizer = byte_tokenizer().tokenizer
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def recorded(base: Path) -> Call:
    """The model's description."""
    return call(
        multi_token,
        language_model=str(base),
        parts=[
            read_by("image", "images", "image", PlainClipEncoder, "clip28"),
            read_by("speech", "speech_audios", "sound", WhisperEncoder, "whisper", 3),
            read_by("sound", "sounds", "sound", ClapEncoder, "clap", 2),
            read_by("document", "documents", "text", GteEncoder, "gte", 2),
        ],
    )


@pytest.fixture
def model(recorded: Call) -> MultimodalLM:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return build(recorded).eval()


def picture(name: str) -> Media:
    return Media(Image.from_path(ITEMS / name))


def heard(name: str, modality: str) -> Media:
    return Media(Audio.from_path(ITEMS / name), modality=modality)


def text(words: str) -> Media:
    return Media(TextFile.from_text(words), modality="document")


def documents() -> list[Document]:
    """Eight conversations: all modalities, several items of one and of several kinds, none."""
    tone, clicks = "tone_16k.wav", "clicks_48k.wav"
    asked: list[list[Media | str]] = [
        [picture("red_square.png"), "What is it?"],
        ["Which is green: ", picture("green_stripes.png"), " or ", picture("blue_disc.png"), "?"],
        [heard(tone, "speech"), heard(clicks, "sound"), "One or two?"],
        [text("A short text."), text("A longer text that says a little more than the first of the two."), "Sum up."],
        ["Nothing is shown here, and more is said than elsewhere."],
        [heard(clicks, "sound"), picture("grey_ramp.png"), text("x"), "Why?"],
        ["Hm."],
        [heard(tone, "speech"), "Again: ", heard(clicks, "speech")],
    ]
    return [Document.chat([("user", parts), ("assistant", f"So it is {n}.")]) for n, parts in enumerate(asked)]


def rendered(model: MultimodalLM) -> list[Any]:
    return [model.render(document, key=f"here/{n}/0") for n, document in enumerate(documents())]


def test_a_mixed_batch_projects_what_the_loop_over_its_rows_projects(model: MultimodalLM) -> None:
    sequences, collate = rendered(model), Collator(model)
    with torch.no_grad():
        batch = collate([[sequence] for sequence in sequences])
        together = model(batch, noise_key=(0,))["text"]
        rows = model.hidden_states(batch)
        single = [collate([[sequence]]) for sequence in sequences]
        terms = [model(one, noise_key=(0,))["text"] for one in single]
        for name in model.modalities:
            spans = next(spans for (modality, _), spans in batch.spans.items() if modality == name)
            found = model.read(name, spans.values).values
            alone = torch.cat([model.read(name, item[None]).values for item in spans.values])
            assert float((found - alone).abs().max()) <= 1e-6 * float(alone.abs().max())
        for number, sequence in enumerate(sequences):
            alone = model.hidden_states(single[number])[0, : len(sequence)]
            assert float((rows[number, : len(sequence)] - alone).abs().max()) <= 1e-5
    assert float(together.count) == sum(float(term.count) for term in terms)
    assert float(together.sum) == pytest.approx(sum(float(term.sum) for term in terms), rel=1e-6)


def test_each_encoder_and_projector_runs_once_for_a_batch(model: MultimodalLM) -> None:
    runs: list[str] = []
    for name in model.modalities:
        for part in model.reader(name):
            part.register_forward_pre_hook(lambda module, _: runs.append(type(module).__name__))
    with torch.no_grad():
        model(Collator(model)([[sequence] for sequence in rendered(model)]), noise_key=(0,))
    assert sorted(runs) == sorted([*{*runs} - {"VectorProjector"}, *["VectorProjector"] * 3])
    assert len(runs) == 2 * len(model.modalities)


def test_packed_mixed_rows_have_the_loss_of_unpacked_ones(model: MultimodalLM) -> None:
    sequences, collate = rendered(model), Collator(model)
    with torch.no_grad():
        apart = model(collate([[sequence] for sequence in sequences]), noise_key=(0,))["text"]
        packed = model(collate([sequences[:5], sequences[5:]]), noise_key=(0,))["text"]
    assert float(packed.count) == float(apart.count)
    assert float(packed.sum) == pytest.approx(float(apart.sum), rel=1e-6)


def test_a_second_epoch_calls_no_encoder_and_loses_the_same_bits(
    model: MultimodalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMNER_FEATURES", str(tmp_path))
    calls: list[str] = []
    for name in model.modalities:
        model.reader(name).encoder.register_forward_pre_hook(lambda module, _, name=name: calls.append(name))
    rows = [[sequence] for sequence in rendered(model)]

    def epoch(cache: FeatureCache) -> float:
        with torch.no_grad():
            return float(model(Collator(model, cache=cache)(rows), noise_key=(0,))["text"].sum)

    live = epoch(FeatureCache(model, open_store=lambda part: NoStore()))
    calls.clear()
    cache = FeatureCache(model, open_store=features.disk_store)
    first, computed = epoch(cache), len(calls)
    second = epoch(cache)
    assert (first, second) == (live, live)
    # Items that stand twice are computed once; the second epoch computes nothing.
    assert len(calls) == computed == len({(m.modality, m.payload) for d in documents() for _, m in d.media()})
    assert epoch(FeatureCache(model, open_store=features.disk_store)) == live
    assert len(calls) == computed


def test_a_row_with_too_few_items_is_named_by_its_file_and_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    good = '{"messages": [{"role": "user", "content": "Hello."}]}'
    short = '{"images": [], "messages": [{"role": "user", "content": "<image>"}]}'
    (tmp_path / "rows.jsonl").write_text(f"{good}\n{short}\n")
    source = JsonRows(tmp_path / "rows.jsonl", format="keyed_chat")
    assert len(list(source[0].media())) == 0
    with pytest.raises(ValueError, match=r"messages\[0\] has a <image> without an item") as caught:
        source[1]
    assert "row 1 of `rows.jsonl`" in caught.value.__notes__


def test_everything_but_the_encoders_is_trained_saved_and_read_back_whole(
    recorded: Call, model: MultimodalLM, tmp_path: Path
) -> None:
    frozen = ("encoder", "backbone.language_model.lm_head", "backbone.language_model.model.embed_tokens")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    batch = Collator(model)([[sequence] for sequence in rendered(model)])
    for _ in range(2):
        optimizer.zero_grad()
        model(batch, noise_key=(0,))["text"].mean.backward()
        optimizer.step()
    same = {name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])}
    moved = before.keys() - same
    assert all(any(part in name for part in frozen) for name in same if before[name].numel())
    assert any("self_attn" in name for name in moved)
    assert any("input_projector" in name for name in moved)
    # What is trained is the checkpoint's own, though its first weights are published elsewhere.
    model.external = {name: source for name, source in model.external.items() if not name.startswith("backbone")}
    save_checkpoint(model, tmp_path / "model", description=to_json(recorded))
    files = sorted((tmp_path / "model").rglob("*.safetensors"))
    assert files
    assert all(load_file(file) for file in files)
    loaded = load_checkpoint(tmp_path / "model")
    with torch.no_grad():
        assert torch.equal(loaded.hidden_states(batch), model.hidden_states(batch))


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_an_adapter_trained_over_four_bits_is_read_over_whole_weights(base: Path) -> None:
    def loaded(quantization: FourBit | None) -> Backbone:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(2)
            return Backbone.from_pretrained(base, lora=LoraSpec(rank=2, alpha=4.0, quantization=quantization))

    small, whole = loaded(FourBit()), loaded(None)
    adapter = {name: value for name, value in small.state_dict().items() if "lora_" in name}
    for name in adapter:
        adapter[name] = torch.randn(adapter[name].shape, generator=torch.Generator().manual_seed(3)) * 0.1
    assert adapter.keys() == {name for name in whole.state_dict() if "lora_" in name}
    ids = torch.tensor([[1, 7, 3, 9, 2, 40]])
    places = {"positions": torch.arange(6)[None], "documents": torch.ones_like(ids)}
    states = []
    for backbone in (small, whole):
        backbone.load_state_dict(adapter, strict=False)
        with torch.no_grad():
            states.append(backbone.eval().packed_hidden_states(backbone.embed(ids), **places))
    assert float((states[0] - states[1]).norm() / states[1].norm()) < 0.3


def _test_names(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_wish_on_the_page_names_tests_that_exist() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Wishes and their tests")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    wishes = [line.split("|")[1].strip() for line in lines if not line.startswith("|--")]
    assert len(wishes) == 11
    for line in lines:
        named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", line)
        assert named, line
        for path, test in named:
            file = TESTS.parent / path
            assert file.is_file(), path
            assert not test or test in _test_names(file), f"{path}::{test}"


def test_the_recipe_on_the_page_is_one() -> None:
    source = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[0]
    namespace: dict[str, Any] = {}
    exec(compile(source, PAGE.name, "exec"), namespace)
    plan = namespace["config"]()
    assert [stage.name for stage in plan.stages] == ["projectors", "finetune"]
    assert [part.name for part in plan.model.parts] == ["vision_clip_pool", "audio_whisper"]


def test_parts_are_built_from_their_description(recorded: Call) -> None:
    parts: list[Part] = build(recorded.parts)
    assert [part.placeholder.num_positions for part in parts] == [parts[0].encoder.measure(Media(None)), 3, 2, 2]
