"""Settings, each declared once; its names, help, docs and sample come from that."""
