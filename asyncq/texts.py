"""Text from outside, made fit for a line of a log or a terminal: escaped, and cut.

Task names, ids, and what exceptions say come from anybody. Nothing of theirs ends a line, steers a
terminal, or fills a disk.
"""

ELLIPSIS = "…"
NAME_LIMIT = 200  # bytes of the name of a task, of an id
MOST_LINES = 200  # of a traceback


def plain(value: object) -> str:
    """``value`` as text on one line: what is not printable is escaped, ``\\x1b`` say."""
    text = str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def counted(number: int, noun: str, plural: str = "") -> str:
    """``1 task``, ``2 tasks``; the plural is made with an s, unless it is given."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or f'{noun}s'}"


def bounded(text: str, size: int) -> str:
    """``text``, in at most ``size`` bytes; what was cut shows as an ellipsis."""
    if len(text) * 4 <= size:  # no character takes more
        return text
    encoded = text.encode(errors="backslashreplace")
    if len(encoded) <= size:
        return text
    return encoded[: size - len(ELLIPSIS.encode())].decode(errors="ignore") + ELLIPSIS


def clipped(text: str, size: int) -> str:
    """``text``, in at most ``size`` characters."""
    return text if len(text) <= size else text[: size - 1] + ELLIPSIS


def shown(text: str, size: int) -> str:
    """``text`` on one line of at most ``size`` bytes, however long and whatever it is."""
    # Cut first: to escape ten megabytes for a line of a few hundred bytes would take a second.
    return bounded(plain(text[: size + 1]), size)


def indented(text: str, line: int, total: int) -> str:
    """The end of ``text``, each line escaped, cut to ``line`` bytes, and set in by four spaces.

    Nothing in it can pass for a record of the log, which begins where a line begins. At most
    ``total`` characters and `MOST_LINES` lines are kept: of a traceback, the end tells most.
    """
    lines = text[-total:].splitlines()
    if len(text) > total or len(lines) > MOST_LINES:
        lines = [ELLIPSIS, *lines[1:][-MOST_LINES:]]
    return "\n".join("    " + shown(each, line) for each in lines)
