"""Short waits, orgs of which nothing is known, and clients whose secrets are."""

from contextlib import contextmanager
from dataclasses import replace
from weakref import WeakKeyDictionary

import tenacity

from airflow_provider_agentforce.client import AgentforceClient
from airflow_provider_agentforce.client.org_state import forget_orgs
from airflow_provider_agentforce.client.timing import Timing, use_timing

QUICK = Timing(back_off=tenacity.wait_fixed(0.01), record_delay=0.01, start_pause=0.01)


@contextmanager
def quick_process(**replaced):
    """Wait a moment instead of seconds between attempts, and forget what other tests used up."""
    forget_orgs()
    with use_timing(replace(QUICK, **replaced)):
        yield
    forget_orgs()


_secrets = WeakKeyDictionary()


def watched_client(settings, *, on_secret=lambda _: None, **options):
    """Return a client whose secrets :func:`secrets_of` knows."""
    came = set()

    def note(secret):
        came.add(secret)
        on_secret(secret)

    client = AgentforceClient(settings, on_secret=note, **options)
    _secrets[client] = came
    return client


def secrets_of(client):
    """Return what the client has said is secret: its tokens in all their forms."""
    return set(_secrets.get(client, ()))


def fields_of(org, **replaced):
    """Return the settings of a client of an emulator, as keyword arguments."""
    return {
        "host": org.url,
        "consumer_key": org.consumer_key,
        "consumer_secret": org.consumer_secret,
        "agent_id": org.agent_id,
        "api_url": org.url,
        **replaced,
    }
