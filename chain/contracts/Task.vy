# pragma version 0.4.3
# pragma optimize codesize
"""
@title A task: one piece of work, its attempts and its responses
@notice Created by the Controller, owned by the Nexus, which alone changes it. Its payment lies in the Vault.
"""
import ownable
import params
from interfaces import IResponse

initializes: ownable

exports: ownable.__interface__

deliveryMethod: public(immutable(uint8))
status: public(uint8)
winningProvider: public(address)
attempters: public(DynArray[address, params.MOST])
attemptTimestamps: public(DynArray[uint256, params.MOST])
# Counted from 1; 0 has not attempted.
attempterId: public(HashMap[address, uint256])
responseOf: public(HashMap[address, address])
# keccak256(abi.encode(ResponseParams)) of what was submitted.
isAlreadySubmitted: public(HashMap[bytes32, bool])
params_: params.TaskParams


@deploy
@payable
def __init__(_taskParams: params.TaskParams, _deliveryMethod: uint8, nexus: address):
    ownable.__init__(nexus)
    assert _deliveryMethod <= params.FIRST_RESPONSE, "InvalidDeliveryMethod"
    deliveryMethod = _deliveryMethod
    self.params_ = _taskParams


@external
def attempt(provider: address):
    ownable._check_owner()
    self._check_open()
    assert self.attempterId[provider] == 0, "AlreadyAttempted"
    self.attempters.append(provider)
    self.attemptTimestamps.append(block.timestamp)
    self.attempterId[provider] = len(self.attempters)
    if self.status == params.TASK_NEW:
        self.status = params.TASK_ATTEMPTED


@external
def submitResponse(response: address, provider: address):
    ownable._check_owner()
    self._check_open()
    assert self.attempterId[provider] != 0, "NotAttempted"
    assert self.responseOf[provider] == empty(address), "AlreadySubmitted"
    self.responseOf[provider] = response
    self.isAlreadySubmitted[staticcall IResponse(response).digest()] = True
    self.status = params.TASK_RESPONDED


@external
def setStatus(_status: uint8):
    """
    @notice Ends the task without a result.
    """
    ownable._check_owner()
    self._check_open()
    assert _status == params.TASK_CANCELED or _status == params.TASK_EXPIRED, "InvalidStatus"
    self.status = _status


@external
def finalize(provider: address):
    """
    @notice Ends the task with the response of `provider`.
    """
    ownable._check_owner()
    self._check_open()
    assert self.responseOf[provider] != empty(address), "UnknownResponse"
    self.winningProvider = provider
    self.status = params.TASK_FINALIZED


@external
@view
def taskParams() -> (address, String[params.CONFIG], uint256, uint256):
    return self.params_.source, self.params_.config, self.params_.expiryTime, self.params_.payment


@external
@view
def getSource() -> address:
    return self.params_.source


@external
@view
def getStatus() -> uint8:
    return self.status


@external
@view
def getPayment() -> uint256:
    return self.params_.payment


@external
@view
def getExpiryTime() -> uint256:
    return self.params_.expiryTime


@external
@view
def getDeliveryMethod() -> uint8:
    return deliveryMethod


@external
@view
def getAttemptCount() -> uint256:
    return len(self.attempters)


@external
@view
def getAttempterId(provider: address) -> uint256:
    return self.attempterId[provider]


@external
@view
def getAttempters(lower: uint256, upper: uint256) -> DynArray[address, params.PAGE]:
    """
    @notice Attempters `lower` to `upper`, both included; what lies beyond the end is left out.
    """
    start: uint256 = 0
    end: uint256 = 0
    start, end = params._page(lower, upper, len(self.attempters))
    found: DynArray[address, params.PAGE] = []
    for i: uint256 in range(start, end, bound=params.PAGE):
        found.append(self.attempters[i])
    return found


@external
@view
def getAttemptTimestamps(lower: uint256, upper: uint256) -> DynArray[uint256, params.PAGE]:
    """
    @notice When attempters `lower` to `upper` attempted, in unix seconds.
    """
    start: uint256 = 0
    end: uint256 = 0
    start, end = params._page(lower, upper, len(self.attempters))
    found: DynArray[uint256, params.PAGE] = []
    for i: uint256 in range(start, end, bound=params.PAGE):
        found.append(self.attemptTimestamps[i])
    return found


@external
@view
def getResponsesOf(lower: uint256, upper: uint256) -> DynArray[address, params.PAGE]:
    """
    @notice The responses of attempters `lower` to `upper`; the zero address where there is none yet.
    """
    start: uint256 = 0
    end: uint256 = 0
    start, end = params._page(lower, upper, len(self.attempters))
    found: DynArray[address, params.PAGE] = []
    for i: uint256 in range(start, end, bound=params.PAGE):
        found.append(self.responseOf[self.attempters[i]])
    return found


@internal
@view
def _check_open():
    assert self.status != params.TASK_EXPIRED, "Expired"
    assert self.status <= params.TASK_RESPONDED, "AlreadyFinalized"
