"""Answers that are kept: an engine whose replies lie in a file, one line each, so that nothing is asked twice.

A benchmark asks a `Respondent` and need not know which one. An interrupted evaluation finds what was answered before it
stopped and asks for the rest; a line that was being written when it stopped is asked for again. Several ranks share the
questions of a batch and read one another's files.
"""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from limner.document.document import Document
from limner.generate.request import Request
from limner.model.multimodal import MultimodalLM


@runtime_checkable
class Respondent(Protocol):
    """What continues documents: an `Engine`, or one whose replies are kept."""

    @property
    def model(self) -> MultimodalLM:
        """The model that is asked."""
        ...

    def run(self, requests: Sequence[Request], /) -> list[Document]:
        """The documents, continued, in order."""
        ...


class KeptAnswers:
    """`engine`, with its replies in `<folder>/answers.<rank>.jsonl`.

    model_key:  what the replies depend on besides the request (a checkpoint's digest): other models' are never taken.
    on_answer:  called with the number of replies that a call brought, kept ones included.
    patience:   seconds to wait for another rank's share of a batch before giving up on it.
    """

    def __init__(
        self,
        engine: Respondent,
        *,
        folder: Path,
        model_key: str,
        rank: int = 0,
        num_ranks: int = 1,
        on_answer: Callable[[int], None] = lambda count: None,
        patience: float = 3600.0,
    ) -> None:
        self.engine = engine
        self.folder = folder
        self.model_key = model_key
        self.rank = rank
        self.num_ranks = num_ranks
        self.on_answer = on_answer
        self.patience = patience
        self._read: dict[Path, int] = {}
        self._kept: dict[str, Document] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"answers.{rank}.jsonl"
        _drop_torn_line(self.file)

    @property
    def model(self) -> MultimodalLM:
        """The engine's model."""
        return self.engine.model

    def run(self, requests: Sequence[Request], /) -> list[Document]:
        """As the engine's: what is kept is read, what is missing is asked and kept.

        Raises ValueError when another rank does not answer its share within `patience`.
        """
        keys = [self._key(request) for request in requests]
        self._refresh()
        missing = [place for place, key in enumerate(keys) if key not in self._kept]
        # By place in the batch, not among the missing: ranks may see one another's files at different times.
        own = [place for place in missing if place % self.num_ranks == self.rank]
        if own:
            replies = self.engine.run([requests[place] for place in own])
            self._keep({keys[place]: reply for place, reply in zip(own, replies, strict=True)})
        self._await({keys[place] for place in missing})
        self.on_answer(len(requests))
        return [self._kept[key] for key in keys]

    def _key(self, request: Request) -> str:
        told = {field.name: _told(getattr(request, field.name)) for field in dataclasses.fields(request)}
        text = json.dumps({"model": self.model_key, **told}, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    def _keep(self, replies: dict[str, Document]) -> None:
        with self.file.open("a", encoding="utf-8") as stream:
            for key, reply in replies.items():
                stream.write(json.dumps({"key": key, "reply": reply.to_json()}) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        self._refresh()

    def _refresh(self) -> None:
        """Read what was added to any rank's file. Replies come from their lines, also those of this run: what is
        scored is the same whether the run was interrupted or not."""
        for file in sorted(self.folder.glob("answers.*.jsonl")):
            with file.open("rb") as stream:
                stream.seek(self._read.get(file, 0))
                for line in stream:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    found = json.loads(line)
                    self._kept[found["key"]] = Document.from_json(found["reply"])
                    self._read[file] = self._read.get(file, 0) + len(line)

    def _await(self, keys: set[str]) -> None:
        """Wait until other ranks have answered their share."""
        deadline = time.monotonic() + self.patience
        while lacking := keys - self._kept.keys():
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{len(lacking)} of {len(keys)} answers of other ranks did not come within {self.patience:.0f} s\n"
                    "hint: start all ranks again; what was answered is kept"
                )
            time.sleep(0.05)
            self._refresh()


def _told(value: Any) -> Any:
    """A request's field in words that are the same in every process."""
    return value.to_json() if isinstance(value, Document) else repr(value)


def _drop_torn_line(file: Path) -> None:
    if not file.is_file():
        return
    data = file.read_bytes()
    if data and not data.endswith(b"\n"):
        with file.open("rb+") as stream:
            stream.truncate(data.rfind(b"\n") + 1)
