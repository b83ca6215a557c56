"""Questions to an OpenAI-compatible endpoint: repeated, kept, resumed, counted. The server is real, in a thread."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from limner.data.builders.building import SKIPPED, Left, Question, chat, write_rows, written
from limner.data.builders.endpoint import MAX_FAILED, Endpoint


class Server(ThreadingHTTPServer):
    """Answers every question with its own words; what it is told to do first comes first."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.first: dict[str, list[tuple[int, str]]] = {}
        self.refuses = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Answering(BaseHTTPRequestHandler):
    """POST /v1/chat/completions."""

    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = body["messages"][-1]["content"]
        self.server.asked.append(body)
        self.server.keys.append(self.headers.get("Authorization"))
        assert self.path == "/v1/chat/completions"
        waiting = self.server.first.get(said) or []
        status, content = (
            waiting.pop(0) if waiting else (200, "Sure: " + json.dumps({"answer": said.upper()}) + " Done.")
        )
        if self.server.refuses:
            status, content = self.server.refuses, "no"
        body = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        self.send_response(status)
        if status == 302:
            self.send_header("Location", self.server.url)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def question(word: str) -> Question:
    return Question(
        word, ({"role": "user", "content": word},), lambda answer: chat(word, word, *written(answer, "answer"))
    )


def endpoint(server: Server, **options: Any) -> Endpoint:
    return Endpoint(server.url, "some-model", **{"pause": 0.001, "attempts": 3, "timeout": 10.0} | options)


def answers(rows: list[Any]) -> list[str]:
    return [row.reason if isinstance(row, Left) else row["messages"][1]["content"] for row in rows]


def test_questions_are_answered_in_their_order_and_what_needs_none_passes(server: Server, tmp_path: Path) -> None:
    words = [f"word {number}" for number in range(30)]
    outcomes = [*(question(word) for word in words), Left("x", "missing file"), chat("y", "a", "b")]
    rows = list(endpoint(server, parallel=4).settled(outcomes, kept=tmp_path / "answers.jsonl"))
    assert answers(rows) == [*(word.upper() for word in words), "missing file", "b"]
    assert {body["model"] for body in server.asked} == {"some-model"}


def test_what_fails_is_asked_again_and_what_keeps_failing_is_named(server: Server, tmp_path: Path) -> None:
    server.first = {
        "busy": [(429, "wait"), (503, "wait")],
        "chatty": [(200, "I would rather not.")],
        "moved": [(302, "elsewhere")],
        "empty": [(200, '{"answer": " "}')],
        "broken": [(500, "no")] * 9,
    }
    outcomes = [question(word) for word in server.first]
    rows = list(endpoint(server).settled(outcomes, kept=tmp_path / "answers.jsonl"))
    assert answers(rows) == ["BUSY", "CHATTY", "MOVED", "EMPTY", "no answer"]
    assert isinstance(rows[-1], Left)
    assert rows[-1].detail.startswith("500: ")


def test_a_run_that_was_broken_off_asks_only_what_is_open(server: Server, tmp_path: Path) -> None:
    kept = tmp_path / "answers.jsonl"
    words = [f"word {number}" for number in range(8)]
    some = endpoint(server, parallel=1).settled(map(question, words[:5]), kept=kept)
    whole = answers(list(some))
    with kept.open("ab") as stream:
        stream.write('{"mark": "word 5 é'.encode()[:-1])  # killed inside of a character
    server.asked.clear()
    rows = answers(list(endpoint(server).settled(map(question, words), kept=kept)))
    assert (rows[:5], rows[5:]) == (whole, ["WORD 5", "WORD 6", "WORD 7"])
    assert len(server.asked) == 3
    server.asked.clear()
    assert answers(list(endpoint(server).settled(map(question, words), kept=kept))) == rows
    assert server.asked == []
    # Another model is another answer.
    list(Endpoint(server.url, "other").settled([question("word 0")], kept=kept))
    assert len(server.asked) == 1


