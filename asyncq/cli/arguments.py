"""Arguments that several commands have."""

from typing import Annotated

from typer import Argument

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
