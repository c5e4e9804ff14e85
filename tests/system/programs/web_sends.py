"""FastAPI that only sends: uvicorn web_sends:web."""

from web_fastapi import make_web

web = make_web(works=False)
