"""Benchmarks run on one model, resumably, and written down.

benchmarks -> KeptAnswers(engine) -> outcomes -> results.json, results.md, report.html, submissions, contact sheets
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from limner import zoo
from limner.evaluate.answers import KeptAnswers, Respondent
from limner.evaluate.benchmark import Benchmark
from limner.evaluate.report import write
from limner.evaluate.tables import environment, markdown
from limner.model.checkpoint import INDEX


def evaluate(
    benchmarks: Sequence[Benchmark],
    *,
    engine: Respondent,
    model_name: str,
    model_key: str,
    output: Path,
    limit: int | None = None,
    seed: int = 0,
    rank: int = 0,
    num_ranks: int = 1,
    on_answer: Callable[[int], None] = lambda count: None,
) -> str:
    """Run all and write the report into `output`; returns it as Markdown. Ranks other than 0 answer and write nothing.

    What was answered in `output` before is not asked again, unless by another model.
    """
    outcomes = []
    for benchmark in benchmarks:
        kept = KeptAnswers(
            engine,
            folder=output / "answers" / benchmark.name,
            model_key=model_key,
            rank=rank,
            num_ranks=num_ranks,
            on_answer=on_answer,
        )
        outcomes.append(benchmark.run(kept, limit=limit, seed=seed))
    facts = {"model": model_name, "checkpoint": model_key, "seed": seed, **environment()}
    if rank == 0:
        write(outcomes, facts=facts, output=output)
    return markdown(outcomes, facts=facts)


def key_of(model: str) -> str:
    """What replies of a model depend on: the digest of its index, which holds those of its weights."""
    return hashlib.sha256((zoo.locate(model) / INDEX).read_bytes()).hexdigest()[:16]
