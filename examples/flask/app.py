"""A sign-up with Flask that reports to the relay.

Run: flask --app app run --port 8000
"""

import os
from uuid import uuid4

from flask import Flask, request

from relay.client import Client

app = Flask(__name__)
relay = Client(
    os.environ.get("DUB_RELAY_URL", "http://127.0.0.1:8080") + "/_dub",
    secret=os.environ["RELAY_HOOK_SECRET"],
    spool="dub-relay.spool",
)


@app.post("/signup")
def signup() -> tuple[dict[str, str], int]:
    registration = request.get_json()
    user_id = f"u_{uuid4().hex}"  # Here you store the user.
    relay.signup(
        request,
        customer_external_id=user_id,
        customer_name=registration["name"],
        customer_email=registration["email"],
    )
    return {"id": user_id}, 201
