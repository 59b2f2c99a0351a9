"""Airflow's simple auth manager, for people whose rights are limited as other auth managers limit them."""

from airflow.api_fastapi.auth.managers.models.resource_details import AccessView, DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager


class LimitedPeople(SimpleAuthManager):
    """Lets the user ``reader`` read no XComs, and ``viewer`` see no plugins, as FAB's role Viewer does."""

    def is_authorized_dag(self, *, method, user, access_entity=None, details=None):
        if access_entity is DagAccessEntity.XCOM and user.username == "reader":
            return False
        return super().is_authorized_dag(
            method=method, user=user, access_entity=access_entity, details=details
        )

    def is_authorized_view(self, *, access_view, user):
        if access_view is AccessView.PLUGINS and user.username == "viewer":
            return False
        return super().is_authorized_view(access_view=access_view, user=user)
