"""How good limner-tiny is, on pictures and wordings that it never saw: tasks of `limner evaluate`, as docs show them.

    python -m benchmarks limner_tiny_quality --output out/quality

is `limner evaluate limner-tiny --tasks naming,drawing,stories`, with a line per task on stderr. `--broken` permutes the
rows that the model reads pictures into, and those that its decoder is conditioned on: scores then have to fall to those
of luck. They go to a folder of their own, out/quality-broken.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import torch

from limner import zoo
from limner.evaluate.runner import evaluate, key_of
from limner.evaluate.tasks import expanded, open_task
from limner.generate.engine import Engine
from limner.modalities.noise import keyed_generator
from limner.model.checkpoint import load_checkpoint
from limner.model.multimodal import MultimodalLM

logger = logging.getLogger(__name__)

DATA = Path(__file__).parents[1] / "data"
TASKS = "naming,drawing,stories"


def main(arguments: list[str]) -> None:
    """Run the tasks that are asked for."""
    options = _options(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    model, key = load_checkpoint(zoo.locate(options.model)), key_of(options.model)
    if options.broken:
        break_projectors(model)
        key += "-broken"
    started = time.process_time()
    report = evaluate(
        [open_task(name, folder=options.data) for name in expanded(options.tasks.split(","))],
        engine=Engine(model, context_length=1024),
        model_name=Path(options.model).name + (" (projectors shuffled)" if options.broken else ""),
        model_key=key,
        output=options.output,
        limit=options.limit,
        seed=options.seed,
    )
    logger.info("%.0f s of processor time", time.process_time() - started)
    print(report)


def break_projectors(model: MultimodalLM) -> None:
    """Permute, by a fixed seed, the first axis of every matrix of what projects pictures in and hidden states out."""
    for name, parameter in model.named_parameters():
        if "_projector." in name and parameter.dim() > 1:
            order = torch.randperm(len(parameter), generator=keyed_generator(0, name))
            with torch.no_grad():
                parameter.copy_(parameter[order.to(parameter.device)])


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks limner_tiny_quality")
    parser.add_argument("--model", default="limner-tiny", help="a zoo name or a checkpoint")
    parser.add_argument("--tasks", default=TASKS, help="as of `limner evaluate`")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with the tasks' files")
    parser.add_argument("--limit", type=int, help="most items of each task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--broken", action="store_true", help="shuffle the projectors first")
    parser.add_argument("--output", type=Path, help="out/quality, or out/quality-broken")
    options = parser.parse_args(arguments)
    options.output = options.output or Path("out/quality-broken" if options.broken else "out/quality")
    return options
