"""The door to Ethereum: contracts, the document's Python client, and what the marketplace reads and writes on chains."""
