"""A module of tasks, as a worker runs it: asyncq worker examples.shop:app

Then, in another terminal:

    asyncq call examples.shop:app charge '"order-1"' 12.5 --wait
    asyncq call examples.shop:app export 20
    asyncq result examples.shop:app ID
    asyncq queues examples.shop:app
"""

import asyncio
import random
from typing import Any

import asyncq

app = asyncq.App()


class CardDeclined(Exception):
    """The bank says no."""


class Unreachable(Exception):
    """The bank says nothing; it may answer in a moment."""


@app.on_startup
async def open_bank(state: dict[str, Any]) -> None:
    """Make what every task needs, once for the worker."""
    state["rates"] = {"EUR": 1.0, "USD": 1.1}


@app.on_shutdown
async def close_bank(state: dict[str, Any]) -> None:
    state.clear()


@app.task(queue="payments", retry=asyncq.Retry(times=5, base=0.5, on=(Unreachable,)))
async def charge(
    ctx: asyncq.Context, order: str, amount: float, *, currency: str = "EUR"
) -> dict[str, Any]:
    """Tried again while the bank is out of reach; a card that is declined fails at once.

    The receipt is sent exactly if it is paid.
    """
    if amount > 1000:
        raise CardDeclined(f"{order}: {amount} is above the limit")
    if random.random() < 0.5:
        raise Unreachable(f"attempt {ctx.attempt} got no answer")
    await ctx.enqueue_after(receipt.s(order))
    return {"order": order, "paid": amount * ctx.state["rates"][currency], "try": ctx.attempt}


@app.task(queue="reports", time_limit=60.0)
async def export(ctx: asyncq.Context, orders: int) -> str:
    """Takes a while, and says how far it is: `asyncq result` shows it."""
    for done in range(orders):
        await ctx.progress(done, orders)
        await asyncio.sleep(1)
    return f"{orders} orders exported"


@app.task(priority=9)
def receipt(order: str) -> str:
    """A plain function runs in a thread: it may block."""
    return f"Thank you for {order}."
