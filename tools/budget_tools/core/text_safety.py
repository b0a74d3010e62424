"""Text of others among our own: it may neither end a line, nor colour or turn what is around it, nor go on for ever."""

LONGEST_SENTENCE = 1_500
"""Characters of a sentence that are shown; what it is about stands at its start, what to do at its end."""

_KEPT_AT_END = 500

MAX_ASKED_CHARACTERS = 200
"""So much of a text is shown to a person who is asked about it."""


def printable(text: str, keep: str = "") -> str:
    """Put a replacement character for each that does not print, but for those to keep."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else "\N{REPLACEMENT CHARACTER}" for each in text)


def sentence(text: str) -> str:
    """Give a sentence as it may be shown and logged: one line of bounded length."""
    if len(text) > LONGEST_SENTENCE:
        text = f"{text[: LONGEST_SENTENCE - _KEPT_AT_END]} … {text[-_KEPT_AT_END:]}"
    return printable(text)


def beginning(text: str) -> str:
    """Show how a text begins to a person who is asked about it, on one line."""
    words = printable(" ".join(text.split()))
    return words if len(words) <= MAX_ASKED_CHARACTERS else f"{words[: MAX_ASKED_CHARACTERS - 1]}…"
