"""What an operator sees and does: one service for command line, dashboard, API."""
