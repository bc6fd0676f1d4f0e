"""Terminal: masters and providers"""

import pytest

from tests.chain.contracts.evm import NOBODY, Contract, refused
from tests.chain.contracts.world import COIN, World


def paired(world: World, provider: str, master: str) -> bool:
    terminal = world.terminal
    return (
        terminal.masterOf(provider) == terminal.getMasterOf(provider) == master
        and terminal.providerOf(master) == provider
        and terminal.isProvider(provider)
        and terminal.isMaster(master)
        and terminal.getIsMaster(master)
    )


def test_master_and_provider_name_each_other(world: World) -> None:
    world.terminal.announceProvider(world.bob, 3 * COIN, sender=world.mary, value=3 * COIN)
    assert world.terminal.announcedBy(world.mary) == world.bob
    assert world.terminal.masterOf(world.bob) == world.terminal.providerOf(world.mary) == NOBODY
    assert not world.terminal.isProvider(world.bob)
    assert [event.name for event in world.terminal.events] == ["ProviderAnnounced", "Deposited", "Locked"]
    assert world.terminal.event("ProviderAnnounced").arguments == {
        "provider": world.bob,
        "master": world.mary,
    }
    world.terminal.announceMaster(world.mary, sender=world.bob)
    assert world.terminal.event("MasterAnnounced").arguments == {"provider": world.bob, "master": world.mary}
    assert paired(world, world.bob, world.mary)


def test_the_stake_that_comes_along_belongs_to_the_provider(world: World) -> None:
    world.pair(world.bob, world.mary, 3 * COIN)
    vault = world.vault
    assert (vault.lockupOf(world.bob), vault.lockupOf(world.mary)) == (3 * COIN, 0)
    assert vault.totalOwed() == vault.balance == 3 * COIN
    vault.unbond(3 * COIN, sender=world.bob)


@pytest.mark.parametrize(("amount", "value"), [(1, 0), (0, 1), (5, 6)])
def test_the_amount_is_what_is_sent(world: World, amount: int, value: int) -> None:
    with refused("AmountMismatch"):
        world.terminal.announceProvider(world.bob, amount, sender=world.mary, value=value)


def test_announcing_again_adds_to_the_stake(world: World) -> None:
    world.pair(world.bob, world.mary, COIN)
    world.terminal.announceProvider(world.bob, COIN, sender=world.mary, value=COIN)
    assert world.vault.lockupOf(world.bob) == 2 * COIN
    assert paired(world, world.bob, world.mary)


def test_an_account_may_be_its_own_master(world: World) -> None:
    world.pair(world.bob, world.bob, COIN)
    assert paired(world, world.bob, world.bob)


def test_only_the_announced_provider_accepts(world: World) -> None:
    world.terminal.announceProvider(world.bob, 0, sender=world.mary)
    with refused("NotProvider"):
        world.terminal.announceMaster(world.mary, sender=world.charlie)
    with refused("NotProvider"):
        world.terminal.announceMaster(world.charlie, sender=world.bob)
    with refused("NotProvider"):
        world.terminal.announceMaster(NOBODY, sender=world.bob)


def test_a_pair_is_one_master_and_one_provider(world: World) -> None:
    world.terminal.announceProvider(world.bob, 0, sender=world.charlie)
    world.pair(world.bob, world.mary)
    for refusal in (
        lambda: world.terminal.announceProvider(world.alice, 0, sender=world.mary),
        lambda: world.terminal.announceProvider(world.bob, 0, sender=world.charlie),
        lambda: world.terminal.announceMaster(world.charlie, sender=world.bob),
        lambda: world.terminal.announceMaster(world.mary, sender=world.bob),
    ):
        with refused("AlreadyPaired"):
            refusal()


def test_a_master_may_change_its_mind_before_the_provider_has_answered(world: World) -> None:
    world.terminal.announceProvider(world.bob, 0, sender=world.mary)
    world.terminal.announceProvider(world.charlie, 0, sender=world.mary)
    with refused("NotProvider"):
        world.terminal.announceMaster(world.mary, sender=world.bob)
    world.terminal.announceMaster(world.mary, sender=world.charlie)


