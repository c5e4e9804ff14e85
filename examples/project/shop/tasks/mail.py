"""Mail. What cannot be delivered is refunded, by the module that sends most of it."""

from shop.app import app
from shop.tasks import billing


@app.task(queue="mail")
async def receipt(order: str, amount: float) -> str:
    return f"receipt for {order}: {amount:.2f}"


@app.task(queue="mail")
async def bounced(order: str) -> str:
    """The customer cannot be reached; the result is the id of the refund."""
    sent = await billing.refund.enqueue(order)
    return sent.id
