"""Brokers: the seam in `base`, one driver beside it for each store."""
