"""Agentforce in Airflow's web pages, from Airflow 3.1 on.

``agentforce`` is the plugin: a tab on every Dag run, and on our tasks from Airflow 3.4 on. ``pages`` serves
the files behind the tab. They hold no data: in the browser, their script asks Airflow's REST API, which shows
each user only what that user may see. The tab shows what the tasks put into XCom for it.
"""
