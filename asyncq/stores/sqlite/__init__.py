"""What the SQLite broker and backend have in common: one file, its threads, and its records."""

from asyncq.stores.sqlite.store import SqliteStore, close_store, open_store

__all__ = ["SqliteStore", "close_store", "open_store"]
