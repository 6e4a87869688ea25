"""A sign-up with FastAPI that reports to the relay.

Run: uvicorn app:app --port 8000
"""

import os
from uuid import uuid4

from fastapi import FastAPI, Request
from pydantic import BaseModel

from relay.client import AsyncClient

app = FastAPI()
relay = AsyncClient(
    os.environ.get("DUB_RELAY_URL", "http://127.0.0.1:8080") + "/_dub",
    secret=os.environ["RELAY_HOOK_SECRET"],
    spool="dub-relay.spool",
)


class Registration(BaseModel):
    name: str
    email: str


@app.post("/signup", status_code=201)
async def signup(registration: Registration, request: Request) -> dict[str, str]:
    user_id = f"u_{uuid4().hex}"  # Here you store the user.
    await relay.signup(
        request,
        customer_external_id=user_id,
        customer_name=registration.name,
        customer_email=registration.email,
    )
    return {"id": user_id}
