"""Contracts that receive coins and behave badly."""

RECEIVES = """
# pragma version 0.4.3
received: public(uint256)

@external
@payable
def __default__():
    self.received += msg.value
"""

REFUSES = """
# pragma version 0.4.3
open: bool

@external
@payable
def __default__():
    assert self.open, "no"

@external
def setOpen():
    self.open = True
"""

BURNS_GAS = """
# pragma version 0.4.3
waste: uint256

@external
@payable
def __default__():
    for i: uint256 in range(1000000):
        self.waste += i
"""

# PUSH3 81920, PUSH0, REVERT: reverts with 80 KiB, which 30,000 gas just allow.
BOMB = bytes.fromhex("620140005ffd")

# Refuses until it is told what to call back; then it does so with whatever gas it has.
CALLS_BACK = """
# pragma version 0.4.3
target: address
data: Bytes[512]
amount: uint256
reached: public(bool)
succeeded: public(bool)

@deploy
@payable
def __init__():
    pass

@external
@payable
def __default__():
    assert self.target != empty(address), "no"
    self.succeeded = raw_call(self.target, self.data, value=self.amount, revert_on_failure=False)
    self.reached = True

@external
def do(target: address, data: Bytes[512]):
    raw_call(target, data)

@external
def arm(target: address, data: Bytes[512], amount: uint256):
    self.target = target
    self.data = data
    self.amount = amount
"""

# A wallet that gives up early, and cheaply, where it is called with less gas than a withdrawal is to give.
WANTS_GAS = """
# pragma version 0.4.3
open: bool

@external
@payable
def __default__():
    assert msg.gas > 29_000, "too little gas"
    assert self.open, "no"

@external
def setOpen():
    self.open = True
"""
