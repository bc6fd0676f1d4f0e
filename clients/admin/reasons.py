"""Asking an operator why, before something is taken from somebody who will read it."""

from typing import Any

from django import forms
from django.contrib.admin import ModelAdmin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from unfold.widgets import UnfoldAdminTextareaWidget


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
    request: HttpRequest, model_admin: ModelAdmin, queryset: QuerySet[Any], *, title: str
) -> str | HttpResponse:
    """The reason that the operator typed for these rows, or the page that asks for it."""
    typed = "reason" in request.POST
    form = ReasonForm(request.POST if typed else None)
    if typed and form.is_valid():
        return str(form.cleaned_data["reason"])
    context = model_admin.admin_site.each_context(request) | {
        "title": title,
        "form": form,
        "objects": queryset,
        "opts": model_admin.model._meta,
        "action": request.POST.get("action", ""),
        "action_checkbox_name": ACTION_CHECKBOX_NAME,
    }
    return render(request, "admin/clients/reason.html", context)
