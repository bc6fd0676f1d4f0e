"""Hardware records, nodes and their prices, allocations. The hot path (marketplace.asgi) has heartbeats and agents."""

from django.urls import path

from gpus.api.allocations import AllocateView, AllocationsView, AllocationView, ExtendView
from gpus.api.nodes import NodeViewSet
from gpus.api.prices import PriceHistoryView, PricesView
from gpus.api.records import GpuViewSet
from gpus.api.registration import DeregisterView, RegisterView
from marketplace.paths import with_either_end

urlpatterns = with_either_end(
    [
        path("gpu/list/", GpuViewSet.as_view({"get": "list", "post": "create"})),
        path(
            "gpu/list/<id:pk>/",
            GpuViewSet.as_view(
                {"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}
            ),
        ),
        path("llm_models/register/", RegisterView.as_view()),
        path("llm_models/deregister/", DeregisterView.as_view()),
        path("llm_models/nodes/", NodeViewSet.as_view({"get": "list"})),
        path("llm_models/nodes/<id:pk>/", NodeViewSet.as_view({"get": "retrieve", "delete": "destroy"})),
        path("llm_models/nodes/<id:pk>/prices/", PricesView.as_view()),
        path("llm_models/nodes/<id:pk>/prices/history/", PriceHistoryView.as_view()),
        path("llm_models/nodes/<id:pk>/drain/", NodeViewSet.as_view({"post": "drain"})),
        path("llm_models/nodes/<id:pk>/resume/", NodeViewSet.as_view({"post": "resume"})),
        path("compute/allocate", AllocateView.as_view()),
        path("compute/allocate/<uuid:allocation_id>", AllocationView.as_view()),
        path("compute/allocations", AllocationsView.as_view()),
        path("compute/allocations/<uuid:allocation_id>", AllocationView.as_view()),
        path("compute/allocations/<uuid:allocation_id>/extend", ExtendView.as_view()),
    ]
)
