"""FastAPI with a queue: pip install fastapi uvicorn, then uvicorn examples.fastapi_app:web

    curl -X POST localhost:8000/orders/order-1/receipt
    curl localhost:8000/results/ID

Run asyncq worker examples.shop:app beside it.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException

import asyncq
from examples.shop import app, receipt


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with app:
        yield


web = FastAPI(lifespan=lifespan)


@web.post("/orders/{order}/receipt", status_code=202)
async def send_receipt(order: str) -> dict[str, str]:
    result = await receipt.enqueue(order)
    return {"id": result.id}


@web.get("/results/{id}")
async def read_result(id: str) -> dict[str, Any]:
    result = app.result(id)
    match await result.status():
        case asyncq.Status.UNKNOWN:
            raise HTTPException(404)
        case asyncq.Status.SUCCEEDED as status:
            return {"status": status, "value": await result}
        case status:
            return {"status": status}
