"""Running items through a pool of the server."""

import asyncio


def process_all(pool, items):
    """Process all items at once. Returns the result or the error of each."""

    async def all_at_once():
        return await asyncio.gather(*(pool.process(item) for item in items), return_exceptions=True)

    pool.start()
    try:
        return asyncio.run(all_at_once())
    finally:
        pool.close()
