"""`limner data encode`: fill the feature cache for the stages of a recipe before they are trained."""

import multiprocessing
import queue
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.cli import options
from limner.cli.loading import STDERR, choose_device, chosen_stages, is_batched_by, load_plan

if TYPE_CHECKING:
    from limner.data.features import FeatureCache
    from limner.document.document import Direction
    from limner.train.stage import Stage

POLL_SECONDS = 0.2
"""How long news of the processes is waited for before it is checked that they live."""

ENDLESS = 10**9
"""Documents that nobody waits for: sources made by a function say so large a number for no end."""

STOP_SECONDS = 10.0
"""How long a process that is told to end may take."""


@dataclass(frozen=True)
class Job:
    """What one process encodes: every `num_parts`-th document of a stage, from `part` on."""

    config: str
    overrides: tuple[str, ...]
    stage: str
    run: Path | None
    device: options.Device
    max_documents: int | None = None
    part: int = 0
    num_parts: int = 1


def encode(
    config: options.Config,
    overrides: options.Overrides = None,
    stage: Annotated[
        list[str] | None, typer.Option("--stage", metavar="NAME", help="Encode for this stage alone; may be repeated.")
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(help="Directory of the recipe's run: where parts that an earlier stage trained come from."),
    ] = None,
    max_documents: Annotated[
        int | None,
        typer.Option(min=1, help="Encode the first N documents of a stage's order alone: those it trains on first."),
    ] = None,
    processes: Annotated[int, typer.Option(min=1, help="Processes that share the documents.")] = 1,
    device: options.DeviceOption = options.Device.AUTO,
) -> None:
    """Compute the features of frozen encoders and autoencoders that training will ask for.

    What is there already is not computed again, so a run of this that was broken off goes on where it was.
    """
    from limner.train.stage import Pictures

    choose_device(device)
    plan = load_plan(config, overrides or [])
    for recorded in chosen_stages(plan, stage, config=config):
        if is_batched_by(recorded, Pictures):
            print(f"{recorded.name}\treads pixels, no features")
            continue
        job = Job(config, tuple(overrides or ()), recorded.name, run, device, max_documents)
        for line in _encode_stage(job, processes=processes):
            print(f"{recorded.name}\t{line}")


def _encode_stage(job: Job, *, processes: int) -> Iterator[str]:
    """Encode what a stage needs; yields what was done, a line each."""
    from limner.config.call import build
    from limner.data.encoding import num_documents

    stages = load_plan(job.config, job.overrides).stages
    mixture = build(next(recorded for recorded in stages if recorded.name == job.stage).mixture)
    total = num_documents(mixture, max_documents=job.max_documents)
    if total >= ENDLESS:
        raise ValueError(
            f"the sources of stage `{job.stage}` have {total} documents, which is as good as no end\n"
            "hint: give --max-documents N to encode those that training takes first"
        )
    counts = _in_this_process(job, total) if processes == 1 else _in_processes(job, processes, total)
    skipped = counts.pop("skipped", 0)
    if not counts:
        yield "nothing to encode: no frozen part reads or makes what its documents hold"
    for side in sorted({key.partition(" ")[2] for key in counts}):
        if counts[f"unsettled {side}"]:
            yield f"{side}\tleft out: an earlier stage decides its weights; give that run with --run"
        else:
            yield f"{side}\t{counts[f'encoded {side}']} encoded\t{counts[f'held {side}']} held"
    if skipped:
        yield f"{skipped} of {total} documents skipped"


def _in_this_process(job: Job, total: int) -> Counter[str]:
    with _bar(job.stage) as bar:
        task = bar.add_task(job.stage, total=total)
        return _run(job, on_document=lambda: bar.advance(task))


