// A site with better-auth and @dub/better-auth: one user signs up with a click
// cookie; prints the status of the answer.
import { dubAnalytics } from "@dub/better-auth";
import { betterAuth } from "better-auth";
import { memoryAdapter } from "better-auth/adapters/memory";
import { Dub } from "dub";

const [serverURL, token, clickId, email] = process.argv.slice(2);
const auth = betterAuth({
  baseURL: "http://localhost:3000",
  secret: "a-secret-for-tests-only",
  database: memoryAdapter({ user: [], session: [], account: [], verification: [] }),
  emailAndPassword: { enabled: true },
  plugins: [dubAnalytics({ dubClient: new Dub({ serverURL, token }) })],
});
const answer = await auth.handler(
  new Request("http://localhost:3000/api/auth/sign-up/email", {
    method: "POST",
    headers: { "content-type": "application/json", cookie: `dub_id=${clickId}`, origin: "http://localhost:3000" },
    body: JSON.stringify({ name: "Ada", email, password: "correct horse" }),
  }),
);
const { user } = await answer.json();
console.log(JSON.stringify({ status: answer.status, user: user?.id }));
process.exit(0);
