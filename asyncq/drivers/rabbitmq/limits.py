"""Limits that an operator has set in RabbitMQ: what goes over one is refused, until there is room.

RabbitMQ says so with the codes of other things: of a wrong set-up, of a queue that was made
otherwise.
"""

import re

_REACHED = re.compile(r"limit .*is reached|has reached the maximum")
REMEDY = (
    ": end what is not needed there, or raise it (rabbitmqctl set_vhost_limits, set_user_limits)"
)


def is_at_limit(said: object) -> bool:
    """Whether this is why the server says no."""
    return _REACHED.search(str(said)) is not None
