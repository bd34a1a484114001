"""The pages: Django's admin, and that of the limits."""

from __future__ import annotations

from django.contrib import admin
from django.urls import path
from orders.views import limits

urlpatterns = [path("admin/", admin.site.urls), path("limits/", limits, name="limits")]
