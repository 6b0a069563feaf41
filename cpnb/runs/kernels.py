"""Kernels that end when they are asked to, and are interrupted only if they do not."""

from __future__ import annotations

import asyncio

from jupyter_client.manager import AsyncKernelManager

PATIENCE = 3.0  # seconds for a kernel to end by itself; an idle one takes a fraction of one


class EndsWhenAsked(AsyncKernelManager):
    """Does not interrupt an idle kernel before it shuts it down.

    `AsyncKernelManager` does. A run is over as soon as the last answer is there, when the kernel
    may still be about to finish its message: then it logs an error, though nothing went wrong.
    """

    async def _async_interrupt_kernel(self) -> None:
        if not (self.shutting_down and await self._ends_by_itself()):
            await super()._async_interrupt_kernel()

    async def _ends_by_itself(self) -> bool:
        await self._async_request_shutdown()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE
        while await self._async_is_alive():
            if loop.time() > deadline:
                return False  # in the midst of a cell
            await asyncio.sleep(0.05)
        return True
