"""The store that the settings name, with its locks."""

from functools import cache
from pathlib import Path

from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.files import text_sha256
from rkd_pipeline.store.locks import network_file_system
from rkd_pipeline.store.named_locks import NamedLocks
from rkd_pipeline.store.place import Place
from rkd_pipeline.store.result_store import Store


def open_store(settings: Settings) -> Store:
    """The store at ``RKD_STORE``.

    Raises ``RkdError`` where settings do not go together, ``StoreError`` where what they name cannot be used.
    """
    address = settings.store
    if isinstance(address, Path):
        if settings.locks.get_secret_value():
            return Store(address, shared_locks(settings))
        if kind := network_file_system(address):
            raise RkdError(
                f"RKD_STORE={address} lies on a network file system ({kind}), and RKD_LOCKS is not set: its locks may "
                "not hold between machines. Put the store on a local disk, or set RKD_LOCKS to a PostgreSQL database; "
                f"where several machines share it, write RKD_STORE=file://{address.absolute()}"
            )
        return Store(address)
    locks = shared_locks(settings)
    root = settings.cache.expanduser().resolve() / text_sha256(address)[:16]
    place = _opened(address, root, int(settings.cache_gib * 2**30), settings.upload_seconds)
    return Store(place, locks)


def shared_locks(settings: Settings) -> NamedLocks:
    """The locks of all machines that share the store. Raises ``RkdError`` where ``RKD_LOCKS`` names none."""
    address = settings.locks.get_secret_value()
    if not address:
        raise RkdError(
            f"RKD_STORE={settings.store} is shared by machines, and RKD_LOCKS is not set: without locks two of them "
            "could make the same result. Set it to a PostgreSQL database that all reach: postgresql://user@host/name"
        )
    from rkd_pipeline.store.postgres_locks import PostgresLocks

    return PostgresLocks(address, settings.store_address, silence=settings.lock_silence)


def require_settings_of_a_shared_store(settings: Settings, *, on_a_cluster: bool = False) -> None:
    """What several machines must agree on, before anything is computed.

    Raises ``RkdError`` where a store that machines share would go with an MLflow that each has for itself, or with a
    precision that each chooses for itself: a training resumed on a machine of another kind would start anew. On a
    cluster also where the store is a folder, of which each machine would have its own.
    """
    address = settings.store
    if not isinstance(address, str):
        if on_a_cluster:
            raise RkdError(
                f"RKD_STORE={address} is a folder of one machine, and runs of a cluster work on several: name a "
                f"bucket (s3://results/rkd), or a folder that all of them have mounted (file://{address.absolute()})"
            )
        return
    if not settings.mlflow_uri.startswith(("http://", "https://")):
        raise RkdError(
            f"RKD_STORE={address} is shared by machines, and what is sent to MLflow is recorded there once for all: "
            "set MLFLOW_TRACKING_URI to a server that all of them reach, such as http://host:5000"
        )
    if settings.precision == "auto":
        raise RkdError(
            f"RKD_STORE={address} is shared by machines, and RKD_PRECISION=auto lets each choose: a training begun on "
            "one kind of machine could not go on on another. Set it to fp32, tf32 or bf16 on all of them"
        )


@cache
def _opened(address: str, root: Path, cache_bytes: int, backup_seconds: float) -> Place:
    """Each bucket is tried once in a process, not by every step."""
    from rkd_pipeline.store.bucket_place import open_bucket

    return open_bucket(address, root, cache_bytes=cache_bytes, backup_seconds=backup_seconds)
