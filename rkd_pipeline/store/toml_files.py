"""TOML files that people and this program both change: what people wrote beside the entries stays as it is."""

from typing import TYPE_CHECKING

from rkd_pipeline.store.document import Document

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


def read_toml(file: Document) -> "TOMLDocument":
    """The file as its authors laid it out; empty where there is none. Raises ``ValueError`` where it is no TOML."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    content = file.read()
    try:
        return tomlkit.document() if content is None else tomlkit.parse(content)
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def write_toml(file: Document, content: "TOMLDocument") -> None:
    """Write it, whole or not at all; the caller holds the file's lock (``edited``)."""
    file.write(content.as_string().encode())
