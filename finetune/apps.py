from django.apps import AppConfig


class FinetuneConfig(AppConfig):
    name = "finetune"
    verbose_name = "fine-tuning"

    def ready(self) -> None:
        from finetune import bases  # noqa: PLC0415 - needs the models
        from inference import bringing  # noqa: PLC0415 - likewise

        bringing.ask_before_deleting(bases.why_needed)
