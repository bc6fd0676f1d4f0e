# pragma version 0.4.3
"""
@title Everybody's money
@notice Holds native coins. What an account has lies in one of five buckets:

        balance    free to withdraw, to lock or to pay with
        lockup     the stake of a provider
        unbonding  a stake on its way back, until `unbondingTimestamp`
        frozen     promised to a task: back to the client or on to the provider when the task ends
        sanction   taken from a stake by a judge, until it is waived or withdrawn by an admin

        The sum of all of them is `totalOwed`, and the contract never holds less. `totalEarningsOf` only counts.
@dev Coins leave through `withdraw` alone, and only to the one who asks for its own.
     A pause stops new deposits, stakes and tasks. It never stops a withdrawal, a refund or a payment.
"""
from snekmate.utils import pausable
from interfaces import IManager
from interfaces import INexus
from interfaces import ITerminal

initializes: pausable

exports: pausable.paused

event Deposited:
    account: address
    amount: uint256


event Withdrawn:
    account: address
    amount: uint256


event Locked:
    account: address
    amount: uint256


event Unbonded:
    account: address
    amount: uint256


event UnbondingCanceled:
    account: address
    amount: uint256


event Claimed:
    account: address
    amount: uint256


event Sanctioned:
    account: address
    amount: uint256


event Waived:
    account: address
    amount: uint256


event SanctionWithdrawn:
    account: address
    to: address
    amount: uint256


event PaymentFrozen:
    client: address
    task: address
    amount: uint256


event PaymentReleased:
    client: address
    task: address
    amount: uint256


event PaymentProcessed:
    client: address
    provider: address
    beneficiary: address
    task: address
    amount: uint256


CONTROLLER: constant(bytes32) = keccak256("CONTROLLER")
JUDGE: constant(bytes32) = keccak256("JUDGE")
ADMIN: constant(bytes32) = empty(bytes32)
LONGEST_UNBONDING: constant(uint256) = 90 * 24 * 60 * 60

manager: public(immutable(address))
nexus: public(address)
terminal: public(address)
MIN_LOCKUP_PER_SOURCE: public(uint256)
UNBONDING_PERIOD: public(uint256)

balanceOf: public(HashMap[address, uint256])
lockupOf: public(HashMap[address, uint256])
unbondingOf: public(HashMap[address, uint256])
unbondingTimestamp: public(HashMap[address, uint256])
frozenPayment: public(HashMap[address, uint256])
sanctionOf: public(HashMap[address, uint256])
sanctionedAmount: public(uint256)
totalEarningsOf: public(HashMap[address, uint256])
totalOwed: public(uint256)
isWhitelisted: public(HashMap[address, bool])
# Who pays for a task, for ever, and what is still frozen for it.
payerOf: public(HashMap[address, address])
frozenFor: public(HashMap[address, uint256])


@deploy
def __init__(_manager: address, _nexus: address, _terminal: address):
    pausable.__init__()
    manager = _manager
    self.nexus = _nexus
    self.terminal = _terminal
    self.UNBONDING_PERIOD = 7 * 24 * 60 * 60


@external
@payable
@nonreentrant
def deposit(account: address):
    """
    @notice Credits what is sent to the balance of `account`.
    """
    self._receive(account)
    self.balanceOf[account] += msg.value


@external
@payable
@nonreentrant
def stake(account: address):
    """
    @notice The Terminal credits what a master sends to the lockup of its provider.
    """
    assert msg.sender == self.terminal, "NotTerminal"
    self._receive(account)
    self.lockupOf[account] += msg.value
    log Locked(account=account, amount=msg.value)


@external
@nonreentrant
def withdraw(amount: uint256):
    """
    @notice Sends `amount` of the caller's balance to the caller.
    """
    self._take(msg.sender, amount)
    self.totalOwed -= amount
    log Withdrawn(account=msg.sender, amount=amount)
    assert raw_call(msg.sender, b"", value=amount, revert_on_failure=False), "TransferFailed"


@external
@nonreentrant
def lock(amount: uint256):
    """
    @notice Moves `amount` of the caller's balance to its stake.
    """
    self._check_not_paused()
    self._take(msg.sender, amount)
    self.lockupOf[msg.sender] += amount
    log Locked(account=msg.sender, amount=amount)


