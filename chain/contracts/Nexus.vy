# pragma version 0.4.3
"""
@title The register of the marketplace: sources, providers, attempts and responses
@notice All events of a task's life come from here. A task's payment is frozen exactly while the task is open: whatever
        ends a task also pays or refunds it, in the same transaction.
@dev Sources and responses are created here, tasks by a controller. No other contract is ever called at an address that
     a caller gives: sources, tasks and responses are looked up first.
"""
import ownable
import params
from interfaces import IManager
from interfaces import IResponse
from interfaces import ISource
from interfaces import ITask
from interfaces import ITerminal
from interfaces import IVault

initializes: ownable

exports: ownable.__interface__

event SourcePublished:
    source: address


event SourceUpdated:
    source: address
    sourceParams: params.SourceParams


event SourceStatusChanged:
    source: address
    status: uint8


event Registered:
    provider: address
    registrantId: uint256
    source: address
    preferredEnvironment: uint8


event Unregistered:
    provider: address
    source: address


event TaskPublished:
    task: address
    source: address


event TaskStatusChanged:
    task: address
    status: uint8


event Attempted:
    task: address
    provider: address
    suggestedPayment: uint256


event ResponseSubmitted:
    response: address
    task: address


event ResponseStatusChanged:
    response: address
    status: uint8


CONTROLLER: public(constant(bytes32)) = keccak256("CONTROLLER")
PROVIDER: public(constant(bytes32)) = keccak256("PROVIDER")

manager: public(address)
terminal: public(address)
vault: public(address)
sourceBlueprint: public(address)
responseBlueprint: public(address)
# Whether providers need the role PROVIDER to register.
approvedOnly: public(bool)

sources: public(DynArray[address, params.MOST])
# Counted from 1; 0 is no source.
sourceId: public(HashMap[address, uint256])
clients: public(DynArray[address, params.MOST])
sourcesOf: public(HashMap[address, DynArray[address, params.MOST]])
activeSourceCountOf: public(HashMap[address, uint256])
registrationCountOf: public(HashMap[address, uint256])
isTask: public(HashMap[address, bool])
isResponse: public(HashMap[address, bool])


@deploy
def __init__(_manager: address, _terminal: address, _vault: address):
    ownable.__init__(msg.sender)
    self.manager = _manager
    self.terminal = _terminal
    self.vault = _vault


@external
@nonreentrant
def publishSource(_sourceParams: params.SourceParams):
    """
    @notice Creates a source for its client, who calls, or whose agent calls.
    """
    client: address = _sourceParams.client
    self._check_owner_or_agent(client)
    source: address = create_from_blueprint(self.sourceBlueprint, _sourceParams)
    if len(self.sourcesOf[client]) == 0:
        self.clients.append(client)
    self.sources.append(source)
    self.sourceId[source] = len(self.sources)
    self.sourcesOf[client].append(source)
    self.activeSourceCountOf[client] += 1
    log SourcePublished(source=source)


@external
@nonreentrant
def updateSource(source: address, _sourceParams: params.SourceParams):
    """
    @notice Changes what a source asks for. Tasks that are published already keep their delivery method.
    """
    self._check_source(source)
    self._check_owner_or_agent(staticcall ISource(source).owner())
    assert staticcall ISource(source).getStatus() == params.SOURCE_ACTIVE, "SourceInactive"
    extcall ISource(source).setSourceParams(_sourceParams)
    log SourceUpdated(source=source, sourceParams=staticcall ISource(source).getSourceParams())


@external
@nonreentrant
def inactivateSource(source: address):
    """
    @notice Closes a source for new tasks and registrations, for ever. Its open tasks go on.
    """
    self._check_source(source)
    if msg.sender != source:
        self._check_owner_or_agent(staticcall ISource(source).owner())
    self._set_source_status(source, params.SOURCE_INACTIVE)


@external
@nonreentrant
def register(source: address, provider: address, preferredEnvironment: uint8):
    """
    @notice Enters a provider for the tasks of a source.
    """
    self._check_source(source)
    self._check_acts_for(provider)
    assert not self.approvedOnly or self._has_role(PROVIDER, provider), "NotProvider"
    terms: params.SourceTerms = staticcall ISource(source).getTerms()
    assert terms.status == params.SOURCE_ACTIVE, "SourceInactive"
    if terms.imageEnvironments != 0:
        assert preferredEnvironment != 0, "InvalidEnvironment"
        assert preferredEnvironment & terms.imageEnvironments == preferredEnvironment, "InvalidEnvironment"
    self.registrationCountOf[provider] += 1
    assert staticcall IVault(self.vault).isEligible(provider), "InsufficientLockup"
    assert staticcall IVault(self.vault).lockupOf(provider) >= terms.minAvailableLockup, "InsufficientLockup"
    registrant_id: uint256 = extcall ISource(source).register(provider, preferredEnvironment)
    log Registered(
        provider=provider,
        registrantId=registrant_id,
        source=source,
        preferredEnvironment=preferredEnvironment,
    )


