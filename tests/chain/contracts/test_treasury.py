"""Treasury"""

import boa
import pytest
from eth_abi import encode
from eth_utils import keccak

from tests.chain.contracts import receivers
from tests.chain.contracts.evm import NOBODY, Contract, Refused, create_from_source, refused
from tests.chain.contracts.world import COIN, DAY, World, now, person, wait

FIRST, SECOND = bytes(31) + b"\1", bytes(31) + b"\2"


@pytest.fixture
def treasury(world: World) -> Contract:
    """With 100 coins; bob operates it, mary guards it."""
    world.treasury.setOperator(world.bob, True, sender=world.deployer)
    world.treasury.setGuardian(world.mary, sender=world.deployer)
    world.treasury.fund(sender=world.deployer, value=100 * COIN)
    return world.treasury


def test_a_deposit_names_the_account_of_the_ledger(world: World) -> None:
    world.treasury.deposit(42, sender=world.alice, value=COIN)
    expected = {"account": 42, "sender": world.alice, "amount": COIN}
    assert world.treasury.event("Deposited").arguments == expected
    assert world.treasury.balance == COIN


def test_a_plain_sending_is_a_deposit_without_an_account(world: World) -> None:
    world.treasury.send(sender=world.alice, value=COIN)
    expected = {"account": 0, "sender": world.alice, "amount": COIN}
    assert world.treasury.event("Deposited").arguments == expected


def test_capital_is_nobodys_deposit(world: World) -> None:
    world.treasury.fund(sender=world.alice, value=COIN)
    assert [event.name for event in world.treasury.events] == ["Funded"]
    assert world.treasury.event("Funded").arguments == {"sender": world.alice, "amount": COIN}


def test_nothing_is_no_deposit(world: World) -> None:
    with refused("ZeroAmount"):
        world.treasury.deposit(1, sender=world.alice)
    with refused("ZeroAmount"):
        world.treasury.fund(sender=world.alice)
    with refused("ZeroAmount"):
        world.treasury.send(sender=world.alice)


def test_a_call_of_what_it_cannot_do_is_no_deposit(world: World) -> None:
    with refused("UnknownFunction"):
        world.treasury.send(keccak(text="donate()")[:4], sender=world.alice, value=COIN)


def test_an_operator_pays(world: World, treasury: Contract) -> None:
    before = boa.env.get_balance(world.charlie)
    treasury.withdraw(FIRST, world.charlie, 2 * COIN, sender=world.bob)
    assert boa.env.get_balance(world.charlie) == before + 2 * COIN
    assert treasury.balance == 98 * COIN
    assert treasury.paid(FIRST) is True
    assert treasury.paid(SECOND) is False
    assert treasury.spentToday() == 2 * COIN
    assert treasury.event("Withdrawn").arguments == {
        "reference": FIRST,
        "to": world.charlie,
        "amount": 2 * COIN,
        "sent": True,
    }


def test_a_reference_is_paid_once_for_ever(world: World, treasury: Contract) -> None:
    treasury.withdraw(FIRST, world.charlie, COIN, sender=world.bob)
    wait(1000 * DAY)
    for to, amount in ((world.charlie, COIN), (world.alice, 2 * COIN)):
        with refused("AlreadyPaid"):
            treasury.withdraw(FIRST, to, amount, sender=world.bob)
    treasury.withdraw(SECOND, world.charlie, COIN, sender=world.bob)


@pytest.mark.parametrize("who", ["deployer", "mary", "charlie", "judge"])
def test_nobody_else_pays(world: World, treasury: Contract, who: str) -> None:
    with refused("NotOperator"):
        treasury.withdraw(FIRST, world.charlie, COIN, sender=getattr(world, who))


def test_an_operator_that_was_dismissed_does_not(world: World, treasury: Contract) -> None:
    treasury.setOperator(world.bob, False, sender=world.deployer)
    with refused("NotOperator"):
        treasury.withdraw(FIRST, world.charlie, COIN, sender=world.bob)


