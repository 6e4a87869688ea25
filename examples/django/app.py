"""A sign-up with Django that reports to the relay, the whole project in one file.

Run: python app.py runserver 8000, or gunicorn app:application
"""

import json
import os
import sys
from uuid import uuid4

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from relay.client import Client

settings.configure(
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "of this example"),
    ALLOWED_HOSTS=["*"],
)
relay = Client(
    os.environ.get("DUB_RELAY_URL", "http://127.0.0.1:8080") + "/_dub",
    secret=os.environ["RELAY_HOOK_SECRET"],
    spool="dub-relay.spool",
)


@require_POST  # type: ignore[untyped-decorator]  # Django ships no types
def signup(request: HttpRequest) -> JsonResponse:
    registration = json.loads(request.body)
    user_id = f"u_{uuid4().hex}"  # Here you store the user.
    relay.signup(
        request,
        customer_external_id=user_id,
        customer_name=registration["name"],
        customer_email=registration["email"],
    )
    return JsonResponse({"id": user_id}, status=201)


urlpatterns = [path("signup", signup)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
