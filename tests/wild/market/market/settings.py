"""Settings as shops have them: a managed Redis over TLS, a user and a prefix for each system, two Celery apps."""

import os
import ssl

SECRET_KEY = "not in production"
USE_TZ = True
INSTALLED_APPS = ["mail"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}

HOST = os.environ["MARKET_REDIS_HOST"]
TLS = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": os.environ["MARKET_CA"]}

# The app of the shop: all its keys begin with "shop:", for its user may touch no others.
CELERY_BROKER_URL = f"rediss://shop:p%40ss%2Fword@{HOST}/0"
CELERY_BROKER_USE_SSL = TLS
CELERY_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": "shop:", "visibility_timeout": 7200}
CELERY_RESULT_BACKEND = CELERY_BROKER_URL
CELERY_REDIS_BACKEND_USE_SSL = TLS
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"global_keyprefix": "shop:"}
CELERY_TASK_DEFAULT_QUEUE = "emails"
CELERY_GLOBAL_CONCURRENCY_LIMITS = {"queue:emails": 2}

# Another team's app in the same project, and in the same database of the same Redis.
BILLING_BROKER_URL = f"rediss://billing:secret@{HOST}/0"
BILLING_BROKER_USE_SSL = TLS
BILLING_BROKER_TRANSPORT_OPTIONS = {"global_keyprefix": "billing:"}
BILLING_TASK_DEFAULT_QUEUE = "emails"
BILLING_GLOBAL_CONCURRENCY_LIMITS = {"queue:emails": 1}

# Somebody else's setting, which only ends in a name like ours.
CRAWLER_GLOBAL_CONCURRENCY_BUDGET = 12
