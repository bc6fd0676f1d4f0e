# pragma version 0.4.3
# pragma optimize codesize
"""
@title A source: a program that providers register to run, and that tasks are published for
@notice Created by the Nexus. Its client owns it; everything but its status is changed through the Nexus, so that
        all events of the marketplace come from one address.
"""
import ownable
import params
from interfaces import INexus

initializes: ownable

exports: ownable.__interface__

nexus: public(immutable(address))
status: public(uint8)
tasks: public(DynArray[address, params.MOST])
registrants: public(DynArray[address, params.MOST])
# Counted from 1; 0 is no registrant.
registrantId: public(HashMap[address, uint256])
preferredEnvironmentOf: public(HashMap[address, uint8])
params_: params.SourceParams


@deploy
@payable
def __init__(_sourceParams: params.SourceParams):
    ownable.__init__(_sourceParams.client)
    nexus = msg.sender
    self._set_params(_sourceParams)


@external
def publishTask(task: address):
    self._check_nexus()
    self.tasks.append(task)


@external
def register(provider: address, preferredEnvironment: uint8) -> uint256:
    self._check_nexus()
    assert self.registrantId[provider] == 0, "AlreadyRegistered"
    self.registrants.append(provider)
    registrant_id: uint256 = len(self.registrants)
    self.registrantId[provider] = registrant_id
    self.preferredEnvironmentOf[provider] = preferredEnvironment
    return registrant_id


@external
def unregister(provider: address):
    """
    @dev The last registrant takes the place, and the id, of the one who leaves.
    """
    self._check_nexus()
    registrant_id: uint256 = self.registrantId[provider]
    assert registrant_id != 0, "NotRegistered"
    last: address = self.registrants.pop()
    if last != provider:
        self.registrants[registrant_id - 1] = last
        self.registrantId[last] = registrant_id
    self.registrantId[provider] = 0
    self.preferredEnvironmentOf[provider] = 0


@external
def setSourceParams(_sourceParams: params.SourceParams):
    """
    @dev The client of a source never changes.
    """
    self._check_nexus()
    client: address = self.params_.client
    self._set_params(_sourceParams)
    self.params_.client = client


@external
def setStatus(_status: uint8):
    """
    @notice The Nexus sets it; the owner may close its source with it, which goes through the Nexus.
    @dev A closed source stays closed.
    """
    assert _status == params.SOURCE_INACTIVE, "InvalidStatus"
    if msg.sender != nexus:
        assert msg.sender == ownable.owner, "NotOwner"
        extcall INexus(nexus).inactivateSource(self)
    else:
        assert self.status == params.SOURCE_ACTIVE, "SourceInactive"
        self.status = _status


@external
@view
def sourceParams() -> (
    address, String[params.URL], uint8, uint256, uint256, uint256, bool, String[params.URL], uint8, uint256
):
    return (
        self.params_.client,
        self.params_.imageMetadataUrl,
        self.params_.imageEnvironments,
        self.params_.minPayment,
        self.params_.minAvailableLockup,
        self.params_.maxExpiryDuration,
        self.params_.privacyEnabled,
        self.params_.optionalParamsUrl,
        self.params_.deliveryMethod,
        self.params_.lastUpdateTime,
    )


@external
@view
def getSourceParams() -> params.SourceParams:
    return self.params_


@external
@view
def getTerms() -> params.SourceTerms:
    return params.SourceTerms(
        status=self.status,
        deliveryMethod=self.params_.deliveryMethod,
        imageEnvironments=self.params_.imageEnvironments,
        minPayment=self.params_.minPayment,
        minAvailableLockup=self.params_.minAvailableLockup,
        maxExpiryDuration=self.params_.maxExpiryDuration,
    )


@external
@view
def getClient() -> address:
    return self.params_.client


@external
@view
def getStatus() -> uint8:
    return self.status


@external
@view
def getTaskCount() -> uint256:
    return len(self.tasks)


@external
@view
def getTasks(lower: uint256, upper: uint256) -> DynArray[address, params.PAGE]:
    """
    @notice Tasks `lower` to `upper`, both included; what lies beyond the end is left out.
    """
    start: uint256 = 0
    end: uint256 = 0
    start, end = params._page(lower, upper, len(self.tasks))
    found: DynArray[address, params.PAGE] = []
    for i: uint256 in range(start, end, bound=params.PAGE):
        found.append(self.tasks[i])
    return found


@external
@view
def getRegistrantCount() -> uint256:
    return len(self.registrants)


@external
@view
def getRegistrantId(provider: address) -> uint256:
    return self.registrantId[provider]


@external
@view
def getRegistrants(lower: uint256, upper: uint256) -> DynArray[address, params.PAGE]:
    """
    @notice Registrants `lower` to `upper`, both included; what lies beyond the end is left out.
    """
    start: uint256 = 0
    end: uint256 = 0
    start, end = params._page(lower, upper, len(self.registrants))
    found: DynArray[address, params.PAGE] = []
    for i: uint256 in range(start, end, bound=params.PAGE):
        found.append(self.registrants[i])
    return found


@internal
def _set_params(_sourceParams: params.SourceParams):
    assert _sourceParams.deliveryMethod <= params.FIRST_RESPONSE, "InvalidDeliveryMethod"
    self.params_ = _sourceParams
    self.params_.lastUpdateTime = block.timestamp


@internal
@view
def _check_nexus():
    assert msg.sender == nexus, "NotNexus"
