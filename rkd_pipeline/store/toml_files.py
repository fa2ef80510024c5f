"""TOML files that people and this program both change: what people wrote beside the entries stays as it is."""

from pathlib import Path
from typing import TYPE_CHECKING

from rkd_pipeline.store.files import write_atomically

if TYPE_CHECKING:
    from tomlkit import TOMLDocument


def read_toml(path: Path) -> "TOMLDocument":
    """The file as its authors laid it out; empty where there is none. Raises ``ValueError`` where it is no TOML."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        with path.open(encoding="utf-8", newline="") as stream:
            return tomlkit.load(stream)
    except FileNotFoundError:
        return tomlkit.document()
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise ValueError(str(error)) from error


def write_toml(path: Path, content: "TOMLDocument") -> None:
    """Write it, whole or not at all; the caller holds the file's lock (``edited``)."""
    write_atomically(path, content.as_string().encode())
