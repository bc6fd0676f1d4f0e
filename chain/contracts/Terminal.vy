# pragma version 0.4.3
"""
@title Who belongs to whom: masters and their providers, principals and their agents
@notice A master owns the money that its provider earns; a provider is the key on the machine that works. The master
        announces the provider, then the provider announces the master: only both together pair them. One account may
        be both. An agent may act for a client or a master until it is dismissed.
"""
import ownable
from interfaces import IVault

initializes: ownable

exports: ownable.__interface__

event ProviderAnnounced:
    provider: address
    master: address


event MasterAnnounced:
    provider: address
    master: address


event ProviderRemoved:
    provider: address


event RemoveContainer:
    provider: address
    source: address


event AgentSet:
    account: address
    agent: address
    value: bool


event DefaultAgentDisabled:
    master: address
    value: bool


event BaseDataUpdated:
    provider: address


event LiveDataUpdated:
    provider: address


PROVIDER: public(constant(bytes32)) = keccak256("PROVIDER")
# The longest description of a provider, in bytes: usually the URL of one.
DESCRIPTION: constant(uint256) = 4096

manager: public(address)
vault: public(address)
masterOf: public(HashMap[address, address])
providerOf: public(HashMap[address, address])
isMaster: public(HashMap[address, bool])
isProvider: public(HashMap[address, bool])
# The provider that a master has announced, whether or not it has answered.
announcedBy: public(HashMap[address, address])
isAgentOf: public(HashMap[address, HashMap[address, bool]])
defaultAgentDisabled: public(HashMap[address, bool])
baseDataOf: public(HashMap[address, String[DESCRIPTION]])
liveDataOf: public(HashMap[address, String[DESCRIPTION]])


@deploy
def __init__(_manager: address, _vault: address):
    ownable.__init__(msg.sender)
    self.manager = _manager
    self.vault = _vault


@external
@payable
@nonreentrant
def announceProvider(provider: address, amount: uint256):
    """
    @notice The caller, a master, names its provider and stakes `amount` for it, which must be sent along.
    @dev The stake belongs to the provider. Announcing one's own provider again adds to its stake.
    """
    assert msg.value == amount, "AmountMismatch"
    assert provider != empty(address), "ZeroAddress"
    assert self.masterOf[provider] in [empty(address), msg.sender], "AlreadyPaired"
    assert self.providerOf[msg.sender] in [empty(address), provider], "AlreadyPaired"
    self.announcedBy[msg.sender] = provider
    log ProviderAnnounced(provider=provider, master=msg.sender)
    if amount > 0:
        extcall IVault(self.vault).stake(provider, value=amount)


@external
def announceMaster(master: address):
    """
    @notice The caller, a provider, accepts the master that has announced it; from now on the master earns.
    """
    assert self.announcedBy[master] == msg.sender, "NotProvider"
    assert self.masterOf[msg.sender] == empty(address), "AlreadyPaired"
    # The master is not paired either: what it announces is then its provider, and that is somebody else.
    self.masterOf[msg.sender] = master
    self.providerOf[master] = msg.sender
    self.isMaster[master] = True
    self.isProvider[msg.sender] = True
    log MasterAnnounced(provider=msg.sender, master=master)


@external
def removeProvider(provider: address):
    """
    @notice The master leaves its provider, or takes back an announcement. What the provider earns is now its own.
    """
    assert provider != empty(address), "ZeroAddress"
    assert self.announcedBy[msg.sender] == provider, "NotMaster"
    self.announcedBy[msg.sender] = empty(address)
    if self.masterOf[provider] == msg.sender:
        self.masterOf[provider] = empty(address)
        self.providerOf[msg.sender] = empty(address)
        self.isMaster[msg.sender] = False
        self.isProvider[provider] = False
    log ProviderRemoved(provider=provider)


@external
def removeContainer(provider: address, source: address):
    """
    @notice Tells the provider's machine to stop running a source; nothing else changes.
    """
    assert self.masterOf[provider] == msg.sender, "NotMaster"
    log RemoveContainer(provider=provider, source=source)


@external
def setAgent(agent: address, _value: bool):
    """
    @notice Lets `agent` act for the caller, a client or a master, or no longer.
    """
    assert not self.isProvider[msg.sender] or self.isMaster[msg.sender], "NotMaster"
    self.isAgentOf[msg.sender][agent] = _value
    log AgentSet(account=msg.sender, agent=agent, value=_value)


@external
def setDefaultAgentDisabled(_value: bool):
    """
    @notice A wish for schedulers to read. No agent has any right that `setAgent` has not given.
    """
    self.defaultAgentDisabled[msg.sender] = _value
    log DefaultAgentDisabled(master=msg.sender, value=_value)


@external
def setBaseData(_baseData: String[DESCRIPTION]):
    self.baseDataOf[msg.sender] = _baseData
    log BaseDataUpdated(provider=msg.sender)


@external
def setLiveData(_liveData: String[DESCRIPTION]):
    self.liveDataOf[msg.sender] = _liveData
    log LiveDataUpdated(provider=msg.sender)


@external
def setManager(_manager: address):
    ownable._check_owner()
    self.manager = _manager


@external
def setVault(_vault: address):
    ownable._check_owner()
    self.vault = _vault


@external
@view
def getMasterOf(provider: address) -> address:
    return self.masterOf[provider]


@external
@view
def getIsMaster(master: address) -> bool:
    return self.isMaster[master]


@external
@view
def getIsAgentOf(master: address, agent: address) -> bool:
    return self.isAgentOf[master][agent]
