"""Everything that Django answers. What waits for nodes is answered before it, by marketplace.asgi."""

from typing import Any

from django.contrib import admin
from django.db import connection
from django.db.utils import Error as DatabaseError
from django.http import HttpRequest, HttpResponseRedirect, JsonResponse
from django.urls import path, re_path

import chain.urls
import clients.urls
import finetune.urls
import gpus.api.hot_path
import gpus.urls
import inference.api.hot_path
import inference.urls
from clients.admin import trial_balance
from marketplace import errors, swagger


def home(request: HttpRequest) -> HttpResponseRedirect:
    return HttpResponseRedirect("/swagger/")


def health(request: HttpRequest) -> JsonResponse:
    """Whether this process answers and reaches its database."""
    try:
        connection.ensure_connection()
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError:
        return JsonResponse({"status": "unavailable", "database": "away"}, status=503)
    return JsonResponse({"status": "ok"})


_api: list[Any] = [
    *clients.urls.urlpatterns,
    *gpus.urls.urlpatterns,
    *inference.urls.urlpatterns,
    *finetune.urls.urlpatterns,
    *chain.urls.urlpatterns,
]
_schema = swagger.schema_view([*inference.api.hot_path.patterns, *gpus.api.hot_path.patterns, *_api])

urlpatterns = [
    path("", home),
    path("healthz", health),
    path("admin/trial-balance/", admin.site.admin_view(trial_balance.page), name="trial_balance"),
    path("admin/", admin.site.urls),
    re_path(r"^swagger\.(?P<format>json|yaml)$", _schema.without_ui()),
    path("swagger/", _schema.with_ui("swagger")),
    path("redoc/", _schema.with_ui("redoc")),
    *_api,
]

handler400 = errors.bad_request
handler403 = errors.permission_denied
handler404 = errors.not_found
handler500 = errors.server_error
