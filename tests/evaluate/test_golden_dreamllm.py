"""The recorded cases pass, all of them are run, and what is wrong is found. Nothing about them stands in code."""

import collections
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from golden.recorder import Sizes, record
from safetensors.torch import load_file, save_file

from limner.compositions import dreamllm_legacy
from limner.evaluate.golden import dreamllm_losses
from limner.evaluate.golden.verify import CaseResult, family_of, strain, verify

GOLDEN = Path(__file__).parents[1] / "golden" / "dreamllm"
WEIGHTS = "checkpoint/model.safetensors"
EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


@pytest.fixture(scope="module")
def results() -> list[CaseResult]:
    """One run over everything."""
    return list(verify(GOLDEN))


def test_every_recorded_case_passes(results):
    assert [check for result in results for check in result.failures] == []


def test_every_recorded_value_is_checked(results):
    found = collections.Counter()
    for result in results:
        found[result.case.split("/")[0]] += len(result.checks)
    assert found == listed(GOLDEN)


def test_most_differences_are_far_below_their_tolerance(results):
    # PNG files are rounded to a level, of which one is the tolerance.
    strains = [strain(c) for result in results for c in result.checks if "/png_" not in c.case]
    assert max(strains) < 0.3


def listed(directory: Path) -> collections.Counter[str]:
    """Values that the files list, by section: counted from them alone."""
    cases = json.loads((directory / "cases/cases.json").read_text())
    tensors = {path.stem: load_file(path) for path in (directory / "cases").glob("*.safetensors")}
    count = collections.Counter()
    names = ("checkpoint", "vae_scale_factor", "vae_scaling_factor", "clip_image_size")
    count["model"] = len(set(cases["model"]) - set(names))
    count["tokenization"] = 4 * len(cases["tokenization"])
    count["padding"] = 2 * len(cases["padding"])
    for case in cases["samples"]:
        count["samples"] += ("prompt" in case) + sum(8 if key == "any" else 4 for key in case["expected"])
    count["batches"] = 5 * len(cases["batches"]["list"]) + len(tensors["batches"])
    count["images"] = len(cases["images"]["list"]) + len(tensors["pixels"])
    # One UNet call has three inputs.
    count["vision"] = len(tensors["vision"]) - 3
    count["projectors"] = 2 * len(cases["projectors"]["list"])
    inputs = ("input_ids", "attention_mask", "labels")
    compared = [name for name in tensors["forward"] if ".draw." not in name and name.rpartition(".")[2] not in inputs]
    compared = [name for name in compared if not name.startswith("history_condition.")]
    again = sum("logits_equal_to" in case for case in cases["forward"]["list"])
    count["forward"] = 3 * len(cases["forward"]["list"]) + len(compared) + again
    count["history_condition"] = 1
    gradients = sum(".draw." not in name for name in tensors["gradients"])
    count["gradients"] = gradients + sum(4 + len(case["grad_norms"]) for case in cases["gradients"]["list"])
    for case in cases["text_to_image"]["list"]:
        given = {"initial_latents", "step_noise"}
        seeded = 3 * ("generator_seed" in case)
        count["text_to_image"] += len(set(case["tensors"]) - given) + len(case["png"]) + 2 + seeded
    count["text_to_image"] += len(cases["text_to_image"]["timestep_tables"])
    optional = ("attention_mask", "text_with_special_tokens", "sequence_score", "min_top2_margin")
    texts = cases["image_to_text"]["list"]
    count["image_to_text"] = 3 * len(texts) + sum(key in case for case in texts for key in optional)
    count["image_to_text"] += len(tensors["image_to_text"])
    finals = [name for name in tensors["training"] if ".final." in name]
    steps = [step for case in cases["training"]["list"] for step in case["steps"]]
    changes = sum(len(case["change_norm"]) for case in cases["training"]["list"])
    count["training"] = 4 * len(steps) + 2 * len(finals) + changes
    count["llava"] = llava_values(cases["llava"], tensors["llava"])
    count["checkpoints"] = 2 * (1 + number_of_parameters(directory))
    return count


def llava_values(section: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> int:
    """Recorded values of the sister model."""
    clips = sum(name.startswith("clip.") for name in tensors)
    # Tensors of a batch are for both modes.
    others = sum(2 for name in tensors if not name.startswith("clip."))
    forward = sum(3 + len(case.get("grad_norms", ())) for case in section["forward"])
    return 3 + clips + 3 * len(section["samples"]) + forward + others + 4


def number_of_parameters(directory: Path) -> int:
    """Tensors of the checkpoint, without tables."""
    files = [
        directory / "checkpoint" / f"{name}.bin"
        for name in ("clip_vision_embedding", "dream_embedding", "stable_diffusion_head")
    ]
    plugins = sum(len(torch.load(file, weights_only=True)) for file in files)
    return plugins + sum(not name.endswith("inv_freq") for name in load_file(directory / WEIGHTS))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy that may be changed."""
    return Path(shutil.copytree(GOLDEN, tmp_path / "copy"))


def edit_json(path: Path, change: Callable[[Any], None]) -> None:
    """Change a json file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(path: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor] | None]) -> None:
    """Change a safetensors file."""
    tensors = load_file(path)
    changed = change(tensors)
    path.unlink()
    save_file({n: t.contiguous().clone() for n, t in (changed or tensors).items()}, path, metadata={"format": "pt"})


