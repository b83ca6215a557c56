"""Recorded text of multi_token: encoding, fragments, placeholder ids, decoding, collation, refused rows."""

from collections.abc import Iterator

from limner.compositions.multi_token_legacy import LegacyEncoding, collate, encode_messages, encode_row
from limner.document.rows import placeholder_id
from limner.evaluate.golden.check import Check, exact
from limner.evaluate.golden.multi_token_files import Files, wanted


def text_checks(files: Files, *, only: str | None) -> Iterator[Check]:
    """Everything below tokenisation/."""
    if wanted("tokenisation/encode_chat", only):
        yield from _encoded(files)
    if wanted("tokenisation/fragments", only):
        for number, fragment in enumerate(files.json("tokenisation/fragments.json")):
            ids = files.tokenizer.markup_ids(fragment["text"])
            yield exact(f"tokenisation/fragments/{number}", ids, fragment["ids"])
    if wanted("tokenisation/token_ids", only):
        for case in files.json("tokenisation/token_ids.json"):
            yield exact(f"tokenisation/token_ids/{case['token']}", placeholder_id(case["token"]), case["token_idx"])
    if wanted("tokenisation/decode", only):
        for number, case in enumerate(files.json("tokenisation/decode.json")):
            yield exact(f"tokenisation/decode/{number}", files.tokenizer.decode(case["ids"]).strip(), case["text"])
    if wanted("tokenisation/collate", only):
        yield from _collated(files)
    if wanted("tokenisation/rejected", only):
        yield from _rejected(files)


def _encoded(files: Files) -> Iterator[Check]:
    for case in files.json("tokenisation/encode_chat.json")["cases"]:
        name = f"tokenisation/encode_chat/{case['builder']}.{case['template']}.{case['case']}"
        found = encode_messages(
            case["messages"],
            placeholders=files.builders[case["builder"]],
            tokenizer=files.tokenizer,
            chat_template=files.templates[case["template"]],
        )
        yield exact(f"{name}.ids", found.input_ids, case["input_ids"])
        yield exact(f"{name}.labels", found.labels, case["labels"])


def _collated(files: Files) -> Iterator[Check]:
    for number, case in enumerate(files.json("tokenisation/collate.json")):
        rows = [LegacyEncoding(tuple(row["input_ids"]), tuple(row["labels"]), ()) for row in case["rows"]]
        batch = collate(rows, pad_id=files.pad_id, max_length=case["model_max_length"])
        name = f"tokenisation/collate/{number}"
        yield exact(f"{name}.ids", batch.input_ids, case["input_ids"])
        yield exact(f"{name}.labels", batch.labels, case["labels"])
        yield exact(f"{name}.mask", batch.attention_mask.long(), case["attention_mask"])


def _rejected(files: Files) -> Iterator[Check]:
    for case in files.json("tokenisation/rejected.json"):
        verdict = "accepted"
        try:
            encode_row(
                case["row"],
                placeholders=files.builders[case["builder"]],
                tokenizer=files.tokenizer,
                chat_template=files.templates[case["template"]],
            )
        except ValueError:
            verdict = "refused"
        yield exact(f"tokenisation/rejected/{case['case']}", verdict, "refused")
