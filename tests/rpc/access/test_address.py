"""The service listens on this machine only, unless it has TLS and tokens."""

import socket

import pytest

from milliseek.errors import Busy, InvalidInput
from milliseek.rpc.access.address import check_exposure, parse_address
from milliseek.rpc.server import serve


@pytest.mark.parametrize(
    ("written", "bound"),
    [
        ("127.0.0.1:50051", "127.0.0.1:50051"),
        ("127.8.9.1:0", "127.8.9.1:0"),
        ("[::1]:80", "[::1]:80"),
        ("::1:80", "[::1]:80"),
        ("localhost:65535", "127.0.0.1:65535"),
    ],
)
def test_loopback(written, bound):
    address = parse_address(written)
    assert (str(address), address.loopback) == (bound, True)
    check_exposure(address, tls=False, tokens=False)


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:50051", "192.168.1.7:50051", "8.8.8.8:1"])
def test_other_interfaces_are_refused_with_the_reason_and_a_way_out(new_backend, address):
    with pytest.raises(InvalidInput, match="without a TLS certificate with its key and tokens") as refused:
        serve(new_backend(), address)
    assert address in refused.value.message
    assert "ssh -L" in refused.value.remedy


def test_a_name_of_another_machine_is_refused(monkeypatch):
    entry = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("93.184.216.34", 0))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry])
    address = parse_address("example.org:1")
    with pytest.raises(InvalidInput, match="without a TLS certificate"):
        check_exposure(address, tls=False, tokens=True)
    with pytest.raises(InvalidInput, match="without tokens"):
        check_exposure(address, tls=True, tokens=False)
    check_exposure(address, tls=True, tokens=True)


def test_a_name_that_nobody_knows(monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InvalidInput, match="cannot be found"):
        parse_address("nowhere.invalid:1")


@pytest.mark.parametrize(
    "address", ["", ":50051", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:http", "h:-1"]
)
def test_not_an_address(address):
    with pytest.raises(InvalidInput, match="is not an address"):
        parse_address(address)


def test_a_taken_port(new_backend):
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(Busy, match=f"cannot listen on {address}"):
            serve(new_backend(), address)


def test_a_second_server_on_the_port_of_the_first(server, new_backend):
    with pytest.raises(Busy, match="cannot listen on"):
        serve(new_backend(), server.address)