def test_the_master_ends_it(world: World) -> None:
    world.pair(world.bob, world.mary)
    world.terminal.removeProvider(world.bob, sender=world.mary)
    assert world.terminal.event("ProviderRemoved").arguments == {"provider": world.bob}
    assert world.terminal.masterOf(world.bob) == world.terminal.providerOf(world.mary) == NOBODY
    assert not world.terminal.isProvider(world.bob)
    assert not world.terminal.isMaster(world.mary)
    with refused("NotProvider"):
        world.terminal.announceMaster(world.mary, sender=world.bob)
    world.pair(world.bob, world.charlie)


def test_the_master_takes_back_an_announcement(world: World) -> None:
    world.terminal.announceProvider(world.bob, 0, sender=world.mary)
    world.terminal.removeProvider(world.bob, sender=world.mary)
    with refused("NotProvider"):
        world.terminal.announceMaster(world.mary, sender=world.bob)


def test_an_announcement_taken_back_does_not_part_another_pair(world: World) -> None:
    world.terminal.announceProvider(world.bob, 0, sender=world.charlie)
    world.pair(world.bob, world.mary)
    world.terminal.removeProvider(world.bob, sender=world.charlie)
    assert paired(world, world.bob, world.mary)


@pytest.mark.parametrize("who", ["bob", "charlie", "deployer"])
def test_nobody_else_ends_it(world: World, who: str) -> None:
    world.pair(world.bob, world.mary)
    with refused("NotMaster"):
        world.terminal.removeProvider(world.bob, sender=getattr(world, who))
    with refused("NotMaster"):
        world.terminal.removeContainer(world.bob, world.alice, sender=getattr(world, who))


def test_nobody_is_no_provider(world: World) -> None:
    with refused("ZeroAddress"):
        world.terminal.announceProvider(NOBODY, 0, sender=world.mary)
    with refused("ZeroAddress"):
        world.terminal.removeProvider(NOBODY, sender=world.mary)


def test_a_master_has_a_container_removed(world: World, source: Contract) -> None:
    world.pair(world.bob, world.mary)
    world.terminal.removeContainer(world.bob, source, sender=world.mary)
    assert world.terminal.event("RemoveContainer").arguments == {
        "provider": world.bob,
        "source": source.address,
    }


def test_clients_and_masters_have_agents(world: World) -> None:
    world.pair(world.bob, world.mary)
    for principal in (world.alice, world.mary):
        world.terminal.setAgent(world.charlie, True, sender=principal)
        assert world.terminal.event("AgentSet").arguments == {
            "account": principal,
            "agent": world.charlie,
            "value": True,
        }
        assert world.terminal.isAgentOf(principal, world.charlie)
        assert world.terminal.getIsAgentOf(principal, world.charlie)
        assert not world.terminal.isAgentOf(world.charlie, principal)
        world.terminal.setAgent(world.charlie, False, sender=principal)
        assert not world.terminal.isAgentOf(principal, world.charlie)


def test_a_provider_has_none_unless_it_is_a_master_too(world: World) -> None:
    world.pair(world.bob, world.mary)
    with refused("NotMaster"):
        world.terminal.setAgent(world.charlie, True, sender=world.bob)
    world.terminal.removeProvider(world.bob, sender=world.mary)
    world.pair(world.bob, world.bob)
    world.terminal.setAgent(world.charlie, True, sender=world.bob)


def test_an_account_describes_itself(world: World) -> None:
    terminal = world.terminal
    terminal.setBaseData("https://files.example/base.json", sender=world.bob)
    assert terminal.event("BaseDataUpdated").arguments == {"provider": world.bob}
    terminal.setLiveData("https://files.example/live.json", sender=world.bob)
    assert terminal.event("LiveDataUpdated").arguments == {"provider": world.bob}
    terminal.setDefaultAgentDisabled(True, sender=world.bob)
    assert terminal.event("DefaultAgentDisabled").arguments == {"master": world.bob, "value": True}
    assert terminal.baseDataOf(world.bob) == "https://files.example/base.json"
    assert terminal.liveDataOf(world.bob) == "https://files.example/live.json"
    assert terminal.defaultAgentDisabled(world.bob) is True
    assert terminal.defaultAgentDisabled(world.mary) is False
