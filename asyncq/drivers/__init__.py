"""The stores that tasks can wait in: a folder each, reached by the scheme of a URL (`table`).

No driver knows another, and nobody knows a driver. `wakeup` and `tries` are what two of them use.
"""
