"""Encrypted or not at all: what the service shows, and that plain text never leaves this machine."""

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest

from milliseek.client import Client
from milliseek.db.engine import Database
from milliseek.errors import InvalidInput, ServiceError
from milliseek.rpc.access.access import PLAIN, Access
from milliseek.rpc.access.live_tokens import LiveTokens
from milliseek.rpc.access.tls import TlsFiles
from milliseek.rpc.server import InProcessServer, serve
from milliseek.rpc.v1 import latency_pb2, latency_pb2_grpc

WAIT_S = 30


@pytest.fixture
def files(certificate, tmp_path):
    """Copies of the certificate and its key, which may be replaced."""
    copies = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    shutil.copy(certificate.cert_file, copies.certificate)
    shutil.copy(certificate.key_file, copies.key)
    return copies


def make_certificate(files):
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-keyout", files.key, "-out", files.certificate),
        ],
        check=True,
        capture_output=True,
    )


def code(address, ca_file):
    """The status code of a call over a new TLS connection."""
    credentials = grpc.ssl_channel_credentials(Path(ca_file).read_bytes())
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(address, credentials, options) as channel:
        try:
            latency_pb2_grpc.LatencyServiceStub(channel).ListTargets(latency_pb2.ListTargetsRequest(), timeout=WAIT_S)
        except grpc.RpcError as error:
            return error.code().name
        return "OK"


class TestEncrypted:
    def test_a_client_that_knows_the_certificate(self, backend, files):
        with (
            InProcessServer(backend, access=Access(files)) as server,
            Client(server.address, ca_file=str(files.certificate)) as client,
        ):
            assert client.targets()

    def test_plain_text_to_a_port_with_tls(self, backend, files):
        with (
            InProcessServer(backend, access=Access(files)) as server,
            Client(server.address) as client,
            pytest.raises(ServiceError),
        ):
            client.targets()

    def test_a_renewed_certificate_is_shown_to_the_next_client(self, backend, files, tmp_path):
        old = tmp_path / "old.pem"
        shutil.copy(files.certificate, old)
        with InProcessServer(backend, access=Access(files)) as server:
            assert code(server.address, old) == "OK"
            make_certificate(files)
            assert code(server.address, files.certificate) == "OK"
            assert code(server.address, old) == "UNAVAILABLE"

    @pytest.mark.parametrize("broken", ["half", "missing"])
    def test_a_renewal_that_is_not_finished_leaves_the_old_pair(self, backend, files, tmp_path, caplog, broken):
        old = tmp_path / "old.pem"
        shutil.copy(files.certificate, old)
        other = TlsFiles(tmp_path / "new.pem", tmp_path / "new.key")
        make_certificate(other)
        with InProcessServer(backend, access=Access(files)) as server:
            if broken == "half":
                shutil.copy(other.certificate, files.certificate)
            else:
                files.certificate.unlink()
            assert code(server.address, old) == "OK"
            assert "the last one stays in use" in caplog.text
            shutil.copy(other.certificate, files.certificate)
            shutil.copy(other.key, files.key)
            assert code(server.address, other.certificate) == "OK"


class TestFiles:
    def test_a_missing_file_is_named(self, files):
        files.key.unlink()
        with pytest.raises(InvalidInput, match=r"key\.pem' cannot be read"):
            files.pair()

    def test_a_key_of_another_certificate(self, files, tmp_path):
        other = TlsFiles(tmp_path / "new.pem", tmp_path / "new.key")
        make_certificate(other)
        with pytest.raises(InvalidInput, match="are not a certificate and its key"):
            TlsFiles(files.certificate, other.key).pair()

    def test_no_pem_at_all(self, files):
        files.certificate.write_text("hello")
        with pytest.raises(InvalidInput, match="are not a certificate and its key"):
            files.pair()

    def test_a_key_with_a_password_is_refused_without_asking_for_it(self, files):
        locked = files.key.with_name("locked.pem")
        command = ("openssl", "pkey", "-in", files.key, "-aes256", "-passout", "pass:secret", "-out", locked)
        subprocess.run(command, check=True, capture_output=True)
        with pytest.raises(InvalidInput, match="has a password"):
            TlsFiles(files.certificate, locked).pair()


@pytest.fixture
def tokens(tmp_path):
    database = Database.open(f"sqlite:///{tmp_path / 'milliseek.db'}")
    yield database
    database.close()


class TestOutsideLoopback:
    @pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
    def test_every_lack_is_named(self, backend, files, tokens, address):
        lacks = {
            "a TLS certificate with its key and tokens": PLAIN,
            "a TLS certificate with its key": Access(tokens=LiveTokens(tokens)),
            "tokens": Access(files),
        }
        for lack, access in lacks.items():
            with pytest.raises(InvalidInput, match=f"without {lack}: "):
                serve(backend, address, access=access)