@external
@nonreentrant
def unregister(source: address, provider: address):
    self._check_source(source)
    self._check_acts_for(provider)
    extcall ISource(source).unregister(provider)
    self.registrationCountOf[provider] -= 1
    log Unregistered(provider=provider, source=source)


@external
@nonreentrant
def attempt(task: address, provider: address, suggestedPayment: uint256):
    """
    @notice A provider takes up a task; others may as well. A task whose time has passed expires instead.
    """
    self._check_task(task)
    self._check_acts_for(provider)
    status: uint8 = self._open_status(task)
    if self._is_due(task):
        assert status != params.TASK_RESPONDED, "Expired"
        self._end(task, params.TASK_EXPIRED)
        return
    source: address = staticcall ITask(task).getSource()
    assert staticcall ISource(source).registrantId(provider) != 0, "NotRegistered"
    assert staticcall IVault(self.vault).isEligible(provider), "NotEligible"
    extcall ITask(task).attempt(provider)
    log Attempted(task=task, provider=provider, suggestedPayment=suggestedPayment)
    if status == params.TASK_NEW:
        log TaskStatusChanged(task=task, status=params.TASK_ATTEMPTED)


@external
@nonreentrant
def submitResponse(_responseParams: params.ResponseParams):
    """
    @notice The answer of a provider that has attempted the task, one for each. `payment` is what it asks for, at most
            what the task offers. Where the first response is the delivery, it is confirmed and paid at once.
    """
    task: address = _responseParams.task
    provider: address = _responseParams.provider
    self._check_task(task)
    self._check_acts_for(provider)
    status: uint8 = self._open_status(task)
    assert not self._is_due(task), "Expired"
    assert _responseParams.payment <= staticcall ITask(task).getPayment(), "PaymentTooHigh"
    response: address = create_from_blueprint(self.responseBlueprint, _responseParams)
    self.isResponse[response] = True
    extcall ITask(task).submitResponse(response, provider)
    log ResponseSubmitted(response=response, task=task)
    if status != params.TASK_RESPONDED:
        log TaskStatusChanged(task=task, status=params.TASK_RESPONDED)
    if staticcall ITask(task).getDeliveryMethod() == params.FIRST_RESPONSE:
        self._confirm(response, task, provider, _responseParams.payment)


@external
@nonreentrant
def expireTask(task: address):
    """
    @notice Ends a task whose time has passed and refunds its client. Anybody may do so, but where there are responses
            only the client or its agent: it may still confirm one of them.
    """
    self._check_task(task)
    status: uint8 = self._open_status(task)
    if status == params.TASK_RESPONDED:
        self._check_owner_or_agent(staticcall IVault(self.vault).payerOf(task))
    self._end(task, params.TASK_EXPIRED)


@external
@nonreentrant
def emitTaskPublished(task: address, source: address):
    """
    @notice A controller enters the task that it has created.
    """
    self._check_controller()
    self._check_source(source)
    assert not self.isTask[task], "AlreadyPublished"
    self.isTask[task] = True
    extcall ISource(source).publishTask(task)
    log TaskPublished(task=task, source=source)


@external
@nonreentrant
def setSourceStatus(source: address, status: uint8):
    self._check_controller()
    self._check_source(source)
    self._set_source_status(source, status)


@external
@nonreentrant
def setTaskStatus(task: address, status: uint8):
    """
    @notice A controller cancels or expires a task, which refunds its client.
    """
    self._check_controller()
    self._check_task(task)
    self._end(task, status)


@external
@nonreentrant
def setResponseStatus(response: address, status: uint8):
    """
    @notice A controller confirms a response, which finalizes its task and pays the provider.
    """
    self._check_controller()
    assert self.isResponse[response], "UnknownResponse"
    assert status == params.RESPONSE_CONFIRMED, "InvalidStatus"
    self._confirm(
        response,
        staticcall IResponse(response).getTask(),
        staticcall IResponse(response).getProvider(),
        staticcall IResponse(response).getPayment(),
    )


