"""A TCP proxy that stands between fastdb and a server, and goes wrong as a network does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

from tests.databases import dialect_of

PORTS = {"postgresql": 5432, "mysql": 3306}

#: Closing a socket with this option on sends RST instead of FIN.
_LINGER_NOT = struct.pack("ii", 1, 0)


class Link:
    """One connection through the proxy: a pipe to the server and one back."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client = client
        self.server = server
        #: Bytes that still come through from the server before the link is cut; None: any number.
        self.budget: int | None = None

    def cut(self, *, reset: bool) -> None:
        """End both sides at once, with RST or with FIN."""
        for writer in (self.client, self.server):
            if writer.transport.is_closing():
                continue
            if reset:
                with contextlib.suppress(OSError):
                    peer = writer.get_extra_info("socket")
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
                writer.transport.abort()
            else:
                writer.close()


class Proxy:
    """Forward connections to the server of a URL, with faults that tests switch on.

    Attributes:
        url: The URL by which fastdb reaches the server through the proxy.
        latency: Seconds that each piece of data is held up, in both directions.
        links: The connections that are open.
        accepted: How many connections came.
        refuses: Whether new connections are closed as soon as they are accepted.
        budget: Bytes of the server that come through on each new link before it is cut.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname or "127.0.0.1", parts.port or PORTS[dialect_of(url)]
        self._parts = parts
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._listener: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.latency = 0.0
        self.links: set[Link] = set()
        self.accepted = 0
        self.refuses = False
        self.budget: int | None = None

    async def __aenter__(self) -> Proxy:
        """Listen."""
        await self.listen(0)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cut all that is left."""
        self.stop_listening()
        self.cut()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def listen(self, port: int | None = None) -> None:
        """Accept connections, on the port of before unless one is given."""
        if port is None:
            port = urlsplit(self.url).port
        self._listener = await asyncio.start_server(self._serve, "127.0.0.1", port)
        port = self._listener.sockets[0].getsockname()[1]
        userinfo, at, _ = self._parts.netloc.rpartition("@")
        self.url = urlunsplit(self._parts._replace(netloc=f"{userinfo}{at}127.0.0.1:{port}"))

    def stop_listening(self) -> None:
        """Let nobody connect: the port is closed. Links that are open stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    # -- faults

    def stall(self) -> None:
        """Let nothing through, in either direction, and close nothing: a half-open network."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let through what is held up, and all that follows."""
        self._flowing.set()

    def cut(self, *, reset: bool = True) -> int:
        """Cut every link, with RST or else with FIN; return how many there were."""
        links = list(self.links)
        for link in links:
            link.cut(reset=reset)
        return len(links)

    def cut_after(self, size: int) -> None:
        """Let `size` further bytes of the server through on each open link, then cut it by FIN."""
        for link in self.links:
            link.budget = size

    # -- forwarding

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.accepted += 1
        link: Link | None = None
        try:
            if self.refuses:
                return
            await self._flowing.wait()
            from_server, to_server = await asyncio.open_connection(*self._target)
            link = Link(writer, to_server)
            link.budget = self.budget
            self.links.add(link)
            await asyncio.gather(
                self._pump(link, reader, to_server, counted=False),
                self._pump(link, from_server, writer, counted=True),
            )
        except (OSError, asyncio.CancelledError):
            pass  # a client or a server that went away; or the end of the test
        finally:
            if link is not None:
                link.cut(reset=False)
                self.links.discard(link)
            writer.close()
            self._tasks.discard(task)

    async def _pump(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        counted: bool,
    ) -> None:
        while data := await reader.read(1 << 16):
            if self.latency:
                await asyncio.sleep(self.latency)
            await self._flowing.wait()
            if counted and link.budget is not None:
                data, link.budget = data[: link.budget], max(link.budget - len(data), 0)
            writer.write(data)
            await writer.drain()
            if counted and link.budget == 0:
                break
        link.cut(reset=False)
