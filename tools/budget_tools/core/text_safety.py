"""Foreign text within our own: it may not end a line, colour or reverse the text around it, or be unbounded."""

LONGEST_SENTENCE = 1_500
"""Maximum number of characters of a sentence that are shown: its start holds the subject, its end what to do."""

_KEPT_AT_END = 500

MAX_ASKED_CHARACTERS = 200
"""Maximum number of characters of a text that are shown to a person who is asked about it."""


def printable(text: str, keep: str = "") -> str:
    """Replace each character that does not print with a replacement character, except those to keep."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in keep else "\N{REPLACEMENT CHARACTER}" for each in text)


def sentence(text: str) -> str:
    """Return a sentence in a form safe to show and log: one line of bounded length."""
    if len(text) > LONGEST_SENTENCE:
        text = f"{text[: LONGEST_SENTENCE - _KEPT_AT_END]} … {text[-_KEPT_AT_END:]}"
    return printable(text)


def beginning(text: str) -> str:
    """Return the beginning of a text on one line, for a person who is asked about it."""
    words = printable(" ".join(text.split()))
    return words if len(words) <= MAX_ASKED_CHARACTERS else f"{words[: MAX_ASKED_CHARACTERS - 1]}…"
