# pragma version 0.4.3
"""
@title The anchor of the marketplace's receipts
@notice The Merkle root of each batch of receipts, published once and never changed: whoever holds a receipt and its
        proof can show that it was given then.
"""
import stewardship

initializes: stewardship

exports: stewardship.__interface__

event RootPublished:
    batch: indexed(uint256)
    root: bytes32


rootOf: public(HashMap[uint256, bytes32])


@deploy
def __init__():
    stewardship.__init__()


@external
def publish(batch: uint256, root: bytes32):
    stewardship._check_operator()
    assert root != empty(bytes32), "EmptyRoot"
    assert self.rootOf[batch] == empty(bytes32), "AlreadyPublished"
    self.rootOf[batch] = root
    log RootPublished(batch=batch, root=root)
