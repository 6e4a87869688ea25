// Reports a registration to the relay, by its signed hook (Standard Webhooks).
import { randomUUID } from "node:crypto";
import { Webhook } from "standardwebhooks";

const url = process.env.DUB_RELAY_URL ?? "http://127.0.0.1:8080";
// The first secret of the list signs.
const webhook = new Webhook(process.env.RELAY_HOOK_SECRET.split(",")[0]);

const CLICK = /(?:^|;)[ \t]*dub_id="?([A-Za-z0-9_-]{8,64})"?[ \t]*(?=;|$)/g;

/**
 * Never throws, and takes half a second at most for each of three attempts.
 * Do not await it in a handler: the registration need not wait for it.
 * What three attempts cannot deliver is logged and lost; Python's client spools it.
 */
export async function tellRelay(request, fields) {
  // Only the click leaves, not the other cookies; of several the newest, which is last.
  const clickId = [...(request.headers.cookie ?? '').matchAll(CLICK)].at(-1)?.[1];
  if (!clickId) return;
  const id = `msg_${randomUUID()}`; // the same each time: a repetition is harmless
  const body = JSON.stringify({ eventName: "Sign Up", clickId, ...fields });
  for (const wait of [0, 1000, 5000]) {
    await new Promise((go) => setTimeout(go, wait));
    try {
      const now = new Date();
      const answer = await fetch(`${url}/_dub/hooks/signup`, {
        method: "POST",
        headers: {
          "content-type": "application/json",
          "webhook-id": id,
          "webhook-timestamp": String(Math.floor(now.getTime() / 1000)),
          "webhook-signature": webhook.sign(id, now, body),
        },
        body,
        signal: AbortSignal.timeout(500),
      });
      if (answer.ok) return;
      console.error("dub-relay:", answer.status, (await answer.json()).error.message);
      if (answer.status < 500) return; // it would refuse it again
    } catch (error) {
      console.error("dub-relay:", error.name);
    }
  }
}
