"""Everything that can go wrong, in one tree.

    ChainError
    ├── ConfigurationError
    │   ├── MissingKey, InvalidKey            no key to sign with, or one that is none
    │   ├── UnknownChain, UnknownContract     the network or the contract is not configured
    │   ├── WrongNetwork                      the node serves another chain than the one selected
    │   └── InvalidAddress, InvalidValue      an argument that cannot be sent
    ├── NodeError                             the node (RPC server)
    │   ├── NodeUnreachable                   no answer in time, or none that is JSON-RPC
    │   └── NodeRefused                       an error object: `code`, `message`, `data`
    ├── PinningError                          the file server did not keep the task's configuration
    ├── OutOfTime                             `total_timeout` was used up before anything was sent
    ├── NotFound
    │   ├── NoSuchTask, NoSuchSource, NoSuchResponse
    │   └── NoConfirmedResponse
    ├── TransactionError                      `tx_hash` names the transaction where there is one
    │   ├── InsufficientFunds                 the wallet cannot pay the gas
    │   ├── NonceConflict                     others keep taking the nonces of this key
    │   ├── ReceiptTimeout                    sent, and not mined in time: it still may be
    │   ├── Uncertain                         the connection broke while sending: it may have been sent
    │   └── TransactionFailed                 mined, and failed for a reason that cannot be found
    └── Reverted                              a contract refused: `reason`
        ├── NotOwner: NotTaskOwner, NotSourceOwner
        ├── NotMaster, NotProvider, NotEligible
        ├── TaskExpired, TaskAlreadyFinalized, ResponseAlreadyConfirmed, SourceInactive
        ├── InsufficientBalance: NotEnoughInVault
        ├── InsufficientLockup, UnbondingNotElapsed
        ├── PaymentTooLow, PaymentTooHigh, ExpiryTooFar
        └── AlreadyDone, NotRegistered, Paused

A `Reverted` is raised before gas is paid wherever that can be known.
"""

from typing import Any


class ChainError(Exception):
    """Anything that `chain.client` raises."""


class ConfigurationError(ChainError):
    """Something has to be set or given differently."""


class MissingKey(ConfigurationError, ValueError):
    def __init__(self, role: str) -> None:
        super().__init__(
            f"No key to sign with: pass private_key=…, or set {role}_PRIVATE_KEY, or {role}_KEYSTORE with "
            f"{role}_KEYSTORE_PASSWORD."
        )


class InvalidKey(ConfigurationError, ValueError):
    """The text never contains what was given."""


class UnknownChain(ConfigurationError, ValueError):
    pass


class UnknownContract(ConfigurationError, ValueError):
    pass


class WrongNetwork(ConfigurationError):
    def __init__(self, *, selected: int, found: int, name: str) -> None:
        super().__init__(
            f"The network {name} has the chain id {selected}, and its node serves the chain {found}; nothing was sent."
        )
        self.selected, self.found = selected, found


class InvalidAddress(ConfigurationError, ValueError):
    pass


class InvalidValue(ConfigurationError, ValueError):
    pass


class NodeError(ChainError):
    pass


class NodeUnreachable(NodeError):
    pass


class NodeRefused(NodeError):
    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"The node refused: {message} (code {code})")
        self.code, self.message, self.data = code, message, data


class PinningError(ChainError):
    """Nothing was sent, and no gas was paid."""


class OutOfTime(ChainError):
    """Nothing was sent, and no gas was paid."""

    def __init__(self, stage: str) -> None:
        super().__init__(f"The total timeout ran out {stage}; nothing was sent.")
        self.stage = stage


class NotFound(ChainError):
    pass


class NoSuchTask(NotFound):
    pass


class NoSuchSource(NotFound):
    pass


class NoSuchResponse(NotFound):
    pass


class NoConfirmedResponse(NotFound):
    pass


class TransactionError(ChainError):
    def __init__(self, message: str, tx_hash: str | None = None) -> None:
        super().__init__(message)
        self.tx_hash = tx_hash


class InsufficientFunds(TransactionError):
    pass


class NonceConflict(TransactionError):
    pass


class ReceiptTimeout(TransactionError):
    """Look the transaction up before repeating the call; `tx_hashes` has it with all its fees, `nonce` its number."""

    def __init__(self, tx_hashes: list[str], nonce: int, seconds: float, mined: int | None = None) -> None:
        """`mined` is how many transactions of the key are mined, where that is known."""
        text = (
            f"The transaction {tx_hashes[-1]} (nonce {nonce}) was sent, and not mined within {seconds:.0f} s; "
            "it may still be."
        )
        if mined is not None and mined < nonce:
            text += f" It waits for earlier ones of the same key (nonce {mined} and on), which are not mined."
        super().__init__(text, tx_hashes[-1])
        self.tx_hashes, self.nonce = tx_hashes, nonce