def test_no_more_than_the_limit_is_asked(server: Server, tmp_path: Path) -> None:
    outcomes = (question(str(number)) for number in range(50))
    assert len(list(endpoint(server).settled(outcomes, kept=tmp_path / "kept", limit=3))) == 3
    assert len(server.asked) == 3


def test_the_key_comes_from_the_environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    asking = endpoint(server, key_variable="MY_KEY")
    list(asking.settled([question("a")], kept=tmp_path / "kept"))
    monkeypatch.setenv("MY_KEY", "secret")
    list(asking.settled([question("b")], kept=tmp_path / "kept"))
    assert server.keys == [None, "Bearer secret"]
    assert "secret" not in (tmp_path / "kept").read_text()
    monkeypatch.setenv("MY_KEY", " secret\r\n")
    list(asking.settled([question("c")], kept=tmp_path / "kept"))
    assert server.keys[-1] == "Bearer secret"


def test_a_key_is_told_to_nobody_even_where_the_server_repeats_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = endpoint(server, key_variable="MY_KEY", attempts=1)
    monkeypatch.setenv("MY_KEY", "sec\nret")
    with pytest.raises(ValueError, match="MY_KEY holds characters that no key has") as refused:
        list(asking.settled([question("a")], kept=tmp_path / "kept"))
    assert "ret" not in str(refused.value).replace("characters", "")
    assert server.keys == []
    monkeypatch.setenv("MY_KEY", "sec-ret")
    said = "x" * 100 + " wrong key sec-ret"
    server.first = {"error": [(500, said)], "words": [(200, said)]}
    outcomes = map(question, server.first)
    write_rows(asking.settled(outcomes, kept=tmp_path / "kept"), output=tmp_path, name="x", media=tmp_path, seed=0)
    skipped = (tmp_path / SKIPPED).read_text()
    assert skipped.count("wrong key ***") == 2
    assert "sec-" not in skipped
    server.first = {"error": [(403, said)]}
    with pytest.raises(ValueError, match=r"wrong key \*\*\*"):
        list(asking.settled([question("error")], kept=tmp_path / "kept"))


def test_answers_with_every_separator_of_lines_are_kept(server: Server, tmp_path: Path) -> None:
    server.first = {"a": [(200, json.dumps({"answer": "one\u2028two\u2029three\x85four é"}, ensure_ascii=False))]}
    whole = answers(list(endpoint(server).settled([question("a")], kept=tmp_path / "kept")))
    assert (tmp_path / "kept").read_bytes().isascii()
    # As earlier versions wrote them.
    (tmp_path / "kept").write_text(json.dumps(json.loads((tmp_path / "kept").read_text()), ensure_ascii=False))
    assert answers(list(endpoint(server).settled([question("a")], kept=tmp_path / "kept"))) == whole
    assert len(server.asked) == 1


def test_a_refusal_ends_the_run_at_once_and_failures_in_a_row_do_too(server: Server, tmp_path: Path) -> None:
    server.refuses = 401
    with pytest.raises(ValueError, match=r"answers 401: .*\nhint: check --endpoint, --model and the key in OPENAI"):
        list(endpoint(server).settled([question("a")], kept=tmp_path / "kept"))
    server.refuses = 500
    outcomes = (question(str(number)) for number in range(500))
    with pytest.raises(ValueError, match=f"{MAX_FAILED} questions in a row failed"):
        list(endpoint(server, attempts=1).settled(outcomes, kept=tmp_path / "kept"))
    assert len(server.asked) < 100
    # Records that ask nothing, as those whose sound is missing, are no sign of an endpoint that answers.
    mixed = (outcome for number in range(500) for outcome in (question(str(number)), Left(f"{number}", "missing file")))
    server.asked.clear()
    with pytest.raises(ValueError, match=f"{MAX_FAILED} questions in a row failed"):
        list(endpoint(server, attempts=1).settled(mixed, kept=tmp_path / "kept"))
    assert len(server.asked) < 100


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(ValueError, match="--endpoint is `localhost:8000`; expected an address\nhint: as in https://"):
        Endpoint("localhost:8000", "m")
    assert Endpoint("http://host/v1/chat/completions", "m").address == "http://host/v1/chat/completions"
