"""Money. Sends mail, which sends what is billed: each module imports the other.

Import the module and not its tasks: what is in it is there when a task runs, and not yet while
the two import each other.
"""

from shop.app import app
from shop.tasks import mail

LIMIT = 1000.0


@app.task(queue="billing")
async def charge(order: str, amount: float) -> str:
    """Charge the customer, who gets a receipt; the result is the id of that mail."""
    if amount > LIMIT:
        raise ValueError(f"{order}: {amount} is above the limit of {LIMIT}")
    sent = await mail.receipt.enqueue(order, amount)
    return sent.id


@app.task(queue="billing")
async def refund(order: str) -> str:
    return f"{order} refunded"
