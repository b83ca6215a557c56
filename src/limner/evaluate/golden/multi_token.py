"""Recorded cases of multi_token, run against this implementation.

Tolerances are those that the recording states, absolute in float32 on a CPU; ids, labels, masks and answers are exact.
"""

from collections.abc import Iterator
from pathlib import Path

from limner.evaluate.golden.check import Check
from limner.evaluate.golden.multi_token_encoders import encoder_checks
from limner.evaluate.golden.multi_token_files import Files
from limner.evaluate.golden.multi_token_model import builder_checks, checkpoint_checks, forward_checks, lora_checks
from limner.evaluate.golden.multi_token_serve import serve_checks
from limner.evaluate.golden.multi_token_text import text_checks
from limner.evaluate.golden.multi_token_training import training_checks

SECTIONS = {
    "tokenisation/encode_chat.json": text_checks,
    "encoder_cases/cases.json": encoder_checks,
    "forward/cases.json": forward_checks,
    "checkpoints": checkpoint_checks,
    "lora/cases.json": lora_checks,
    "training": training_checks,
    "builders/cases.json": builder_checks,
    "serve/cases.json": serve_checks,
}
"""A section is checked where its file is there."""


def recognises(directory: Path) -> bool:
    """Whether a directory holds cases of this family."""
    return (directory / "tokenisation" / "encode_chat.json").is_file() and (directory / "base").is_dir()


def checks(directory: Path, *, only: str | None = None) -> Iterator[Check]:
    """All checks, section by section."""
    files = Files(directory)
    for name, section in SECTIONS.items():
        if files.has(name):
            yield from section(files, only=only)
