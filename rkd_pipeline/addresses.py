"""Addresses: as they may be shown, without what gives access; whether they are addresses; whether they are free."""

import errno
import re
import socket
from urllib.parse import urlsplit, urlunsplit


def shown(address: str) -> str:
    """Scheme, host and port of a web address: its user, password, path and query may be secrets.

    >>> shown("https://robot:s3cret@hooks.example.org:8443/T0/B0/key?token=1")
    'https://hooks.example.org:8443/...'
    >>> shown("http://127.0.0.1:5000")
    'http://127.0.0.1:5000'
    >>> shown("sqlite:///store/mlflow/mlflow.db")
    'sqlite:///store/mlflow/mlflow.db'
    >>> shown("postgresql://rkd:half/of:it@db.example.org/rkd")  # what ends the host early is no host
    'postgresql://...'
    """
    try:
        parts = urlsplit(address)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return f"{address.partition('://')[0]}://..."
    if not parts.netloc:
        return address  # a path on this machine
    if "@" in parts.path + parts.query + parts.fragment:
        return f"{parts.scheme}://..."  # its password has a letter that ends the host: what stands there is no host
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or ""
    rest = "/..." if parts.path.strip("/") or parts.query or parts.fragment else ""
    return f"{parts.scheme}://{host}{port}{rest}"


def database_fault(address: str) -> str:
    """What keeps an address from being a PostgreSQL database's; empty where nothing does. Nothing of it is repeated.

    >>> database_fault("postgresql://rkd:p%40ss@db.example.org:5432/rkd")
    ''
    >>> database_fault("postgresql://rkd:p@ss@db.example.org/rkd")
    'has a password with one of @ / ? # [ ] in it; write them as %40 %2F %3F %23 %5B %5D, or use PGPASSWORD or \
~/.pgpass'
    """
    access = address.partition("://")[2].rpartition("@")[0]
    if re.search(r"[@/?#\[\]]", access):
        escapes = "%40 %2F %3F %23 %5B %5D"
        return f"has a password with one of @ / ? # [ ] in it; write them as {escapes}, or use PGPASSWORD or ~/.pgpass"
    return ""


def browsable(address: str) -> str:
    """A web address as a link may hold it: with its path, without user, password, query and fragment.

    >>> browsable("https://robot:s3cret@mlflow.example.org:8443/team/?token=1")
    'https://mlflow.example.org:8443/team'
    >>> browsable("http://[::1]:5000")
    'http://[::1]:5000'
    """
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def web_fault(address: str) -> str:
    """What keeps an address from being a web address; empty where nothing does. The address itself is not repeated.

    >>> web_fault("localhost:5000")
    'begins with neither http:// nor https://'
    >>> web_fault("http://localhost:5000")
    ''
    """
    if not address.startswith(("http://", "https://")):
        return "begins with neither http:// nor https://"
    if re.search(r"\s", address):
        return "has a blank in it"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        return f"is no web address ({'the port is no number from 0 to 65535' if 'ort' in str(error) else error})"
    return "" if host else "names no host after http://"


def tracking_fault(address: str) -> str:
    """What keeps an address from being one of MLflow's tracking URIs, with the fix; empty where nothing does.

    >>> tracking_fault("localhost:5000")
    "begins with neither http:// nor https://; a server's address looks like http://localhost:5000, a database's like \
sqlite:////path/to/mlflow.db"
    >>> tracking_fault("postgresql+psycopg2://mlflow@db/mlflow")
    ''
    """
    scheme, is_url, _ = address.partition("://")
    scheme = scheme.lower()
    if re.fullmatch(r"databricks(-uc)?(:.*)?", scheme) or (is_url and scheme not in ("http", "https", "file")):
        return ""  # a database's, or one of those that MLflow's plug-ins bring
    if scheme == "file" or address.startswith(("/", "./", "file:")):
        fault = "is a folder, where MLflow keeps runs no more"
    else:
        fault = web_fault(address)
    example = "a server's address looks like http://localhost:5000, a database's like sqlite:////path/to/mlflow.db"
    return f"{fault}; {example}" if fault else ""


def bucket_fault(address: str) -> str:
    """What keeps an address from being one that machines can share, with the fix; empty where nothing does.

    >>> bucket_fault("s3://results/rkd")
    ''
    >>> bucket_fault("https://results.example.org")
    'begins with none of s3://, gs://, az://, file:///; a store is a folder, or an address such as s3://bucket/rkd'
    """
    scheme, _, rest = address.partition("://")
    example = "a store is a folder, or an address such as s3://bucket/rkd"
    if scheme == "file" and rest.startswith("/"):
        return ""
    if scheme not in ("s3", "gs", "az"):
        return f"begins with none of s3://, gs://, az://, file:///; {example}"
    if "@" in rest or "?" in rest:
        return f"holds more than bucket and prefix: who may come in is said in the environment (AWS_…); {example}"
    return "" if rest.partition("/")[0] else f"names no bucket; {example}"


def web_address(host: str, port: int) -> str:
    """Where a browser finds a server that listens there.

    >>> web_address("::1", 3000)
    'http://[::1]:3000'
    """
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def port_fault(host: str, port: int) -> str:
    """What keeps a server from listening there; empty where nothing does."""
    if not 0 < port < 65536:
        return f"{port} is no port: ports are numbers from 1 to 65535"
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return f"{host} is no host name or address that this machine knows (--host)"
    faults = [_bind_fault(family, place) for family, *_, place in places]
    taken = [fault for fault in faults if fault == errno.EADDRINUSE]
    if not taken and None in faults:  # a name may stand for addresses of which the machine has some only
        return ""
    if taken:
        return f"port {port} of {host} is taken by another program, maybe by another `rkd ui`"
    if errno.EACCES in faults:
        return f"port {port} of {host} is reserved: ports below 1024 often are"
    return f"{host} is no address of this machine (--host)"


def _bind_fault(family: int, place: tuple[object, ...]) -> int | None:
    """The error number of listening there; None where one can."""
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # As servers do: a port whose last connections are still closing counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        return error.errno
    return None
