"""HTTP/1.1 for the client: ``requests`` in front, ``h11`` on the wire, sockets that belong to this package.

An :class:`Exchange` goes over a :class:`Transport`, whose ``requests.Session`` passes it to the adapter. It
takes a :class:`~.connection.Connection` from the pool or opens one along a :class:`~.routes.Route`. Bytes go
down the same way, and events of h11 come back up. Nothing outside knows that sockets exist.
"""

from airflow_provider_agentforce.client.transport.errors import TransportError
from airflow_provider_agentforce.client.transport.exchange import Exchange
from airflow_provider_agentforce.client.transport.transport import Transport

__all__ = ["Exchange", "Transport", "TransportError"]
