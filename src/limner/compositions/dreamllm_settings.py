"""What an original DreamLLM or LLaVA directory says in words: its small files, gathered, and what they mean.

Owns `gather` (every text file that the model depends on, as one dictionary of strings that a description can hold) and
`Settings`. Ids are read from the files and checked to agree; paths recorded on another machine are replaced by folders
that lie inside or beside the directory, or are named.

    directory -> gather -> files (name -> text) -> Settings, and the modules of dreamllm_checkpoint.py
"""

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.compositions import published

CLIP, QUERIES, HEAD = "clip_vision_embedding", "dream_embedding", "stable_diffusion_head"
"""The plugins, by the names that the original's code knows them by."""

DIFFUSION_FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}
_MODULES = ("dreamllm", "dreamllm_sdxl", "llava")
_CLASSES = {
    "CLIPVisionEmbedding": CLIP,
    "DreamEmbedding": QUERIES,
    "StableDiffusionHead": HEAD,
    "StableDiffusionXLHead": HEAD,
}
ALIASES = {
    f"omni.models.{module}.modeling_plugins.{name}": (plugin, name)
    for module in _MODULES
    for name, plugin in _CLASSES.items()
}
"""`_target_` strings of originals -> (plugin, class)."""

_REQUIRED = ("config.json", "tokenizer_config.json")
_OPTIONAL = ("generation_config.json", "special_tokens_map.json", "added_tokens.json", "preprocessor_config.json")
_TOKENIZER = "tokenizer.model"
_IN = ("<im_start>", "<im_patch>", "<im_end>")
_OUT = ("<dream_start>", "<dream_end>")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is needed to use a checkpoint as its authors did.

    special_ids:       token -> id of every special token that the files name.
    pad_id:            what batches are padded with.
    tokenizer_legacy:  whether every chunk between special tokens gets a leading space of its own.
    model_max_length:  tokens of a training sample.
    loss_weight_vm:    0.0 where nothing is drawn, and so are `num_queries` and all that follows it.
    plugins:           `plugins_init_kwargs` as written.
    """

    special_ids: Mapping[str, int]
    pad_id: int
    tokenizer_legacy: bool
    model_max_length: int
    loss_weight_lm: float
    loss_weight_vm: float
    loss_scale_schedule: str
    plugins: Mapping[str, Mapping[str, Any]]
    num_queries: int = 0
    drop_prob: float | None = None
    noise_offset: float = 0.0
    input_perturbation: float = 0.0
    snr_gamma: float | None = None
    resolution: int = 512
    center_crop: bool = True
    random_flip: bool = True
    scheduler: Mapping[str, Any]

    @property
    def is_sdxl(self) -> bool:
        """Whether the head is that of Stable Diffusion XL."""
        return _is_sdxl(self.plugins.get(HEAD, {}))


def recognises(path: Path) -> bool:
    """Whether `path` is an original directory: its config.json has plugins."""
    file = Path(path) / "config.json"
    return file.is_file() and "plugins_init_kwargs" in _parsed(file.read_text(encoding="utf-8"), name=str(file))


def read_settings(path: Path, *, parts: Mapping[str, Path] | None = None) -> Settings:
    """The settings of a directory. Raises ValueError as `gather` and `settings_from` do."""
    return settings_from(gather(path, parts=parts))


def gather(path: Path, *, parts: Mapping[str, Path] | None = None) -> dict[str, str]:
    """Every small file that the model depends on: relative name -> text (a binary file packed).

    `parts` names folders that replace recorded paths: "clip" (config.json, preprocessor_config.json) and "diffusion"
    (unet/, vae/, scheduler/). Raises ValueError for files that are missing and folders that are nowhere.
    """
    path = Path(path)
    files = {name: _text(path / name) for name in _REQUIRED}
    files |= {name: _text(path / name) for name in _OPTIONAL if (path / name).is_file()}
    if not (path / _TOKENIZER).is_file():
        raise ValueError(f"`{path}` lacks {_TOKENIZER}\nhint: copy the whole directory")
    files[_TOKENIZER] = base64.b64encode(zlib.compress((path / _TOKENIZER).read_bytes(), 9)).decode()
    plugins = plugins_of(files)
    if CLIP in plugins:
        recorded = plugins[CLIP].get("clip_vision_model_name_or_path")
        names = {"config.json": "config.json", "preprocessor_config.json": "preprocessor_config.json"}
        files |= _folder(path, "clip", recorded=recorded, names=names, optional="preprocessor_config.json", parts=parts)
    if HEAD in plugins:
        recorded = plugins[HEAD].get("diffusion_name_or_path")
        names = {name: name for name in DIFFUSION_FILES.values()}
        files |= _folder(path, "diffusion", recorded=recorded, names=names, optional="", parts=parts)
    settings_from(files)
    return files


def part_folder(path: Path, part: str, *, recorded: str | None, parts: Mapping[str, Path] | None) -> Path | None:
    """The folder of CLIP or of the diffusion model: the given one, else one named like the recorded path, inside or
    beside the checkpoint, else the recorded path itself; None where it is nowhere."""
    if parts and part in parts:
        return Path(parts[part])
    if not recorded:
        return None
    name = Path(recorded.rstrip("/")).name
    candidates = [Path(path) / name, Path(path).resolve().parent / name, Path(recorded)]
    return next((folder for folder in candidates if folder.is_dir()), None)


def _folder(
    path: Path,
    part: str,
    *,
    recorded: str | None,
    names: Mapping[str, str],
    optional: str,
    parts: Mapping[str, Path] | None,
) -> dict[str, str]:
    """The small files of a part's folder, below its name; of a published architecture where there is no folder."""
    folder = part_folder(path, part, recorded=recorded, parts=parts)
    if folder is None:
        name = Path((recorded or "").rstrip("/")).name
        known = published.ARCHITECTURES.get(published.ALSO_CALLED.get(name, name), {})
        if set(names) - {optional} <= set(known):
            return {f"{part}/{name}": json.dumps(known[name]) for name in names if name in known}
        raise ValueError(
            f"`{path}` was made with `{recorded}`, which is neither in it, beside it, nor there\n"
            f"hint: say where its {part} files are, as in parts={{'{part}': ...}} or --part {part}=DIR"
        )
    return {f"{part}/{name}": _text(folder / name) for name in names if name != optional or (folder / name).is_file()}


