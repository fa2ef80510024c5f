"""What a node says of itself when ``rkd check-cluster`` asks: ``python -m resources.node_report LOCK``."""

import json
import os
import socket
import sys
import time
from typing import Any

from resources.code_version import this_code
from rkd_pipeline.data.user_targets import targets_in
from rkd_pipeline.errors import RkdError
from rkd_pipeline.settings import Settings
from rkd_pipeline.store.open_store import open_store
from rkd_pipeline.store.result_store import Store

MARK = "rkd node report: "  # begins the line in the job's log
FOLDER = "checks"  # of documents in the store, each gone after the check
FROM_THE_DESK = b"from the desk"


def report(lock: str) -> dict[str, Any]:
    """Code, clock and settings; whether a lock that another machine holds is refused; which files cannot be read."""
    said: dict[str, Any] = {"host": socket.gethostname(), "code": this_code(), "time": time.time()}
    try:
        settings = Settings.from_environment()
        store = open_store(settings)
        with store.lock_if_free(lock) as free:
            said |= {"lock_is_refused": not free}
        said |= {"store": settings.store_address, "precision": settings.precision, "unreadable": _unreadable(store)}
        said["identity"] = store.place.identity
        said["sees"] = store.document(FOLDER, lock).read() == FROM_THE_DESK
        said["wrote"] = f"{lock} {said['host']} {os.getpid()}"
        store.document(FOLDER, said["wrote"]).write(b"from a node")
        if not os.access(settings.data, os.R_OK | os.X_OK):
            said["unreadable"].append(f"RKD_DATA={settings.data}")
    except RkdError as error:
        said["error"] = str(error)
    return said


def _unreadable(store: Store) -> list[str]:
    own = targets_in(store).entries()
    return [f"the images of {name}, {entry.path}" for name, entry in own.items() if not os.access(entry.path, os.R_OK)]


if __name__ == "__main__":
    print(MARK + json.dumps(report(sys.argv[1])), flush=True)
