"""What Airflow asks about a task that has failed. Needs Airflow 3.3 or later.

``retry`` takes the error of a try and gives the time of the next one. The errors come from the client by way
of the operators or the hook; nothing of the package imports what is in here, a Dag does.
"""
