"""What operators did."""

from clients import terms
from tests.clients.admin.conftest import text_of


def test_the_audit_is_searched_and_filtered(browser, operator, alice):
    terms.change(by=operator, reason="A share.", fee_bps=250)
    browser.post(f"/admin/clients/client/{alice.pk}/limits/", {"concurrency": "3", "reason": "Too many."})
    path = "/admin/clients/auditentry/"
    page = text_of(browser.get(path))
    assert "A share." in page
    assert "fee_bps: 0 → 250" in page
    for query in ({"action": "change_limits"}, {"q": "alice"}):
        page = text_of(browser.get(path, query))
        assert "Too many." in page
        assert "A share." not in page
    assert "A share." in text_of(browser.get(path, {"by__id__exact": operator.pk}))
    assert "A share." not in text_of(browser.get(path, {"by__id__exact": alice.pk}))
