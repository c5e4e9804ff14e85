"""aiohttp with a worker inside: python web_aiohttp.py PORT."""

import sys
from collections.abc import AsyncGenerator

from aiohttp import web
from shop import add, app, hold


async def queue(_: web.Application) -> AsyncGenerator[None]:
    async with app, app.worker():
        yield


async def add_here(request: web.Request) -> web.Response:
    result = await add.enqueue(int(request.match_info["x"]), 1)
    return web.json_response(await result.get(timeout=30))


async def begin(request: web.Request) -> web.Response:
    result = await hold.enqueue(request.match_info["name"])
    return web.json_response(result.id)


site = web.Application()
site.cleanup_ctx.append(queue)
site.add_routes([web.get("/add/{x}", add_here), web.get("/hold/{name}", begin)])

if __name__ == "__main__":
    web.run_app(site, host="127.0.0.1", port=int(sys.argv[1]))
