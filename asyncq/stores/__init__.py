"""Stores: how a broker and a backend that share one place talk to it."""
