"""The recipe of speech and pictures from data to figures, at tiny sizes: random Whisper, EfficientNet and Llama."""

import importlib
import json
from pathlib import Path

import numpy
import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from safetensors.torch import save_file
from tiny import picture
from transformers import LlamaConfig, LlamaForCausalLM, WhisperConfig, WhisperFeatureExtractor, WhisperModel

from limner.compositions.multi_token_parts import picture as picture_part
from limner.compositions.multi_token_parts import speech as speech_part
from limner.config.load import load
from limner.data.builders import speech_and_pictures as builder
from limner.data.builders.spoken_phrases import COLORS, SHAPES, clips, wav
from limner.model.checkpoint import load_checkpoint
from limner.tokens.tokenizer import byte_tokenizer
from limner.train.plan import run_plan

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "multi_token" / "speech_and_pictures.py"


def published(folder: Path) -> None:
    """llama, lite0 and whisper, as they would lie on disk."""
    tokenizer = byte_tokenizer().tokenizer
    torch.manual_seed(0)
    LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=512,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).save_pretrained(folder / "llama")
    tokenizer.save_pretrained(folder / "llama")
    (folder / "lite0").mkdir()
    network = EfficientNet.from_name("efficientnet-lite0")
    save_file(network.state_dict(), folder / "lite0" / "model.safetensors")
    ids = dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"), 0)
    sizes = {"layers": 1, "attention_heads": 1, "ffn_dim": 16}
    options = {f"{side}_{key}": value for side in ("encoder", "decoder") for key, value in sizes.items()} | ids
    WhisperModel(
        WhisperConfig(vocab_size=20, d_model=16, max_source_positions=50, max_target_positions=8, **options)
    ).save_pretrained(folder / "whisper")
    WhisperFeatureExtractor(chunk_length=1).save_pretrained(folder / "whisper")


def data(folder: Path) -> None:
    """The rows of a few recordings of noise and pictures of nothing."""
    pairs = [(color, shape) for color in COLORS for shape in SHAPES]
    told = [(f"is there a {color} {shape}?", "yes", number) for number, (color, shape) in enumerate(pairs)]
    draw = numpy.random.default_rng(0)
    recorded = clips(num_train=4, num_heldout=4)
    (folder / "speech").mkdir(parents=True)
    for clip in recorded:
        sound = wav(draw.normal(size=4000) * 0.1)
        for rate in builder.RATES:
            (folder / "speech" / builder.recording(clip, rate=rate)).write_bytes(sound)
    for split in builder.SPLITS:
        images = folder / "easy_vqa" / split / "images"
        images.mkdir(parents=True)
        for number in range(len(pairs)):
            (images / f"{number}.png").write_bytes(picture().data)
        (images.parent / "questions.json").write_text(json.dumps(told))
    for name, rows in builder.all_rows(dict.fromkeys(builder.SPLITS, told), recorded):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("speech")
    with torch.random.fork_rng(devices=[]):
        published(place)
    data(place / "data" / "speech_and_pictures")
    return place


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIMNER_DATA", str(folder / "data"))
        patch.setenv("LIMNER_CACHE", str(folder / "cache"))
        plan = load(CONFIG)
        plan.model.language_model = str(folder / "llama")
        looks, listens = plan.model.parts
        looks.weights, looks.image_size = str(folder / "lite0"), 32
        listens.weights, listens.seconds = str(folder / "whisper"), 0.4
        for stage in plan.stages:
            stage.num_steps, stage.save_every, stage.batching.row_length = 2, 2, 512
        return run_plan(plan, output=folder / "run")


def test_the_recipe_trains_projectors_then_adapters_in_one_model(checkpoint: Path) -> None:
    assert checkpoint.parent.name == "together"
    model = load_checkpoint(checkpoint)
    assert set(model.modalities) == {"image", "speech"}
    adapters = {key: value for key, value in model.backbone.named_parameters() if "lora_B" in key}
    assert adapters
    assert all(value.abs().max() > 0 for value in adapters.values())


def test_the_figures_name_every_task_for_trained_untrained_and_both_controls(
    folder: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    script = importlib.import_module("benchmarks.speech_and_pictures")
    page = folder / "page.md"
    page.write_text(f"before\n{script.MARKS[0]}\nold\n{script.MARKS[1]}\nafter\n")
    arguments = ["--checkpoint", str(checkpoint), "--data", str(folder / "data" / "speech_and_pictures")]
    arguments += ["--work", str(folder / "work"), "--output", str(page), "--questions", "3", "--limit", "3"]
    script.main([*arguments, "--context", "512"])
    printed = capsys.readouterr().out
    written = page.read_text()
    assert written.startswith("before")
    assert written.endswith("after\n")
    assert "old" not in written
    assert printed.split("\n\n")[0] in written
    rows = {line.split(" | ")[0].strip("| "): line.count("(") for line in printed.splitlines() if line.startswith("| ")}
    assert rows["easy-VQA, published test split"] == 3  # trained, untrained, another picture
    assert rows["what is said, word for word"] == 3
    assert rows["does it fit, yes or no"] == 4
    assert "Word error rate" in printed


def test_scores_are_those_of_hand_counted_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    script = importlib.import_module("benchmarks.speech_and_pictures")
    assert script.same("A red  circle.", "a red circle") == 1
    assert script.same_keys("the circle is red", "a red circle") == 1
    assert script.same_keys("a red blue circle", "a red circle") == 0
    answer = "shown: red circle; said: a blue circle; fits: no"
    assert script.verdict("No, it does not", "no") == 1
    assert script.verdict("shown: red circle; said: x; fits: yes", answer) == 0
    assert script.field("said")("shown: red circle; said: the circle is blue; fits: no", answer) == 1
    assert script.field("shown")("red circle", answer) == 0
    assert script.word_error_rate([("a red circle", "a circle"), ("red", "red shape")]) == pytest.approx(2 / 4)
    rows = [script.Question({"images": [f"{n}"]}, "", "") for n in range(5)]
    assert all(a.row["images"] != b.row["images"] for a, b in zip(rows, script.swapped(rows, "images"), strict=True))


def test_parts_say_their_rows_and_refuse_what_does_not_fit(folder: Path) -> None:
    looks = picture_part(weights=str(folder / "lite0"), image_size=32, positions=3)
    assert looks.placeholder.num_positions == 3
    listens = speech_part(weights=str(folder / "whisper"), seconds=0.4, stack=10)
    assert listens.placeholder.num_positions == 2
    assert listens.encoder.source == ""
