"""Short waits, and orgs of which nothing is known."""

from contextlib import contextmanager
from dataclasses import replace

import tenacity

from airflow_provider_agentforce.client.org_state import forget_orgs
from airflow_provider_agentforce.client.timing import Timing, use_timing

QUICK = Timing(back_off=tenacity.wait_fixed(0.01), record_delay=0.01)


@contextmanager
def quick_process(**replaced):
    """Wait a moment instead of seconds between attempts, and forget what other tests used up."""
    forget_orgs()
    with use_timing(replace(QUICK, **replaced)):
        yield
    forget_orgs()


def fields_of(org, **replaced):
    """Return the settings of a client of an emulator, as keyword arguments."""
    return {
        "host": org.url,
        "consumer_key": org.consumer_key,
        "consumer_secret": org.consumer_secret,
        "agent_id": org.agent_id,
        "api_url": org.url,
        "timeout": 5.0,
        **replaced,
    }
