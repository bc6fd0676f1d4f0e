"""The catalogue, the files of what the marketplace keeps, and the nodes that serve it."""

from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils import timezone
from unfold.admin import ModelAdmin, TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display

from clients.admin import rows
from clients.admin.rows import ReadOnly
from inference import bringing, catalogue, hosting
from inference.models import Family, Hosting, HostingState, Model, Revision, RevisionFile
from marketplace import bus
from marketplace.errors import MarketplaceError

STATE_COLOURS = {
    HostingState.WANTED.label: "info",
    HostingState.LOADING.label: "info",
    HostingState.SERVING.label: "success",
    HostingState.FAILED.label: "danger",
}


class HostingInline(ReadOnly, TabularInline):
    """The nodes that serve it, or are to."""

    model = Hosting
    fields = ("node", "state", "reason", "revision", "asked_at", "changed_at")
    extra = 0
    tab = True


class RevisionInline(ReadOnly, TabularInline):
    model = Revision
    fk_name = "model"
    fields = ("number", "kind", "family", "label", "size", "source", "by", "created_at")
    readonly_fields = ("label",)
    extra = 0
    tab = True
    show_change_link = True


@admin.register(Model)
class CatalogueAdmin(ModelAdmin):
    """The catalogue. Models that nodes offer enter it by themselves; hide what shall not be served."""

    list_display = (
        *("name", "title", "framework", "version", "owner", "shown_nodes", "available", "shown_hosting"),
        *("published", "hidden"),
    )
    list_filter = ("hidden", "is_hosted", "is_alias", "framework", ("owner", AutocompleteSelectFilter))
    list_filter_submit = True
    search_fields = ("name", "title", "owner__username")
    autocomplete_fields = ("owner",)
    list_select_related = ("owner", "target")
    readonly_fields = ("revision", "target", "is_alias", "is_hosted", "published_at", "created_at")
    inlines = (RevisionInline, HostingInline)
    actions = ("host", "stop_hosting", "publish", "take_back")
    show_full_result_count = False

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> Any:
        # Who has its files keeps its name: nodes, jobs and keys know it by that.
        is_kept = obj is not None and (obj.revision_id is not None or obj.is_alias)
        return (*self.readonly_fields, "name", "owner") if is_kept else self.readonly_fields

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        page = super().get_changelist_instance(request)
        entries = catalogue.load().entries
        for model in page.result_list:
            model.entry = entries.get(model.name)
        return page

    def save_model(self, request: HttpRequest, obj: Model, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        transaction.on_commit(lambda: bus.announce(hosting.TOPIC, obj.name))

    def delete_model(self, request: HttpRequest, obj: Model) -> None:
        rows.do_to_each(self, request, [obj], _delete)

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        rows.do_to_each(self, request, queryset, _delete)

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> Any:
        # Its revisions go with it, though nobody may delete these alone; what must stay is refused then.
        return [str(model) for model in objs], {"models": len(objs)}, set(), []

    @display(description="nodes")
    def shown_nodes(self, model: Model) -> str:
        entry: catalogue.Entry | None = getattr(model, "entry", None)
        return f"{entry.live_nodes} of {entry.nodes}" if entry else "0"

    @display(description="available", boolean=True)
    def available(self, model: Model) -> bool:
        entry: catalogue.Entry | None = getattr(model, "entry", None)
        return entry is not None and entry.available

    @display(description="hosted")
    def shown_hosting(self, model: Model) -> str:
        if model.is_alias:
            return f"leads to {model.target}" if model.target else "leads nowhere"
        entry: catalogue.Entry | None = getattr(model, "entry", None)
        if entry is None or not entry.is_hosted:
            return "-"
        return f"{len(entry.hosts or ())} serve it" if entry.hosts else "no node serves it yet"

    @display(description="published", boolean=True)
    def published(self, model: Model) -> bool:
        return model.owner_id is None or model.published_at is not None

    @action(description="Have a node host it", permissions=["change"])
    def host(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        rows.do_to_each(self, request, queryset.select_related("revision"), _host)

    @action(description="Stop hosting", permissions=["change"])
    def stop_hosting(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        rows.do_to_each(self, request, queryset, _stop)

    @action(description="Publish: everybody may use it", permissions=["change"])
    def publish(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        rows.do_to_each(self, request, queryset, partial(_publish, published=True))

    @action(description="Take back: for its owner alone", permissions=["change"])
    def take_back(self, request: HttpRequest, queryset: QuerySet[Model]) -> None:
        rows.do_to_each(self, request, queryset, partial(_publish, published=False))


def _delete(model: Model) -> str:
    bringing.delete(model)
    return f"{model} is deleted."


def _host(model: Model) -> str:
    if model.revision is None or model.revision.family == Family.OTHER:
        raise bringing.InUse("the marketplace keeps no files of it that nodes could serve.")
    found = hosting.want(model, now=timezone.now())
    if found is None:
        return f"{model}: no node can host it at the moment; one will be asked as soon as there is one."
    return f"{model}: {found.node} was asked to serve it."


def _stop(model: Model) -> str:
    return f"{model}: {hosting.drop(model)} nodes let go of it."


def _publish(model: Model, *, published: bool) -> str:
    bringing.publish(model, published=published, now=timezone.now())
    return f"{model} is {'for everybody' if published else 'for its owner alone'} from now on."


class FileInline(ReadOnly, TabularInline):
    model = RevisionFile
    fields = ("path", "shown_size", "blob")
    readonly_fields = ("shown_size",)
    extra = 0
    tab = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[RevisionFile]:
        found: QuerySet[RevisionFile] = super().get_queryset(request)
        return found.select_related("blob")

    @display(description="size")
    def shown_size(self, file: RevisionFile) -> str:
        return filesizeformat(file.blob.size)


@admin.register(Revision)
class RevisionAdmin(ReadOnly, ModelAdmin):
    """The files of models at one time. They never change."""

    list_display = (
        *("shown_model", "number", "label", "kind", "family", "base", "shown_size", "source", "by"),
        "created_at",
    )
    list_filter = ("kind", "family", "source", ("model", AutocompleteSelectFilter))
    list_filter_submit = True
    search_fields = ("model__name", "=digest", "=model_hash")
    list_select_related = ("model", "base__model", "by")
    inlines = (FileInline,)
    show_full_result_count = False

    @display(description="model", ordering="model__name")
    def shown_model(self, revision: Revision) -> str:
        return rows.link("inference_model", revision.model_id, revision.model)

    @display(description="size", ordering="size")
    def shown_size(self, revision: Revision) -> str:
        return filesizeformat(revision.size)


@admin.register(Hosting)
class HostingAdmin(ReadOnly, ModelAdmin):
    """Which node serves what the marketplace keeps, how far it is, and why it cannot."""

    list_display = (
        "shown_model",
        "node",
        "shown_state",
        "reason",
        "shown_revision",
        "asked_at",
        "changed_at",
    )
    list_filter = ("state", ("node", AutocompleteSelectFilter), ("model", AutocompleteSelectFilter))
    list_filter_submit = True
    search_fields = ("model__name", "node__name")
    list_select_related = ("model", "node", "revision")
    actions = ("move_away",)
    show_full_result_count = False

    def has_move_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("inference.change_model")

    @display(description="model", ordering="model__name")
    def shown_model(self, row: Hosting) -> str:
        return rows.link("inference_model", row.model_id, row.model)

    @display(description="state", ordering="state", label=STATE_COLOURS)
    def shown_state(self, row: Hosting) -> str:
        return str(HostingState(row.state).label)

    @display(description="revision")
    def shown_revision(self, row: Hosting) -> str:
        return rows.link("inference_revision", row.revision_id, row.revision.label)

    @action(description="Take it from this node; another is asked", permissions=["move"])
    def move_away(self, request: HttpRequest, queryset: QuerySet[Hosting]) -> None:
        for row in queryset.select_related("model__revision", "node"):
            try:
                found = hosting.move(row, now=timezone.now())
            except MarketplaceError as error:
                self.message_user(request, f"{row.model}: {error.message}", messages.ERROR)
            else:
                to = f"{found.node} was asked" if found else "no other node can at the moment"
                self.message_user(request, f"{row.model} is taken from {row.node}; {to}.", messages.SUCCESS)
