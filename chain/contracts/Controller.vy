# pragma version 0.4.3
"""
@title What a client does: publish a task, confirm a response, cancel
@notice Whoever publishes a task is its client, and pays from its balance in the Vault.
"""
import ownable
import params
from interfaces import INexus
from interfaces import IResponse
from interfaces import ISource
from interfaces import ITask
from interfaces import ITerminal
from interfaces import IVault

initializes: ownable

exports: ownable.__interface__

nexus: public(address)
terminal: public(address)
vault: public(address)
taskBlueprint: public(address)


@deploy
def __init__(_nexus: address, _terminal: address, _vault: address):
    ownable.__init__(msg.sender)
    self.nexus = _nexus
    self.terminal = _terminal
    self.vault = _vault


@external
@nonreentrant
def publishTask(_taskParams: params.TaskParams):
    """
    @notice Creates a task for a source and freezes its payment, which must lie in the caller's balance in the Vault.
    """
    assert staticcall INexus(self.nexus).sourceId(_taskParams.source) != 0, "UnknownSource"
    terms: params.SourceTerms = staticcall ISource(_taskParams.source).getTerms()
    assert terms.status == params.SOURCE_ACTIVE, "SourceInactive"
    assert _taskParams.expiryTime > block.timestamp, "Expired"
    duration: uint256 = _taskParams.expiryTime - block.timestamp
    assert terms.maxExpiryDuration == 0 or duration <= terms.maxExpiryDuration, "ExpiryTooLong"
    assert _taskParams.payment >= terms.minPayment, "PaymentTooLow"
    task: address = create_from_blueprint(self.taskBlueprint, _taskParams, terms.deliveryMethod, self.nexus)
    extcall IVault(self.vault).freezePayment(msg.sender, task, _taskParams.payment)
    extcall INexus(self.nexus).emitTaskPublished(task, _taskParams.source)


@external
@nonreentrant
def confirmResponse(response: address):
    """
    @notice The client, or its agent, accepts a response: its provider is paid, and the task is final.
    """
    assert staticcall INexus(self.nexus).isResponse(response), "UnknownResponse"
    self._check_client(staticcall IResponse(response).getTask())
    extcall INexus(self.nexus).setResponseStatus(response, params.RESPONSE_CONFIRMED)


@external
@nonreentrant
def cancelTask(task: address):
    """
    @notice The client, or its agent, takes back a task that nobody has attempted, or that has expired. The payment
            returns.
    """
    assert staticcall INexus(self.nexus).isTask(task), "UnknownTask"
    self._check_client(task)
    status: uint8 = params.TASK_CANCELED
    if block.timestamp >= staticcall ITask(task).getExpiryTime():
        status = params.TASK_EXPIRED
    else:
        assert staticcall ITask(task).getStatus() == params.TASK_NEW, "AlreadyFinalized"
    extcall INexus(self.nexus).setTaskStatus(task, status)


@external
def setNexus(_nexus: address):
    ownable._check_owner()
    self.nexus = _nexus


@external
def setTerminal(_terminal: address):
    ownable._check_owner()
    self.terminal = _terminal


@external
def setVault(_vault: address):
    ownable._check_owner()
    self.vault = _vault


@external
def setTaskBlueprint(_taskBlueprint: address):
    ownable._check_owner()
    self.taskBlueprint = _taskBlueprint


@external
@view
def clientOf(task: address) -> address:
    """
    @notice Who published a task; the zero address for what is no task.
    """
    return staticcall IVault(self.vault).payerOf(task)


@internal
@view
def _check_client(task: address):
    client: address = staticcall IVault(self.vault).payerOf(task)
    assert msg.sender == client or staticcall ITerminal(self.terminal).isAgentOf(client, msg.sender), "NotOwner"
