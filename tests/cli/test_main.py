import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import limner as package
from limner.cli import main as edge

BUILT = ["--help", "--limit", "--max-items", "--media", "--output", "--seed", "-h", "SOURCE..."]
ASKED = [
    "--attempts", "--endpoint", "--help", "--key-variable", "--limit", "--max-items", "--media", "--model", "--output",
    "--parallel", "--seed", "-h", "SOURCE...",
]  # fmt: skip
# Frozen: a verb or an option that goes or changes its name breaks somebody's script.
OPTIONS = {
    "": ["--debug", "--help", "--version", "-h"],
    "chat": [
        "--best-of", "--device", "--guidance-rescale", "--guidance-scale", "--help", "--max-new-tokens",
        "--negative", "--output", "--pictures", "--sampler", "--scorer", "--seed", "--size", "--steps",
        "--temperature", "--top-p", "-h", "MODEL",
    ],
    "compare": ["--help", "-h", "A", "B"],
    "config": ["--help", "-h"],
    "config diff": ["--help", "-h", "CONFIG", "CONFIG"],
    "config show": ["--help", "-h", "CONFIG", "[KEY=VALUE]..."],
    "convert": ["--dtype", "--help", "--part", "--to", "-h", "DST", "SRC"],
    "data": ["--help", "-h"],
    "data build": ["--help", "-h"],
    "data build emoji": ["--help", "--output", "--size", "--source", "-h"],
    "data build speech-and-pictures": ["--help", "--output", "--source", "-h"],
    "data build game-episodes": [
        "--actions", "--environment", "--help", "--limit", "--media", "--output", "--rounds", "--seed", "--share",
        "-h", "POLICY",
    ],
    **{
        f"data build {name}": BUILT
        for name in (
            "llava-pretrain", "llava-finetune", "imagebind-pretrain", "imagebind-finetune", "whisper-pretrain",
            "document-pretrain", "document-finetune", "xclip-pretrain", "xclip-finetune",
        )
    },
    **{
        f"data build {name}": ASKED
        for name in ("multi-image-finetune", "whisper-finetune", "clap-pretrain", "clap-finetune")
    },
    "data merge": ["--help", "--limit", "--output", "--seed", "-h", "SOURCE..."],
    "data cache": ["--clear", "--help", "-h", "[NAME]..."],
    "data encode": [
        "--device", "--help", "--max-documents", "--processes", "--run", "--stage", "-h", "CONFIG",
        "[KEY=VALUE]...",
    ],
    "data index": ["--help", "-h", "PATH..."],
    "data list": ["--help", "-h"],
    "data preview": ["--help", "--output", "--rows", "--stage", "-h", "CONFIG", "[KEY=VALUE]..."],
    "data show": ["--help", "--limit", "-h", "WHAT"],
    "demo": ["--device", "--help", "--model", "--output", "--prompt", "-h"],
    "doctor": ["--help", "--network", "-h"],
    "evaluate": [
        "--data", "--device", "--help", "--limit", "--output", "--preset", "--seed", "--split", "--tasks",
        "-h", "MODEL",
    ],
    "export": ["--help", "-h", "CHECKPOINT", "DIR", "[KEY=VALUE]..."],
    "generate": [
        "--beams", "--best-of", "--compile", "--device", "--guidance-rescale", "--guidance-scale", "--help", "--image",
        "--input", "--max-new-tokens", "--negative", "--output", "--pictures", "--prompt", "--sampler", "--scorer",
        "--seed", "--size", "--steps", "--temperature", "--together", "--top-p", "--weights", "-h",
        "MODEL",
    ],
    "models": ["--help", "-h"],
    "publish": ["--help", "--licence", "--name", "--output", "--upload", "-h", "CHECKPOINT"],
    "serve": [
        "--api-key", "--compile", "--device", "--fetch-media", "--fetch-network", "--help", "--host",
        "--max-new-tokens", "--max-waiting", "--media-root", "--port", "--rows", "--token-budget", "--ui",
        "--weights", "-h", "MODEL",
    ],
    "train": [
        "--activation-checkpointing", "--allow-changes", "--bf16", "--bits", "--compile", "--config", "--config_file",
        "--dataloader_num_workers", "--dataset_path", "--deepspeed", "--device", "--double_quant", "--dry-run",
        "--evaluation_strategy", "--fsdp", "--gradient_accumulation_steps", "--gradient_checkpointing", "--help",
        "--learning_rate", "--logging_steps", "--lora_alpha", "--lora_bias", "--lora_dropout", "--lora_enable",
        "--lora_r", "--lr_scheduler_type", "--max_grad_norm", "--max_steps", "--modality_builder", "--model_cls",
        "--model_max_length", "--model_name_or_path", "--num_train_epochs", "--output", "--output_dir", "--parallel",
        "--per_device_train_batch_size", "--pretrain_projectors", "--pretrained_projectors_path", "--profile",
        "--profiler", "--quant_type", "--resume", "--save_steps", "--save_total_limit", "--seed", "--stage",
        "--warmup_ratio", "--warmup_steps", "--weight_decay", "--workers", "-h", "CONFIG", "[KEY=VALUE]...",
    ],
    "verify": ["--help", "--only", "-h", "DIR"],
}  # fmt: skip


