"""An Ethereum chain for development: py-evm behind JSON-RPC over HTTP, kept in a folder, for many processes.

`python -m chain.devnet --home DIR` serves it; `python -m chain.devnet accounts` shows the accounts that own its coins.
See README.md in this folder.
"""
