"""The stores that tasks can wait in: a folder each, reached by the scheme of a URL (`table`).

No driver knows another, and nobody knows a driver. `hosts` (which of several servers is in use) and
`wakeup` are what some of them share.
"""
