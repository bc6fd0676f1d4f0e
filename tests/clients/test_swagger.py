"""What Swagger says of the accounts."""

import pytest
from drf_yasg import openapi
from drf_yasg.generators import OpenAPISchemaGenerator

from clients.urls import urlpatterns


@pytest.fixture(scope="module")
def paths():
    generator = OpenAPISchemaGenerator(openapi.Info(title="t", default_version="v1"), patterns=urlpatterns)
    return generator.get_schema(public=True).paths


@pytest.mark.parametrize(
    ("path", "method", "statuses"),
    [
        ("/client/register/", "post", {"201", "400", "429"}),
        ("/client/login/", "post", {"201", "400", "401", "429"}),
        ("/client/logout/", "post", {"201", "401", "404"}),
        ("/client/google-auth/", "post", {"201", "400", "401", "429"}),
        ("/client/password-reset/", "post", {"201", "400", "429"}),
        ("/client/reset-password/{uidb64}/{token}/", "post", {"201", "400", "429"}),
        ("/client/list/", "get", {"200", "401"}),
        ("/client/list/", "post", {"201", "400", "401", "403"}),
        ("/client/list/{id}/", "get", {"200", "401", "404"}),
        ("/client/list/{id}/", "put", {"200", "400", "401", "404"}),
        ("/client/list/{id}/", "patch", {"200", "400", "401", "404"}),
        ("/client/list/{id}/", "delete", {"204", "401", "404"}),
        ("/client/provider/", "post", {"201", "401", "403"}),
        ("/client/api-keys/", "post", {"201", "400", "401", "403", "409"}),
        ("/client/api-keys/{id}/", "delete", {"204", "401", "404"}),
        ("/client/tokens/{id}/", "delete", {"204", "401", "404"}),
        ("/client/limits/", "patch", {"200", "400", "401", "403"}),
        ("/client/wallets/", "post", {"201", "400", "401", "403", "409"}),
        ("/client/wallets/challenge/", "post", {"200", "400", "401", "403", "429"}),
        ("/client/wallets/{id}/", "delete", {"204", "401", "404"}),
        ("/auth/token", "post", {"200", "400", "401", "429"}),
        ("/account/balance", "get", {"200", "401"}),
        ("/account/transfer", "post", {"200", "400", "401", "402", "403", "404", "429"}),
        ("/account/transactions", "get", {"200", "400", "401"}),
        ("/account/payouts", "get", {"200", "400", "401"}),
        ("/account/payouts", "post", {"201", "400", "401", "402", "403", "409"}),
        ("/account/payouts/{id}", "get", {"200", "401", "404"}),
        ("/account/payouts/{id}", "delete", {"204", "401", "404", "409"}),
    ],
)
def test_every_endpoint_names_its_answers(paths, path, method, statuses):
    prefix = "" if path in paths else "/client"
    operation = paths.get(path) or paths[path.removeprefix(prefix)]
    assert statuses <= set(operation[method]["responses"])


def test_ids_are_numbers(paths):
    found = [
        parameter
        for name, item in paths.items()
        if "{id}" in name
        for parameter in item.get("parameters", [])
    ]
    assert found
    assert {parameter["type"] for parameter in found} == {"integer"}
