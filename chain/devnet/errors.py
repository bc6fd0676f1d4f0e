"""What a node answers when it refuses: JSON-RPC error objects with the codes and texts of geth.

Clients match these texts, so they are geth's to the letter where geth has one.
"""

from typing import Any

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
SERVER_ERROR = -32000
LIMIT_EXCEEDED = -32005
REVERTED = 3

# Error(string), the encoding of `revert("…")`, and Panic(uint256).
ERROR_SELECTOR = bytes.fromhex("08c379a0")
PANIC_SELECTOR = bytes.fromhex("4e487b71")


class RpcError(Exception):
    """An answer that is an error object."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def as_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            found["data"] = self.data
        return found


def refused(message: str) -> RpcError:
    return RpcError(SERVER_ERROR, message)


def invalid(message: str) -> RpcError:
    return RpcError(INVALID_PARAMS, message)


def reverted(output: bytes) -> RpcError:
    """`output` is what the contract reverted with; its text is told where it has one."""
    reason = revert_reason(output)
    message = f"execution reverted: {reason}" if reason else "execution reverted"
    return RpcError(REVERTED, message, data="0x" + output.hex())


def revert_reason(output: bytes) -> str | None:
    """The text of Error(string), or the number of Panic(uint256); None for anything else."""
    if output[:4] == PANIC_SELECTOR and len(output) == 36:
        return f"panic code 0x{int.from_bytes(output[4:], 'big'):02x}"
    if output[:4] != ERROR_SELECTOR or len(output) < 4 + 64:
        return None
    start = int.from_bytes(output[4:36], "big") + 4
    length = int.from_bytes(output[start : start + 32], "big")
    text = output[start + 32 : start + 32 + length]
    return text.decode("utf-8", "replace") if len(text) == length else None
