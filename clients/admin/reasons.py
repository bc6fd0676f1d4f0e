"""Asking an operator why, before something is taken from somebody who will read it."""

from collections.abc import Callable, Iterable
from typing import Any

from django import forms
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from unfold.widgets import UnfoldAdminTextareaWidget

from clients.admin import rows


class ReasonForm(forms.Form):
    reason = forms.CharField(
        max_length=200, widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}), help_text="The person reads it."
    )


class WithReason(forms.ModelForm):
    """A change form with a field beside the row's own, for the buttons that need a reason."""

    reason = forms.CharField(
        max_length=200,
        required=False,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 3}),
        help_text="For the buttons below. The person reads it.",
    )


def ask(
    request: HttpRequest,
    model_admin: ModelAdmin,
    queryset: QuerySet[Any],
    *,
    title: str,
    note: str = "",
    seen_by: str = "The person reads it.",
    describe: Callable[[Any], str] = str,
) -> str | HttpResponse:
    """The reason that the operator typed for these rows, or the page that asks for it."""
    typed = "reason" in request.POST
    form = ReasonForm(request.POST if typed else None)
    form.fields["reason"].help_text = seen_by
    if typed and form.is_valid():
        return str(form.cleaned_data["reason"])
    return fill(request, model_admin, form, title=title, note=note, objects=queryset, describe=describe)


def do_to_each(
    model_admin: ModelAdmin,
    request: HttpRequest,
    queryset: QuerySet[Any],
    verb: Callable[[Any, str], str],
    **asking: Any,
) -> HttpResponse | None:
    """Ask (see `ask`), then do it to each row; `verb` gets the row and the reason, and is as for `rows.do_to_each`."""
    reason = ask(request, model_admin, queryset, **asking)
    if isinstance(reason, HttpResponse):
        return reason
    rows.do_to_each(model_admin, request, queryset, lambda row: verb(row, reason))
    return None


def fill(
    request: HttpRequest,
    model_admin: ModelAdmin,
    form: forms.Form,
    *,
    title: str,
    note: str = "",
    objects: Iterable[Any] = (),
    describe: Callable[[Any], str] = str,
) -> HttpResponse:
    """The page with a form that an operator fills in before something is done; it is sent to where it came from."""
    context = model_admin.admin_site.each_context(request) | {
        "title": title,
        "form": form,
        "note": note,
        "objects": [(each.pk, describe(each)) for each in objects],
        "opts": model_admin.model._meta,
        "action": request.POST.get("action", ""),
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
    }
    return render(request, "admin/clients/reason.html", context)
