"""The card of a published model: what it reads and makes, what it is made of, how it was trained, by its own figures.

Everything comes from the checkpoint's index and from what the run wrote down about itself; data are named, not shown,
and no path of the machine it was trained on is repeated. The front matter (YAML) starts at the first byte.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limner import zoo
from limner.model.checkpoint import INDEX

if TYPE_CHECKING:
    from limner.model.multimodal import MultimodalLM


def model_card(model: "MultimodalLM", *, name: str, licence: str, index: Mapping[str, Any], checkpoint: Path) -> str:
    """The text of README.md."""
    bases = [source.partition("@")[0] for source in index["external"].values()]
    blocks = [
        _front_matter(model, bases=bases, licence=licence),
        f"# {name}",
        f"A multimodal language model, made with Limner: {_abilities(model)}.",
        f"## Use\n\n{_use(foreign_modules(index['model']))}",
        f"## Modalities\n\n{_modalities(model)}",
        f"## Parts\n\n{_parts(index)}",
    ]
    stages = list(run_stages(checkpoint))
    if stages:
        blocks.append("## Training\n\n" + "\n\n".join(_stage(stage) for stage in stages))
        blocks.append(f"## Environment\n\n{_environment(stages[-1].parent)}")
    return "\n\n".join(blocks) + "\n"


def run_stages(checkpoint: Path) -> Iterator[Path]:
    """The folders of the stages that led to a checkpoint of a run, in order; none where it lies in no run."""
    stage = checkpoint.resolve().parent
    plan = stage.parent / "plan.json"
    if not (stage / "stage.json").is_file():
        return
    if plan.is_file():
        names = [recorded["name"] for recorded in json.loads(plan.read_text()).get("stages", [])]
        before = names[: names.index(stage.name)] if stage.name in names else []
        yield from (found for name in before if (found := stage.parent / name).joinpath("stage.json").is_file())
    yield stage


def _front_matter(model: "MultimodalLM", *, bases: list[str], licence: str) -> str:
    hubs = [entry.hub for base in bases if (entry := zoo.ENTRIES.get(base)) is not None and entry.hub]
    lines = ["---", f"license: {json.dumps(licence.lower())}", "library_name: limner"]
    if hubs:
        lines += ["base_model:", *(f"  - {json.dumps(hub)}" for hub in hubs)]
    lines += ["tags:", "  - multimodal", *(f"  - {json.dumps(name)}" for name in model.modalities), "---"]
    return "\n".join(lines)


def foreign_modules(description: Any) -> list[str]:
    """Modules, besides this library's, whose code a stored description calls."""
    if isinstance(description, list):
        return sorted({module for item in description for module in foreign_modules(item)})
    if not isinstance(description, dict):
        return []
    own = description.get("_target_", "limner.")
    found = set() if own.startswith("limner.") else {own.rpartition(".")[0]}
    return sorted(found.union(*(foreign_modules(value) for value in description.values())))


def _use(modules: list[str]) -> str:
    lines = ["```sh", "pip install limner"]
    if modules:
        lines.append(f"export LIMNER_MODULES={','.join(modules)}    # code that is not part of this folder")
    return "\n".join([*lines, "limner chat DIRECTORY", "limner serve DIRECTORY", "```"])


def _abilities(model: "MultimodalLM") -> str:
    reads = [name for name in model.modalities if model.modality(name).reader]
    makes = [name for name in model.modalities if model.modality(name).maker or model.modality(name).speller]
    said = [f"reads {', '.join(['text', *reads])}", f"writes {', '.join(['text', *makes])}"]
    return " and ".join(said)


def _modalities(model: "MultimodalLM") -> str:
    placeholders = {placeholder.modality: placeholder for placeholder in model.placeholders}
    lines = ["| name | read | made | in rows | positions |", "|---|---|---|---|---|"]
    for name in model.modalities:
        modality, placeholder = model.modality(name), placeholders.get(name)
        encoder = type(modality.encoder).__name__ if modality.encoder is not None else "no"
        made_by = modality.decoder or modality.detokenizer
        decoder = type(made_by).__name__ if made_by is not None else "no"
        row = "-" if placeholder is None else f"`{placeholder.token}`, key `{placeholder.data_key}`"
        positions = "-" if placeholder is None else str(placeholder.num_positions)
        lines.append(f"| {name} | {encoder} | {decoder} | {row} | {positions} |")
    return "\n".join(lines)


def _parts(index: Mapping[str, Any]) -> str:
    own = [f"- `{component}`: in this folder" for component in index["components"]]
    return "\n".join([*own, *(f"- `{part}`: {source}, fetched by name" for part, source in index["external"].items())])


def _stage(directory: Path) -> str:
    begun = json.loads((directory / "stage.json").read_text())
    recipe = begun["stage"]
    lines = [f"### {directory.name}", ""]
    lines.append(f"- steps: {recipe.get('num_steps')}, seed {begun['seed']}")
    metrics = [json.loads(line) for line in _lines(directory / "metrics.jsonl")]
    if metrics:
        lines += [f"- data: {_data(recipe, metrics[-1])}", f"- loss: {_from_to('loss', metrics)}"]
        held = sorted({key for line in metrics for key in line if key.startswith("evaluation/loss")})
        lines += [f"- held out, {key.removeprefix('evaluation/')}: {_from_to(key, metrics)}" for key in held]
    if (directory / "trainable.json").is_file():
        components = json.loads((directory / "trainable.json").read_text())["components"]
        trained = [f"{name} {row['trainable']:,}" for name, row in components.items() if row["trainable"]]
        lines.append(f"- trained parameters: {'; '.join(trained)}")
    return "\n".join(lines)


def _data(recipe: Mapping[str, Any], last: Mapping[str, Any]) -> str:
    mixture = recipe.get("mixture", {})
    sources = mixture.get("sources", {}) if isinstance(mixture, dict) else {}
    found = []
    for name, source in sources.items() if isinstance(sources, dict) else ():
        kind = source.get("_target_", "").rpartition(".")[2] if isinstance(source, dict) else ""
        drawn = last.get(f"drawn/{name}")
        found.append(f"{name}" + (f" ({kind})" if kind else "") + (f", {drawn:,} documents" if drawn else ""))
    return "; ".join(found) or "not recorded"


def _from_to(key: str, metrics: list[dict[str, Any]]) -> str:
    values = [(line["step"], line[key]) for line in metrics if line.get(key) is not None]
    if not values:
        return "no number"
    (first, high), (last, low) = values[0], values[-1]
    return f"{high:.4g} at step {first}, {low:.4g} at step {last}"


def _environment(run: Path) -> str:
    launches = [json.loads(line) for line in _lines(run / "launches.jsonl")]
    if not launches:
        return "Not recorded."
    last = launches[-1]
    versions = ", ".join(f"{name} {version}" for name, version in last.get("versions", {}).items())
    hardware = ", ".join(last.get("gpus", [])) or f"{last.get('cpus')} CPU cores"
    return f"- hardware: {hardware}\n- versions: python {last.get('python')}, {versions}"


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


def shipped(index: Mapping[str, Any]) -> list[str]:
    """Names of the files that a published checkpoint consists of, the card left out."""
    return [INDEX, *(f"{component}.safetensors" for component in index["components"])]
