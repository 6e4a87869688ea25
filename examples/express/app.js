// A sign-up with Express that reports to the relay. Run: npm install && npm start
import { randomUUID } from "node:crypto";
import express from "express";
import { tellRelay } from "./relay.js";

const app = express();
app.use(express.json());

app.post("/signup", (request, response) => {
  const { name, email } = request.body;
  const id = `u_${randomUUID()}`; // Here you store the user.
  tellRelay(request, {
    customerExternalId: id,
    customerName: name,
    customerEmail: email,
  });
  response.status(201).json({ id });
});

app.listen(Number(process.env.PORT ?? 3000), "127.0.0.1");
