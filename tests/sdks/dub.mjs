// The calls of the official SDK for Node.js; prints what they gave, as JSON.
import { Dub } from "dub";

const [serverURL, token, clickId] = process.argv.slice(2);
const dub = new Dub({ serverURL, token });
const lead = { clickId, eventName: "Sign Up", customerExternalId: "u_node" };
const told = {};

told.lead = await dub.track.lead({ ...lead, customerName: "Ada" });
told.wait = await dub.track.lead({ ...lead, eventName: "Trial", mode: "wait" });
told.sale = await dub.track.sale({
  customerExternalId: "u_node",
  amount: 4900,
  invoiceId: "in_node",
  paymentProcessor: "stripe",
});
try {
  await new Dub({ serverURL, token: "dub_wrong" }).track.lead(lead);
} catch (error) {
  told.error = [error.constructor.name, error.statusCode, error.error?.code];
}
console.log(JSON.stringify(told));
