"""For clients that support only https and Salesforce's hosts: a local CA, and a proxy that redirects here."""

from __future__ import annotations

import asyncio
import contextlib
import ssl

_HEAD_END = b"\r\n\r\n"
_CHUNK = 65536
_SALESFORCE = (
    *("api.salesforce.com", "*.api.salesforce.com", "login.salesforce.com", "test.salesforce.com"),
    *("*.my.salesforce.com", "*.develop.my.salesforce.com", "*.sandbox.my.salesforce.com"),
)


def server_context(ca_file: str) -> ssl.SSLContext:
    """Return a context with a new certificate, for this machine and for Salesforce's hosts.

    :param ca_file: file for the certificate of the CA, in PEM.
    :raises OSError: it cannot be written.
    """
    # Not at the top: it imports cryptography, which plain HTTP does not need.
    import trustme  # noqa: PLC0415

    authority = trustme.CA(organization_name="agentforce-emulator")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "::1", *_SALESFORCE).configure_cert(context)
    authority.cert_pem.write_to_path(ca_file)
    return context


def is_salesforce(host: str) -> bool:
    """Return whether the proxy accepts ``host``."""
    return host.endswith(".salesforce.com")


class Proxy:
    """An HTTP proxy (CONNECT) that redirects Salesforce's hosts, and the org's own, to the org."""

    def __init__(self, host: str, port: int) -> None:
        self._org = (host, port)
        self._tunnels: set[asyncio.Task[None]] = set()
        self.port = 0

    async def start(self) -> asyncio.Server:
        """Serve on a free port of the org's address, in the running loop."""
        server = await asyncio.start_server(self._accept, self._org[0], 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def stop(self) -> None:
        """End every tunnel."""
        for tunnel in self._tunnels:
            tunnel.cancel()
        await asyncio.gather(*self._tunnels, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tunnel = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tunnels.add(tunnel)
        tunnel.add_done_callback(self._tunnels.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError),
            contextlib.closing(writer),
        ):
            head = await reader.readuntil(_HEAD_END)
            method, _, rest = head.decode("latin-1").partition(" ")
            host, _, port = rest.partition(" ")[0].rpartition(":")
            if method != "CONNECT" or not (is_salesforce(host) or int(port) == self._org[1]):
                writer.write(b"HTTP/1.1 403 Only for Salesforce" + _HEAD_END)
                await writer.drain()
                return
            there, to_org = await asyncio.open_connection(*self._org)
            with contextlib.closing(to_org):
                writer.write(b"HTTP/1.1 200 Connection established" + _HEAD_END)
                await asyncio.gather(_copy(reader, to_org), _copy(there, writer))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK):
        target.write(data)
        await target.drain()
    target.close()
