"""Arguments and return values: checked at the call, sent, and made again where they are used.

One question in several parts: does this value arrive as it is? `hints` and `functions` read what a
function asks for, `shapes` and `parameters` decide by it, `encoding`, `plain`, `marks` and `models`
write and read, and `fidelity` compares.
"""
