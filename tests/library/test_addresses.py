"""Ports: what a server could listen on, found by listening there."""

import socket
from collections.abc import Iterator

import pytest

from rkd_pipeline.addresses import port_fault


@pytest.fixture
def busy() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_is_free_or_taken(busy: int) -> None:
    assert f"port {busy} of 127.0.0.1 is taken" in port_fault("127.0.0.1", busy)
    assert "is taken" in port_fault("0.0.0.0", busy)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    assert port_fault("127.0.0.1", free) == ""


def test_a_port_whose_last_connection_is_still_closing_is_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the server's side closes first, and waits
    assert port_fault("127.0.0.1", port) == ""


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 0), ("127.0.0.1", 70000)])
def test_numbers_that_are_no_ports(host: str, port: int) -> None:
    assert "from 1 to 65535" in port_fault(host, port)


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no.such.host.invalid"]
)  # a documentation network's, and a reserved name
def test_an_address_of_another_machine(host: str) -> None:
    assert "--host" in port_fault(host, 3000)
