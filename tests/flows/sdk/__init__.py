"""What the published SDK does, as its users would have it; each file runs in that SDK's own virtual environment."""
