"""The page that says whether the books add up."""

from typing import Any

from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from clients import trial_balance
from clients.admin import rows
from clients.models import AccountKind
from clients.models.ledger import UNBOUNDED_KINDS
from clients.trial_balance import Break, Report, Result

MAY_SEE = "clients.view_account"


def page(request: HttpRequest) -> HttpResponse:
    """Checks all of the books, now."""
    if not request.user.has_perm(MAY_SEE):
        raise PermissionDenied
    report = trial_balance.run()
    context = admin.site.each_context(request) | {
        "title": "Trial balance",
        "report": report,
        "sum": rows.shown(report.sum),
        "totals": _totals(report),
        "broken": [_broken(result) for result in report.results if result.count],
        "sound": [result.check.says for result in report.results if not result.count],
    }
    return render(request, "admin/clients/trial_balance.html", context)


def _totals(report: Report) -> dict[str, Any]:
    lines = [
        [
            AccountKind(total.kind).label,
            total.accounts,
            rows.shown(total.balance),
            rows.shown(total.held),
            "-" if total.kind in UNBOUNDED_KINDS else rows.shown(total.balance - total.held),
        ]
        for total in report.totals
    ]
    lines.append(["all", sum(total.accounts for total in report.totals), rows.shown(report.sum), "", ""])
    return {"headers": ["accounts of", "how many", "balance", "held", "free"], "rows": lines}


def _broken(result: Result) -> dict[str, Any]:
    return {
        "says": result.check.says,
        "count": result.count,
        "more": result.count - len(result.breaks),
        "table": {
            "headers": ["row", "should be", "is", "difference", "what is wrong"],
            "rows": [_line(result.check.page, each) for each in result.breaks],
        },
    }


def _line(page_of: str, broken: Break) -> list[str]:
    name = rows.link(page_of, broken.pk, broken.name) if page_of and broken.pk is not None else broken.name
    return [
        name,
        rows.shown(broken.expected),
        rows.shown(broken.found),
        rows.shown(broken.difference),
        broken.note or "-",
    ]
