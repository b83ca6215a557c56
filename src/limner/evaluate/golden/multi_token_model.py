"""Recorded forwards of multi_token: toy projectors on the base model, checkpoints with their adapters, builders."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limner.compositions.multi_token_checkpoint import merged, read_folder
from limner.compositions.multi_token_legacy import collate, encode_messages, legacy_messages
from limner.document.document import Document
from limner.evaluate.golden.check import Check, close, exact
from limner.evaluate.golden.multi_token_encoders import front_end
from limner.evaluate.golden.multi_token_files import (
    Files,
    adapter_names,
    documents_of,
    load_projectors,
    placeholders_of,
    projector_names,
    recorded_batch,
    wanted,
    without_prefix,
)
from limner.evaluate.golden.multi_token_serve import greedy
from limner.modalities.base import Features
from limner.model.losses import text_loss
from limner.model.multimodal import MultimodalLM

EMBEDS, HIDDEN, LOGITS, LOSS = 2e-6, 2e-5, 3e-5, 5e-6
FEATURES, PROJECTED, BUILT, BUILT_PATCHES = 2e-5, 2e-5, 5e-5, 1e-3


def batch_checks(
    files: Files,
    model: MultimodalLM,
    documents: list[Document],
    *,
    case: str,
    stored: Mapping[str, Tensor],
    template: str | None = None,
    max_length: int | None = None,
) -> Iterator[Check]:
    """Ids, labels and mask of rows as the original batches them."""
    rows = [
        encode_messages(
            legacy_messages(document, placeholders=placeholders_of(model)),
            placeholders=placeholders_of(model),
            tokenizer=files.tokenizer,
            chat_template=template,
        )
        for document in documents
    ]
    batch = collate(rows, pad_id=files.pad_id, max_length=max_length)
    yield exact(f"{case}/input_ids", batch.input_ids, stored["input_ids"])
    yield exact(f"{case}/labels", batch.labels, stored["labels"])
    yield exact(f"{case}/attention_mask", batch.attention_mask, stored["attention_mask"])


@torch.no_grad()
def states(
    model: MultimodalLM, documents: list[Document], mask: Tensor, *, features: Mapping[str, Features] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Input rows, final hidden states (both cut to the recorded length) and the mean loss."""
    batch = recorded_batch(model, documents, mask=mask, features=features)
    rows = model.embed(batch)
    hidden = model.backbone.packed_hidden_states(rows, positions=batch.positions, documents=batch.documents)
    loss = text_loss(model.backbone, hidden, batch).mean
    return rows[:, : mask.shape[1]], hidden[:, : mask.shape[1]], loss


@torch.no_grad()
def _score_checks(
    model: MultimodalLM,
    hidden: Tensor,
    *,
    case: str,
    stored: Mapping[str, Tensor],
    mask: Tensor,
    columns: Tensor | None,
) -> Iterator[Check]:
    """Scores over the vocabulary wherever a token stands."""
    logits = model.backbone.logits(hidden.flatten(0, 1)).view(*mask.shape, -1)
    yield close(f"{case}/logsumexp", logits.logsumexp(-1)[mask], stored["logsumexp"][mask], tolerance=LOGITS)
    yield exact(f"{case}/argmax", logits.argmax(-1)[mask], stored["argmax"][mask])
    if columns is not None:
        found = logits[mask][:, columns]
        yield close(f"{case}/logits_at_cols", found, stored["logits_at_cols"][mask], tolerance=LOGITS)
    positions = torch.arange(mask.shape[1]).expand_as(mask)
    last = positions.masked_fill(~mask, -1).max(dim=1).values
    top = logits[torch.arange(len(mask)), last].topk(stored["last_top8_ids"].shape[1])
    yield exact(f"{case}/last_top8_ids", top.indices, stored["last_top8_ids"])
    yield close(f"{case}/last_top8_logits", top.values, stored["last_top8_logits"], tolerance=LOGITS)
    if "row0_last_logits" in stored:
        yield close(f"{case}/row0_last_logits", logits[0, last[0]], stored["row0_last_logits"], tolerance=LOGITS)


