"""Commands that begin with a recipe, every setting of which is an option."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Self

import tyro

from resurge.cli.command import Command
from resurge.cli.parsing import parse
from resurge.errors import ResurgeError
from resurge.recipes.base import Experiment


@dataclass
class RecipeCommand(Command):
    """A command whose first word is a recipe."""

    recipe: tyro.conf.Suppress[str]
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    """Everything that the recipe sets."""

    @classmethod
    def parse(cls, words: Sequence[str]) -> Self:
        from resurge import recipes

        if words and words[0] in ("-h", "--help"):
            print(f"usage: resurge {cls.NAME} RECIPE [OPTIONS]\n\n{inspect.getdoc(cls)}\n\nRecipes:")
            for system in recipes.systems():
                for name, make in system.EXPERIMENTS.items():
                    print(f"  {system.PAPER.slug}/{name:<10} {(make.__doc__ or '').strip().partition(chr(10))[0]}")
            raise SystemExit(0)
        if not words or words[0].startswith("-"):
            raise ResurgeError(f"{cls.NAME} needs a recipe as its first word. Known: {', '.join(recipes.names())}.")
        default = cls(recipe=words[0], experiment=recipes.get(words[0]))
        return parse(cls, words[1:], f"resurge {cls.NAME} {words[0]}", default)
