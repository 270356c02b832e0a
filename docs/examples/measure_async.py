"""Measures model files on a device, while they are predicted: python measure_async.py HOST:PORT TARGET FILE...

The token, if the service asks for one, comes from MILLISEEK_TOKEN.
"""

import asyncio
import sys
from pathlib import Path

from milliseek import AsyncClient
from milliseek.errors import MilliseekError


async def main(address: str, target: str, *files: str) -> None:
    """Submit a job for each file, and set what comes out against what was predicted."""
    async with AsyncClient(address) as client:
        sha256s = await asyncio.gather(*(client.upload(Path(file)) for file in files))
        # With keys of our own, starting this program again finds the jobs that it submitted before.
        keys = [f"example-{sha256}-{target}"[:100] for sha256 in sha256s]
        jobs, predictions = await asyncio.gather(
            client.submit(sha256s, target, visits=3, keys=keys), client.predict_many(sha256s, target)
        )
        names = dict(zip([job.id for job in jobs], files, strict=True))
        predicted_ms = dict(zip(names, [prediction.latency_ms for prediction in predictions], strict=True))
        async for job in client.watch(jobs):
            print(f"{names[job.id]}: {job.state} {job.device} {job.failure}".rstrip())
            for visit in job.visits:
                flag = " (disturbed)" if visit.disturbed else ""
                print(f"    {visit.latency_ms:.3f} ms, predicted {predicted_ms[job.id]:.3f}{flag}")


if __name__ == "__main__":
    try:
        asyncio.run(main(*sys.argv[1:]))
    except MilliseekError as error:
        sys.exit(str(error))
