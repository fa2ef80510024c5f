"""Addresses as they may be shown: without what gives access."""

from urllib.parse import urlsplit


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
