"""Our work on tasks: how far each is, why, on which node, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from chain import interventions
from chain.admin.columns import (
    OnChain,
    Term,
    full,
    json_text,
    link_on_chain,
    link_to_movement,
    link_to_transaction,
    links_on_chain,
    whole,
    wide,
)
from chain.models import Fulfilment, FulfilmentStatus, Response, Source, Task
from clients.admin import reasons, rows
from clients.admin.rows import amount, moment

STATUS_COLOURS = {
    **{status.value: "info" for status in FulfilmentStatus},
    FulfilmentStatus.ANSWERED.value: "warning",
    FulfilmentStatus.CONFIRMED.value: "success",
    FulfilmentStatus.DECLINED.value: "warning",
    FulfilmentStatus.EXPIRED.value: "danger",
    FulfilmentStatus.LOST.value: "warning",
    FulfilmentStatus.FAILED.value: "danger",
}
MAY_CHANGE = "chain.change_fulfilment"
SEEN = "It is kept in the audit, and stands at the fulfilment."


@admin.register(Fulfilment)
class FulfilmentAdmin(OnChain):
    list_display = (
        *("id", "task", "network", "shown_status", "why", "function", "node", "provider", amount("payment")),
        *(amount("paid"), "tries", moment("changed_at"), moment("expires_at")),
    )
    list_display_links = ("id",)
    list_filter = (
        *("network", "status", ("provider", AutocompleteSelectFilter), ("node", AutocompleteSelectFilter)),
        "created_at",
    )
    list_select_related = ("network", "node", "provider")
    search_fields = ("task_address",)
    search_help_text = (
        "Its number, an address (the task's, its source's, our response's), a transaction's hash, a code."
    )
    fieldsets = (
        (
            None,
            {
                "fields": (
                    *(
                        "id",
                        "network",
                        "task",
                        "source",
                        "shown_status",
                        "meaning",
                        "code",
                        "reason",
                        "created_at",
                    ),
                    *("changed_at", "expires_at"),
                )
            },
        ),
        ("What is asked", {"fields": ("function", full("config_url"), "shown_config", amount("payment"))}),
        (
            "Who does it",
            {"fields": ("node", "provider", "work", "tries", "next_try_at", "leased_until")},
        ),
        (
            "What is sent",
            {
                "fields": (
                    *("attempt_sent", "answer_sent", full("answer_url"), "response"),
                    full("published_transaction"),
                )
            },
        ),
        ("Money", {"fields": (amount("paid"), amount("fee"), "share", "movement")}),
    )
    readonly_fields = (
        *("task", "source", "shown_status", "meaning", "shown_config", "work", "attempt_sent", "answer_sent"),
        *("response", "share", "movement"),
    )
    actions = ("try_now", "give_up")
    actions_detail = ("try_one_now", "give_one_up")

    @staticmethod
    def finds(term: Term) -> Q:
        return (
            term.number_in("pk")
            | term.address_in("task_address", "source_address", "response_address")
            | term.hash_in("published_transaction")
            | term.sent_in("attempt", "answer")
            | Q(code=term.text)
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Fulfilment]:
        found: QuerySet[Fulfilment] = super().get_queryset(request)
        return found.select_related("network", "node", "provider", "attempt", "answer")

    def find(self, found: list[Fulfilment]) -> None:
        for network_id in {each.network_id for each in found}:
            here = [each for each in found if each.network_id == network_id]
            links = links_on_chain(Task, network_id, [each.task_address for each in here])
            for each in here:
                each.task_link = links[each.task_address]  # type: ignore[attr-defined]

    def has_intervene_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_CHANGE)

    def get_actions_detail(self, request: HttpRequest, object_id: Any) -> Any:
        """What goes with the state that it is in; the verbs check it once more."""
        found = Fulfilment.objects.filter(pk=object_id).select_related("answer").first()
        able = {
            "try_one_now": found is not None and interventions.may_be_tried(found, now=timezone.now()),
            "give_one_up": found is not None and interventions.may_be_given_up(found),
        }
        names = tuple(name for name, is_so in able.items() if is_so)
        return [
            each
            for each in super().get_actions_detail(request, object_id)
            if each.action_name.endswith(names)
        ]

    # --- What is shown ------------------------------------------------------------------------------------

    @display(description="status", ordering="status", label=STATUS_COLOURS)
    def shown_status(self, fulfilment: Fulfilment) -> str:
        return fulfilment.status

    @display(description="which means")
    def meaning(self, fulfilment: Fulfilment) -> str:
        return str(FulfilmentStatus(fulfilment.status).label)

    @display(description="why")
    def why(self, fulfilment: Fulfilment) -> str:
        return wide(fulfilment.reason)

    @display(description="task")
    @rows.once
    def task(self, fulfilment: Fulfilment) -> str:
        found: str | None = getattr(fulfilment, "task_link", None)
        return found or link_on_chain(Task, fulfilment.network_id, fulfilment.task_address)

    @display(description="source")
    @rows.once
    def source(self, fulfilment: Fulfilment) -> str:
        return link_on_chain(Source, fulfilment.network_id, fulfilment.source_address)

    @display(description="response")
    @rows.once
    def response(self, fulfilment: Fulfilment) -> str:
        return link_on_chain(Response, fulfilment.network_id, fulfilment.response_address)

    @display(description="config")
    def shown_config(self, fulfilment: Fulfilment) -> str:
        return "not fetched" if fulfilment.config is None else whole(json_text(fulfilment.config))

    @display(description="work")
    def work(self, fulfilment: Fulfilment) -> str:
        if fulfilment.inference_id is not None:
            number = fulfilment.inference_id
            return rows.link("inference_inference", number, f"request {number}")
        if fulfilment.job_id is not None:
            return rows.link("finetune_job", fulfilment.job_id, f"job {fulfilment.job_id}")
        return "-"

    @display(description="our attempt")
    @rows.once
    def attempt_sent(self, fulfilment: Fulfilment) -> str:
        return link_to_transaction(fulfilment.attempt)

    @display(description="our answer")
    @rows.once
    def answer_sent(self, fulfilment: Fulfilment) -> str:
        return link_to_transaction(fulfilment.answer)

    @display(description="the provider's share")
    def share(self, fulfilment: Fulfilment) -> str:
        if fulfilment.paid is None or fulfilment.provider_id is None:
            return "-"
        return rows.shown(fulfilment.paid - (fulfilment.fee or 0))

    @display(description="in the ledger")
    @rows.once
    def movement(self, fulfilment: Fulfilment) -> str:
        return link_to_movement(fulfilment.reference)

    # --- What is done -------------------------------------------------------------------------------------

    @action(description="Try again now, with a reason", permissions=["intervene"])
    def try_now(self, request: HttpRequest, queryset: QuerySet[Fulfilment]) -> HttpResponse | None:
        note = (
            "What waits is tried at once. What has failed or was not taken on begins again from its check, as long as "
            "it was not answered and there is time left."
        )
        return self._do(request, queryset, interventions.try_now, title="Try again now", note=note)

    @action(description="Give up, with a reason", permissions=["intervene"])
    def give_up(self, request: HttpRequest, queryset: QuerySet[Fulfilment]) -> HttpResponse | None:
        note = (
            "We work on it no longer, and nobody is paid for it. Who has ordered the task keeps the money, once it "
            "is cancelled or has expired."
        )
        return self._do(request, queryset, interventions.give_up, title="Give up", note=note)

    @action(description="Try again now", permissions=["intervene"], url_path="try-now", icon="replay")
    def try_one_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.try_now(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:chain_fulfilment_change", object_id)

    @action(
        description="Give up", permissions=["intervene"], url_path="give-up", icon="block",
        variant=ActionVariant.DANGER,
    )  # fmt: skip
    def give_one_up(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.give_up(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:chain_fulfilment_change", object_id)

    def _do(
        self,
        request: HttpRequest,
        queryset: QuerySet[Fulfilment],
        verb: Callable[..., Fulfilment],
        **asking: Any,
    ) -> HttpResponse | None:
        def one(row: Fulfilment, reason: str) -> str:
            after = verb(row, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"fulfilment {after.pk}: {after.get_status_display()}."

        return reasons.do_to_each(self, request, queryset, one, seen_by=SEEN, **asking)
