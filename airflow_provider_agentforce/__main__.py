"""``python -m airflow_provider_agentforce check`` checks a connection."""

from airflow_provider_agentforce.cli.check import main

if __name__ == "__main__":
    main()
