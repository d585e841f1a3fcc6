"""The join token, the credentials derived from it, and who gets in with them."""

import asyncio
import datetime
import multiprocessing
import os
import ssl
import stat
import subprocess
import sys

import dask
import pytest
from distributed import Client, Scheduler, Worker
from distributed.core import connect
from distributed.security import Security

from ract.core import security

TOKEN = "a-token-for-tests-0123456789"
OTHER = "another-token-for-tests-9876"


@pytest.fixture(autouse=True)
def own_home(tmp_path, monkeypatch):
    monkeypatch.setenv("RACT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("RACT_TOKEN", raising=False)
    return tmp_path / "home"


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


# --------------------------------------------------------------------------- the token


def test_token_is_created_once_and_private(own_home):
    token = security.load_or_create_token()
    assert len(token) >= 43
    assert security.load_or_create_token() == token
    assert mode(own_home / "token") == 0o600
    assert mode(own_home) == 0o700
    assert [p.name for p in own_home.iterdir()] == ["token"]


def test_explicit_file_comes_before_the_environment_and_that_before_home(tmp_path, monkeypatch):
    security.load_or_create_token()
    monkeypatch.setenv("RACT_TOKEN", TOKEN + "\n")
    assert security.load_or_create_token() == TOKEN
    path = tmp_path / "given"
    path.write_text(OTHER + "\n")
    path.chmod(0o600)
    assert security.load_or_create_token(path) == OTHER


@pytest.mark.parametrize("bits", [0o644, 0o640, 0o604, 0o660])
def test_token_file_open_to_others_is_refused(tmp_path, bits):
    path = tmp_path / "given"
    path.write_text(OTHER)
    path.chmod(bits)
    with pytest.raises(security.TokenError, match="chmod 600"):
        security.load_or_create_token(path)


@pytest.mark.parametrize("content", ["", "short", "words with many spaces in it", "ü" * 40])
def test_token_that_is_none_is_refused(tmp_path, content):
    path = tmp_path / "given"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(security.TokenError, match="given"):
        security.load_or_create_token(path)


def test_token_that_is_a_folder_is_refused(tmp_path):
    with pytest.raises(security.TokenError):
        security.load_or_create_token(tmp_path)


def test_who_joins_is_told_where_a_token_is_missing(own_home):
    with pytest.raises(security.TokenError, match="no join token"):
        security.load_token()
    assert not own_home.exists()
    token = security.load_or_create_token()
    assert security.load_token() == token


def _race(home, barrier, results):
    os.environ["RACT_HOME"] = home
    barrier.wait()
    results.put(security.load_or_create_token())


def test_processes_that_create_it_at_once_agree(own_home):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(6), context.Queue()
    children = [
        context.Process(target=_race, args=(str(own_home), barrier, results)) for _ in range(6)
    ]
    for child in children:
        child.start()
    tokens = {results.get(timeout=20) for _ in children}
    for child in children:
        child.join(20)
    assert len(tokens) == 1
    assert [p.name for p in own_home.iterdir()] == ["token"]


# --------------------------------------------------------------------------- credentials


def test_credentials_are_a_function_of_the_token(own_home):
    first = security.credentials(TOKEN)
    cache = own_home / "credentials" / f"{security.fingerprint(TOKEN)}.pem"
    assert mode(cache) == 0o600
    cache.unlink()
    assert security.credentials(TOKEN) == first
    assert security.credentials(OTHER) != first
    assert security.fingerprint(TOKEN) != security.fingerprint(OTHER)
    assert len(security.fingerprint(TOKEN)) == 16


def test_second_start_reads_the_cache_and_does_not_import_cryptography():
    first = security.credentials(TOKEN)
    script = (
        "import sys; from ract.core import security\n"
        f"certificate, key = security.credentials({TOKEN!r})\n"
        "assert 'cryptography' not in sys.modules\n"
        "print(certificate + key, end='')"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.stdout == "".join(first)


def test_damaged_or_open_cache_is_derived_again(own_home):
    first = security.credentials(TOKEN)
    cache = own_home / "credentials" / f"{security.fingerprint(TOKEN)}.pem"
    cache.write_text("nonsense")
    assert security.credentials(TOKEN) == first
    assert cache.read_text() == "".join(first)
    cache.chmod(0o644)
    assert security.credentials(TOKEN) == first
    assert mode(cache) == 0o600


def test_home_that_cannot_be_written_is_no_obstacle(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RACT_HOME", str(tmp_path / "file" / "below"))
    assert security.credentials(TOKEN)[0].startswith("-----BEGIN CERTIFICATE-----")


def test_certificate_is_long_lived_and_passes_strict_checks():
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(security.credentials(TOKEN)[0].encode())
    assert certificate.not_valid_after_utc.year == 2120
    assert certificate.not_valid_before_utc < datetime.datetime.now(datetime.UTC)
    certificate.verify_directly_issued_by(certificate)


# --------------------------------------------------------------------------- who gets in


def run(coroutine):
    return asyncio.run(asyncio.wait_for(coroutine, 30))


def quiet_scheduler():
    return Scheduler(protocol="tls://", host="127.0.0.1", port=0, dashboard=False)


def test_stock_scheduler_worker_and_client_need_only_the_configuration():
    async def story():
        with dask.config.set(security.security_config(TOKEN)):
            async with quiet_scheduler() as scheduler:
                assert scheduler.address.startswith("tls://")
                async with Worker(scheduler.address, nthreads=1, dashboard=False):
                    async with Client(scheduler.address, asynchronous=True) as client:
                        assert await client.submit(sum, [1, 2, 3]) == 6

    run(story())


async def with_other_certificate(address):
    with dask.config.set(security.security_config(OTHER)):
        arguments = Security().get_connection_args("client")
        comm = await connect(address, timeout=1, **arguments)
        return await comm.read()


async def with_no_certificate(address):
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = address.removeprefix("tls://").rsplit(":", 1)
    reader, _ = await asyncio.open_connection(host, int(port), ssl=context)
    return await reader.readexactly(1)


async def without_tls(address):
    """On a tcp:// port distributed would read frames like this one, and unpickle them."""
    host, port = address.removeprefix("tls://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(os.urandom(4096))
    await reader.read()  # whatever TLS has to say, then the end
    writer.close()
    raise ConnectionResetError


@pytest.mark.parametrize("intrude", [with_other_certificate, with_no_certificate, without_tls])
def test_peer_without_the_token_is_refused_and_the_cluster_goes_on(intrude):
    async def story():
        with dask.config.set(security.security_config(TOKEN)):
            async with quiet_scheduler() as scheduler:
                for _ in range(3):
                    with pytest.raises((OSError, asyncio.IncompleteReadError)):
                        await asyncio.wait_for(intrude(scheduler.address), 10)
                async with Client(scheduler.address, asynchronous=True) as client:
                    assert (await client.scheduler.identity())["address"] == scheduler.address

    run(story())


def test_plain_tcp_is_refused_by_the_configuration():
    async def story():
        with dask.config.set(security.security_config(TOKEN)):
            scheduler = Scheduler(protocol="tcp://", port=0, dashboard=False)
            with pytest.raises(RuntimeError) as raised:
                await scheduler
            assert "encryption required" in str(raised.value.__cause__)

    run(story())


def test_strict_verification_accepts_the_certificate(tmp_path):
    """What Python 3.13 does by default."""
    certificate, key = security.credentials(TOKEN)
    pem = tmp_path / "both.pem"
    pem.write_text(certificate + key)

    def context(side):
        made = ssl.SSLContext(side)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_REQUIRED
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        made.load_verify_locations(cadata=certificate)
        made.load_cert_chain(pem)
        return made

    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context(ssl.PROTOCOL_TLS_CLIENT).wrap_bio(to_client, to_server)
    server = context(ssl.PROTOCOL_TLS_SERVER).wrap_bio(to_server, to_client, server_side=True)
    done = set()
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
    assert done == {client, server}