class Uncertain(TransactionError):
    pass


class TransactionFailed(TransactionError):
    pass


class Reverted(TransactionError):
    def __init__(self, message: str, *, reason: str = "", tx_hash: str | None = None) -> None:
        super().__init__(message, tx_hash)
        self.reason = reason


class NotOwner(Reverted):
    pass


class NotTaskOwner(NotOwner):
    pass


class NotSourceOwner(NotOwner):
    pass


class NotMaster(Reverted):
    pass


class NotProvider(Reverted):
    pass


class NotEligible(Reverted):
    pass


class TaskExpired(Reverted):
    pass


class TaskAlreadyFinalized(Reverted):
    pass


class ResponseAlreadyConfirmed(Reverted):
    pass


class SourceInactive(Reverted):
    pass


class InsufficientBalance(Reverted):
    pass


class NotEnoughInVault(InsufficientBalance):
    """Amounts are in wei."""

    def __init__(self, *, account: str, required: int, available: int) -> None:
        self.account, self.required, self.available = account, required, available
        self.missing = required - available
        super().__init__(
            f"The payment is taken from the Vault, not from the wallet: {account} has {available} wei there, "
            f"{required} are needed, {self.missing} are missing. Call deposit({self.missing}) first, or pass "
            "auto_deposit=True.",
            reason="InsufficientBalance",
        )


class InsufficientLockup(Reverted):
    pass


class UnbondingNotElapsed(Reverted):
    pass


class PaymentTooLow(Reverted):
    pass


class PaymentTooHigh(Reverted):
    pass


class ExpiryTooFar(Reverted):
    pass


class AlreadyDone(Reverted):
    """A provider has registered, attempted or answered before; nothing is to be done again."""


class NotRegistered(Reverted):
    pass


class Paused(Reverted):
    pass


# The contracts' revert strings, and what each means to a person. "NotOwner" depends on what was called.
REASONS: dict[str, tuple[type[Reverted], str]] = {
    "NotMaster": (NotMaster, "this account is no master"),
    "NotProvider": (NotProvider, "this account is no provider"),
    "Expired": (TaskExpired, "the task has expired"),
    "AlreadyConfirmed": (ResponseAlreadyConfirmed, "the response is confirmed already"),
    "AlreadyFinalized": (TaskAlreadyFinalized, "the task is closed already"),
    "InsufficientBalance": (InsufficientBalance, "the Vault balance is too small; see deposit()"),
    "InsufficientLockup": (InsufficientLockup, "too little is locked in the Vault"),
    "UnbondingNotElapsed": (UnbondingNotElapsed, "the unbonding period is not over"),
    "NotEligible": (NotEligible, "this account is not eligible"),
    "SourceInactive": (SourceInactive, "the source is inactive"),
    "PaymentTooLow": (PaymentTooLow, "the payment is below what the source asks for"),
    "PaymentTooHigh": (PaymentTooHigh, "the payment asked is more than the task offers"),
    "ExpiryTooLong": (ExpiryTooFar, "the task would expire later than the source allows"),
    "AlreadyRegistered": (AlreadyDone, "the provider is registered already"),
    "AlreadyAttempted": (AlreadyDone, "the provider has attempted the task already"),
    "AlreadySubmitted": (AlreadyDone, "the provider has answered the task already"),
    "NotRegistered": (NotRegistered, "the provider is not registered with the source"),
    "Paused": (Paused, "the contract is paused"),
    "UnknownSource": (Reverted, "there is no source at this address"),
    "UnknownTask": (Reverted, "there is no task at this address"),
    "UnknownResponse": (Reverted, "there is no response at this address"),
}


def reverted(reason: str, *, doing: str, tx_hash: str | None = None) -> Reverted:
    """The error for a revert string: known ones exactly, then as a part of the text, like the published SDK.

    `doing` is the contract's function that was called.
    """
    if "NotOwner" in reason:
        kind = NotSourceOwner if "source" in doing.lower() else NotTaskOwner
        return kind(f"{doing}: this account is not the owner", reason=reason, tx_hash=tx_hash)
    name = reason if reason in REASONS else next((known for known in REASONS if known in reason), None)
    if name is not None:
        found, sentence = REASONS[name]
        return found(f"{doing}: {sentence}", reason=reason, tx_hash=tx_hash)
    said = f"the contract refused: {reason}" if reason else "the contract refused without a reason"
    return Reverted(f"{doing}: {said}", reason=reason, tx_hash=tx_hash)