def tokenizer_bytes(files: Mapping[str, str]) -> bytes:
    """The sentencepiece model."""
    return zlib.decompress(base64.b64decode(files[_TOKENIZER]))


def write_small_files(files: Mapping[str, str], folder: Path) -> None:
    """Write the directory's own small files (not those of its parts)."""
    for name, text in files.items():
        if "/" in name:
            continue
        if name == _TOKENIZER:
            (folder / name).write_bytes(tokenizer_bytes(files))
        else:
            (folder / name).write_text(text, encoding="utf-8")


def json_of(files: Mapping[str, str], name: str) -> dict[str, Any]:
    """A gathered file, parsed; empty where there is none."""
    return _parsed(files[name], name=name) if name in files else {}


def plugins_of(files: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """`plugins_init_kwargs`, with `_target_` strings that are known and at their places."""
    config = json_of(files, "config.json")
    plugins = config.get("plugins_init_kwargs") or {}
    if not plugins:
        kind = config.get("model_type")
        raise ValueError(
            f"config.json (model_type {kind}) has no plugins: it is a plain language model\n"
            "hint: wire it with limner.compositions.dreamllm.dreamllm(language_model=...)"
        )
    for name, arguments in plugins.items():
        target = arguments.get("_target_")
        if target not in ALIASES or ALIASES[target][0] != name:
            raise ValueError(
                f"config.json: the plugin `{name}` has the _target_ {target!r}; expected one of "
                f"{', '.join(known for known, (plugin, _) in ALIASES.items() if plugin == name) or 'no such plugin'}\n"
                f"hint: the plugins are {CLIP}, {QUERIES} and {HEAD}"
            )
    if (QUERIES in plugins) != (HEAD in plugins) or CLIP not in plugins:
        raise ValueError(
            f"config.json has the plugins {', '.join(plugins)}; expected {CLIP}, and {QUERIES} and {HEAD} together\n"
            "hint: a stage that trains one side alone still records all of them"
        )
    return plugins


def settings_from(files: Mapping[str, str]) -> Settings:
    """Settings of gathered files. Raises ValueError where they contradict each other."""
    config, tokenizer = json_of(files, "config.json"), json_of(files, "tokenizer_config.json")
    plugins = plugins_of(files)
    ids = special_ids(files)
    needed = _IN + (_OUT if HEAD in plugins else ())
    if absent := [token for token in needed if token not in ids]:
        raise ValueError(
            f"no id is recorded for {', '.join(absent)}\nhint: added_tokens.json and config.json should have them"
        )
    if beyond := [token for token, index in ids.items() if index >= config["vocab_size"]]:
        raise ValueError(
            f"the id of {beyond[0]} is {ids[beyond[0]]}, beyond the {config['vocab_size']} rows of config.json's "
            "vocab_size\nhint: tokenizer and weights are of different checkpoints"
        )
    pad = _content(tokenizer.get("pad_token")) or "[PAD]"
    if pad not in ids:
        raise ValueError(f"no id is recorded for the padding token {pad}\nhint: see tokenizer_config.json")
    head = plugins.get(HEAD, {})
    longest = int(config.get("max_position_embeddings", 2048))
    return Settings(
        special_ids=ids,
        pad_id=ids[pad],
        tokenizer_legacy=bool(tokenizer.get("legacy", True)),
        model_max_length=min(longest, int(tokenizer.get("model_max_length") or longest)),
        loss_weight_lm=float(config.get("loss_weight_lm", 1.0)),
        loss_weight_vm=float(config.get("loss_weight_vm", 10.0)) if head else 0.0,
        loss_scale_schedule=str(config.get("loss_scale_schedule", "none")),
        plugins=plugins,
        num_queries=int(plugins[QUERIES].get("num_dream_queries", 64)) if head else 0,
        drop_prob=head.get("drop_prob"),
        noise_offset=float(head.get("noise_offset") or 0.0),
        input_perturbation=float(head.get("input_perturbation") or 0.0),
        snr_gamma=head.get("snr_gamma"),
        resolution=int(head.get("resolution") or (1024 if _is_sdxl(head) else 512)),
        center_crop=bool(head.get("center_crop", True)),
        random_flip=bool(head.get("random_flip", True)),
        scheduler=json_of(files, "diffusion/" + DIFFUSION_FILES["scheduler"]),
    )


def special_ids(files: Mapping[str, str]) -> dict[str, int]:
    """Token -> id of every special token. Raises ValueError where two files disagree."""
    config, tokenizer = json_of(files, "config.json"), json_of(files, "tokenizer_config.json")
    recorded = dict(config.get("special_tokens2ids_dict") or {})
    nested = [value for value in recorded.values() if isinstance(value, dict)]
    decoder = tokenizer.get("added_tokens_decoder") or {}
    sources = {
        "added_tokens.json": json_of(files, "added_tokens.json"),
        "tokenizer_config.json": {entry["content"]: int(index) for index, entry in decoder.items()},
        "config.json": {token: index for token, index in recorded.items() if isinstance(index, int)},
        "config.json's additional_special_tokens": {token: i for group in nested for token, i in group.items()},
    }
    ids: dict[str, int] = {}
    said_by: dict[str, str] = {}
    for source, table in sources.items():
        for token, index in table.items():
            if ids.setdefault(token, int(index)) != int(index):
                raise ValueError(
                    f"the id of {token} is {ids[token]} in {said_by[token]} and {index} in {source}\n"
                    "hint: the files are of different checkpoints"
                )
            said_by.setdefault(token, source)
    return ids


def _is_sdxl(head: Mapping[str, Any]) -> bool:
    return bool(head) and ALIASES[head["_target_"]][1] == "StableDiffusionXLHead"


def _content(token: Any) -> str:
    return token.get("content", "") if isinstance(token, dict) else token or ""


def _text(file: Path) -> str:
    if not file.is_file():
        raise ValueError(f"`{file.parent}` lacks {file.name}\nhint: copy the whole directory")
    return file.read_text(encoding="utf-8")


def _parsed(text: str, *, name: str) -> dict[str, Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is damaged ({error})\nhint: fetch it again") from error
