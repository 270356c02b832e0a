"""How clients reach a service: over TLS or not, with a token or not."""

from concurrent import futures
from pathlib import Path

import grpc
import pytest

from milliseek.client import Endpoint
from milliseek.errors import InvalidInput, NotFound, ServiceError
from milliseek.rpc.v1 import latency_pb2, latency_pb2_grpc

SECRET = "ms_" + "s" * 43


class Targets(latency_pb2_grpc.LatencyServiceServicer):
    def __init__(self):
        self.authorizations = []

    def ListTargets(self, request, context):  # noqa: N802 - named as in the .proto
        self.authorizations.append(dict(context.invocation_metadata()).get("authorization"))
        return latency_pb2.ListTargetsResponse()


@pytest.fixture
def targets():
    return Targets()


@pytest.fixture
def tls_address(targets, certificate):
    pair = Path(certificate.key_file).read_bytes(), Path(certificate.cert_file).read_bytes()
    credentials = grpc.ssl_server_credentials([pair])
    server = grpc.server(futures.ThreadPoolExecutor(1))
    latency_pb2_grpc.add_LatencyServiceServicer_to_server(targets, server)
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.add_secure_port(f"127.0.0.2:{port}", credentials)
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    for name in ("MILLISEEK_TOKEN", "MILLISEEK_CA_FILE"):
        monkeypatch.delenv(name, raising=False)


def test_a_certificate_and_a_token(new_client, tls_address, targets, certificate):
    client = new_client(tls_address, ca_file=certificate.cert_file, token=SECRET)
    assert client.targets() == []
    assert targets.authorizations == [f"Bearer {SECRET}"]


def test_both_from_the_environment(new_client, tls_address, targets, certificate, monkeypatch):
    monkeypatch.setenv("MILLISEEK_TOKEN", f"{SECRET}\n")
    monkeypatch.setenv("MILLISEEK_CA_FILE", certificate.cert_file)
    assert new_client(tls_address, tls=True).targets() == []
    assert new_client(tls_address, tls=True, token="").targets() == []
    assert targets.authorizations == [f"Bearer {SECRET}", None]


def test_the_environment_asks_for_no_tls_here(new_client, server, certificate, monkeypatch):
    monkeypatch.setenv("MILLISEEK_CA_FILE", certificate.cert_file)
    assert new_client(server.address).targets()


def test_a_certificate_that_nobody_vouches_for(new_client, tls_address, targets):
    client = new_client(tls_address, tls=True, token=SECRET)
    with pytest.raises(ServiceError, match="cannot show that it is the one") as raised:
        client.targets()
    assert "ca_file" in raised.value.remedy
    assert not targets.authorizations


def test_a_certificate_of_another_name(new_client, tls_address, certificate):
    port = tls_address.rpartition(":")[2]
    with pytest.raises(ServiceError, match=r"at 127\.0\.0\.2:[0-9]+ cannot show that"):
        new_client(f"127.0.0.2:{port}", ca_file=certificate.cert_file).targets()


def test_plain_text_to_a_service_with_tls(new_client, tls_address):
    with pytest.raises(ServiceError, match="No latency service answers at"):
        new_client(tls_address, timeout_s=5).targets()


def test_tls_to_a_service_without(server, new_client, certificate):
    with pytest.raises(ServiceError, match="cannot show that"):
        new_client(server.address, ca_file=certificate.cert_file, timeout_s=5).targets()


@pytest.mark.parametrize(
    ("address", "tls"),
    [
        ("127.0.0.1:1", False),
        ("127.9.9.9:1", False),
        ("[::1]:1", False),
        ("localhost:1", False),
        ("192.168.1.7:1", True),
        ("localhost.example.org:1", True),
        ("0.0.0.0:1", True),
        ("[2001:db8::1]:1", True),
    ],
)
def test_tls_is_for_other_machines(address, tls):
    endpoint = Endpoint(address, token=SECRET)
    assert endpoint.tls is tls
    assert endpoint.metadata == (("authorization", f"Bearer {SECRET}"),)


@pytest.mark.parametrize("address", ["192.168.1.7:1", "example.org:443"])
def test_a_token_never_goes_to_another_machine_in_plain_text(new_client, address):
    with pytest.raises(InvalidInput, match=f"on the way to {address} could read the token") as raised:
        new_client(address, token=SECRET, tls=False)
    assert SECRET not in str(raised.value)
    assert new_client(address, tls=False)


@pytest.mark.parametrize("token", ["two words", "line\nbreak", "ü", "\0"])
def test_what_is_no_token(new_client, token):
    with pytest.raises(InvalidInput, match="characters that no token has") as raised:
        new_client("127.0.0.1:1", token=token)
    assert token not in str(raised.value)


def test_files_that_hold_no_certificates(tmp_path, certificate):
    with pytest.raises(NotFound, match=r"no file '.*gone\.pem'"):
        Endpoint("localhost:1", ca_file=tmp_path / "gone.pem")
    (tmp_path / "other.pem").write_bytes(b"\xff")
    for path in (tmp_path, tmp_path / "other.pem", certificate.key_file):
        with pytest.raises(InvalidInput, match="holds no certificates"):
            Endpoint("localhost:1", ca_file=path)
