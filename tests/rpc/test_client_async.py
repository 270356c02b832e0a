"""What only the asyncio client can do: many calls at a time on one loop, and giving up on one."""

import asyncio

import pytest

import milliseek
from milliseek.client import AsyncClient
from milliseek.errors import NotFound

TARGET = "local/onnxruntime/int8"


def test_many_calls_at_a_time(server, backend):
    async def ask():
        async with AsyncClient(server.address, timeout_s=30) as client:
            sha256s = await asyncio.gather(*(client.upload(bytes([i]) * 100 * (i + 1)) for i in range(20)))
            return await asyncio.gather(*(client.predict(sha256, TARGET) for sha256 in sha256s))

    assert [prediction.latency_ms for prediction in asyncio.run(ask())] == [(i + 1) / 10 for i in range(20)]


def test_giving_up_on_a_call_leaves_the_others(server, backend):
    async def ask():
        async with AsyncClient(server.address, timeout_s=30) as client:
            slow = asyncio.create_task(client.latency_table("small32", "slow"))
            await asyncio.to_thread(backend.entered.wait, 30)
            slow.cancel()
            with pytest.raises(asyncio.CancelledError):
                await slow
            with pytest.raises(NotFound):
                await client.predict("0" * 64, TARGET)
            return await client.targets()

    assert asyncio.run(ask())
    backend.release.set()


def test_a_client_that_never_asked_can_be_closed():
    async def nothing():
        async with AsyncClient("127.0.0.1:1"):
            pass

    asyncio.run(nothing())


def test_the_package_offers_both_clients():
    assert milliseek.AsyncClient is AsyncClient
    assert milliseek.Client is milliseek.client.Client
    with pytest.raises(AttributeError, match="no attribute 'LatencyClient'"):
        _ = milliseek.LatencyClient
