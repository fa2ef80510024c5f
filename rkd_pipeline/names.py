r"""Names as people bring them, made fit to be shown: printed, drawn into a figure, written into a table.

A file's name may hold anything but a slash: bytes that are no UTF-8 (Python keeps them as lone surrogates, which no
encoder takes), line breaks, 255 bytes in all.
"""

import unicodedata

_ODD = frozenset('\\/:*?"<>|.')  # Windows refuses most of them; a point would begin a suffix


def printable(text: str) -> str:
    r"""The same text with what no encoder takes spelled out, as Python spells it.

    >>> print(printable(b"sch\xf6n.png".decode("utf-8", "surrogateescape")))
    sch\xf6n.png
    """
    return "".join(spelled(c) if "\ud800" <= c <= "\udfff" else c for c in text)


def shown(name: str, most: int | None = None) -> str:
    r"""A name on one line: ``printable``, control characters spelled out too, cut in the middle where it is long.

    >>> print(shown("two\nlines.png"))
    two\nlines.png
    >>> shown("a name that is long, 0001.png", 17)
    'a name t…0001.png'
    """
    line = "".join(spelled(c) if unicodedata.category(c) in ("Cc", "Cs") else c for c in name)
    if most is None or len(line) <= most:
        return line
    end = most // 2
    return f"{line[: most - end - 1]}…{line[len(line) - end :]}"


def file_stem(name: str, most_bytes: int) -> str:
    """The begin of a file name that every file system takes: at most so many bytes of UTF-8, without what is odd.

    >>> file_stem("样品.png", 7)
    '样品_'
    """
    kept = "".join("_" if unicodedata.category(c) in ("Cc", "Cs") or c in _ODD else c for c in name)
    return kept.encode()[:most_bytes].decode(errors="ignore")


def spelled(character: str) -> str:
    r"""``\n``, ``\udc80`` as the byte that it stands for (``\x80``), other surrogates as ``\ud800``."""
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()