@external
def setManager(_manager: address):
    ownable._check_owner()
    self.manager = _manager


@external
def setTerminal(_terminal: address):
    ownable._check_owner()
    self.terminal = _terminal


@external
def setVault(_vault: address):
    """
    @dev Open tasks are settled in the vault that holds their payments: replace it only when there are none.
    """
    ownable._check_owner()
    self.vault = _vault


@external
def setBlueprints(_sourceBlueprint: address, _responseBlueprint: address):
    ownable._check_owner()
    self.sourceBlueprint = _sourceBlueprint
    self.responseBlueprint = _responseBlueprint


@external
def setApprovedOnly(_approvedOnly: bool):
    ownable._check_owner()
    self.approvedOnly = _approvedOnly


@external
@view
def checkController(account: address) -> bool:
    return self._has_role(CONTROLLER, account)


@external
@view
def getActiveSourceCount(client: address) -> uint256:
    return self.activeSourceCountOf[client]


@external
@view
def getSourceCount() -> uint256:
    return len(self.sources)


@external
@view
def getSourceId(source: address) -> uint256:
    return self.sourceId[source]


@external
@view
def getSources(lower: uint256, upper: uint256) -> DynArray[address, params.PAGE]:
    """
    @notice Sources `lower` to `upper`, both included; what lies beyond the end is left out.
    """
    start: uint256 = 0
    end: uint256 = 0
    start, end = params._page(lower, upper, len(self.sources))
    found: DynArray[address, params.PAGE] = []
    for i: uint256 in range(start, end, bound=params.PAGE):
        found.append(self.sources[i])
    return found


@internal
def _set_source_status(source: address, status: uint8):
    extcall ISource(source).setStatus(status)
    self.activeSourceCountOf[staticcall ISource(source).getClient()] -= 1
    log SourceStatusChanged(source=source, status=status)


@internal
def _end(task: address, status: uint8):
    """
    @dev The task refuses what is no end, and to end twice.
    """
    assert status != params.TASK_EXPIRED or self._is_due(task), "NotDue"
    extcall ITask(task).setStatus(status)
    payer: address = staticcall IVault(self.vault).payerOf(task)
    log TaskStatusChanged(task=task, status=status)
    extcall IVault(self.vault).releasePayment(payer, task)


@internal
def _confirm(response: address, task: address, provider: address, payment: uint256):
    extcall IResponse(response).confirm()
    extcall ITask(task).finalize(provider)
    log ResponseStatusChanged(response=response, status=params.RESPONSE_CONFIRMED)
    log TaskStatusChanged(task=task, status=params.TASK_FINALIZED)
    payer: address = staticcall IVault(self.vault).payerOf(task)
    extcall IVault(self.vault).processPayment(payer, provider, task, payment)


@internal
@view
def _open_status(task: address) -> uint8:
    status: uint8 = staticcall ITask(task).getStatus()
    assert status != params.TASK_EXPIRED, "Expired"
    assert status <= params.TASK_RESPONDED, "AlreadyFinalized"
    return status


@internal
@view
def _is_due(task: address) -> bool:
    return block.timestamp >= staticcall ITask(task).getExpiryTime()


@internal
@view
def _check_acts_for(provider: address):
    """
    @dev A provider acts for itself, or its master does, or an agent of its master. A provider without a master is its
         own.
    """
    if msg.sender == provider:
        return
    principal: address = staticcall ITerminal(self.terminal).masterOf(provider)
    if principal == empty(address):
        principal = provider
    assert msg.sender == principal or self._is_agent_of(principal), "NotProvider"


@internal
@view
def _check_owner_or_agent(principal: address):
    assert msg.sender == principal or self._is_agent_of(principal), "NotOwner"


@internal
@view
def _is_agent_of(principal: address) -> bool:
    return staticcall ITerminal(self.terminal).isAgentOf(principal, msg.sender)


@internal
@view
def _check_controller():
    assert self._has_role(CONTROLLER, msg.sender), "NotController"


@internal
@view
def _has_role(role: bytes32, account: address) -> bool:
    return staticcall IManager(self.manager).hasRole(role, account)


@internal
@view
def _check_source(source: address):
    assert self.sourceId[source] != 0, "UnknownSource"


@internal
@view
def _check_task(task: address):
    assert self.isTask[task], "UnknownTask"
