"""What of chains is answered over HTTP."""

from django.urls import path

from chain.api.confirmed import ConfirmedView
from chain.api.deposits import DepositAddressView, DepositsViewSet
from chain.api.networks import NetworksViewSet, ServiceView
from chain.api.pins import CreateFile, Ipfs
from chain.api.responses import ResponsesViewSet
from chain.api.sources import SourcesViewSet
from chain.api.tasks import TasksViewSet
from chain.api.withdrawals import LimitsView, WithdrawalsViewSet
from marketplace.paths import with_either_end

urlpatterns = with_either_end(
    [
        # What the document's clients call.
        path("file/create", CreateFile.as_view()),
        path("ipfs/<str:cid>", Ipfs.as_view()),
        path("api/tasks/<str:address>", ConfirmedView.as_view()),
        path("chain/networks/", NetworksViewSet.as_view({"get": "list"})),
        path("chain/networks/<str:name>/", NetworksViewSet.as_view({"get": "retrieve"})),
        path("chain/services/<model:model>/", ServiceView.as_view()),
        path("chain/sources/", SourcesViewSet.as_view({"get": "list", "post": "create"})),
        path("chain/sources/<str:source>/", SourcesViewSet.as_view({"get": "retrieve"})),
        path("chain/tasks/", TasksViewSet.as_view({"get": "list", "post": "create"})),
        path("chain/tasks/<str:task>/", TasksViewSet.as_view({"get": "retrieve"})),
        path("chain/tasks/<str:task>/cancel/", TasksViewSet.as_view({"post": "cancel"})),
        path("chain/responses/", ResponsesViewSet.as_view({"get": "list"})),
        path("chain/responses/<str:address>/", ResponsesViewSet.as_view({"get": "retrieve"})),
        path("chain/responses/<str:address>/confirm/", ResponsesViewSet.as_view({"post": "confirm"})),
        path("chain/deposits/", DepositsViewSet.as_view({"get": "list"})),
        path("chain/deposits/address/", DepositAddressView.as_view()),
        path("chain/deposits/<id:pk>/", DepositsViewSet.as_view({"get": "retrieve"})),
        path("chain/withdrawals/limits/", LimitsView.as_view()),
        path("chain/withdrawals/", WithdrawalsViewSet.as_view({"get": "list", "post": "create"})),
        path(
            "chain/withdrawals/<id:pk>/", WithdrawalsViewSet.as_view({"get": "retrieve", "delete": "destroy"})
        ),
    ]
)
