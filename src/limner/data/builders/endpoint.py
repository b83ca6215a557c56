"""Questions to any OpenAI-compatible endpoint: many at a time, repeated where they fail, kept where they are answered.

Every answer is appended to a file as it comes. A run that was broken off asks only what is not answered yet, and the
rows do not depend on the order in which answers came. Answers are JSON objects, found in whatever stands around them.
"""

import hashlib
import http.client
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limner.data.builders.building import Left, Outcome, Question, Row

ANSWERS = "answers.jsonl"
MAX_FAILED = 20
"""So many rows that fail one after another end a run: then the endpoint is at fault, not the rows."""

_REFUSED = (401, 403, 404)
"""Statuses that no repetition changes."""

_LONGEST_WAIT = 60.0

_MOST_OF_ERROR = 4096
"""Bytes of an error that are read: more than are told, so that a key in them is whole when it is looked for."""


@dataclass
class Endpoint:
    """Where to ask. The key is read from an environment variable; without one none is sent (local servers)."""

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    parallel: int = 8
    attempts: int = 5
    timeout: float = 120.0
    pause: float = 1.0
    """Seconds before the second attempt; doubled for each further one."""
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ValueError(f"--endpoint is `{self.url:.80}`; expected an address\nhint: as in https://host/v1")
        if self.parallel < 1 or self.attempts < 1:
            raise ValueError(
                f"{self.parallel} at a time, {self.attempts} attempts; expected 1 or more\nhint: give both"
            )

    @property
    def address(self) -> str:
        """The route that is asked."""
        base = self.url.rstrip("/")
        return base if base.endswith("/chat/completions") else f"{base}/chat/completions"

    def settled(self, outcomes: Iterable[Outcome], *, kept: Path, limit: int | None = None) -> Iterator[Row | Left]:
        """Outcomes in their order, questions answered: from the file `kept`, or else by asking; at most `limit` asked.

        Raises ValueError where the endpoint refuses, and after `MAX_FAILED` failures in a row.
        """
        known = _known(kept)
        waiting: deque[Row | Left | Future[Row | Left]] = deque()
        failed, asked = 0, 0
        kept.parent.mkdir(parents=True, exist_ok=True)
        with kept.open("a", encoding="utf-8") as stream, ThreadPoolExecutor(self.parallel) as pool:
            try:
                for outcome in outcomes:
                    if isinstance(outcome, Question):
                        if asked == limit:
                            break
                        asked += 1
                        waiting.append(pool.submit(self._row, outcome, known, stream))
                    else:
                        waiting.append(outcome)
                    while len(waiting) > 2 * self.parallel:
                        done, failed = _counted(waiting.popleft(), failed)
                        yield done
                while waiting:
                    done, failed = _counted(waiting.popleft(), failed)
                    yield done
            finally:
                # Whoever stops listening pays for no further question.
                for item in waiting:
                    if isinstance(item, Future):
                        item.cancel()

    def _row(self, question: Question, known: Mapping[str, Any], stream: Any) -> Row | Left:
        """The row of a question; what fails in every attempt is left with the last reason."""
        mark = self._mark(question)
        reason = ""
        if mark in known:
            try:
                return question.finish(known[mark])
            except ValueError as error:
                reason = str(error).partition("\n")[0]
        key = self._key()
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(min(self.pause * 2 ** (attempt - 1), _LONGEST_WAIT))
            try:
                answer = self.ask(question.messages)
                row = question.finish(answer)
            except _Refused:
                raise
            except (ValueError, OSError, http.client.HTTPException) as error:
                reason = _without(key, str(error)).partition("\n")[0] or type(error).__name__
                continue
            with self._lock:
                # In ASCII: no separator of lines that Unicode knows, and no character that could be torn, is in a line.
                stream.write(json.dumps({"mark": mark, "answer": answer}) + "\n")
                stream.flush()
            return row
        return Left(question.key, "no answer", reason)

    def ask(self, messages: Iterable[Mapping[str, str]]) -> Mapping[str, Any]:
        """The JSON object that the model answers with.

        Raises ValueError where there is none, OSError where nobody answers; a refusal ends the run.
        """
        body = json.dumps({"model": self.model, "messages": list(messages)}).encode()
        headers = {"Content-Type": "application/json"}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.address, data=body, headers=headers)
        try:
            with _OPENER.open(request, timeout=self.timeout) as response:
                content = response.read()
        except urllib.error.HTTPError as error:
            said = _without(key, error.read(_MOST_OF_ERROR).decode("utf-8", "replace"))
            if error.code in _REFUSED:
                raise _Refused(
                    f"{self.address} answers {error.code}: {said!r:.160}\n"
                    f"hint: check --endpoint, --model and the key in {self.key_variable}"
                ) from error
            raise OSError(f"{error.code}: {said:.160}") from error
        return _object(content, key=key)

    def _key(self) -> str:
        """The key as the environment has it, "" without one. Refuses, unseen, what no header can hold."""
        key = os.environ.get(self.key_variable, "").strip()
        if not all("!" <= character <= "~" for character in key):
            raise _Refused(
                f"{self.key_variable} holds characters that no key has; expected printable ASCII without spaces\n"
                "hint: copy the key again, into one line"
            )
        return key

    def _mark(self, question: Question) -> str:
        asked = json.dumps([self.model, [dict(message) for message in question.messages]], sort_keys=True)
        return f"{question.key} {hashlib.sha256(asked.encode()).hexdigest()[:16]}"


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows nothing: a key belongs to the address that was given."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> None:
        """None: the redirection is an error."""


_OPENER = urllib.request.build_opener(_Stay)


class _Refused(ValueError):
    """The endpoint will answer no other question either."""


def _counted(item: "Row | Left | Future[Row | Left]", failed: int) -> tuple[Row | Left, int]:
    """An outcome, and how many questions have failed in a row with it; what was not asked does not count.

    Raises ValueError at the last one that may fail.
    """
    if not isinstance(item, Future):
        return item, failed
    done = item.result()
    if not isinstance(done, Left):
        return done, 0
    if failed + 1 >= MAX_FAILED:
        raise ValueError(
            f"{MAX_FAILED} questions in a row failed, the last with: {done.detail:.120}\n"
            "hint: see to the endpoint; the same command goes on, what was answered is kept"
        )
    return done, failed + 1


def _without(key: str, said: str) -> str:
    """What was said, with stars for the key: servers repeat what they were sent."""
    return said.replace(key, "***") if key else said


def _known(kept: Path) -> dict[str, Any]:
    """Answers of earlier runs. A last line that was not written whole is no answer; it is ended, not removed."""
    found: dict[str, Any] = {}
    if not kept.is_file():
        return found
    content = kept.read_text(encoding="utf-8", errors="replace")
    if content and not content.endswith("\n"):
        with kept.open("a", encoding="utf-8") as stream:
            stream.write("\n")
    for line in content.split("\n"):
        try:
            entry = json.loads(line)
            found[entry["mark"]] = entry["answer"]
        except (ValueError, KeyError, TypeError):
            continue
    return found


def _object(content: bytes, *, key: str) -> Mapping[str, Any]:
    """The JSON object in a chat completion's text."""
    try:
        text = json.loads(content)["choices"][0]["message"]["content"]
        start, end = text.index("{"), text.rindex("}")
        found = json.loads(text[start : end + 1])
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        shown = _without(key, content.decode("utf-8", "replace"))
        raise ValueError(f"no JSON object in the answer {shown!r:.160}\nhint: ask another model") from error
    if not isinstance(found, Mapping):
        raise ValueError(f"the answer is {found!r:.80}; expected an object\nhint: ask another model")
    return found
