"""Publish sources and tasks on an OpenGPU network, read and confirm what providers answer.

    from chain.client import publish_task, TaskInfo, TaskInput

Blocking here, the same for asyncio in `chain.client.aio`; providers' functions in `chain.client.provider`, errors in
`chain.client.errors`. Needs web3 and requests, no Django. See README.md in this folder.
"""

from chain.client.chain_config import ChainConfig, ChainId, Network
from chain.client.errors import ChainError, NotEnoughInVault
from chain.client.responses import confirm_response, get_confirmed_response, get_response, get_task_responses
from chain.client.source import get_source, inactivate_source, publish_source, update_source
from chain.client.task import cancel_task, get_task, publish_task
from chain.client.types import (
    ConfirmedResponse,
    DeliveryMethod,
    Environment,
    ImageEnvironments,
    Response,
    ResponseStatus,
    Source,
    SourceInfo,
    SourceStatus,
    Task,
    TaskInfo,
    TaskInput,
    TaskStatus,
    VaultAccount,
)
from chain.client.vault import deposit, vault_account, vault_balance, withdraw

__all__ = [
    "ChainConfig",
    "ChainError",
    "ChainId",
    "ConfirmedResponse",
    "DeliveryMethod",
    "Environment",
    "ImageEnvironments",
    "Network",
    "NotEnoughInVault",
    "Response",
    "ResponseStatus",
    "Source",
    "SourceInfo",
    "SourceStatus",
    "Task",
    "TaskInfo",
    "TaskInput",
    "TaskStatus",
    "VaultAccount",
    "cancel_task",
    "confirm_response",
    "deposit",
    "get_confirmed_response",
    "get_response",
    "get_source",
    "get_task",
    "get_task_responses",
    "inactivate_source",
    "publish_source",
    "publish_task",
    "update_source",
    "vault_account",
    "vault_balance",
    "withdraw",
]