def _in_processes(job: Job, processes: int, total: int) -> Counter[str]:
    """The documents shared out; each process builds the model for itself, so any device will do."""
    context = multiprocessing.get_context("spawn")
    news: Any = context.Queue()
    jobs = [replace(job, part=part, num_parts=processes) for part in range(processes)]
    workers = [context.Process(target=_work, args=(one, news), daemon=True) for one in jobs]
    counts: Counter[str] = Counter()
    try:
        for worker in workers:
            worker.start()
        with _bar(job.stage) as bar:
            task = bar.add_task(job.stage, total=total)
            for found in _news(news, workers):
                if isinstance(found, Counter):
                    counts += found
                else:
                    bar.advance(task)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join(STOP_SECONDS)
    return counts


def _news(news: Any, workers: list[Any]) -> Iterator[Any]:
    """What the processes report, until each has sent its counts. Raises ValueError when one failed."""
    left = len(workers)
    while left:
        try:
            found = news.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if any(worker.exitcode not in (0, None) for worker in workers):
                raise ValueError(
                    "a process that encodes has ended early\nhint: the lines above say why; with --processes 1 the "
                    "error comes here; what is encoded is kept"
                ) from None
            continue
        if isinstance(found, str):
            raise ValueError(found)
        left -= isinstance(found, Counter)
        yield found


def _work(job: Job, news: Any) -> None:
    """One process: documents are reported as they are done, then the counts; or what went wrong, as a text."""
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // job.num_parts))
    try:
        news.put(_run(job, on_document=lambda: news.put(None)))
    except ValueError as error:
        news.put(str(error))


def _run(job: Job, *, on_document: Callable[[], None]) -> Counter[str]:
    """Encode this job's documents. Counts as `encode_documents`, and "unsettled <modality> <direction>" left out."""
    from limner.data.encoding import encode_documents

    stage, cache, unsettled = _prepare(job)
    counts = encode_documents(
        stage.mixture,
        max_documents=job.max_documents,
        cache=cache,
        left_out=unsettled,
        part=job.part,
        num_parts=job.num_parts,
        on_document=on_document,
    )
    counts.update(f"unsettled {name} {direction}" for name, direction in unsettled)
    return counts


def _prepare(job: Job) -> tuple["Stage", "FeatureCache", set[tuple[str, "Direction"]]]:
    """The stage, the cache of the model as that stage will have it, and what of it is not known yet."""
    import torch

    from limner.config.call import build
    from limner.data.features import FeatureCache
    from limner.model.checkpoint import own
    from limner.train.stage import select_trainable

    plan = load_plan(job.config, job.overrides)
    names = [recorded.name for recorded in plan.stages]
    place = names.index(job.stage)
    # As `run_plan` does: a part that nothing has trained has the weights that the seed gives it.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        model = build(plan.model)
    stage = build(plan.stages[place])
    if job.run is not None:
        from limner.train.plan import hand_over

        hand_over(model, stage, output=job.run, before=names[:place])
    for recorded in plan.stages[:place]:
        own(model, [name for group in select_trainable(model, build(recorded).trainable).values() for name in group])
    select_trainable(model, stage.trainable)
    cache = FeatureCache(model.to(choose_device(job.device)))
    rules = list(stage.start_from) or [("*", name) for name in names[:place]]
    return stage, cache, set() if job.run is not None else _unsettled(cache, [glob for glob, _ in rules])


def _unsettled(cache: "FeatureCache", globs: list[str]) -> set[tuple[str, "Direction"]]:
    """The covered sides with weights that come from another stage: what they are now is not what will be trained on."""
    from limner.model.checkpoint import component_of, owned_state

    model = cache.model
    owned = owned_state(model)
    handed_over = {
        id(tensor)
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if name in owned and any(fnmatchcase(component_of(name), glob) for glob in globs)
    }
    return {
        (part.name, part.direction)
        for part in cache.parts
        if any(id(tensor) in handed_over for tensor in [*part.part.parameters(), *part.part.buffers()])
    }


def _bar(description: str) -> Any:
    """A bar over documents on stderr; silent where that is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("encoding {task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=STDERR, transient=True, disable=not STDERR.is_terminal)
