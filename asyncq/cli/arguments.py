"""Arguments that several commands have."""

from difflib import get_close_matches
from typing import Annotated, Any

from typer import Argument
from typer.core import TyperGroup

AppArgument = Annotated[
    str, Argument(metavar="MODULE:APP", help="Where the app is, as in `shop:app`.")
]
StoreArgument = Annotated[
    str,
    Argument(
        metavar="MODULE:APP|URL",
        help="Where the app is, or its broker's URL, as in `sqlite:///asyncq.db`.",
    ),
]


class WithDefault(TyperGroup):
    """A group whose ``list`` needs no name: ``asyncq queues shop:app`` is that.

    A name that is nearly one of its commands is left to be corrected.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # typer's own Context
        known = [*self.commands, *ctx.help_option_names]
        if args and args[0] not in known and not get_close_matches(args[0], self.commands):
            args = ["list", *args]
        return super().parse_args(ctx, args)
