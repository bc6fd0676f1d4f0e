"""Which sources our nodes work for: serving one with a model, or refusing it."""

from __future__ import annotations

from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import Case, OuterRef, Q, QuerySet, Subquery, When
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.utils import timezone
from unfold.decorators import action, display
from unfold.enums import ActionVariant
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from chain import services
from chain.admin.columns import (
    OnChain,
    Term,
    full,
    json_text,
    link_on_chain,
    link_to_list,
    link_to_transaction,
    of_any_network,
    short,
    whole,
    wide,
)
from chain.admin.sources import SERVING_COLOURS
from chain.models import Service, Serving, Source
from clients.admin import reasons, rows
from clients.admin.rows import moment
from marketplace.errors import MarketplaceError

MAY_DECIDE = "chain.change_service"


class ServeForm(reasons.ReasonForm):
    model = forms.CharField(
        max_length=255,
        required=False,
        widget=UnfoldAdminTextInputWidget,
        help_text="Public id of the model that answers, as in /v1/models. Empty: the one that a task names, "
        "which a task of a function with a prompt cannot.",
    )
    functions = forms.JSONField(
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 6}),
        help_text="Names of functions beyond the usual ones (chat, completion, embedding…), as JSON: "
        '{"analyze_sentiment": {"kind": "chat", "prompt": "Say positive or negative: {text}"}}',
    )
    field_order = ("model", "functions", "reason")

    def clean_model(self) -> str:
        return str(self.cleaned_data["model"]).strip()

    def clean_functions(self) -> dict[str, Any]:
        found = self.cleaned_data["functions"] or {}
        if not isinstance(found, dict):
            raise forms.ValidationError("An object: each function's name with what it does.")
        return found


@admin.register(Service)
class ServiceAdmin(OnChain):
    """Those that wait for an operator come first, the oldest on top."""

    list_display = (
        *("id", "source_name", short("source_address", "source"), "network", "shown_status", "model", "why"),
        *("decided", moment("created_at")),
    )
    list_display_links = ("id", "source_name")
    list_filter = ("network", "status", "created_at")
    list_select_related = ("network", "decided_by")
    search_fields = ("source_address",)
    search_help_text = "The address of a source, or a model: all of it."
    fields = (
        *("source_name", "source", full("source_address"), "network", "shown_status", "model"),
        *(
            "shown_functions",
            "reason",
            "decided",
            "registered",
            "registered_at",
            "obstacle",
            "tries",
            "next_try_at",
        ),
        *("work", "created_at"),
    )
    readonly_fields = (
        *("source_name", "source", "shown_status", "shown_functions", "decided", "registered", "work"),
    )
    actions = ("refuse",)
    actions_detail = ("serve_one", "refuse_one")

    @staticmethod
    def finds(term: Term) -> Q:
        return of_any_network(term.address_in("source_address")) | Q(model=term.text)

    def get_ordering(self, request: HttpRequest) -> tuple[Any, ...]:
        waits = When(status=Serving.ASKED, then="pk")
        return (Case(waits).asc(nulls_last=True), "-pk")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Service]:
        found: QuerySet[Service] = super().get_queryset(request)
        source = Source.objects.filter(network=OuterRef("network"), address=OuterRef("source_address"))
        return found.select_related("network", "decided_by", "registration").annotate(
            found_name=Subquery(source.values("name")[:1])
        )

    def has_decide_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return request.user.has_perm(MAY_DECIDE)

    @display(description="status", ordering="status", label=SERVING_COLOURS)
    def shown_status(self, service: Service) -> str:
        return str(Serving(service.status).label)

    @display(description="name")
    def source_name(self, service: Service) -> str:
        return wide(service.found_name or "(without a name)")  # type: ignore[attr-defined]

    @display(description="why")
    def why(self, service: Service) -> str:
        is_stuck = service.status == Serving.SERVED and service.obstacle
        return wide(service.obstacle if is_stuck else service.reason)

    @display(description="decided", ordering="decided_at")
    def decided(self, service: Service) -> str:
        if service.decided_at is None:
            return "-"
        return f"{service.decided_at:%Y-%m-%d %H:%M} by {service.decided_by or 'nobody: by the settings'}"

    @display(description="source")
    @rows.once
    def source(self, service: Service) -> str:
        return link_on_chain(Source, service.network_id, service.source_address)

    @display(description="functions")
    def shown_functions(self, service: Service) -> str:
        return whole(json_text(service.functions)) if service.functions else "the usual ones"

    @display(description="registration with the source")
    def registered(self, service: Service) -> str:
        return link_to_transaction(service.registration)

    @display(description="our work for it")
    def work(self, service: Service) -> str:
        return link_to_list("chain_fulfilment", "Fulfilments", q=service.source_address)

    @action(description="Serve it", permissions=["decide"], url_path="serve", icon="check")
    def serve_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        chosen = self.get_queryset(request).filter(pk=object_id)
        service = chosen.first()
        if service is None:
            raise Http404
        known = {"model": service.model, "functions": service.functions}
        form = ServeForm(request.POST if "reason" in request.POST else None, initial=known)
        form.fields["reason"].help_text = "It is kept in the audit."
        if form.is_bound and form.is_valid() and self._serve(request, service, form):
            return redirect("admin:chain_service_change", object_id)
        return reasons.fill(
            request, self, form, title="Serve it", objects=chosen, describe=_described,
            note="Our provider registers with it, and our nodes answer its tasks with this model.",
        )  # fmt: skip

    def _serve(self, request: HttpRequest, service: Service, form: forms.Form) -> bool:
        """False where the form has to be filled in anew, with what is wrong in it."""
        said = form.cleaned_data
        try:
            services.serve(
                service, model=said["model"], functions=said["functions"], by=rows.operator(request),
                reason=said["reason"], now=timezone.now(),
            )  # fmt: skip
        except MarketplaceError as error:
            form.add_error(None, error.message)
            return False
        self.message_user(request, f"{service} is served from now on.", messages.SUCCESS)
        return True

    @action(description="Refuse, with a reason", permissions=["decide"])
    def refuse(self, request: HttpRequest, queryset: QuerySet[Service]) -> HttpResponse | None:
        def verb(service: Service, reason: str) -> str:
            services.refuse(service, by=rows.operator(request), reason=reason, now=timezone.now())
            return f"{service} is not served."

        return reasons.do_to_each(
            self, request, queryset, verb, title="Refuse", describe=_described,
            note="Its tasks are not taken on any more. What was taken on is carried through.",
            seen_by="Its publisher may read it; it is kept in the audit.",
        )  # fmt: skip

    @action(
        description="Refuse", permissions=["decide"], url_path="refuse", icon="block",
        variant=ActionVariant.DANGER,
    )  # fmt: skip
    def refuse_one(self, request: HttpRequest, object_id: str) -> HttpResponse:
        asked = self.refuse(request, self.get_queryset(request).filter(pk=object_id))
        return asked or redirect("admin:chain_service_change", object_id)


def _described(service: Service) -> str:
    return f"{service.found_name or 'A source without a name'}: {service}"  # type: ignore[attr-defined]
