"""A project: an app, tasks in several modules that send each other, and a web front.

In the folder above this one, each in a terminal:

    asyncq worker shop.app:app
    asyncq call shop.app:app charge '"order-1"' 12.5 --wait
    uvicorn shop.web:web

``app.py`` makes the app and imports no task: a worker finds them by ``include``. So the modules of
tasks may import the app, and each other, in a circle.
"""
