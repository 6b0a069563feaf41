"""Kernels that end when they are asked to, and are interrupted only if they do not."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from traitlets import default

from cpnb.runs.progress import AS_TEXT
from cpnb.runs.records import RUN

PLACES = ("CPNB_DATA", "CPNB_RESULTS", "CPNB_CACHE")
SENDING = 10.0  # seconds for a message to leave; it is but put into a queue
PATIENCE = 3.0  # seconds for a kernel to end by itself; an idle one takes a fraction of one


class EndsWhenAsked(AsyncKernelManager):
    """Does not interrupt an idle kernel before it shuts it down, nor waits for ever to send.

    `AsyncKernelManager` does. A run is over as soon as the last answer is there, when the kernel
    may still be about to finish its message: then it logs an error, though nothing went wrong.
    """

    def client(self, **options):
        client = super().client(**options)
        # Where a kernel's port was taken, what answers there may be no kernel: it takes nothing.
        client.context.sndtimeo = int(1000 * SENDING)
        return client

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


class ThisInterpreter(EndsWhenAsked):
    """Starts kernels with the running interpreter, whatever kernel specs the user has installed."""

    given: dict = {}  # further variables of the kernel's environment

    @property
    def kernel_spec(self):
        # Kernels work in the notebook's folder: there a relative path would lead somewhere else.
        given = {name: os.environ[name] for name in PLACES if os.environ.get(name)} | self.given
        absolute = {k: str(Path(v).expanduser().absolute()) for k, v in given.items() if k != RUN}
        return KernelSpec(**get_kernel_dict(), env=given | absolute | {AS_TEXT: "1"})

    @default("transport_encryption")
    def _encrypt_where_the_installed_version_can(self):
        return "auto"
