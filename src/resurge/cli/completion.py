"""The shell completion script: all commands as one parser, which only this needs."""

import io
from contextlib import redirect_stdout
from dataclasses import make_dataclass
from typing import Annotated, Any, Union

import tyro


def script(shell: str) -> str:
    """The completion script for "bash", "zsh", "tcsh" or "fish"."""
    from resurge import recipes
    from resurge.cli import commands
    from resurge.cli.recipe import RecipeCommand

    choices = []
    for name, command in commands().items():
        if issubclass(command, RecipeCommand):
            made = [(recipe, command(recipe=recipe, experiment=recipes.get(recipe))) for recipe in recipes.names()]
            kinds = [Annotated[command, tyro.conf.subcommand(recipe, default=default)] for recipe, default in made]
            command = make_dataclass(command.__name__, [("recipe", _one_of(kinds))])
        choices.append(Annotated[command, tyro.conf.subcommand(name)])
    out = io.StringIO()
    config = (tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes)
    try:
        with redirect_stdout(out):
            tyro.cli(_one_of(choices), args=["--tyro-print-completion", shell], prog="resurge", config=config)
    except SystemExit:
        pass
    return out.getvalue()


def _one_of(kinds: list[Any]) -> Any:
    # a union of one would be no choice, and no subcommand
    return Union[tuple([*kinds, Annotated[None, tyro.conf.subcommand("help")]] if len(kinds) == 1 else kinds)]  # noqa: UP007
