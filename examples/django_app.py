"""Django with a queue: pip install django gunicorn uvicorn, start a worker with
asyncq worker examples.shop:app, then one of

    gunicorn --preload examples.django_app:wsgi
    uvicorn examples.django_app:asgi

    curl -X POST localhost:8000/orders/order-1/receipt
    curl localhost:8000/results/ID
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from examples.shop import app, receipt

if not settings.configured:  # a project has a module for these
    settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="an example")  # noqa: S106
    django.setup()

# Open for as long as the process runs, for all its threads; a process that is forked from this one
# connects by itself.
client = app.sync().__enter__()


def send_receipt(_: HttpRequest, order: str) -> JsonResponse:
    return JsonResponse({"id": client.enqueue(receipt.s(order)).id}, status=202)


async def read_result(_: HttpRequest, id: str) -> JsonResponse:
    async with app:  # this request's event loop; under `asgi` below it is connected already
        return JsonResponse({"status": await app.result(id).status()})


urlpatterns = [
    path("orders/<str:order>/receipt", send_receipt),
    path("results/<str:id>", read_result),
]

wsgi = get_wsgi_application()
_views: Any = get_asgi_application()

Message = MutableMapping[str, Any]


async def asgi(
    scope: Message,
    receive: Callable[[], Awaitable[Message]],
    send: Callable[[Message], Awaitable[None]],
) -> None:
    """Django leaves the server's lifespan to others: this one keeps the app connected."""
    if scope["type"] != "lifespan":
        await _views(scope, receive, send)
        return
    await receive()
    async with app:
        await send({"type": "lifespan.startup.complete"})
        await receive()
    await send({"type": "lifespan.shutdown.complete"})
