"""The document's data types, and those that describe what stands on the chain."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import Enum, IntEnum, IntFlag
from typing import Any, Protocol, runtime_checkable

from chain.client.errors import InvalidValue


class DeliveryMethod(Enum):
    """Enum for delivery method options.

    Attributes:
        MANUAL_CONFIRMATION: Client manually confirms the response
        FIRST_RESPONSE: First provider to submit a response wins
    """

    MANUAL_CONFIRMATION = 0
    FIRST_RESPONSE = 1


class Environment(IntFlag):
    """What a source can run on; a bitmask on chain."""

    CPU = 1
    NVIDIA = 2
    AMD = 4


class SourceStatus(IntEnum):
    ACTIVE = 0
    INACTIVE = 1


class TaskStatus(IntEnum):
    NEW = 0
    ATTEMPTED = 1
    RESPONDED = 2
    CANCELED = 3
    EXPIRED = 4
    FINALIZED = 5


class ResponseStatus(IntEnum):
    SUBMITTED = 0
    CONFIRMED = 1


@runtime_checkable
class Model(Protocol):
    """What pydantic's models can do; pydantic itself is not needed."""

    def model_dump(self, *, mode: str = ...) -> dict[str, Any]: ...


@dataclass
class ImageEnvironments:
    """Docker compose file paths for different environments.

    Attributes:
        cpu: URL to CPU-only docker-compose.yml file
        nvidia: URL to NVIDIA GPU docker-compose.yml file
        amd: URL to AMD GPU docker-compose.yml file
    """

    cpu: str = ""
    nvidia: str = ""
    amd: str = ""

    def environments(self) -> Environment:
        """The environments that have a file."""
        found = Environment(0)
        for environment in Environment:
            if getattr(self, str(environment.name).lower()):
                found |= environment
        return found


@dataclass
class SourceInfo:
    """User-friendly source information structure.

    Attributes:
        name: Human-readable name for the source
        description: Description of the AI service
        logoUrl: URL to the source logo image
        imageEnvs: Docker environment configurations
        minPayment: Minimum payment required in wei
        minAvailableLockup: Minimum lockup amount in wei
        maxExpiryDuration: Maximum task duration in seconds
        deliveryMethod: How responses are delivered
    """

    name: str
    description: str
    logoUrl: str
    imageEnvs: ImageEnvironments
    minPayment: int
    minAvailableLockup: int
    maxExpiryDuration: int
    deliveryMethod: DeliveryMethod = DeliveryMethod.MANUAL_CONFIRMATION

    def metadata(self) -> dict[str, str]:
        """What is pinned: the file that providers read before they run the source."""
        return asdict(self.imageEnvs) | {
            "name": self.name,
            "description": self.description,
            "logoUrl": self.logoUrl,
        }


@dataclass
class TaskInput:
    """Configuration structure for tasks.

    Attributes:
        function_name: Name of the function to call on the source
        data: Input data for the function (Pydantic model or dictionary)
        **extra: Further fields beside these two, as the source may ask for
    """

    function_name: str
    data: Model | Mapping[str, Any]

    def __init__(self, function_name: str, data: Model | Mapping[str, Any], **extra: Any) -> None:
        self.function_name = function_name
        self.data = data
        self._extra = extra

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskInput) and self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """What is pinned: the file that the provider gets."""
        if isinstance(self.data, Mapping):
            data = dict(self.data)
        elif isinstance(self.data, Model):
            data = self.data.model_dump(mode="json")
        else:
            raise InvalidValue(
                f"TaskInput.data is a dictionary or a pydantic model, not {type(self.data).__name__}."
            )
        return {"function_name": self.function_name, "data": data} | self._extra


@dataclass
class TaskInfo:
    """User-friendly task information structure.

    Attributes:
        source: Address of the source to run the task on
        config: Task input configuration and function call
        expiryTime: Unix timestamp when task expires
        payment: Payment amount for the task in wei
    """

    source: str
    config: TaskInput
    expiryTime: int
    payment: int


@dataclass
class Response:
    """Response data structure for task responses.

    Attributes:
        address: Blockchain address of the response
        task: Address of the task this responds to
        provider: Address of the provider who submitted the response
        data: Response data from the AI service
        payment: Payment amount in wei
        status: Response status code
        timestamp: Unix timestamp when response was submitted
        confirmed: Whether the response has been confirmed
    """

    address: str
    task: str
    provider: str
    data: str
    payment: int
    status: int
    timestamp: int
    confirmed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class ConfirmedResponse:
    """Simplified confirmed response data structure.

    Attributes:
        address: Blockchain address of the confirmed response
        data: The confirmed response data
    """

    address: str
    data: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """A source as it stands on the chain; amounts in wei, times in seconds."""

    address: str
    client: str
    status: SourceStatus
    imageMetadataUrl: str
    imageEnvironments: Environment
    minPayment: int
    minAvailableLockup: int
    maxExpiryDuration: int
    privacyEnabled: bool
    optionalParamsUrl: str
    deliveryMethod: DeliveryMethod
    lastUpdateTime: int


@dataclass(frozen=True)
class Task:
    """A task as it stands on the chain; `config` is the URL of the pinned TaskInput."""

    address: str
    source: str
    config: str
    expiryTime: int
    payment: int
    status: TaskStatus
    deliveryMethod: DeliveryMethod
    attempts: int
    winningProvider: str | None


@dataclass(frozen=True)
class VaultAccount:
    """What an account has in the Vault, in wei.

    `balance` pays for tasks and can be withdrawn; `lockup` is a provider's stake; `unbonding` is on its way from there,
    since `unbondingTimestamp`; `frozen` is promised to tasks that are open.
    """

    address: str
    balance: int
    lockup: int
    unbonding: int
    unbondingTimestamp: int
    frozen: int
    totalEarnings: int
