# pragma version 0.4.3
"""
@title An owner and its operators
@notice The owner hands over in two steps, and cannot leave the contract without one. Operators do the daily work.
"""
from snekmate.auth import ownable
from snekmate.auth import ownable_2step

initializes: ownable
initializes: ownable_2step[ownable := ownable]

exports: ownable.owner

event OperatorSet:
    operator: indexed(address)
    allowed: bool


operators: public(HashMap[address, bool])


@deploy
def __init__():
    ownable.__init__()
    ownable_2step.__init__()


@external
@view
def pendingOwner() -> address:
    return ownable_2step.pending_owner


@external
def transferOwnership(newOwner: address):
    """
    @notice Offers the ownership; `newOwner` has to accept it. The zero address takes the offer back.
    """
    self._check_owner()
    ownable_2step.pending_owner = newOwner
    log ownable_2step.OwnershipTransferStarted(previous_owner=ownable.owner, new_owner=newOwner)


@external
def acceptOwnership():
    assert msg.sender == ownable_2step.pending_owner, "NotOwner"
    ownable_2step._transfer_ownership(msg.sender)


@external
def setOperator(operator: address, allowed: bool):
    self._check_owner()
    self.operators[operator] = allowed
    log OperatorSet(operator=operator, allowed=allowed)


@internal
@view
def _check_owner():
    assert msg.sender == ownable.owner, "NotOwner"


@internal
@view
def _check_operator():
    assert self.operators[msg.sender], "NotOperator"
