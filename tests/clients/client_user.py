"""Someone who uses the clients that ``make test-clients`` has installed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import requests

HERE = Path(__file__).resolve().parent
CLIENTS = HERE.parents[1] / ".venv-clients"
NODE_MODULES = CLIENTS / "npm" / "node_modules"
# What a client must not ask the network for: news, updates, statistics.
QUIET = {
    "SF_DISABLE_TELEMETRY": "true",
    "SF_SKIP_NEW_VERSION_CHECK": "true",
    "SF_AUTOUPDATE_DISABLE": "true",
    "SF_DISABLE_LOG_FILE": "true",
    "SF_AGENT_TEST_POLLING_FREQUENCY_MS": "50",
}


class User:
    """Someone with a home, a project and a terminal, whose machine reaches Salesforce through a proxy."""

    def __init__(self, home, org, ca_file):
        self.home = home
        self.org = org
        bundle = str(ca_file)
        path = [NODE_MODULES / ".bin", NODE_MODULES / "node" / "bin", os.environ["PATH"]]
        self.environment = {
            "HOME": str(home),
            "PATH": os.pathsep.join(map(str, path)),
            "HTTPS_PROXY": org.proxy_url,
            "NODE_EXTRA_CA_CERTS": bundle,
            "REQUESTS_CA_BUNDLE": bundle,
            "SSL_CERT_FILE": bundle,
            "NODE_PATH": str(NODE_MODULES),
            **QUIET,
        }
        project = {"packageDirectories": [{"path": "force-app", "default": True}]}
        (home / "force-app").mkdir()
        (home / "sfdx-project.json").write_text(json.dumps(project))

    def run(self, *command, **environment):
        """Run a command, which has to succeed; return what it printed."""
        done = subprocess.run(
            list(map(str, command)),
            cwd=self.home,
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def log_in_sf(self):
        """Log in to the org with the ``sf`` command; its alias is ``emulator``."""
        url, app = self.org.url, (self.org.consumer_key, self.org.consumer_secret)
        answer = requests.post(
            f"{url}/services/oauth2/token",
            {"grant_type": "client_credentials"},
            auth=app,
            verify=self.environment["REQUESTS_CA_BUNDLE"],
            timeout=10,
        )
        login = ("org", "login", "access-token", "--instance-url", url, "--alias", "emulator", "--no-prompt")
        self.run("sf", *login, SF_ACCESS_TOKEN=answer.json()["access_token"])

    def log_in_named_user(self, username, private_key):
        """Log in as a named user, with the JWT-bearer flow."""
        app = ("--client-id", self.org.consumer_key, "--jwt-key-file", private_key)
        url = ("--instance-url", self.org.url)
        self.run("sf", "org", "login", "jwt", "--username", username, *app, *url)
