"""What fine-tuning answers over HTTP."""

from typing import Any

urlpatterns: list[Any] = []
