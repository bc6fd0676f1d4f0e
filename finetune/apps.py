from django.apps import AppConfig


class FinetuneConfig(AppConfig):
    name = "finetune"
    verbose_name = "fine-tuning"

    def ready(self) -> None:
        from finetune import bases, incomes  # noqa: PLC0415 - need the models
        from inference import bringing, earnings  # noqa: PLC0415 - likewise

        bringing.ask_before_deleting(bases.why_needed)
        earnings.count_also(incomes.of)
