"""From an Airflow connection to the Agent API."""
