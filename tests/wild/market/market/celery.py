import os

from celery import Celery

from celery_gconc import GlobalConcurrency

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "market.settings")

app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
GlobalConcurrency(app)
app.autodiscover_tasks()

billing = Celery("billing", set_as_current=False)
billing.config_from_object("django.conf:settings", namespace="BILLING")
GlobalConcurrency(billing)
billing.autodiscover_tasks()
