"""aiohttp with a queue, and the worker in the same process: pip install aiohttp, then
python -m examples.aiohttp_app

    curl -X POST localhost:8080/orders/order-1/receipt
    curl localhost:8080/results/ID
"""

from collections.abc import AsyncGenerator

from aiohttp import web

import asyncq
from examples.shop import app, receipt


async def queue(_: web.Application) -> AsyncGenerator[None]:
    async with app, app.worker():
        yield


async def send_receipt(request: web.Request) -> web.Response:
    result = await receipt.enqueue(request.match_info["order"])
    return web.json_response({"id": result.id}, status=202)


async def read_result(request: web.Request) -> web.Response:
    result = app.result(request.match_info["id"])
    status = await result.status()
    if status is asyncq.Status.UNKNOWN:
        raise web.HTTPNotFound
    value = await result if status is asyncq.Status.SUCCEEDED else None
    return web.json_response({"status": status, "value": value})


site = web.Application()
site.cleanup_ctx.append(queue)
site.add_routes(
    [
        web.post("/orders/{order}/receipt", send_receipt),
        web.get("/results/{id}", read_result),
    ]
)

if __name__ == "__main__":
    web.run_app(site)
