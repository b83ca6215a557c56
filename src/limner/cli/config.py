"""`limner config`: look at a recipe without running it."""

import typer

from limner.cli.files import load_recipe
from limner.cli.options import Overrides, Recipe
from limner.config import show as formatting
from limner.config.overrides import apply_overrides

app = typer.Typer(no_args_is_help=True, help="Show recipes and compare them.")


@app.command("show")
def show(config: Recipe, overrides: Overrides = None) -> None:
    """Print a recipe as Python source, with overrides applied."""
    tree = load_recipe(config)
    print(formatting.show(apply_overrides(tree, overrides) if overrides else tree))


@app.command("diff")
def diff(old: Recipe, new: Recipe) -> None:
    """Compare two recipes: one `key: old -> new` a line."""
    text = formatting.diff(load_recipe(old), load_recipe(new))
    if text:
        print(text)
