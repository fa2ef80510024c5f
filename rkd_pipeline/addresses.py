"""Addresses as they may be shown: without what gives access."""

from urllib.parse import urlsplit, urlunsplit


def shown(address: str) -> str:
    """Scheme, host and port of a web address: its user, password, path and query may be secrets.

    >>> shown("https://robot:s3cret@hooks.example.org:8443/T0/B0/key?token=1")
    'https://hooks.example.org:8443/...'
    >>> shown("http://127.0.0.1:5000")
    'http://127.0.0.1:5000'
    >>> shown("sqlite:///store/mlflow/mlflow.db")
    'sqlite:///store/mlflow/mlflow.db'
    """
    parts = urlsplit(address)
    if not parts.netloc:
        return address  # a path on this machine
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    port = f":{parts.port}" if parts.port else ""
    rest = "/..." if parts.path.strip("/") or parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{port}{rest}"


def browsable(address: str) -> str:
    """A web address as a link may hold it: with its path, without user, password, query and fragment.

    >>> browsable("https://robot:s3cret@mlflow.example.org:8443/team/?token=1")
    'https://mlflow.example.org:8443/team'
    >>> browsable("http://[::1]:5000")
    'http://[::1]:5000'
    """
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))
