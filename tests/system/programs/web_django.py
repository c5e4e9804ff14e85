"""Django in one file: gunicorn --preload web_django:wsgi, or uvicorn web_django:asgi."""

from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from shop import add, app

settings.configure(DEBUG=False, ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="tests")
django.setup()

client = app.sync().__enter__()  # as the module is imported, which may be before a fork


def plain(request: HttpRequest, x: int) -> JsonResponse:
    return JsonResponse(client.enqueue(add.s(x, 1)).get(timeout=30), safe=False)


async def by_itself(request: HttpRequest, x: int) -> JsonResponse:
    async with app:  # under WSGI each request has an event loop of its own
        return JsonResponse(await (await add.enqueue(x, 1)).get(timeout=30), safe=False)


async def connected(request: HttpRequest, x: int) -> JsonResponse:
    return JsonResponse(await (await add.enqueue(x, 1)).get(timeout=30), safe=False)


urlpatterns = [
    path("plain/<int:x>", plain),
    path("async/<int:x>", by_itself),
    path("connected/<int:x>", connected),
]
wsgi = get_wsgi_application()
views = get_asgi_application()


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """Django leaves the server's lifespan to others: this one connects the app."""
    if scope["type"] != "lifespan":
        await views(scope, receive, send)
        return
    await receive()
    async with app:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
