"""Airflow's simple auth manager, for people who may see Dags and their runs, but no XCom."""

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class WithoutXComs(SimpleAuthManager):
    """Lets nobody read XComs."""

    def is_authorized_dag(self, *, method, user, access_entity=None, details=None):
        if access_entity is DagAccessEntity.XCOM:
            return False
        return super().is_authorized_dag(
            method=method, user=user, access_entity=access_entity, details=details
        )
