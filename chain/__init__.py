"""The door to Ethereum: contracts, the document's Python client, and what we read from chains and write to them."""