@external
@nonreentrant
def unbond(amount: uint256):
    """
    @notice Starts the way back of `amount` of the caller's stake. The period starts anew for what is on its way.
    @dev What the caller's registrations need stays: unregister first.
    """
    assert amount > 0, "ZeroAmount"
    lockup: uint256 = self.lockupOf[msg.sender]
    assert amount <= lockup, "InsufficientLockup"
    assert self.isWhitelisted[msg.sender] or lockup - amount >= self._required(msg.sender), "InsufficientLockup"
    self.lockupOf[msg.sender] = lockup - amount
    self.unbondingOf[msg.sender] += amount
    self.unbondingTimestamp[msg.sender] = block.timestamp + self.UNBONDING_PERIOD
    log Unbonded(account=msg.sender, amount=amount)


@external
@nonreentrant
def cancelUnbonding():
    """
    @notice Makes all that is on its way back a stake again.
    """
    amount: uint256 = self._end_unbonding(msg.sender)
    self.lockupOf[msg.sender] += amount
    log UnbondingCanceled(account=msg.sender, amount=amount)


@external
@nonreentrant
def claim():
    """
    @notice Moves what has come back to the caller's balance.
    """
    assert block.timestamp >= self.unbondingTimestamp[msg.sender], "UnbondingNotElapsed"
    amount: uint256 = self._end_unbonding(msg.sender)
    self.balanceOf[msg.sender] += amount
    log Claimed(account=msg.sender, amount=amount)


@external
@nonreentrant
def freezePayment(client: address, task: address, amount: uint256):
    """
    @notice Promises `amount` of the client's balance to a task. Once for a task.
    """
    self._check_role(CONTROLLER, "NotController")
    self._check_not_paused()
    assert client != empty(address), "ZeroAddress"
    assert self.payerOf[task] == empty(address), "AlreadyFrozen"
    balance: uint256 = self.balanceOf[client]
    assert amount <= balance, "InsufficientBalance"
    self.balanceOf[client] = balance - amount
    self.frozenPayment[client] += amount
    self.payerOf[task] = client
    self.frozenFor[task] = amount
    log PaymentFrozen(client=client, task=task, amount=amount)


@external
@nonreentrant
def releasePayment(client: address, task: address):
    """
    @notice Gives back to the client what is frozen for a task.
    """
    self._check_role(CONTROLLER, "NotController")
    self._release(client, task)


@external
@nonreentrant
def forceReleasePayment(client: address, task: address):
    """
    @notice A judge ends a dispute in favour of the client. The task can then no longer be paid.
    """
    self._check_role(JUDGE, "NotJudge")
    self._release(client, task)


@external
@nonreentrant
def processPayment(client: address, provider: address, task: address, amount: uint256):
    """
    @notice Pays `amount` of what is frozen for a task, and gives the rest back to the client.
    @dev The master of the provider is paid, or the provider itself where it has none.
    """
    self._check_role(CONTROLLER, "NotController")
    frozen: uint256 = self._unfreeze(client, task)
    assert amount <= frozen, "PaymentNotFrozen"
    beneficiary: address = staticcall ITerminal(self.terminal).masterOf(provider)
    if beneficiary == empty(address):
        beneficiary = provider
    self.balanceOf[client] += frozen - amount
    self.balanceOf[beneficiary] += amount
    self.totalEarningsOf[beneficiary] += amount
    if beneficiary != provider:
        self.totalEarningsOf[provider] += amount
    log PaymentProcessed(client=client, provider=provider, beneficiary=beneficiary, task=task, amount=amount)


@external
@nonreentrant
def sanction(account: address, amount: uint256):
    """
    @notice A judge takes `amount` of a stake, or all of it where it is less; what is unbonding counts as stake.
    """
    self._check_role(JUDGE, "NotJudge")
    assert amount > 0, "ZeroAmount"
    from_lockup: uint256 = min(amount, self.lockupOf[account])
    from_unbonding: uint256 = min(amount - from_lockup, self.unbondingOf[account])
    taken: uint256 = from_lockup + from_unbonding
    assert taken > 0, "InsufficientLockup"
    self.lockupOf[account] -= from_lockup
    self.unbondingOf[account] -= from_unbonding
    if self.unbondingOf[account] == 0:
        self.unbondingTimestamp[account] = 0
    self.sanctionOf[account] += taken
    self.sanctionedAmount += taken
    log Sanctioned(account=account, amount=taken)


@external
@nonreentrant
def waive(account: address, amount: uint256):
    """
    @notice A judge makes `amount` of a sanction a stake again.
    """
    self._check_role(JUDGE, "NotJudge")
    assert amount > 0, "ZeroAmount"
    assert amount <= self.sanctionOf[account], "InsufficientSanction"
    self.sanctionOf[account] -= amount
    self.sanctionedAmount -= amount
    self.lockupOf[account] += amount
    log Waived(account=account, amount=amount)


