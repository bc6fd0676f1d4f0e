"""What operators did to money."""

import json

from django.contrib import admin
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import display
from unfold.paginator import InfinitePaginator

from clients.admin.rows import ReadOnly, moment
from clients.models import AuditEntry


@admin.register(AuditEntry)
class AuditAdmin(ReadOnly, ModelAdmin):
    list_display = (moment("at"), "by", "action", "subject", "reason", "shown_details")
    list_filter = ("action", ("by", AutocompleteSelectFilter), "at")
    list_filter_submit = True
    list_select_related = ("by",)
    search_fields = ("subject", "reason", "by__username")
    fields = ("at", "by", "action", "subject", "reason", "shown_details")
    readonly_fields = ("shown_details",)
    paginator = InfinitePaginator
    show_full_result_count = False

    @display(description="details")
    def shown_details(self, entry: AuditEntry) -> str:
        return "; ".join(f"{name}: {_shown(value)}" for name, value in entry.details.items()) or "-"


def _shown(value: object) -> str:
    if isinstance(value, list) and len(value) == 2:
        before, after = map(_shown, value)
        return f"{before} → {after}"
    return value if isinstance(value, str) else json.dumps(value)
