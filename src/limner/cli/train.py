"""`limner train`: run or continue a recipe."""

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.cli import options
from limner.cli.files import require_directory
from limner.cli.loading import choose_device, load_plan, overridden
from limner.cli.train_flags import with_flags
from limner.config.show import show

if TYPE_CHECKING:
    from limner.train.profiling import Profile

Positional = Annotated[
    str | None, typer.Argument(metavar="CONFIG", help="path.py, or path.py:function, of a recipe; or give --config.")
]
ConfigFile = Annotated[
    str | None, typer.Option("--config", "--config_file", metavar="CONFIG", help="The recipe, in place of CONFIG.")
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "--output_dir",
        help="Directory of the run, by default that of the recipe; a run that is there is continued.",
    ),
]
OnlyStages = Annotated[
    list[str] | None,
    typer.Option("--stage", help="Run this stage alone (may be repeated); what it starts from must be finished."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the recipe and stop.")]
Resume = Annotated[
    options.Resume,
    typer.Option(help="auto: go on with what is in --output; never: refuse a run that is there; required: demand one."),
]
AllowChanges = Annotated[
    bool,
    typer.Option(
        "--allow-changes",
        help="Go on though recipe or model changed: a finished stage stays as it was run, one that was begun goes on "
        "from its saved state under the new recipe. Other trained tensors are refused still.",
    ),
]
Checkpointing = Annotated[
    bool,
    typer.Option(
        "--activation-checkpointing", help="Less memory, more time: the backward pass computes the layers again."
    ),
]
Workers = Annotated[
    int,
    typer.Option("--workers", "--dataloader_num_workers", min=0, help="Processes that read data ahead of the steps."),
]
Layout = Annotated[
    options.Layout,
    typer.Option(
        "--parallel",
        help="Under torchrun: every process holds the whole model (replicate) or a part of what is trained (shard).",
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the layers of the language model (torch.compile).")]
ProfileSteps = Annotated[
    str | None, typer.Option("--profile", metavar="FIRST:END", help="Profile these steps of each stage, as in 10:15.")
]
Profiler = Annotated[options.Profiler, typer.Option(help="What profiles: torch's operators or Python's calls.")]


@with_flags
def command(
    config: Positional = None,
    overrides: options.Overrides = None,
    config_file: ConfigFile = None,
    output: Output = None,
    only: OnlyStages = None,
    dry_run: DryRun = False,
    resume: Resume = options.Resume.AUTO,
    allow_changes: AllowChanges = False,
    device: options.DeviceOption = options.Device.AUTO,
    workers: Workers = 0,
    activation_checkpointing: Checkpointing = False,
    compile_layers: Compile = False,
    layout: Layout = options.Layout.REPLICATE,
    profile: ProfileSteps = None,
    profiler: Profiler = options.Profiler.TORCH,
) -> None:
    """Train the stages of a recipe, or go on where they stopped.

    On several GPUs or machines: torchrun --nproc-per-node 8 -m limner.cli.main train ...; all processes together do
    what one would.

    SIGTERM and Ctrl-C end the run after the step, saved, with the exit code 143 or 130; the same command goes on.
    """
    changes = overrides or []
    if config_file is not None:
        # With --config, what stands first is an override like the others.
        changes = [config, *changes] if config is not None else changes
        config = config_file
    if config is None:
        raise typer.BadParameter("CONFIG is missing; expected a recipe, as in configs/tiny/scenes.py")
    if dry_run:
        print(show(overridden(config, changes)))
        return
    plan = load_plan(config, changes)
    if output is None and not getattr(plan, "output", ""):
        raise typer.BadParameter("--output is missing; expected the directory of the run")
    output = output or Path(plan.output)
    from limner.cli.samples import write_samples
    from limner.train.execution import Execution
    from limner.train.interruption import Stopped
    from limner.train.parallel import Replicate, Shard, World
    from limner.train.plan import run_plan

    profiled = None if profile is None else _parse_profile(profile, profiler=profiler)
    world = World.join(device=choose_device(device))
    if not world.is_first:
        logging.getLogger("limner").setLevel(logging.WARNING)
    execution = Execution(
        device=world.device,
        world=world,
        parallel=Shard() if layout is options.Layout.SHARD else Replicate(),
        activation_checkpointing=activation_checkpointing,
        num_workers=workers,
        compile_backend="inductor" if compile_layers else None,
        profile=profiled,
    )
    if output.exists() or resume is not options.Resume.REQUIRED:
        require_directory(output)
    try:
        path = run_plan(
            plan,
            output=output,
            execution=execution,
            resume=resume.value,
            allow_changes=allow_changes,
            only=only or (),
            on_sample=write_samples,
        )
    except Stopped as stopped:
        if world.is_first:
            print(stopped, file=sys.stderr)
        world.leave()
        # Not typer.Exit: the program would add a line to 130.
        raise SystemExit(stopped.exit_code) from None
    if world.is_first:
        print(path)
    world.leave()


def _parse_profile(text: str, *, profiler: options.Profiler) -> "Profile":
    from limner.train.profiling import Profile

    first, _, end = text.partition(":")
    if not (first.isdecimal() and end.isdecimal()):
        raise ValueError(f"--profile is `{text}`; expected FIRST:END\nhint: 10:15 profiles the steps 10 to 14")
    return Profile(int(first), int(end), tool=profiler.value)
