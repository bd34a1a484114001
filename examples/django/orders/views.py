"""A page for the staff that shows limits and changes them."""

from __future__ import annotations

from django import forms
from django.contrib import messages
from django.contrib.admin.views.decorators import staff_member_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from shop.celery import gconc

from celery_gconc import GlobalConcurrencyError


class LimitForm(forms.Form):
    """A new value for a limit."""

    limit = forms.CharField(initial="queue:emails")
    max = forms.CharField(help_text="a whole number, or unlimited")
    minutes = forms.FloatField(required=False, help_text="after which it ends by itself; for good if empty")
    reason = forms.CharField(required=False)

    def apply(self, user: str) -> str:
        """Set it in the name of *user*; returns what changed."""
        minutes = self.cleaned_data["minutes"]
        change = gconc.set(
            self.cleaned_data["limit"],
            self.cleaned_data["max"],
            reason=self.cleaned_data["reason"] or None,
            duration=None if minutes is None else minutes * 60,
            by=user,
        )
        return str(change)


@staff_member_required
def limits(request: HttpRequest) -> HttpResponse:
    """Show all limits; POST changes one."""
    form, status = LimitForm(request.POST or None), None
    try:
        if form.is_valid():
            messages.success(request, form.apply(request.user.get_username()))
            return redirect("limits")
    except GlobalConcurrencyError as exc:  # a name or value that can't be understood, or Redis is away
        form.add_error(None, str(exc))
    try:
        status = gconc.status()
    except GlobalConcurrencyError as exc:
        messages.error(request, str(exc))
    return render(request, "orders/limits.html", {"form": form, "status": status})
