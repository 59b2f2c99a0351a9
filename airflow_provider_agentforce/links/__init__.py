"""Links from a task in Airflow's pages to the org."""