def forward_checks(files: Files, *, only: str | None) -> Iterator[Check]:
    """Everything below forward/."""
    described, tensors = files.json("forward/cases.json"), files.tensors("forward/cases.safetensors")
    asked = [case for case in described["cases"] if wanted(f"forward/{case['case']}", only)]
    if not asked:
        return
    model = files.toy_model()
    load_projectors(model, without_prefix(files.tensors("forward/projectors.safetensors"), head=""))
    for case in asked:
        name = f"forward/{case['case']}"
        head = case["case"] + "."
        stored = {key[len(head) :]: value for key, value in tensors.items() if key.startswith(head)}
        mask = stored["attention_mask"]
        documents = documents_of(files, case["rows"], model)
        template = files.templates[described["template"]]
        yield from batch_checks(files, model, documents, case=name, stored=stored, template=template)
        rows, hidden, loss = states(model, documents, mask)
        yield close(f"{name}/inputs_embeds", rows[mask], stored["inputs_embeds"][mask], tolerance=EMBEDS)
        yield close(f"{name}/last_hidden", hidden[mask], stored["last_hidden"][mask], tolerance=HIDDEN)
        columns = tensors.get("logits_cols")
        yield from _score_checks(model, hidden, case=name, stored=stored, mask=mask, columns=columns)
        if case["loss"] is not None:
            yield close(f"{name}/loss", loss, torch.tensor(case["loss"]), tolerance=LOSS)


def checkpoint_checks(files: Files, *, only: str | None) -> Iterator[Check]:
    """Every folder below checkpoints/ is read, strictly, and holds what its files say."""
    root = files.directory / "checkpoints"
    for path in sorted(file.parent for file in root.rglob("config.json")):
        name = "checkpoints/" + ".".join(path.relative_to(root).parts)
        if wanted(name, only):
            yield from _folder_checks(files, path, name)


def _folder_checks(files: Files, path: Path, name: str) -> Iterator[Check]:
    folder = read_folder(path)
    model = files.checkpoint(str(path.relative_to(files.directory)))
    yield exact(f"{name}/modalities", [found.name for found in placeholders_of(model)], list(folder.modalities))
    given = {
        f"{one}_lmm_projector.{key}": value for one, found in folder.projectors.items() for key, value in found.items()
    }
    own = projector_names(model)
    yield exact(f"{name}/projectors", _differing(own, given), [])
    adapter = without_prefix(folder.adapter or {}, head="")
    yield exact(f"{name}/adapter", _differing(adapter_names(model), adapter), [])