def test_what_cannot_be_paid_is_refused(world: World, treasury: Contract) -> None:
    for to, amount, reason in (
        (world.charlie, 0, "ZeroAmount"),
        (NOBODY, 1, "ZeroAddress"),
        (treasury, 1, "InvalidReceiver"),
        (world.charlie, 100 * COIN + 1, "InsufficientBalance"),
    ):
        with refused(reason):
            treasury.withdraw(FIRST, to, amount, sender=world.bob)
        with refused(reason):
            treasury.recover(to, amount, sender=world.deployer)
    assert treasury.paid(FIRST) is False


def test_an_account_that_does_not_exist_yet_is_paid(world: World, treasury: Contract) -> None:
    newcomer = person("newcomer", coins=0)
    treasury.withdraw(FIRST, newcomer, COIN, sender=world.bob)
    assert boa.env.get_balance(newcomer) == COIN


@pytest.mark.parametrize("source", ["REFUSES", "BURNS_GAS", "BOMB"])
def test_a_receiver_that_misbehaves_gets_it_later(world: World, treasury: Contract, source: str) -> None:
    code = getattr(receivers, source)
    if isinstance(code, bytes):
        receiver = person("bomb", coins=0)
        boa.env.set_code(receiver, code)
    else:
        receiver = create_from_source(source, code, sender=world.charlie)
    treasury.withdraw(FIRST, receiver, 3 * COIN, sender=world.bob, gas=400_000)
    assert treasury.event("Withdrawn")["sent"] is False
    assert treasury.paid(FIRST) is True
    assert treasury.claimable(receiver) == treasury.totalClaimable() == 3 * COIN
    assert treasury.balance == 100 * COIN


def test_anybody_has_what_waits_sent_to_whom_it_belongs(world: World, treasury: Contract) -> None:
    receiver = create_from_source("REFUSES", receivers.REFUSES, sender=world.charlie)
    treasury.withdraw(FIRST, receiver, COIN, sender=world.bob)
    treasury.withdraw(SECOND, receiver, COIN, sender=world.bob)
    with refused("TransferFailed"):
        treasury.claim(receiver, sender=world.alice)
    receiver.setOpen(sender=world.charlie)
    treasury.claim(receiver, sender=world.alice)
    assert receiver.balance == 2 * COIN
    assert treasury.event("Claimed").arguments == {"to": receiver.address, "amount": 2 * COIN}
    assert treasury.claimable(receiver) == treasury.totalClaimable() == 0
    with refused("NothingToClaim"):
        treasury.claim(receiver, sender=world.alice)


def test_what_waits_is_not_paid_or_recovered_a_second_time(world: World, treasury: Contract) -> None:
    receiver = create_from_source("REFUSES", receivers.REFUSES, sender=world.charlie)
    treasury.withdraw(FIRST, receiver, 60 * COIN, sender=world.bob)
    with refused("InsufficientBalance"):
        treasury.withdraw(SECOND, world.charlie, 40 * COIN + 1, sender=world.bob)
    with refused("InsufficientBalance"):
        treasury.recover(world.deployer, 40 * COIN + 1, sender=world.deployer)
    treasury.recover(world.deployer, 40 * COIN, sender=world.deployer)
    receiver.setOpen(sender=world.charlie)
    treasury.claim(receiver, sender=world.charlie)
    assert treasury.balance == 0


def test_a_wallet_that_is_a_contract_is_paid_at_once(world: World, treasury: Contract) -> None:
    wallet = create_from_source("RECEIVES", receivers.RECEIVES, sender=world.charlie)
    treasury.withdraw(FIRST, wallet, COIN, sender=world.bob)
    assert treasury.event("Withdrawn")["sent"] is True
    assert wallet.received() == COIN


