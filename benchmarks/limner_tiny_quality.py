"""How good limner-tiny is, on pictures and wordings that it never saw.

    python -m benchmarks limner_tiny_quality --model limner-tiny --output out/quality

Prints a Markdown report; writes it with every single reply (JSON) and contact sheets to --output.
"""

import argparse
import functools
import hashlib
import logging
import sys
import time
from pathlib import Path

from limner import zoo
from limner.compositions.illustrator import efficientnet
from limner.data.stories import Library
from limner.evaluate.benchmark import Benchmark
from limner.evaluate.benchmarks.drawing import MODALITY, Drawing, decoder_of, gallery
from limner.evaluate.benchmarks.naming import Naming
from limner.evaluate.benchmarks.stories import Stories
from limner.evaluate.metrics.retrieval import Judge
from limner.evaluate.report import environment, markdown, write
from limner.generate.engine import Engine
from limner.model.checkpoint import INDEX, load_checkpoint

logger = logging.getLogger(__name__)

DATA = Path(__file__).parents[1] / "data" / "emoji"
DRAWN, EARLIER, NEVER_READ = "noto", "noto-v1", ["fluent", "fluent-flat"]
LIMITS = {"naming": None, "drawing": 200, "stories": 100}
"""Items where --limit is not given: what a CPU does in a quarter of an hour."""


def main(arguments: list[str]) -> None:
    """Run the benchmarks that are asked for."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    path = zoo.locate(options.model)
    engine = Engine(load_checkpoint(path), context_length=1024)
    outcomes, seconds = [], {}
    for name in options.only:
        started = time.perf_counter()
        logger.info("%s", name)
        limit = options.limit or LIMITS[name]
        outcomes.append(BENCHMARKS[name](engine).run(engine, limit=limit, seed=options.seed))
        seconds[name] = f"{time.perf_counter() - started:.0f} s"
    facts = {
        "model": Path(options.model).name,
        "checkpoint": hashlib.sha256((path / INDEX).read_bytes()).hexdigest()[:16],
        "seed": options.seed,
        **environment(),
        "time": seconds,
    }
    write(outcomes, facts=facts, output=options.output)
    print(markdown(outcomes, facts=facts))


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks limner_tiny_quality")
    parser.add_argument("--model", default="limner-tiny", help="a zoo name or a checkpoint")
    parser.add_argument("--limit", type=int, help="most items of each benchmark")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--output", type=Path, default=Path("out/quality"))
    return parser.parse_args(arguments)


def _naming(engine: Engine) -> Benchmark:
    styles = Library.from_shards([DATA / "heldout-style.tar"])
    concepts = Library.from_shards([DATA / "heldout-concept.tar"], styles=NEVER_READ)
    return Naming(styles, concepts)


def _drawing(engine: Engine) -> Benchmark:
    pictures = gallery(_trained(DRAWN), decoder=decoder_of(engine.model))
    unused = Judge("features it never used", efficientnet(image_size=160, grid=1), gallery=pictures)
    return Drawing(_trained(DRAWN), _trained(EARLIER), [_own_judge(engine), unused])


def _stories(engine: Engine) -> Benchmark:
    return Stories(_trained(DRAWN), _own_judge(engine))


@functools.cache
def _trained(style: str) -> Library:
    return Library.from_shards(sorted(DATA.glob("train-*.tar")), styles=[style])


@functools.cache
def _own_judge(engine: Engine) -> Judge:
    encoder = engine.model.modality(MODALITY).encoder
    assert encoder is not None, "limner-tiny reads pictures"
    pictures = gallery(_trained(DRAWN), decoder=decoder_of(engine.model))
    return Judge("features it reads with", encoder, gallery=pictures)


BENCHMARKS = {"naming": _naming, "drawing": _drawing, "stories": _stories}
