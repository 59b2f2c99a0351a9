import pytest

pytest_plugins = ["pytester"]

PLUGIN = "pytest_plugins = ['airflow_provider_agentforce.emulator.pytest_plugin']\n"


@pytest.fixture
def run(pytester, monkeypatch):
    pytester.makeconftest(PLUGIN)
    # Other people's plugins have no part in this, and cost seconds.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run_tests(code):
        pytester.makepyfile(code)
        return pytester.runpytest_inprocess("-p", "no:cacheprovider", "-W", "error")

    return run_tests


def test_each_test_gets_an_org_in_which_nothing_happened(run):
    result = run(
        """
        import json, os, requests

        def ask(org):
            form = {"grant_type": "client_credentials", "client_id": org.consumer_key,
                    "client_secret": org.consumer_secret}
            return requests.post(org.url + "/services/oauth2/token", data=form, timeout=5).status_code

        def test_first(agentforce_emulator):
            assert ask(agentforce_emulator) == 200
            assert agentforce_emulator.count("token") == 1
            agentforce_emulator.url_of_first = agentforce_emulator.url

        def test_second(agentforce_emulator, agentforce_connection):
            assert agentforce_emulator.count("token") == 0
            assert agentforce_emulator.url == agentforce_emulator.url_of_first
            assert agentforce_connection == "agentforce_default"
            connection = json.loads(os.environ["AIRFLOW_CONN_AGENTFORCE_DEFAULT"])
            assert connection["host"] == agentforce_emulator.url

        def test_third():
            assert "AIRFLOW_CONN_AGENTFORCE_DEFAULT" not in os.environ
        """
    )
    result.assert_outcomes(passed=3)


def test_an_unused_fault_fails_the_test_that_left_it(run):
    result = run(
        """
        def test_leaves_a_fault(agentforce_emulator):
            agentforce_emulator.fail("send", status=503)

        def test_fails_for_its_own_reason(agentforce_emulator):
            agentforce_emulator.fail("send", status=503)
            assert "own" == "reason"

        def test_is_not_blamed(agentforce_emulator):
            assert agentforce_emulator.unused_faults() == []
        """
    )
    result.assert_outcomes(passed=1, failed=2)
    result.stdout.fnmatch_lines(["*Programmed faults that no request met*send*503*", "*'own' == 'reason'*"])


def test_settings_can_be_overridden(pytester, run):
    pytester.makeconftest(
        PLUGIN
        + "import pytest\n"
        + "@pytest.fixture(scope='session')\n"
        + "def agentforce_emulator_settings():\n"
        + "    return {'script': {'greeting': 'mine'}}\n"
    )
    result = run(
        """
        from emulator_caller import Caller

        def test_script(agentforce_emulator):
            with Caller(agentforce_emulator) as caller:
                assert caller.login().start().json()["messages"][0]["message"] == "mine"
        """
    )
    result.assert_outcomes(passed=1)