@external
@nonreentrant
def withdrawSanctionOf(account: address):
    """
    @notice An admin takes what an account was sanctioned, to the admin's own balance.
    """
    self._check_role(ADMIN, "NotAdmin")
    amount: uint256 = self.sanctionOf[account]
    assert amount > 0, "InsufficientSanction"
    self.sanctionOf[account] = 0
    self.sanctionedAmount -= amount
    self.balanceOf[msg.sender] += amount
    log SanctionWithdrawn(account=account, to=msg.sender, amount=amount)


@external
@nonreentrant
def emergencyExit(account: address):
    """
    @notice An admin ends all staking of an account at once: its lockup and unbonding become its balance.
    """
    self._check_role(ADMIN, "NotAdmin")
    amount: uint256 = self.lockupOf[account] + self.unbondingOf[account]
    assert amount > 0, "InsufficientLockup"
    self.lockupOf[account] = 0
    self.unbondingOf[account] = 0
    self.unbondingTimestamp[account] = 0
    self.balanceOf[account] += amount
    log Claimed(account=account, amount=amount)


@external
def setMaxUnbondingPeriod(period: uint256):
    """
    @notice Sets `UNBONDING_PERIOD`, in seconds. What is on its way back keeps its time.
    """
    self._check_role(ADMIN, "NotAdmin")
    assert period <= LONGEST_UNBONDING, "PeriodTooLong"
    self.UNBONDING_PERIOD = period


@external
def setMinLockupPerSource(amount: uint256):
    self._check_role(ADMIN, "NotAdmin")
    self.MIN_LOCKUP_PER_SOURCE = amount


@external
def setTerminal(_terminal: address):
    self._check_role(ADMIN, "NotAdmin")
    self.terminal = _terminal


@external
def setNexus(_nexus: address):
    self._check_role(ADMIN, "NotAdmin")
    self.nexus = _nexus


@external
def setWhitelist(account: address, _value: bool):
    """
    @notice A whitelisted account needs no stake but that which a source asks for.
    """
    self._check_role(ADMIN, "NotAdmin")
    self.isWhitelisted[account] = _value


@external
def pause():
    self._check_role(ADMIN, "NotAdmin")
    pausable._pause()


@external
def unpause():
    self._check_role(ADMIN, "NotAdmin")
    pausable._unpause()


@external
@view
def getBalanceOf(account: address) -> uint256:
    return self.balanceOf[account]


@external
@view
def getLockupOf(account: address) -> uint256:
    return self.lockupOf[account]


@external
@view
def isEligible(account: address) -> bool:
    """
    @notice Whether the stake of an account covers its registrations, or a first one.
    """
    if self.isWhitelisted[account]:
        return True
    return self.lockupOf[account] >= max(self._required(account), self.MIN_LOCKUP_PER_SOURCE)


@internal
@view
def _required(account: address) -> uint256:
    return self.MIN_LOCKUP_PER_SOURCE * staticcall INexus(self.nexus).registrationCountOf(account)


@internal
@payable
def _receive(account: address):
    self._check_not_paused()
    assert msg.value > 0, "ZeroAmount"
    assert account != empty(address), "ZeroAddress"
    self.totalOwed += msg.value
    log Deposited(account=account, amount=msg.value)


@internal
def _take(account: address, amount: uint256):
    assert amount > 0, "ZeroAmount"
    balance: uint256 = self.balanceOf[account]
    assert amount <= balance, "InsufficientBalance"
    self.balanceOf[account] = balance - amount


@internal
def _end_unbonding(account: address) -> uint256:
    amount: uint256 = self.unbondingOf[account]
    assert amount > 0, "NothingUnbonding"
    self.unbondingOf[account] = 0
    self.unbondingTimestamp[account] = 0
    return amount


@internal
def _release(client: address, task: address):
    amount: uint256 = self._unfreeze(client, task)
    self.balanceOf[client] += amount
    log PaymentReleased(client=client, task=task, amount=amount)


@internal
def _unfreeze(client: address, task: address) -> uint256:
    assert client != empty(address) and self.payerOf[task] == client, "NotPayer"
    amount: uint256 = self.frozenFor[task]
    self.frozenFor[task] = 0
    self.frozenPayment[client] -= amount
    return amount


@internal
@view
def _check_role(role: bytes32, refusal: String[16]):
    assert staticcall IManager(manager).hasRole(role, msg.sender), refusal


@internal
@view
def _check_not_paused():
    assert not pausable.paused, "Paused"
