"""What an operator sees and does, once for the command line, the dashboard and the API."""
