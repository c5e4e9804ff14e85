"""The app. Its tasks are in the modules to include, which are imported when they are needed."""

import asyncq

app = asyncq.App(include=["shop.tasks.billing", "shop.tasks.mail"])
