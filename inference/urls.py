"""The catalogue and the records. Asking a model is the hot path's (marketplace.asgi)."""

from django.urls import path

from inference.api.earnings import EarningsView, MissedView
from inference.api.inferences import InferenceViewSet
from inference.api.model_details import (
    AiModelView,
    ModelArchiveView,
    ModelFilesView,
    ModelFileView,
    RevisionsView,
)
from inference.api.model_parts import (
    CompleteModelUploadView,
    ModelPartsView,
    ModelPartView,
    ModelUploadPartsView,
)
from inference.api.model_uploads import ModelUploadView
from inference.api.models import AiModelsView, AllModelsView, ModelsView, ModelView
from inference.api.receipts import ReceiptKeyView, ReceiptView
from marketplace.paths import with_either_end

urlpatterns = with_either_end(
    [
        path("v1/models", ModelsView.as_view()),
        path("v1/models/<path:model>", ModelView.as_view()),
        path("ai/models", AiModelsView.as_view()),
        path("ai/models/upload", ModelUploadView.as_view()),
        path("ai/models/upload/parts", ModelPartsView.as_view()),
        path("ai/models/upload/parts/<uuid:upload_id>", ModelUploadPartsView.as_view()),
        path("ai/models/upload/parts/<uuid:upload_id>/complete", CompleteModelUploadView.as_view()),
        path("ai/models/upload/parts/<uuid:upload_id>/<int:number>", ModelPartView.as_view()),
        path("ai/models/<path:model>/revisions", RevisionsView.as_view()),
        path("ai/models/<path:model>/revisions/<int:number>/archive", ModelArchiveView.as_view()),
        path("ai/models/<path:model>/revisions/<int:number>/files", ModelFilesView.as_view()),
        path("ai/models/<path:model>/revisions/<int:number>/files/<path:path>", ModelFileView.as_view()),
        path("ai/models/<model:model>", AiModelView.as_view()),
        path("llm_models/all-models/", AllModelsView.as_view()),
        path("llm_models/earnings/", EarningsView.as_view()),
        path("llm_models/missed/", MissedView.as_view()),
        path("receipts/key/", ReceiptKeyView.as_view()),
        path("inference/<id:pk>/receipt", ReceiptView.as_view()),
        path("inference/", InferenceViewSet.as_view({"get": "list"})),
        path(
            "inference/<id:pk>/",
            InferenceViewSet.as_view(
                {"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}
            ),
        ),
    ]
)
