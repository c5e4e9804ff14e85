"""Codecs: what a message looks like as bytes."""