def test_too_little_gas_does_not_look_like_a_refusal(world: World, treasury: Contract) -> None:
    wallet = create_from_source("WANTS_GAS", receivers.WANTS_GAS, sender=world.charlie)
    # Something waits for it already: to note more is then cheap, and little gas would suffice for it.
    treasury.withdraw(FIRST, wallet, COIN, sender=world.bob)
    assert treasury.claimable(wallet) == COIN
    wallet.setOpen(sender=world.charlie)
    paid = 0
    for gas in range(20_000, 200_000, 2_000):
        with boa.env.anchor():
            try:
                treasury.withdraw(SECOND, wallet, COIN, sender=world.bob, gas=gas)
            except Refused:
                continue
            assert treasury.event("Withdrawn")["sent"] is True
            paid += 1
    assert paid > 40


REENTRIES = {
    "withdraw": ("withdraw(bytes32,address,uint256)", 0),
    "claim": ("claim(address)", 0),
    "recover": ("recover(address,uint256)", 0),
    "deposit": ("deposit(uint256)", 1),
    "fund": ("fund()", 1),
}


def call(signature: str, receiver: Contract) -> bytes:
    """A call for one coin to the receiver itself."""
    values = {"bytes32": SECOND, "address": receiver.address, "uint256": COIN}
    types = [kind for kind in signature.split("(")[1].rstrip(")").split(",") if kind]
    return keccak(text=signature)[:4] + encode(types, [values[kind] for kind in types])


@pytest.fixture
def greedy(world: World, treasury: Contract) -> Contract:
    """A receiver that may do everything: it owns the treasury and operates it, and a coin waits for it."""
    receiver = create_from_source("CALLS_BACK", receivers.CALLS_BACK, sender=world.charlie, value=1)
    treasury.withdraw(FIRST, receiver, COIN, sender=world.bob)
    treasury.setOperator(receiver, True, sender=world.deployer)
    treasury.transferOwnership(receiver, sender=world.deployer)
    receiver.do(treasury, keccak(text="acceptOwnership()")[:4], sender=world.charlie)
    assert treasury.owner() == receiver
    assert treasury.claimable(receiver) == COIN
    return receiver


@pytest.mark.parametrize("name", REENTRIES)
@pytest.mark.parametrize("way", ["withdraw", "claim", "recover"])
def test_a_receiver_cannot_come_back_in(
    world: World, treasury: Contract, greedy: Contract, name: str, way: str
) -> None:
    signature, amount = REENTRIES[name]
    greedy.arm(treasury, call(signature, greedy), amount, sender=world.charlie)
    held = greedy.balance + treasury.balance
    if way == "withdraw":
        treasury.withdraw(b"\3" * 32, greedy, COIN, sender=world.bob)
    elif way == "claim":
        treasury.claim(greedy, sender=world.alice)
    else:
        greedy.do(treasury, call("recover(address,uint256)", greedy), sender=world.charlie)
    # The gas of a withdrawal may not suffice to send coins back: then the receiver has refused.
    assert greedy.reached() or (way == "withdraw" and amount)
    assert greedy.succeeded() is False
    assert greedy.balance == 1 + (COIN if greedy.reached() else 0)
    assert greedy.balance + treasury.balance == held
    assert treasury.claimable(greedy) == {"withdraw": COIN, "claim": 0, "recover": COIN}[way] + (
        0 if greedy.reached() else COIN
    )
    assert treasury.paid(SECOND) is False


@pytest.mark.parametrize("name", REENTRIES)
def test_what_a_receiver_tries_there_it_may_do_otherwise(
    world: World, treasury: Contract, greedy: Contract, name: str
) -> None:
    """Else the test above would show nothing."""
    signature, amount = REENTRIES[name]
    greedy.arm(world.alice, b"", 0, sender=world.charlie)
    if amount:
        treasury.send(call(signature, greedy), sender=world.alice, value=1)
    else:
        greedy.do(treasury, call(signature, greedy), sender=world.charlie)


