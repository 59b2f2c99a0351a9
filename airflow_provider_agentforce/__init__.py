"""Apache Airflow provider for Salesforce Agentforce."""

__version__ = "0.1.0"