def _differing(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are on one side only, or not the same."""
    return [
        name
        for name in sorted({*own, *given})
        if name not in own or name not in given or not torch.equal(own[name].detach(), given[name].float())
    ]


def lora_checks(files: Files, *, only: str | None) -> Iterator[Check]:
    """Everything below lora/: adapters kept and merged, and greedy continuations."""
    described, tensors = files.json("lora/cases.json"), files.tensors("lora/cases.safetensors")
    mask = tensors["batch.attention_mask"]
    for case in described["checkpoints"]:
        name, head = f"lora/{case['key']}", case["key"] + "."
        if not wanted(name, only):
            continue
        stored = {key[len(head) :]: value for key, value in tensors.items() if key.startswith(head)}
        model = files.checkpoint(case["checkpoint"])
        documents = documents_of(files, described["rows"], model)
        batch = {key.removeprefix("batch."): value for key, value in tensors.items() if key.startswith("batch.")}
        yield from batch_checks(files, model, documents, case=name, stored=batch)
        rows, hidden, loss = states(model, documents, mask)
        yield close(f"{name}/inputs_embeds", rows[mask], stored["inputs_embeds"][mask], tolerance=EMBEDS)
        yield close(f"{name}/last_hidden", hidden[mask], stored["last_hidden"][mask], tolerance=HIDDEN)
        yield from _score_checks(model, hidden, case=name, stored=stored, mask=mask, columns=None)
        yield close(f"{name}/loss", loss, torch.tensor(case["loss"]), tolerance=LOSS)
        yield from _greedy_checks(files, model, case["greedy"], described["rows"], f"{name}/greedy")
        _, hidden, loss = states(merged(model), documents, mask)
        yield close(f"{name}/merged_last_hidden", hidden[mask], stored["merged_last_hidden"][mask], tolerance=HIDDEN)
        yield close(f"{name}/merged_loss", loss, torch.tensor(case["merged_loss"]), tolerance=LOSS)
        yield from _greedy_checks(files, model, case["greedy"], described["rows"], f"{name}/merged_greedy")


def _greedy_checks(files: Files, model: MultimodalLM, cases: list[Any], rows: list[Any], name: str) -> Iterator[Check]:
    """Continuations of all rows in one batch."""
    asked = []
    for case in cases:
        row = {**rows[case["row"]], **{key: case[key] for key in rows[case["row"]] if key in case}}
        asked.append(files.document({**row, "messages": row["messages"][:-1]}, model))
    found = greedy(model, asked, limits=[case["max_new_tokens"] for case in cases])
    for number, (case, document, ids) in enumerate(zip(cases, asked, found, strict=True)):
        prompt = model.render(document, reply=True)
        yield exact(f"{name}.{number}.prompt_ids", prompt.ids, case["prompt_ids"])
        yield exact(f"{name}.{number}.new_ids", ids, case["new_ids"])
        yield exact(f"{name}.{number}.text", model.tokenizer.decode(ids).strip(), case["text"])


def builder_checks(files: Files, *, only: str | None) -> Iterator[Check]:
    """Everything below builders/: from item files to the loss, adapters merged."""
    for case in files.json("builders/cases.json")["cases"]:
        name = f"builders/{case['builder']}"
        if wanted(name, only):
            yield from _builder_checks(files, case, name)


def _builder_checks(files: Files, case: Mapping[str, Any], name: str) -> Iterator[Check]:
    stored = files.tensors(case["file"])
    mask = stored["attention_mask"]
    model = merged(files.checkpoint(case["checkpoint"]))
    documents = documents_of(files, case["rows"], model)
    yield from batch_checks(files, model, documents, case=name, stored=stored)
    features = row_features(model, documents, seed=case.get("numpy_seed"))
    yield from _feature_checks(model, features, stored=stored, name=name)
    joined = {
        modality: Features(torch.cat([one.values for one in found]), torch.cat([one.lengths for one in found]))
        for modality in dict.fromkeys(modality for row in features for modality in row)
        if (found := [row[modality] for row in features if modality in row])
    }
    rows, hidden, loss = states(model, documents, mask, features=joined)
    patches = any(key.endswith("features") and value.shape[1] > 1 for key, value in stored.items())
    limit = BUILT_PATCHES if patches else BUILT
    step = 8 if "inputs_embeds_every_8th" in stored else 1
    embeds = stored["inputs_embeds_every_8th" if step == 8 else "inputs_embeds"]
    kept = mask[:, ::step]
    yield close(f"{name}/inputs_embeds", rows[:, ::step][kept], embeds[kept], tolerance=limit)
    supervised = torch.nn.functional.pad(stored["labels"][:, 1:] >= 0, (0, 1)) & mask
    found = hidden[supervised]
    logits = model.backbone.logits(found)
    # What the features may differ by is carried on through the language model.
    carried = max(HIDDEN, limit)
    yield close(f"{name}/supervised_hidden", found, stored["supervised_hidden"], tolerance=carried)
    yield close(
        f"{name}/supervised_logsumexp",
        logits.logsumexp(-1),
        stored["supervised_logsumexp"],
        tolerance=max(LOGITS, limit),
    )
    yield exact(f"{name}/supervised_argmax", logits.argmax(-1), stored["supervised_argmax"])
    yield close(f"{name}/loss", loss, torch.tensor(case["loss"]), tolerance=LOSS)


@torch.no_grad()
def row_features(model: MultimodalLM, documents: list[Document], *, seed: int | None) -> list[dict[str, Features]]:
    """Features of each row's items by modality; the global draws begin anew with every row, as recorded."""
    rows = []
    for document in documents:
        found: dict[str, Features] = {}
        for placeholder in placeholders_of(model):
            media = [item for _, item in document.media() if item.modality == placeholder.modality]
            encoder = model.reader(placeholder.modality).encoder
            if media:
                found[placeholder.modality] = encoder(front_end(encoder, media, seed=seed))
        rows.append(found)
    return rows


@torch.no_grad()
def _feature_checks(
    model: MultimodalLM, rows: list[dict[str, Features]], *, stored: Mapping[str, Tensor], name: str
) -> Iterator[Check]:
    """Features and projections, row by row."""
    names = {placeholder.modality: placeholder.name for placeholder in placeholders_of(model)}
    for number, row in enumerate(rows):
        for modality, features in row.items():
            key = f"row{number}.{names[modality]}"
            if (expected := stored.get(f"{key}.features")) is not None:
                limit = BUILT_PATCHES if expected.shape[1] > 1 else FEATURES
                yield close(f"{name}/{key}.features", features.values.view(expected.shape), expected, tolerance=limit)
            if (expected := stored.get(f"{key}.projected")) is not None:
                projected = model.reader(modality).input_projector(features).values.view(expected.shape)
                yield close(f"{name}/{key}.projected", projected, expected, tolerance=PROJECTED)
