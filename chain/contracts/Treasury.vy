# pragma version 0.4.3
"""
@title The marketplace's till
@notice Deposits name the account of the ledger that they are for. Withdrawals carry a reference, and a reference is
        paid once, for ever. The operators' capital comes in by `fund` and leaves by `recover`.
@dev Nothing but `withdraw`, `claim` and `recover` sends coins. A receiver that refuses, burns its gas or returns too
     much cannot stop a withdrawal: the amount then waits for it, and is no longer the marketplace's.
"""
from snekmate.utils import pausable
import stewardship

initializes: pausable
initializes: stewardship

exports: (pausable.paused, stewardship.__interface__)

event Deposited:
    account: indexed(uint256)
    sender: indexed(address)
    amount: uint256


event Funded:
    sender: indexed(address)
    amount: uint256


event Withdrawn:
    reference: indexed(bytes32)
    to: indexed(address)
    amount: uint256
    sent: bool


event Claimed:
    to: indexed(address)
    amount: uint256


event Recovered:
    to: indexed(address)
    amount: uint256


event GuardianSet:
    guardian: indexed(address)


event DailyLimitSet:
    amount: uint256


# Enough for a wallet that is a contract to note what it received, too little for anything else.
GAS_OF_RECEIVER: constant(uint256) = 30_000
# What the CALL itself needs: the value transfer, a new account, and 1/64 that stays here.
GAS_OF_CALL: constant(uint256) = 45_000
DAY: constant(uint256) = 24 * 60 * 60

guardian: public(address)
paid: public(HashMap[bytes32, bool])
claimable: public(HashMap[address, uint256])
totalClaimable: public(uint256)
# The most that is withdrawn on one day (UTC); 0 is no limit.
dailyLimit: public(uint256)
spentOn: public(HashMap[uint256, uint256])


@deploy
def __init__():
    stewardship.__init__()
    pausable.__init__()


@external
@payable
@nonreentrant
def __default__():
    """
    @notice A plain sending: the ledger looks up whose wallet the sender is.
    @dev A call of a function that does not exist is none.
    """
    assert len(msg.data) == 0, "UnknownFunction"
    assert msg.value > 0, "ZeroAmount"
    log Deposited(account=0, sender=msg.sender, amount=msg.value)


@external
@payable
@nonreentrant
def deposit(account: uint256):
    """
    @notice Credits account number `account` of the ledger.
    """
    assert msg.value > 0, "ZeroAmount"
    log Deposited(account=account, sender=msg.sender, amount=msg.value)


@external
@payable
@nonreentrant
def fund():
    """
    @notice Adds capital of the operators: nobody's deposit.
    """
    assert msg.value > 0, "ZeroAmount"
    log Funded(sender=msg.sender, amount=msg.value)


@external
@nonreentrant
def withdraw(reference: bytes32, to: address, amount: uint256):
    """
    @notice Pays `amount` to `to` under a reference that was never paid before.
    """
    stewardship._check_operator()
    self._check_not_paused()
    assert not self.paid[reference], "AlreadyPaid"
    self._check_payment(to, amount)
    self._spend(amount)
    self.paid[reference] = True
    # Without this, too little gas in the transaction would look like a receiver that refuses.
    assert msg.gas > GAS_OF_RECEIVER + GAS_OF_CALL, "TooLittleGas"
    sent: bool = raw_call(to, b"", value=amount, gas=GAS_OF_RECEIVER, revert_on_failure=False)
    if not sent:
        self.claimable[to] += amount
        self.totalClaimable += amount
    log Withdrawn(reference=reference, to=to, amount=amount, sent=sent)


@external
@nonreentrant
def claim(to: address):
    """
    @notice Pays what waits for `to`, to `to`. Anybody may ask for it.
    """
    self._check_not_paused()
    amount: uint256 = self.claimable[to]
    assert amount > 0, "NothingToClaim"
    self.claimable[to] = 0
    self.totalClaimable -= amount
    log Claimed(to=to, amount=amount)
    assert raw_call(to, b"", value=amount, revert_on_failure=False), "TransferFailed"


@external
@nonreentrant
def recover(to: address, amount: uint256):
    """
    @notice The owner takes what is not waiting for anybody, beyond all limits and pauses.
    """
    stewardship._check_owner()
    self._check_payment(to, amount)
    log Recovered(to=to, amount=amount)
    assert raw_call(to, b"", value=amount, revert_on_failure=False), "TransferFailed"


@external
def pause():
    self._check_guardian()
    pausable._pause()


@external
def unpause():
    self._check_guardian()
    pausable._unpause()


@external
def setGuardian(_guardian: address):
    stewardship._check_owner()
    self.guardian = _guardian
    log GuardianSet(guardian=_guardian)


@external
def setDailyLimit(amount: uint256):
    stewardship._check_owner()
    self.dailyLimit = amount
    log DailyLimitSet(amount=amount)


@external
@view
def spentToday() -> uint256:
    return self.spentOn[block.timestamp // DAY]


@internal
def _spend(amount: uint256):
    """
    @dev What was spent is counted without a limit too, so that a new limit holds from its first minute.
    """
    today: uint256 = block.timestamp // DAY
    spent: uint256 = self.spentOn[today] + amount
    assert self.dailyLimit == 0 or spent <= self.dailyLimit, "OverDailyLimit"
    self.spentOn[today] = spent


@internal
@view
def _check_payment(to: address, amount: uint256):
    assert amount > 0, "ZeroAmount"
    assert to != empty(address), "ZeroAddress"
    # What it sent to itself would look like a deposit.
    assert to != self, "InvalidReceiver"
    assert amount <= self.balance - self.totalClaimable, "InsufficientBalance"


@internal
@view
def _check_guardian():
    if msg.sender != self.guardian:
        stewardship._check_owner()


@internal
@view
def _check_not_paused():
    assert not pausable.paused, "Paused"
