"""The web front: uvicorn shop.web:web

curl -X POST 'localhost:8000/orders/order-1/payment?amount=12.5'
curl localhost:8000/payments/ID
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from shop.app import app
from shop.tasks import billing


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with app:
        yield


web = FastAPI(lifespan=lifespan)


@web.post("/orders/{order}/payment", status_code=202)
async def pay(order: str, amount: float) -> dict[str, str]:
    payment = await billing.charge.enqueue(order, amount)
    return {"id": payment.id}


@web.get("/payments/{id}")
async def read_payment(id: str) -> dict[str, str]:
    return {"mail": await billing.charge.result(id).get(timeout=10)}
