"""Pure HTTP: headers, forwarding, cookies, tickets and content negotiation."""
