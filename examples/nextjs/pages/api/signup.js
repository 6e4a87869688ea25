import { randomUUID } from "node:crypto";
import { tellRelay } from "../../relay.js";

export default function handler(request, response) {
  const { name, email } = request.body;
  const id = `u_${randomUUID()}`; // Here you store the user.
  // On a serverless host, give the promise to its waitUntil().
  tellRelay(request, {
    customerExternalId: id,
    customerName: name,
    customerEmail: email,
  });
  response.status(201).json({ id });
}
