"""The store that the settings name, with its locks."""

from functools import cache
from pathlib import Path

from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.files import text_sha256
from rkd_pipeline.store.named_locks import NamedLocks
from rkd_pipeline.store.place import Place
from rkd_pipeline.store.result_store import Store


def open_store(settings: Settings) -> Store:
    """The store at ``RKD_STORE``.

    Raises ``RkdError`` where settings do not go together, ``StoreError`` where what they name cannot be used.
    """
    address = settings.store
    if isinstance(address, Path):
        return Store(address, _locks(settings, settings.store_address))
    if not settings.locks.get_secret_value():
        raise RkdError(
            f"RKD_STORE={address} is shared by machines, and RKD_LOCKS is not set: without locks two of them could "
            "make the same result. Set it to a PostgreSQL database that all of them reach: postgresql://user@host/name"
        )
    root = settings.cache.expanduser().resolve() / text_sha256(address)[:16]
    place = _opened(address, root, int(settings.cache_gib * 2**30), settings.upload_seconds)
    return Store(place, _locks(settings, address))


def require_shared_mlflow(settings: Settings) -> None:
    """Raises ``RkdError`` where a store that machines share would go with an MLflow that each has for itself."""
    address = settings.store
    if isinstance(address, str) and not settings.mlflow_uri.startswith(("http://", "https://")):
        raise RkdError(
            f"RKD_STORE={address} is shared by machines, and what is sent to MLflow is recorded there once for all: "
            "set MLFLOW_TRACKING_URI to a server that all of them reach, such as http://host:5000"
        )


@cache
def _opened(address: str, root: Path, cache_bytes: int, backup_seconds: float) -> Place:
    """Each bucket is tried once in a process, not by every step."""
    from rkd_pipeline.store.bucket_place import open_bucket

    return open_bucket(address, root, cache_bytes=cache_bytes, backup_seconds=backup_seconds)


def _locks(settings: Settings, store: str) -> NamedLocks | None:
    address = settings.locks.get_secret_value()
    if not address:
        return None
    from rkd_pipeline.store.postgres_locks import PostgresLocks

    return PostgresLocks(address, store, silence=settings.lock_silence)
