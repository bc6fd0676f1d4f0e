# pragma version 0.4.3
"""
@title Who may do what
@notice OpenZeppelin's `AccessControl` 5 with the roles of the marketplace's contracts. The deployer administers all of them.

        CONTROLLER   the contracts Nexus and Controller: change states, freeze, pay and release payments
        PROVIDER     accounts approved as providers; asked for only where the Nexus says `approvedOnly`
        JUDGE        sanctions a stake, waives a sanction, releases a disputed payment to its client
"""
from snekmate.auth import access_control

initializes: access_control

exports: (
    access_control.DEFAULT_ADMIN_ROLE,
    access_control.getRoleAdmin,
    access_control.hasRole,
    access_control.supportsInterface,
)

CONTROLLER: public(constant(bytes32)) = keccak256("CONTROLLER")
PROVIDER: public(constant(bytes32)) = keccak256("PROVIDER")
JUDGE: public(constant(bytes32)) = keccak256("JUDGE")


@deploy
def __init__():
    access_control.__init__()


@external
def grantRole(role: bytes32, account: address):
    self._check_role(access_control.getRoleAdmin[role])
    access_control._grant_role(role, account)


@external
def revokeRole(role: bytes32, account: address):
    self._check_role(access_control.getRoleAdmin[role])
    access_control._revoke_role(role, account)


@external
def renounceRole(role: bytes32, callerConfirmation: address):
    if callerConfirmation != msg.sender:
        raw_revert(method_id("AccessControlBadConfirmation()"))
    access_control._revoke_role(role, msg.sender)


@external
def setRoleAdmin(role: bytes32, adminRole: bytes32):
    """
    @notice Lets the holders of `adminRole` grant and revoke `role` instead of those who did.
    """
    self._check_role(access_control.getRoleAdmin[role])
    access_control._set_role_admin(role, adminRole)


@internal
@view
def _check_role(role: bytes32):
    if not access_control.hasRole[role][msg.sender]:
        raw_revert(
            abi_encode(
                msg.sender, role, method_id=method_id("AccessControlUnauthorizedAccount(address,bytes32)")
            )
        )