def exchanged(one: str, other: str) -> Callable[[dict[str, torch.Tensor]], None]:
    """Exchange two tensors."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors[one], tensors[other] = tensors[other], tensors[one]

    return change


def one_label(cases: dict[str, Any]) -> None:
    """Another target in one sample."""
    cases["samples"][0]["expected"]["any"]["labels"][-1] = -100


def inverted(tensors: dict[str, torch.Tensor]) -> None:
    """The drop mask the other way round."""
    tensors["mixed_drop_prob.draw.drop_mask"] = 1.0 - tensors["mixed_drop_prob.draw.drop_mask"]


@pytest.mark.parametrize(
    ("file", "change", "case"),
    [
        ("cases.json", one_label, "samples/pair_comp"),
        ("forward.safetensors", exchanged("mixed.draw.noise", "mixed.draw.vae_noise"), "forward/mixed"),
        ("forward.safetensors", inverted, "forward/mixed_drop_prob"),
        ("pixels.safetensors", exchanged("clip.red_disc", "clip.green_triangle"), "forward/comp_pairs"),
        ("text_to_image.safetensors", exchanged("wide.prompt_embeds", "wide.negative_embeds"), "text_to_image/wide"),
    ],
)
def test_a_damaged_value_is_found(copy, file, change, case):
    path = copy / "cases" / file
    (edit_json if path.suffix == ".json" else edit_tensors)(path, change)
    (result,) = verify(copy, only=case)
    assert result.failures


def test_shifted_query_slots_are_found(monkeypatch):
    right = dreamllm_legacy._span_batch
    monkeypatch.setattr(
        dreamllm_legacy, "_span_batch", lambda model, starts, *a, **k: right(model, starts + 1, *a, **k)
    )
    failed = {result.case for result in verify(GOLDEN, only="forward/*_pairs") if result.failures}
    assert {"forward/comp_pairs", "forward/crea_pairs"} <= failed


def test_missing_zero_gradients_are_found(monkeypatch):
    monkeypatch.setattr(dreamllm_legacy, "anchor", lambda *a, **k: torch.zeros(()))
    (result,) = verify(GOLDEN, only="gradients/comprehension_stage2")
    assert {check.case.rpartition("/norm.")[2] for check in result.failures} >= {"model.dream_embedding.dream_queries"}


def test_missing_clipping_is_found(monkeypatch):
    right = dreamllm_losses.nn.utils.clip_grad_norm_
    unclipped = lambda parameters, norm: right(parameters, float("inf"))  # noqa: E731
    monkeypatch.setattr(dreamllm_losses.nn.utils, "clip_grad_norm_", unclipped)
    (result,) = verify(GOLDEN, only="training/stage2_mixed")
    assert any("/final." in check.case for check in result.failures)


WITHOUT_IDS = ("llava", "vision", "projectors", "checkpoints")
"""Sections that hold no id, and those of other checkpoints."""


def renumbered(directory: Path) -> None:
    """The same recorded cases under another order of special tokens."""
    cases = json.loads((directory / "cases/cases.json").read_text())
    first, last = cases["model"]["vocab_size"] - 8, cases["model"]["vocab_size"] - 1
    order = torch.arange(last + 1)
    order[first:] = torch.arange(last, first - 1, -1)  # its own inverse

    def renamed(value: Any, key: str = "") -> Any:
        holds_ids = key.endswith(("_ids", "labels", "_token_id", "embedding_rows", "special_tokens"))
        if isinstance(value, dict):
            return {name: renamed(entry, key if key == "special_tokens" else name) for name, entry in value.items()}
        if isinstance(value, list):
            return [renamed(entry, key) for entry in value]
        return int(order[value]) if holds_ids and isinstance(value, int) and first <= value <= last else value

    cases = renamed({name: section for name, section in cases.items() if name not in WITHOUT_IDS})
    (directory / "cases/cases.json").write_text(json.dumps(cases))
    for path in (directory / "cases").glob("*.safetensors"):
        edit_tensors(path, lambda tensors: {name: moved(name, tensor, order) for name, tensor in tensors.items()})
    edit_tensors(directory / WEIGHTS, lambda t: {n: v[order] if n in EMBEDDINGS else v for n, v in t.items()})
    edit_json(directory / "checkpoint/added_tokens.json", lambda ids: ids.update(renamed(ids, "special_tokens")))
    edit_json(directory / "checkpoint/config.json", lambda c: rename_config(c, order))
    edit_json(directory / "checkpoint/tokenizer_config.json", lambda c: rename_decoder(c, order))
    for other in ("checkpoint_fsdp", "legacy_plugin_files"):
        shutil.rmtree(directory / other)


def moved(name: str, tensor: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """A recorded tensor under other ids: ids are mapped, columns of logits and rows of embeddings move."""
    kind = name.rpartition(".")[2]
    if kind in ("input_ids", "prompt_ids"):
        return order[tensor]
    if kind == "labels":
        return torch.where(tensor >= 0, order[tensor.clamp(min=0)], tensor)
    if kind in ("logits", "logits_at_supervised") and tensor.shape[-1] == len(order):
        return tensor[..., order]
    return tensor[order] if ".final." in name and name.endswith(EMBEDDINGS) else tensor


def rename_config(config: dict[str, Any], order: torch.Tensor) -> None:
    """Ids in config.json."""
    ids = config["special_tokens2ids_dict"]
    for table in (ids, ids["additional_special_tokens"]):
        table.update({token: int(order[index]) for token, index in table.items() if isinstance(index, int)})


def rename_decoder(config: dict[str, Any], order: torch.Tensor) -> None:
    """Ids in tokenizer_config.json."""
    table = config["added_tokens_decoder"]
    config["added_tokens_decoder"] = {str(int(order[int(index)])): token for index, token in table.items()}


def test_a_directory_with_another_order_of_tokens_passes(copy):
    before = json.loads((copy / "checkpoint/added_tokens.json").read_text())
    renumbered(copy)
    assert json.loads((copy / "checkpoint/added_tokens.json").read_text())["<dream_start>"] != before["<dream_start>"]
    found = list(verify(copy))
    assert [check for result in found for check in result.failures] == []
    assert {result.case.split("/")[0] for result in found} == set(listed(GOLDEN)) - set(WITHOUT_IDS)


OTHER = Sizes(
    tokens=("<dream_end>", "<im_patch>", "[PAD]", "<dream_start>", "<im_end>", "<image>", "<im_start>", "<dream>"),
    llm={
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 160,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.3,
    },
    clip={
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 7,
        "projection_dim": 8,
    },
    vae={
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "norm_num_groups": 4,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": 3,
        "scaling_factor": 0.3,
        "sample_size": 32,
    },
    unet={
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (16, 24),
        "cross_attention_dim": 20,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "layers_per_block": 1,
        "sample_size": 8,
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "attention_head_dim": 4,
        "norm_num_groups": 4,
    },
    scheduler={
        "num_train_timesteps": 400,
        "beta_start": 0.001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "prediction_type": "v_prediction",
        "steps_offset": 1,
        "timestep_spacing": "leading",
        "clip_sample": False,
    },
)
"""Grouped heads, an MLP projector, another feature layer, other latents, a UNet of velocities, the other tokenizer."""


def test_a_directory_recorded_at_other_sizes_passes(tmp_path):
    recorded = json.loads((GOLDEN / "cases/cases.json").read_text())["tokenization"]
    ids = {case["text"]: case["input_ids"][1:] for case in recorded if not case["legacy"]}
    texts = [(text, ids[text]) for text in ("A small red disc on a white background.", "tab\there")]
    record(OTHER, tmp_path, tokenizer_model=GOLDEN / "checkpoint/tokenizer.model", texts=texts)
    found = list(verify(tmp_path))
    assert [check for result in found for check in result.failures] == []
    sections = {
        "model",
        "samples",
        "batches",
        "vision",
        "forward",
        "gradients",
        "text_to_image",
        "image_to_text",
        "training",
    }
    assert {result.case.split("/")[0] for result in found} == sections


def test_a_glob_chooses_cases_and_sections():
    assert [result.case for result in verify(GOLDEN, only="padding/left")] == ["padding/left"]
    assert {result.case for result in verify(GOLDEN, only="padding")} == {"padding/left", "padding/right"}


def test_a_glob_that_matches_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"no case of .* matches `nothing/here`"):
        list(verify(GOLDEN, only="nothing/here"))


def test_a_directory_of_no_family_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no recorded cases of a known family.*\n.*hint"):
        family_of(tmp_path)
    with pytest.raises(ValueError, match="is no directory"):
        family_of(tmp_path / "absent")


def test_a_nan_never_passes_and_counts_as_infinitely_far():
    from limner.evaluate.golden.check import Check

    assert strain(Check("a/b/c", float("nan"), 1.0)) == float("inf")
    assert strain(Check("a/b/c", 1.0, 0.0)) == float("inf")
    assert strain(Check("a/b/c", 0.5, 1.0)) == 0.5
