# pragma version 0.4.3
"""
@title One owner
@notice OpenZeppelin's `Ownable` 5, function by function, with its events and its errors.
@dev snekmate's module is not used here because its names differ from those that the published clients know.
     Vyper cannot declare errors, so they are encoded by hand; the build adds them to the ABI.
"""

event OwnershipTransferred:
    previousOwner: indexed(address)
    newOwner: indexed(address)


owner: public(address)


@deploy
@payable
def __init__(initialOwner: address):
    self._check_new(initialOwner)
    self._transfer(initialOwner)


@external
def transferOwnership(newOwner: address):
    self._check_owner()
    self._check_new(newOwner)
    self._transfer(newOwner)


@external
def renounceOwnership():
    self._check_owner()
    self._transfer(empty(address))


@internal
@view
def _check_owner():
    if msg.sender != self.owner:
        raw_revert(abi_encode(msg.sender, method_id=method_id("OwnableUnauthorizedAccount(address)")))


@internal
@pure
def _check_new(newOwner: address):
    if newOwner == empty(address):
        raw_revert(abi_encode(newOwner, method_id=method_id("OwnableInvalidOwner(address)")))


@internal
def _transfer(newOwner: address):
    previous: address = self.owner
    self.owner = newOwner
    log OwnershipTransferred(previousOwner=previous, newOwner=newOwner)
