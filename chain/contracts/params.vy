# pragma version 0.4.3
# What a client, a provider and the contracts hand to each other. The order of the fields is the ABI's order.

SOURCE_ACTIVE: constant(uint8) = 0
SOURCE_INACTIVE: constant(uint8) = 1

TASK_NEW: constant(uint8) = 0
TASK_ATTEMPTED: constant(uint8) = 1
TASK_RESPONDED: constant(uint8) = 2
TASK_CANCELED: constant(uint8) = 3
TASK_EXPIRED: constant(uint8) = 4
TASK_FINALIZED: constant(uint8) = 5

RESPONSE_SUBMITTED: constant(uint8) = 0
RESPONSE_CONFIRMED: constant(uint8) = 1

MANUAL_CONFIRMATION: constant(uint8) = 0
FIRST_RESPONSE: constant(uint8) = 1

# The longest texts, in bytes, and the most addresses that one reading returns.
URL: constant(uint256) = 1024
CONFIG: constant(uint256) = 4096
DATA: constant(uint256) = 8192
PAGE: constant(uint256) = 1024
# How long a list can grow: far beyond what gas allows, and small enough for the storage layout.
MOST: constant(uint256) = 2**40


struct SourceParams:
    client: address
    imageMetadataUrl: String[URL]
    imageEnvironments: uint8
    minPayment: uint256
    minAvailableLockup: uint256
    maxExpiryDuration: uint256
    privacyEnabled: bool
    optionalParamsUrl: String[URL]
    deliveryMethod: uint8
    lastUpdateTime: uint256


struct TaskParams:
    source: address
    config: String[CONFIG]
    expiryTime: uint256
    payment: uint256


struct ResponseParams:
    task: address
    provider: address
    data: String[DATA]
    payment: uint256


# What Nexus and Controller need of a source, in one call and without its texts.
struct SourceTerms:
    status: uint8
    deliveryMethod: uint8
    imageEnvironments: uint8
    minPayment: uint256
    minAvailableLockup: uint256
    maxExpiryDuration: uint256


@internal
@pure
def _page(lower: uint256, upper: uint256, count: uint256) -> (uint256, uint256):
    """
    @notice The half-open range of indices that the inclusive bounds `lower` and `upper` mean for a list of `count`.
    @dev What lies beyond the end is left out instead of reverting, and at most PAGE items are read: the published
         clients ask for ranges that exceed the list.
    """
    if lower >= count or upper < lower:
        return 0, 0
    end: uint256 = min(upper, count - 1) + 1
    return lower, min(end, lower + PAGE)
