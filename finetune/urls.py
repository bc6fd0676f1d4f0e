"""What fine-tuning answers over HTTP."""

from django.urls import path

from finetune.api import data, data_parts, openai_files, openai_uploads
from finetune.api import artifacts, broker, broker_files, broker_models, jobs, openai_jobs, quotes, tasks
from finetune.api.deployments import DeploymentsView, DeploymentView, RollbackView
from finetune.api.errands import ErrandsView
from finetune.api.training import (
    BriefingView,
    CheckpointsView,
    EventsView,
    FailView,
    FilesView,
    FinishView,
    SendView,
    StoppedView,
)
from marketplace.paths import with_either_end

urlpatterns = with_either_end(
    [
        path("llm_models/errands/", ErrandsView.as_view()),
        # What nodes call that train.
        path("llm_models/training/files/<str:token>", SendView.as_view()),
        path("llm_models/training/<uuid:attempt>/", BriefingView.as_view()),
        path("llm_models/training/<uuid:attempt>/events/", EventsView.as_view()),
        path("llm_models/training/<uuid:attempt>/files/", FilesView.as_view()),
        path("llm_models/training/<uuid:attempt>/checkpoints/", CheckpointsView.as_view()),
        path("llm_models/training/<uuid:attempt>/finish/", FinishView.as_view()),
        path("llm_models/training/<uuid:attempt>/fail/", FailView.as_view()),
        path("llm_models/training/<uuid:attempt>/stopped/", StoppedView.as_view()),
        path("data", data.DatasetsView.as_view()),
        path("data/upload", data.UploadView.as_view()),
        path("data/upload/parts", data_parts.PartsView.as_view()),
        path("data/upload/parts/<uuid:upload_id>", data_parts.OnePartsView.as_view()),
        path("data/upload/parts/<uuid:upload_id>/complete", data_parts.CompleteView.as_view()),
        path("data/upload/parts/<uuid:upload_id>/<int:number>", data_parts.PartView.as_view()),
        path("data/<str:dataset_id>", data.DatasetView.as_view()),
        path("data/<str:dataset_id>/metadata", data.MetadataView.as_view()),
        path("data/<str:dataset_id>/download", data.DownloadView.as_view()),
        path("v1/files", openai_files.FilesView.as_view()),
        # Of jobs; before all other files.
        path("v1/files/file-result-<str:job>/content", artifacts.ResultFileContentView.as_view()),
        path("v1/files/file-result-<str:job>", artifacts.ResultFileView.as_view()),
        path("v1/files/<str:file_id>", openai_files.FileView.as_view()),
        path("v1/files/<str:file_id>/content", openai_files.ContentView.as_view()),
        path("v1/uploads", openai_uploads.UploadsView.as_view()),
        path("v1/uploads/<str:upload_id>", openai_uploads.UploadView.as_view()),
        path("v1/uploads/<str:upload_id>/parts", openai_uploads.PartsView.as_view()),
        path("v1/uploads/<str:upload_id>/complete", openai_uploads.CompleteView.as_view()),
        path("v1/uploads/<str:upload_id>/cancel", openai_uploads.CancelView.as_view()),
        # Jobs.
        path("v1/fine_tuning/jobs", openai_jobs.OpenAIJobsView.as_view()),
        path("v1/fine_tuning/jobs/<str:job>", openai_jobs.OpenAIJobView.as_view()),
        path("v1/fine_tuning/jobs/<str:job>/cancel", openai_jobs.CancelView.as_view()),
        path("v1/fine_tuning/jobs/<str:job>/pause", openai_jobs.PauseView.as_view()),
        path("v1/fine_tuning/jobs/<str:job>/resume", openai_jobs.ResumeView.as_view()),
        path("v1/fine_tuning/jobs/<str:job>/events", openai_jobs.EventsView.as_view()),
        path("v1/fine_tuning/jobs/<str:job>/checkpoints", openai_jobs.CheckpointsView.as_view()),
        path("fine-tuning/task", tasks.TasksView.as_view()),
        path("fine-tuning/task/<str:id>", tasks.TaskView.as_view()),
        path("fine-tuning/task/<str:id>/restart", tasks.RestartView.as_view()),
        path("fine-tuning/task/<str:id>/cancel", tasks.CancelView.as_view()),
        path("fine-tuning/task/<str:id>/artifact", artifacts.ArtifactView.as_view()),
        path("fine-tuning/task/<str:id>/artifact/files", artifacts.ArtifactFilesView.as_view()),
        path("fine-tuning/task/<str:id>/artifact/files/<path:path>", artifacts.ArtifactFileView.as_view()),
        path("fine-tuning/jobs", jobs.JobsView.as_view()),
        path("fine-tuning/jobs/<str:id>", jobs.JobView.as_view()),
        path("fine-tuning/jobs/<str:id>/log", jobs.JobLogView.as_view()),
        path("fine-tuning/jobs/<str:id>/steps", jobs.StepsView.as_view()),
        path("fine-tuning/quote", quotes.QuoteView.as_view()),
        path("fine-tuning/parameters", quotes.ParametersView.as_view()),
        path("v1/quote", broker.QuoteView.as_view()),
        path("v1/user/<str:address>/task", broker.TasksView.as_view()),
        path("v1/user/<str:address>/task/<str:task>", broker.TaskView.as_view()),
        path("v1/user/<str:address>/task/<str:task>/log", broker.LogView.as_view()),
        path("v1/user/<str:address>/task/<str:task>/cancel", broker.CancelView.as_view()),
        path("v1/user/<str:address>/task/<str:task>/lora", broker_files.LoraView.as_view()),
        path("v1/user/<str:address>/dataset", broker_files.BrokerDatasetView.as_view()),
        path("v1/task/pending", broker.PendingView.as_view()),
        path("v1/model", broker_models.ModelsView.as_view()),
        path("v1/model/desc/<path:name>", broker_models.DescriptionView.as_view()),
        path("v1/model/<path:name>", broker_models.ModelView.as_view()),
        path("fine-tuning/deployments", DeploymentsView.as_view()),
        path("fine-tuning/deployments/<id:pk>", DeploymentView.as_view()),
        path("fine-tuning/deployments/<id:pk>/rollback", RollbackView.as_view()),
    ]
)