def commands(command, name: str = ""):
    """Yield (verb, command) for the program and everything below it."""
    yield name, command
    for key, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {key}".strip())


def spelled(command) -> list[str]:
    names = {"--help", "-h"}
    arguments = []
    for parameter in command.params:
        if parameter.param_type_name == "argument":
            arguments.append(parameter.metavar or parameter.name.upper())
        else:
            names |= {*parameter.opts, *parameter.secondary_opts}
    return sorted(names) + sorted(arguments)


def test_the_options_are_those_that_were_promised():
    program = typer.main.get_command(edge.app)
    assert {name: spelled(command) for name, command in commands(program)} == OPTIONS


@pytest.mark.parametrize("verb", OPTIONS)
def test_every_verb_explains_itself(verb: str):
    result = CliRunner().invoke(edge.app, [*verb.split(), "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout
    assert not result.stderr


def test_the_version_is_one_line(limner):
    assert limner("--version") == (0, f"limner {package.__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sing"], "No such command 'sing'."),
        (["generate"], "Missing argument 'MODEL'."),
        (["generate", "m"], "expected --prompt or --input"),
        (["generate", "m", "--prompt", "x", "--steps", "0"], "'--steps'"),
        (["generate", "m", "--prompt", "x", "--seed", "y"], "'--seed'"),
        (["generate", "m", "--prompt", "x", "--pictures", "some"], "'--pictures'"),
        (["models", "--all"], "No such option: --all"),
        (["config", "show"], "Missing argument 'CONFIG'."),
        (["train"], "CONFIG is missing; expected a recipe"),
    ],
)
def test_wrong_usage_is_one_error_one_hint_and_code_2(limner, arguments, message):
    result = limner(*arguments)
    error, hint = result.err.splitlines()
    assert result.code == 2
    assert result.out == ""
    assert error.startswith("error: ")
    assert message in error
    assert hint.startswith("hint: `limner")


def fail_with(error: BaseException):
    def command() -> None:
        raise error

    return command


@pytest.fixture
def failing(limner, monkeypatch):
    """Run a verb that raises."""

    def run(error: BaseException, *before: str):
        app = typer.Typer(pretty_exceptions_enable=False)
        app.callback()(edge.options)
        app.command("fail")(fail_with(error))
        monkeypatch.setattr(edge, "app", app)
        return limner(*before, "fail")

    return run


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("x is 1; expected 2\nhint: try 2"), "error: x is 1; expected 2\nhint: try 2\n"),
        (OSError(28, "No space left on device", "a/b"), "error: `a/b`: No space left on device\n"),
        (RuntimeError("boom\nmore"), "error: RuntimeError: boom\nhint: run again with `limner --d"),
        (ValueError("bare"), "error: bare\nhint: run again with `limner --debug"),
    ],
)
def test_every_error_becomes_one_error_and_one_hint(failing, error, expected):
    result = failing(error)
    assert result.code == 1
    assert result.out == ""
    assert result.err.startswith(expected)
    assert len(result.err.splitlines()) == 2


def test_the_notes_of_an_error_say_where_it_happened(failing):
    error = ValueError("x is 1\nhint: try 2")
    error.add_note("while building `model.encoder`")
    assert failing(error).err == "error: x is 1 (while building `model.encoder`)\nhint: try 2\n"


def test_an_interrupt_is_no_error(failing):
    assert failing(KeyboardInterrupt()) == (130, "", "interrupted\n")


@pytest.mark.parametrize("by_environment", [True, False])
def test_debug_lets_the_traceback_through(failing, monkeypatch, by_environment: bool):
    if by_environment:
        monkeypatch.setenv("LIMNER_DEBUG", "1")
    with pytest.raises(ValueError, match="deep"):
        # Not SystemExit: python itself prints the traceback.
        failing(ValueError("deep"), *([] if by_environment else ["--debug"]))


def test_asking_for_help_loads_no_torch():
    code = (
        "import sys; from limner.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print([m for m in ('torch', 'transformers', 'diffusers') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env=environment,
    )
    assert done.stdout.endswith("[]\n")
