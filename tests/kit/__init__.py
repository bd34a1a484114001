"""What tests share: processes, servers, and what is asked of them."""
