"""What tests share: processes, servers, pages, samples and contracts."""
