"""The contracts have the ABI that the published clients know."""

from pathlib import Path

import pytest
from eth_utils import keccak

from chain.contracts import NAMES, artifact
from tests.chain.contracts.evm import topic
from tests.chain.contracts.signatures import lines

ORIGINALS = Path(__file__).parent / "originals.txt"
OURS = {"Treasury", "Receipts"}


def originals() -> dict[str, set[str]]:
    sections = ORIGINALS.read_text().split("\n[")[1:]
    named = (section.split("]\n") for section in sections)
    return {name: set(entries.splitlines()) - {""} for name, entries in named}


def test_there_is_an_original_for_each_contract_that_is_not_ours_alone() -> None:
    assert set(originals()) == set(NAMES) - OURS
    assert {name: len(entries) for name, entries in originals().items()} == {
        "Nexus": 45,
        "Controller": 16,
        "Terminal": 39,
        "Vault": 44,
        "Manager": 16,
        "Source": 27,
        "Task": 29,
        "Response": 15,
    }


@pytest.mark.parametrize("name", sorted(set(NAMES) - OURS))
def test_every_entry_of_the_original_is_in_ours(name: str) -> None:
    assert originals()[name] - lines(artifact(name).abi) == set()


@pytest.mark.parametrize("name", sorted(set(NAMES) - OURS))
def test_what_is_more_does_not_overload_what_was_there(name: str) -> None:
    names = [entry["name"] for entry in artifact(name).abi if "name" in entry]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", NAMES)
def test_no_two_functions_share_a_selector(name: str) -> None:
    functions = [entry for entry in artifact(name).abi if entry["type"] == "function"]
    assert len({topic(entry)[:4] for entry in functions}) == len(functions)


def test_the_topics_of_the_events_are_the_ones_on_the_networks() -> None:
    published = next(entry for entry in artifact("Nexus").abi if entry.get("name") == "SourceUpdated")
    # https://docs.soliditylang.org/en/latest/abi-spec.html#events; the value is from the fact sheet of the SDK.
    assert topic(published).hex() == "5f9bf4e8a1679156115361af50849b7807ce9be1880b79fc30ded34053274895"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Treasury", "function withdraw(bytes32 reference, address to, uint256 amount) nonpayable"),
        ("Treasury", "function deposit(uint256 account) payable"),
        ("Treasury", "event Deposited(uint256 indexed account, address indexed sender, uint256 amount)"),
        ("Treasury", "event Funded(address indexed sender, uint256 amount)"),
        (
            "Treasury",
            "event Withdrawn(bytes32 indexed reference, address indexed to, uint256 amount, bool sent)",
        ),
        ("Treasury", "event Claimed(address indexed to, uint256 amount)"),
        ("Treasury", "event Recovered(address indexed to, uint256 amount)"),
        (
            "Treasury",
            "event OwnershipTransferStarted(address indexed previousOwner, address indexed newOwner)",
        ),
        ("Receipts", "event RootPublished(uint256 indexed batch, bytes32 root)"),
        ("Receipts", "function rootOf(uint256) view returns (bytes32)"),
        ("Receipts", "function publish(uint256 batch, bytes32 root) nonpayable"),
    ],
)
def test_our_own_contracts_say_what_the_marketplace_reads(name: str, expected: str) -> None:
    assert expected in lines(artifact(name).abi)


def test_the_roles_are_the_hashes_of_their_names() -> None:
    assert keccak(text="CONTROLLER").hex() in artifact("Manager").bytecode
