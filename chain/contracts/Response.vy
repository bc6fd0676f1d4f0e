# pragma version 0.4.3
# pragma optimize codesize
"""
@title A response: what one provider answered to one task
@notice Created and owned by the Nexus, which alone confirms it.
"""
import ownable
import params

initializes: ownable

exports: ownable.__interface__

responseTimestamp: public(immutable(uint256))
status: public(uint8)
confirmedFinal: public(bool)
params_: params.ResponseParams


@deploy
@payable
def __init__(_responseParams: params.ResponseParams):
    ownable.__init__(msg.sender)
    responseTimestamp = block.timestamp
    self.params_ = _responseParams


@external
def confirm():
    self._confirm()


@external
def setStatus(_status: uint8):
    """
    @dev The only step there is; the same as `confirm`.
    """
    assert _status == params.RESPONSE_CONFIRMED, "InvalidStatus"
    self._confirm()


@external
@view
def responseParams() -> (address, address, String[params.DATA], uint256):
    return self.params_.task, self.params_.provider, self.params_.data, self.params_.payment


@external
@view
def getResponseParams() -> params.ResponseParams:
    return self.params_


@external
@view
def getStatus() -> uint8:
    return self.status


@external
@view
def getTask() -> address:
    return self.params_.task


@external
@view
def getProvider() -> address:
    return self.params_.provider


@external
@view
def getPayment() -> uint256:
    return self.params_.payment


@external
@view
def digest() -> bytes32:
    """
    @notice keccak256(abi.encode(ResponseParams)), by which the task remembers what was submitted.
    """
    return keccak256(abi_encode(self.params_))


@internal
def _confirm():
    ownable._check_owner()
    assert not self.confirmedFinal, "AlreadyConfirmed"
    self.confirmedFinal = True
    self.status = params.RESPONSE_CONFIRMED