def test_the_daily_limit_holds_for_a_day(world: World, treasury: Contract) -> None:
    boa.env.timestamp = (now() // DAY + 1) * DAY
    treasury.withdraw(bytes(32), world.charlie, COIN, sender=world.bob)
    treasury.setDailyLimit(5 * COIN, sender=world.deployer)
    assert treasury.event("DailyLimitSet").arguments == {"amount": 5 * COIN}
    with refused("OverDailyLimit"):
        treasury.withdraw(FIRST, world.charlie, 4 * COIN + 1, sender=world.bob)
    treasury.withdraw(FIRST, world.charlie, 4 * COIN, sender=world.bob)
    wait(DAY - 1)
    with refused("OverDailyLimit"):
        treasury.withdraw(SECOND, world.charlie, 1, sender=world.bob)
    wait(1)
    assert treasury.spentToday() == 0
    treasury.withdraw(SECOND, world.charlie, 5 * COIN, sender=world.bob)
    treasury.setDailyLimit(0, sender=world.deployer)
    treasury.withdraw(b"\3" * 32, world.charlie, 50 * COIN, sender=world.bob)
    assert treasury.spentToday() == 55 * COIN


def test_what_waits_counts_on_the_day_it_was_withdrawn(world: World, treasury: Contract) -> None:
    receiver = create_from_source("REFUSES", receivers.REFUSES, sender=world.charlie)
    treasury.setDailyLimit(COIN, sender=world.deployer)
    treasury.withdraw(FIRST, receiver, COIN, sender=world.bob)
    receiver.setOpen(sender=world.charlie)
    with refused("OverDailyLimit"):
        treasury.withdraw(SECOND, receiver, 1, sender=world.bob)
    treasury.claim(receiver, sender=world.charlie)
    assert treasury.spentToday() == COIN


@pytest.mark.parametrize("who", ["deployer", "mary"])
def test_owner_and_guardian_pause(world: World, treasury: Contract, who: str) -> None:
    receiver = create_from_source("REFUSES", receivers.REFUSES, sender=world.charlie)
    treasury.withdraw(FIRST, receiver, COIN, sender=world.bob)
    treasury.pause(sender=getattr(world, who))
    assert treasury.paused() is True
    with refused("Paused"):
        treasury.withdraw(SECOND, world.charlie, COIN, sender=world.bob)
    with refused("Paused"):
        treasury.claim(receiver, sender=world.bob)
    treasury.deposit(1, sender=world.alice, value=COIN)
    treasury.recover(world.deployer, COIN, sender=world.deployer)
    treasury.unpause(sender=getattr(world, who))
    treasury.withdraw(SECOND, world.charlie, COIN, sender=world.bob)


@pytest.mark.parametrize("who", ["alice", "bob", "charlie"])
def test_nobody_else_does_what_owner_and_guardian_do(world: World, treasury: Contract, who: str) -> None:
    stranger = getattr(world, who)
    for call in (
        lambda: treasury.pause(sender=stranger),
        lambda: treasury.unpause(sender=stranger),
        lambda: treasury.recover(stranger, 1, sender=stranger),
        lambda: treasury.setDailyLimit(1, sender=stranger),
        lambda: treasury.setGuardian(stranger, sender=stranger),
        lambda: treasury.setOperator(stranger, True, sender=stranger),
    ):
        with refused("NotOwner"):
            call()


def test_a_guardian_only_pauses(world: World, treasury: Contract) -> None:
    for call in (
        lambda: treasury.recover(world.mary, 1, sender=world.mary),
        lambda: treasury.setDailyLimit(0, sender=world.mary),
        lambda: treasury.setOperator(world.mary, True, sender=world.mary),
    ):
        with refused("NotOwner"):
            call()


def test_the_owner_recovers_capital(world: World, treasury: Contract) -> None:
    before = boa.env.get_balance(world.charlie)
    treasury.recover(world.charlie, 30 * COIN, sender=world.deployer)
    assert boa.env.get_balance(world.charlie) == before + 30 * COIN
    assert treasury.event("Recovered").arguments == {"to": world.charlie, "amount": 30 * COIN}
    receiver = create_from_source("REFUSES", receivers.REFUSES, sender=world.charlie)
    with refused("TransferFailed"):
        treasury.recover(receiver, COIN, sender=world.deployer)


def test_nobody_guards_it_at_first(world: World) -> None:
    assert world.treasury.guardian() == NOBODY
    world.treasury.pause(sender=world.deployer)
