"""/chain/networks/ and /chain/services/: what clients must know before they speak to a chain."""

import pytest

from chain.client.chain_config import Network as ClientNetwork
from tests.chain.api import made

pytestmark = pytest.mark.django_db


def test_everybody_reads_the_manifest(api, settings, manifest, local):
    reply = api().get("/chain/networks/local/")

    assert reply.status_code == 200
    said = reply.json()
    assert said["contracts"] == made.contracts()
    assert (said["chain_id"], said["confirmations"]) == (131277322940537, 3)
    assert said["file_url"] == f"{settings.PUBLIC_URL}/file/create"
    assert (said["head"], said["cursor"], said["lag"], said["final_block"]) == (100, 100, 0, 98)
    assert (said["is_default"], said["failing_since"], said["paused"]) == (True, None, False)
    assert api().get("/chain/networks/").json() == [said]
    assert api().get("/chain/networks/131277322940537").json() == said


def test_the_client_package_reads_it(api, settings, manifest, local):
    found = ClientNetwork.from_manifest(api().get("/chain/networks/local/").json())

    assert (found.name, found.chain_id, found.rpc_url) == (
        "local",
        131277322940537,
        "http://127.0.0.1:9/local",
    )
    assert (found.file_url, found.api_url) == (f"{settings.PUBLIC_URL}/file/create", settings.PUBLIC_URL)


@pytest.mark.parametrize("own", ["https://node.example/secret", "http://127.0.0.1:9/local"])
def test_a_node_of_ones_own_is_not_shown_but_the_manifests_public_one(api, settings, manifest, local, own):
    """Its URL may hold a secret."""
    settings.CHAIN_RPC_URL = own
    reply = api().get("/chain/networks/local/")

    assert reply.json()["rpc_url"] == "http://127.0.0.1:9/local"
    assert "secret" not in reply.content.decode()


def test_lag_and_failure_are_said(api, manifest):
    made.network(cursor_block=60, failing_since=made.AT)
    said = api().get("/chain/networks/local/").json()

    assert (said["lag"], said["failing_since"]) == (40, "2026-01-02T03:04:05Z")


@pytest.mark.parametrize("name", ["other", "1", "%00", "x" * 300])
def test_no_such_network(api, manifest, local, name):
    reply = api().get(f"/chain/networks/{name}/")
    assert reply.status_code == 404


def test_a_marketplace_without_chains_says_so(api, settings):
    settings.CHAIN_NETWORKS = []
    assert api().get("/chain/networks/").json() == []
    assert api().get("/chain/networks/local/").status_code == 404


def test_no_such_model(api):
    assert api().get("/chain/services/nobody/knows-it/").status_code == 404
